"""A made-up comparison with the notebooks, in which everything on screen can be worked out; nothing is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fss_core.data import DatasetCard
from fss_core.errata.bits import layers_of
from fss_core.errata.effects import local
from fss_core.errata.records import ErrataRecord, MeasuredRecord, write_errata
from fss_core.errata.variants import CORRECTED, ErrataSpec, list_variants
from fss_core.responses import LayerFacts, LayerResponse, Predictions, Responses
from fss_core.specs import GLOBAL_LAYER, SYNAPTIC_FILTERS, AttackSpec, ResponseSpec, TrainingSpec, filter_rows

NUM_IMAGES, NUM_THRESHOLDS, NUM_CLASSES = 120, 3, 4
LAYERS = ("first", "second", "third")
SPEC = ErrataSpec(
    training=TrainingSpec(network="shufflenet_v2_x1_0", dataset="mnist5k"),
    epoch=3,
    num_images=NUM_IMAGES,
    num_thresholds=NUM_THRESHOLDS,
    every=28,
    seeds=(0, 1),
)
CARD = DatasetCard(
    name="mnist5k",
    title="Four digits",
    class_names=("a", "b", "c", "d"),
    image_shape=(1, 28, 28),
    mean=(0.1,),
    std=(0.3,),
    split_sizes={"probe": NUM_IMAGES},
    fingerprints={"probe": "f" * 64},
)

LOST = {CORRECTED: 2, "1": 6, "2": 3, "2-own-epsilon": 4, "3": 1, "4": 3, "6": 2, "8": 2, "procedure": 7, "seed1": 3}
"""Of ten adversarial images, how many the middle threshold loses in the first layer, in each variant."""


def accuracy(variant: str, kind: str) -> float:
    """Of ten images without a filter, nine are right, or eight of the attacked; with their own ε none."""
    if variant == "2-own-epsilon" and kind == "adversarial":
        return 0.1
    return 0.9 if kind == "clean" else 0.8


def responses(variant: str) -> Responses:
    """Layers lose images at the middle threshold: the first as many as ``LOST`` says, the next one fewer, and so on."""
    labels = np.arange(NUM_IMAGES) % NUM_CLASSES
    place = np.arange(NUM_IMAGES) // NUM_CLASSES % 10
    before = {kind: place < round(10 * accuracy(variant, kind)) for kind in ("clean", "adversarial")}
    adaptive = variant in ("3", "procedure")
    names = (
        *(() if variant == "6" else LAYERS),
        *((GLOBAL_LAYER,) if variant in (CORRECTED, "6", "procedure") else ()),
    )
    found = []
    for index, name in enumerate(names):
        predictions = {}
        for kind in before:
            lost = max(LOST[variant] - index, 0) if kind == "adversarial" else 1
            right = np.tile(before[kind], (len(SYNAPTIC_FILTERS), NUM_THRESHOLDS, 1))
            right[:, 1] &= place >= lost
            predictions[kind] = np.where(right, labels, NUM_CLASSES).astype(np.uint16)
        kept = np.tile(np.array([99, 50, 1], dtype=np.int64), (len(SYNAPTIC_FILTERS), 1))
        facts = LayerFacts(
            name=name,
            kind="all" if name == GLOBAL_LAYER else "1x1",
            relative_depth=0.0,
            num_weights=100,
            num_live=100,
            thresholds=np.empty(0),
            num_kept=kept,
            num_live_kept=kept,
            changes=np.ones(kept.shape, dtype=np.bool_),
            histogram=np.empty(0, dtype=np.int64),
            histogram_edges=np.empty(0),
        )
        found.append(LayerResponse(facts=facts, predictions=Predictions(**predictions)))
    spec = ResponseSpec(num_thresholds=NUM_THRESHOLDS, engine="reference")
    return Responses(
        spec=spec,
        attack=AttackSpec(epsilon=2 / 255, mode="adaptive" if adaptive else "frozen"),
        rows=filter_rows(SYNAPTIC_FILTERS, spec.num_draws),
        labels=labels,
        num_classes=NUM_CLASSES,
        unfiltered=Predictions(
            **{kind: np.where(before[kind], labels, NUM_CLASSES).astype(np.uint16) for kind in before}
        ),
        layers=tuple(found),
        classes_known=False,
    )


def measured() -> dict[str, Responses]:
    """All variants that are measured anew."""
    return {own.name: responses(own.name) for own in list_variants(SPEC) if own.measured == own.name}


def publish(directory: Path) -> ErrataRecord:
    """Write all of it below a directory of published studies."""
    by_name = {own.name: own for own in list_variants(SPEC)}
    found = {}
    for name, own in measured().items():
        right = {kind: getattr(own.unfiltered, kind) == own.labels for kind in ("clean", "adversarial")}
        record = MeasuredRecord(
            name=name,
            network=by_name[name].network,
            seed=by_name[name].seed,
            epsilon=2 / 255,
            layers=layers_of(own),
            weights_sha256="a" * 64,
            clean_accuracy=float(right["clean"].mean()),
            adversarial_accuracy=float(right["adversarial"].mean()),
            zero_gradient_share=0.0 if own.attack is not None and own.attack.mode == "adaptive" else None,
            seconds=30.0,
            cpu_seconds=50.0,
        )
        found[name] = (own, record)
    return write_errata(
        directory, SPEC, CARD, epsilon=2 / 255, notebook_epsilon=30 / 255, engine_agrees=True, measured=found
    )


__all__ = ["CORRECTED", "LAYERS", "SPEC", "local", "measured", "publish", "responses"]
