"""What the Learn view needs, made up: a network that can be asked, a story about it, and a published study."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import bars
import columns
import numpy as np
import pictures
import pytest
from test_retraining_comparing import judged, result

from fss_core.checkpoints import Checkpoint, find_checkpoint, import_checkpoint
from fss_core.data import dataset_card, register_folder
from fss_core.exports import export_measured
from fss_core.flow import Measured, epsilon_name, find_measured
from fss_core.live import Network
from fss_core.retraining import Retraining, RetrainingSpec
from fss_core.retraining.published import write_retraining
from fss_core.scores import score_responses
from fss_core.specs import EpsilonCalibration, TrainingSpec
from fss_core.store import Store

TRAINING = TrainingSpec(network="shufflenet_v2_x1_0", dataset=bars.DATASET)
EPOCH, EPSILON, NUM_IMAGES, NUM_THRESHOLDS = 3, 4 / 255, 40, 5
RULES = ("robust_antifragile", "all", "fragile")
BEFORE = {"clean": 0.8, "fgsm": 0.5, "pgd": 0.4, "transfer": 0.5}
AFTER = {"robust_antifragile": 0.7, "all": 0.6, "fragile": 0.3}
"""FGSM accuracy; everything else is as before."""

STORY = f"""
title = "A lesson of one's own"
network = "{TRAINING.network}"
dataset = "{TRAINING.dataset}"
epoch = {EPOCH}

"""


def step(show: str, text: str, **settings: object) -> str:
    """Write a step of a story."""
    lines = [f"{name} = {str(own).lower() if isinstance(own, bool) else repr(own)}" for name, own in settings.items()]
    head = f'[[step]]\ntitle = "About {show}"\ntext = "{text}"\nshow = "{show}"\nquestion = "Why?"\nanswer = "So."\n'
    return head + "[step.with]\n" + "\n".join(lines) + "\n"


def make_network(cache: Path, images: Path) -> None:
    """Make a cache in which one network of the product's own, with weights by lot, can be asked."""
    import safetensors.torch

    from fss_core.models import build_network

    register_folder(bars.DATASET, bars.make_folder(images))
    network = build_network(TRAINING.network, dataset=bars.DATASET, seed=3)
    weights = cache / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), weights)
    import_checkpoint(weights, network=TRAINING.network, dataset=bars.DATASET, epoch=EPOCH)
    calibration = EpsilonCalibration(
        epsilon=EPSILON, clean_accuracy=0.8, target=0.5, grid=(EPSILON,), pgd_accuracy=(0.4,), num_images=30
    )
    with Store() as store:
        store.put(epsilon_name(checkpoint(), dataset_card(bars.DATASET), "cpu"), {}, meta=asdict(calibration))


def checkpoint() -> Checkpoint:
    """Find the network's checkpoint."""
    found = find_checkpoint(TRAINING, EPOCH)
    assert found is not None
    return found


def network() -> Network:
    """Name it for requests."""
    return Network(training=TRAINING, epoch=EPOCH, sha256=checkpoint().sha256)


# A published study ----------------------------------------------------------------------------------------


def make_published(target: Path, work: Path, patch: pytest.MonkeyPatch) -> None:
    """Publish made-up epochs and a made-up retraining of one network below ``target``, a cache directory."""
    patch.setenv("FSS_CACHE_DIR", str(work / "cache"))
    columns.make_cache(work / "cache", work / "images")
    root = target / "published" / "laptop" / "squeezenet1_1-bars"
    with Store() as store:
        for epoch in (columns.EARLY, columns.EPOCH):
            spec = pictures.request(epoch=epoch, epsilon=None if epoch == columns.EPOCH else columns.EPSILON).spec
            measured = find_measured(store, spec)
            assert measured is not None
            scores = score_responses(measured.responses)
            export_measured(measured, scores, root / f"seed0-epoch{epoch:03d}", compact=True)
    write_retraining(make_retraining(measured), {}, root / "seed0-retraining")


def make_retraining(measured: Measured) -> Retraining:
    """A retraining of a measured checkpoint, in which accuracies are ``BEFORE`` and ``AFTER``."""
    rng = np.random.default_rng(0)
    spec = RetrainingSpec(measurement=measured.spec, budget=1, rules=RULES, num_report_images=100)
    before = judged(rng, BEFORE, 100)
    assert measured.responses.attack is not None
    return Retraining(
        spec=spec,
        epsilon=measured.responses.attack.epsilon,
        checkpoint_sha256=measured.checkpoint.sha256,
        origin="trained",
        dataset_title="Bars",
        report="r" * 64,
        num_live=1000,
        before=before,
        rules=tuple(result(rule, rule, [judged(rng, BEFORE | {"fgsm": AFTER[rule]}, 100)]) for rule in RULES),
    )


def other_seed(retraining: Retraining, seed: int) -> Retraining:
    """The same of another initialisation."""
    measurement = retraining.spec.measurement
    training = replace(measurement.training, seed=seed)
    return replace(retraining, spec=replace(retraining.spec, measurement=replace(measurement, training=training)))
