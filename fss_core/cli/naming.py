"""Reading what a command names: the trajectory, the measurement, the score, a network of the user's own."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from fss_core.specs import DEFAULT_IMAGES, MeasurementSpec, ResponseSpec, ScoreSpec, TrainingSpec


def training_spec(options: argparse.Namespace) -> TrainingSpec:
    """Read which trajectory is named; what a comparison leaves open is empty."""
    return TrainingSpec(
        network=options.network or "",
        dataset=options.dataset or "",
        seed=options.seed,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        num_train=options.train_images,
    )


def measurement_spec(options: argparse.Namespace, response: ResponseSpec | None = None) -> MeasurementSpec:
    """Read what is measured.

    Args:
        options: of the command line.
        response: how it is filtered, if more is said of it than the number of thresholds.
    """
    num_images = options.images
    if num_images is None:
        from fss_core.data import dataset_card

        num_images = min(DEFAULT_IMAGES, dataset_card(options.dataset).split_sizes["probe"])
    return MeasurementSpec(
        training=training_spec(options),
        epoch=options.epoch or 0,
        num_images=num_images,
        attack_kind=options.attack,
        attack_mode=options.attack_mode,
        epsilon=options.epsilon,
        response=response or ResponseSpec(num_thresholds=options.thresholds),
        device=options.device,
    )


def score_spec(options: argparse.Namespace) -> ScoreSpec:
    """Read how responses become scores and calls."""
    return ScoreSpec(
        reference=options.reference,
        normalise=options.normalise,
        integration=options.integration,
        tolerance=options.tolerance,
        level=options.level,
    )


def factory_of(options: argparse.Namespace) -> Callable[..., Any] | None:
    """Find the function that builds a network of the user's own, if one is named."""
    if options.factory is None:
        return None
    from fss_core.checkpoints import resolve_factory

    return resolve_factory(options.factory)
