"""Doing the comparison: train, calibrate, measure every variant that is not stored yet, and publish.

What a variant measures is stored as soon as it is finished, so that an interrupted comparison goes on from there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fss_core.checkpoints import Checkpoint
from fss_core.data import load_dataset
from fss_core.errata.bits import LayerRecord, arrays_of, layers_of, responses_of
from fss_core.errata.records import ErrataRecord, MeasuredRecord, read_errata, write_errata
from fss_core.errata.variants import CORRECTED, HALF_WIDTH, ErrataSpec, Variant, list_variants
from fss_core.flow import Flow, Progress
from fss_core.responses import Responses
from fss_core.specs import MeasurementSpec, ResponseSpec, StoreError, digest
from fss_core.store import SCHEMA, Store

if TYPE_CHECKING:
    from torch import nn

_ENGINES = ("4", "seed")
"""Variants that are the corrected method on another network: they need no plain loop."""


@dataclass(slots=True, kw_only=True)
class _Found:
    """What is measured of one variant."""

    responses: Responses
    record: MeasuredRecord


def run_errata(
    store: Store,
    spec: ErrataSpec,
    directory: Path,
    *,
    on_progress: Callable[[str, Progress | None], None] = lambda what, progress: None,
    should_stop: Callable[[], bool] | None = None,
) -> ErrataRecord:
    """Compare every difference of the notebooks with the corrected method on one cell, and publish the comparison.

    Args:
        store: where results are kept, and looked for first.
        spec: which cell.
        directory: of published studies; the comparison lies in ``errata`` below it.
        on_progress: told of every step in words, and how far it is.
        should_stop: looked at between filtered networks and batches.

    Returns:
        What is published.

    Raises:
        Cancelled: ``should_stop`` said so; variants that are finished are kept.
        FssError: a step cannot be done.
    """
    run = _ErrataRun(store, spec, on_progress, should_stop)
    found = {own.name: run.variant(own) for own in list_variants(spec) if own.measured == own.name}
    return write_errata(
        directory,
        spec,
        run.dataset.card,
        epsilon=run.epsilon,
        notebook_epsilon=run.notebook_epsilon,
        engine_agrees=run.engine_agrees(found[CORRECTED].responses),
        measured={name: (own.responses, own.record) for name, own in found.items()},
    )


def read_or_run(
    store: Store,
    spec: ErrataSpec,
    directory: Path,
    *,
    on_progress: Callable[[str, Progress | None], None] = lambda what, progress: None,
    should_stop: Callable[[], bool] | None = None,
) -> ErrataRecord:
    """Read what is published of the same cell, else do as :func:`run_errata` does."""
    found = _published(directory, spec)
    return found or run_errata(store, spec, directory, on_progress=on_progress, should_stop=should_stop)


def _published(directory: Path, spec: ErrataSpec) -> ErrataRecord | None:
    try:
        found = read_errata(directory)
    except StoreError:
        return None
    return found.record if found is not None and found.record.spec == spec else None


def words_of_plan(store: Store, spec: ErrataSpec, directory: Path) -> list[str]:
    """Say what is published, or which variants are to be measured."""
    found = _published(directory, spec)
    names = [own.title.lower() for own in list_variants(spec) if own.measured == own.name]
    return [
        f"The notebooks' procedure beside the corrected method: {spec.words()}",
        f"Measured anew: {', '.join(names)}",
        f"{len(store.keys('errata/'))} pieces are stored"
        if found is None
        else f"Published; it took {found.seconds / 60:.1f} minutes",
    ]


class _ErrataRun:
    """One comparison under way."""

    def __init__(
        self,
        store: Store,
        spec: ErrataSpec,
        on_progress: Callable[[str, Progress | None], None],
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.store, self.spec = store, spec
        self._on_progress, self._what = on_progress, ""
        self.flow = Flow(store, on_progress=lambda now: on_progress(self._what, now), should_stop=should_stop)
        self.dataset = load_dataset(spec.training.dataset)
        self._corrected: Responses | None = None
        self._checkpoints: dict[int, Checkpoint] = {}

    def _begin(self, what: str) -> None:
        self._what = what
        self._on_progress(what, None)

    def checkpoint(self, seed: int) -> Checkpoint:
        """Train an initialisation, unless that has been done."""
        if seed not in self._checkpoints:
            self._begin(f"training initialisation {seed}")
            self._checkpoints[seed] = self.flow.train(self.spec.of_seed(seed), [self.spec.epoch])[0]
        return self._checkpoints[seed]

    @cached_property
    def epsilon(self) -> float:
        """In pixels, calibrated on the first initialisation."""
        from fss_core.measurement import Measurement

        self.checkpoint(self.spec.training.seed)
        self._begin("choosing ε")
        spec = MeasurementSpec(
            training=self.spec.training,
            epoch=self.spec.epoch,
            num_images=self.spec.num_images,
            response=ResponseSpec(num_thresholds=self.spec.num_thresholds),
        )
        return float(Measurement(self.flow, spec).calibrate())

    @property
    def notebook_epsilon(self) -> float:
        """The notebooks' ε, in pixels."""
        return self.spec.notebook_epsilon * float(np.mean(self.dataset.card.std))

    def _epsilon_of(self, variant: Variant) -> float:
        return self.notebook_epsilon if variant.own_epsilon else self.epsilon

    def _key(self, variant: Variant) -> str:
        checkpoint = self.checkpoint(variant.seed)
        return "errata/" + digest(
            {
                "what": "variant of the errata",
                "procedure": variant.procedure,
                "network": checkpoint.identity,
                "half_width": variant.network == HALF_WIDTH and [self.spec.training, self.spec.epoch],
                "epsilon": self._epsilon_of(variant),
                "probe": self.dataset.probe.fingerprint,
                "images": [self.spec.num_images, self.spec.num_thresholds, self.spec.every],
                "schema": SCHEMA,
            }
        )

    def variant(self, variant: Variant) -> _Found:
        """Look a variant up, or measure it."""
        key, labels = self._key(variant), self.dataset.probe.labels[: self.spec.num_images]
        stored = self.store.get(key)
        if stored is None:
            started, before = time.perf_counter(), time.process_time()
            self._begin(f"measuring: {variant.title.lower()}")
            responses, sha256 = self._measure(variant)
            accuracy = {
                kind: float((getattr(responses.unfiltered, kind) == labels).mean()) for kind in ("clean", "adversarial")
            }
            shares = [own.zero_gradient_share for own in responses.layers if own.zero_gradient_share is not None]
            meta = {
                "layers": [asdict(own) for own in layers_of(responses)],
                "weights_sha256": sha256,
                "num_classes": responses.num_classes,
                "clean_accuracy": accuracy["clean"],
                "adversarial_accuracy": accuracy["adversarial"],
                "zero_gradient_share": float(np.mean(shares)) if shares else None,
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(time.process_time() - before, 1),
            }
            self.store.put(key, arrays_of(responses), meta=meta)
            stored = self.store.get(key)
        if stored is None:
            raise StoreError("what was measured vanished while the comparison ran; run it again")
        own = cast(dict[str, Any], stored.meta)
        own["layers"] = tuple(LayerRecord(**layer) for layer in own["layers"])
        responses = responses_of(
            stored.arrays,
            labels,
            layers=own["layers"],
            num_classes=own["num_classes"],
            epsilon=self._epsilon_of(variant),
            adaptive=variant.procedure.adaptive,
            num_thresholds=self.spec.num_thresholds,
        )
        if variant.name == CORRECTED:
            self._corrected = responses
        record = MeasuredRecord(
            name=variant.name,
            network=variant.network,
            seed=variant.seed,
            epsilon=self._epsilon_of(variant),
            **{name: own[name] for name in own if name != "num_classes"},
        )
        return _Found(responses=responses, record=record)

    def _measure(self, variant: Variant) -> tuple[Responses, str]:
        import torch

        from fss_core.checkpoints import load_network
        from fss_core.errata.measuring import measure_plainly
        from fss_core.models import describe_layers

        network: nn.Module
        if variant.network == HALF_WIDTH:
            network, sha256 = self._train_half_width()
        else:
            checkpoint = self.checkpoint(variant.seed)
            network, sha256 = load_network(checkpoint), checkpoint.sha256
        layers = list(describe_layers(network, self.dataset.image_shape))[:: self.spec.every]
        pixels = self.dataset.probe.pixels(0, self.spec.num_images)
        labels = torch.from_numpy(np.array(self.dataset.probe.labels[: self.spec.num_images]))
        if variant.name.startswith(_ENGINES):
            return self._with_engine(network, pixels, labels, layers, variant.title), sha256
        whole = variant.scope == "whole" or variant.name in (CORRECTED, "procedure")
        total, done = (len(layers) + whole) * 3 * self.spec.num_thresholds, 0

        def tell() -> None:
            nonlocal done
            done += 1
            self.flow.tell("measure", done, total, variant.title)

        responses = measure_plainly(
            network,
            pixels,
            labels,
            layers=() if variant.scope == "whole" else layers,
            num_thresholds=self.spec.num_thresholds,
            epsilon=self._epsilon_of(variant),
            procedure=variant.procedure,
            known=self._corrected if variant.name != CORRECTED else None,
            whole=whole,
            on_network=tell,
        )
        return responses, sha256

    def _train_half_width(self) -> tuple[nn.Module, str]:
        from safetensors.torch import save

        from fss_core.errata.networks import train_half_width

        self._begin("training x0.5")

        def tell(epoch: int, share: float) -> None:
            self.flow.tell("train", epoch - 1 + share, self.spec.epoch, f"epoch {epoch}")

        network = train_half_width(self.spec.training, self.dataset, self.spec.epoch, on_step=tell)
        return network, hashlib.sha256(save(dict(network.state_dict()))).hexdigest()

    def _with_engine(self, network: nn.Module, pixels: Any, labels: Any, layers: list[str], title: str) -> Responses:
        """Measure the corrected method with the fast engine, one layer at a time."""
        from fss_core.attacks import run_attack
        from fss_core.measuring import measure_responses
        from fss_core.specs import AttackSpec

        attacked = run_attack(network, pixels, labels, AttackSpec(epsilon=self.epsilon), on_pass=self.flow.check_stop)
        done = 0

        def tell(_: object) -> None:
            nonlocal done
            done += 1
            self.flow.tell("measure", done, len(layers), title)

        return measure_responses(
            network,
            pixels,
            labels,
            attacked.pixels,
            layers=layers,
            num_thresholds=self.spec.num_thresholds,
            on_layer=tell,
        )

    def engine_agrees(self, corrected: Responses) -> bool:
        """Say whether the fast engine gives exactly what the plain loop does without a switch."""
        own = list_variants(self.spec)[0]
        found = self.store.get(f"{self._key(own)}/engine")
        if found is None:
            import torch

            from fss_core.checkpoints import load_network

            self._begin("measuring: the same with the fast engine")
            network = load_network(self.checkpoint(own.seed))
            names = [layer.facts.name for layer in corrected.layers[:-1]]
            pixels = self.dataset.probe.pixels(0, self.spec.num_images)
            labels = torch.from_numpy(np.array(corrected.labels))
            engine = arrays_of(self._with_engine(network, pixels, labels, names, own.title))
            plain = arrays_of(corrected)
            agrees = all(
                np.array_equal(engine[kind], plain[kind][: len(names)]) for kind in ("clean", "adversarial", "num_kept")
            )
            self.store.put(f"{self._key(own)}/engine", {}, meta={"agrees": agrees})
            return agrees
        return bool(cast(dict[str, Any], found.meta)["agrees"])
