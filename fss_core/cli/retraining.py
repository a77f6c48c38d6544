"""The verb that retrains and compares: retrain."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fss_core.cli.measuring import factory_of, training_spec
from fss_core.cli.printing import bars, print_json
from fss_core.specs import (
    DEFAULT_IMAGES,
    NETWORKS,
    MeasurementSpec,
    ResponseSpec,
    ScoreSpec,
    StoreError,
    choose,
)

if TYPE_CHECKING:
    from fss_core.jobs.retraining_plans import RetrainRequest


def _request(options: argparse.Namespace) -> RetrainRequest:
    from fss_core.data import dataset_card
    from fss_core.jobs.retraining_plans import LARGEST_NUM_SEEDS, RetrainRequest
    from fss_core.retraining import RULES, RetrainingSpec

    if not 1 <= options.seeds <= LARGEST_NUM_SEEDS:
        raise ValueError(f"--seeds must be at least 1 and at most {LARGEST_NUM_SEEDS}, got {options.seeds}")
    num_images = options.images
    if num_images is None:
        num_images = min(DEFAULT_IMAGES, dataset_card(options.dataset).split_sizes["probe"])
    measurement = MeasurementSpec(
        training=training_spec(options),
        epoch=options.epoch,
        num_images=num_images,
        attack_kind=options.attack,
        attack_mode=options.attack_mode,
        epsilon=options.epsilon,
        response=ResponseSpec(num_thresholds=options.thresholds),
        device=options.device,
    )
    score = ScoreSpec(
        reference=options.reference,
        normalise=options.normalise,
        integration=options.integration,
        tolerance=options.tolerance,
        level=options.level,
    )
    spec = RetrainingSpec(
        measurement=measurement,
        budget=options.budget,
        rules=tuple(options.rules or RULES),
        score=score,
        kind=options.kind,
        filter=options.filter,
        leaning=options.leaning,
        granularity=options.granularity,
        num_draws=options.draws,
        num_report_images=options.report_images,
    )
    return RetrainRequest(
        spec=spec, seeds=tuple(range(options.seed, options.seed + options.seeds)), factory=options.factory
    )


def retrain(options: argparse.Namespace) -> int:
    """Retrain what is missing, in this process or by workers, and print the comparison and the verdict."""
    from fss_core.jobs import service
    from fss_core.jobs.here import carry_out
    from fss_core.retraining import compare, verdict
    from fss_core.retraining.lookup import find_retrained_seeds
    from fss_core.retraining.reports import retraining_json, retraining_lines
    from fss_core.scores import quadrature
    from fss_core.store import Store

    factory = factory_of(options)
    if factory is None:
        choose(options.network, NETWORKS, what="network")
    request = _request(options)
    quadrature(options.thresholds, options.integration)  # refuse it now, not after measuring
    with Store() as store:
        if service.estimate(store, request).tasks:
            with bars() as show:
                alone = options.workers is None and carry_out(store, request, on_progress=show) is not None
                if not alone:
                    service.follow(store, request, on_progress=show, workers=options.workers)
        found = find_retrained_seeds(store, request.spec, request.seeds)
    if len(found) < len(request.seeds) or not all(own.complete for own in found):
        raise StoreError("results vanished while networks were retrained (another process refreshed them); run again")
    comparison = compare(found, level=options.level)
    answer = verdict(comparison)
    if options.json:
        print_json(retraining_json(found, comparison, answer))
    else:
        print("\n".join(retraining_lines(found, comparison, answer)))
    return 0
