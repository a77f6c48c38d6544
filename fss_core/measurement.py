"""One measurement under way: its network, its images, and what is still to do, piece by piece.

Every piece looks in the store first and claims what it is about to compute. Torch is imported only when something is
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from fss_core.archive import Chunk, Header, ResponseArchive, chunks
from fss_core.checkpoints import Checkpoint
from fss_core.data import Dataset, load_dataset
from fss_core.flow import archive_of, check_num_images, epsilon_name, find_epsilon
from fss_core.responses import Predictions, Responses
from fss_core.specs import (
    AttackSpec,
    EpsilonCalibration,
    Filter,
    MeasurementSpec,
    StoreError,
    UnknownLayerError,
    adversarial_key,
    choose,
    filter_rows,
)
from fss_core.stopping import looks
from fss_core.store import SCHEMA, LeaseHeldError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fss_core.flow import Flow
    from fss_core.measuring import Measurer
    from fss_core.stopping import Stopping


class Measurement:
    """One measurement under way.

    Args:
        flow: the store, who is told, and who may stop the work.
        spec: what to measure.
        layers: which layers; all by default.
        refresh: forget what was measured of these layers, and whatever is damaged, and begin again; of all layers, also
            ε and the adversarial images.
        stopping: stop with each layer as soon as its calls are decided; by default all images are measured.

    Raises:
        DataError: the data set is missing or broken.
        FssError: the specification asks for what cannot be done; found out before anything is trained.
        ValueError: more images than the probe split has, or a device that is not there.
    """

    def __init__(
        self,
        flow: Flow,
        spec: MeasurementSpec,
        layers: Sequence[str] | None = None,
        *,
        refresh: bool = False,
        stopping: Stopping | None = None,
    ) -> None:
        """Open the data set, and find out what cannot be done."""
        self.flow = flow
        self.spec = spec
        self.layers = layers
        self.dataset: Dataset = load_dataset(spec.training.dataset)
        check_num_images(spec, self.dataset.card)
        self._refuse_early()
        self._refresh = refresh
        self._stopping = stopping
        self._attacked = lru_cache(maxsize=2)(self._attack)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The network to measure, trained if need be."""
        return self.flow.checkpoint(self.spec)

    @cached_property
    def attack(self) -> AttackSpec:
        """The attack, with the ε that was given, or calibrated if need be."""
        return self.spec.attack(self.spec.epsilon if self.spec.epsilon is not None else float(self.calibrate()))

    @cached_property
    def archive(self) -> ResponseArchive:
        """Where the pieces lie; what is to be measured anew is forgotten when it is first asked for."""
        archive = archive_of(self.flow.store, self.spec, self.checkpoint, self.dataset.card, self.attack)
        if self._refresh:
            attacked = self._adversarial_name("")
            store = self.flow.store
            (store.delete_prefix if self.layers is None else store.delete_damaged)(attacked)
            archive.delete(self.layers)
        return archive

    def _refuse_early(self) -> None:
        """Find out what cannot be done before hours of training, not after."""
        from fss_core.attacks import known_attacks
        from fss_core.conditions import check_device
        from fss_core.models import build_network, describe_layers, select_layers

        check_device(self.spec.device)
        choose(self.spec.attack_kind.lower(), known_attacks(), what="L∞ attack")
        network = self.spec.training.network
        if self.layers is not None and self.flow.factory is None:
            known = describe_layers(build_network(network, dataset=self.dataset.card), self.dataset.image_shape)
            select_layers(list(known), list(self.layers), network=network)

    @cached_property
    def model(self) -> nn.Module:
        """The unfiltered network, in eval mode on the device."""
        from fss_core.checkpoints import load_network

        return load_network(self.checkpoint, device=self.spec.device, factory=self.flow.factory)

    @cached_property
    def measurer(self) -> Measurer:
        """What filters its layers."""
        from fss_core.measuring import Measurer

        return Measurer(self.model, self.dataset.image_shape, self.spec.response, device=self.spec.device)

    def _labels(self, chunk: Chunk) -> npt.NDArray[np.int64]:
        return self.dataset.probe.labels[chunk.start : chunk.stop]

    def calibrate(self) -> EpsilonCalibration:
        """Choose ε on the calibration split, unless that has been done."""
        store, card, device_type = self.flow.store, self.dataset.card, self.spec.device_type
        name = epsilon_name(self.checkpoint, card, device_type)
        if self._refresh:
            (store.delete if self.layers is None else store.delete_damaged)(name)
        with self.flow.claim(name, "the calibration of ε"):
            found = find_epsilon(store, self.checkpoint, card, device_type)
            if found is not None:
                return found
            import torch

            from fss_core.attacks import calibrate_epsilon, epsilon_grid

            tried: list[float] = []

            def tell(epsilon: float, accuracy: float) -> None:
                tried.append(epsilon)
                detail = f"PGD accuracy {accuracy:.3f} at ε = {epsilon * 255:.3g}/255"
                self.flow.tell("calibrate", len(tried), len(epsilon_grid()), detail)

            self.flow.tell("calibrate", 0, len(epsilon_grid()), "choosing ε")
            split = self.dataset.calibration
            labels = torch.from_numpy(np.array(split.labels)).to(self.spec.device)
            calibration = calibrate_epsilon(
                self.model,
                split.pixels().to(self.spec.device),
                labels,
                on_step=tell,
                on_pass=self.flow.check_stop,
            )
            store.put(name, {}, meta=asdict(calibration))
            return calibration

    def _adversarial_name(self, chunk: object) -> str:
        key = adversarial_key(
            attack=self.attack,
            network=self.checkpoint.identity,
            probe=self.dataset.probe.fingerprint,
            device_type=self.spec.device_type,
            schema=SCHEMA,
        )
        return f"adversarial/{key}/{chunk}"

    def _attack(self, chunk: Chunk) -> tuple[Tensor, Tensor, npt.NDArray[np.bool_]]:
        """A chunk's pixels, their adversarial versions, and where the attack found no gradient."""
        import torch

        from fss_core.attacks import run_attack

        store, name = self.flow.store, self._adversarial_name(chunk.index)
        pixels = self.dataset.probe.pixels(chunk.start, chunk.stop)
        found = store.get(name)
        arrays = {} if found is None else found.arrays
        known = len(arrays["pixels"]) if arrays else 0
        if known < chunk.num_images:
            # Only the images that are new: filtered networks may have seen the others.
            self.flow.tell("attack", chunk.start + known, self.spec.num_images, f"up to image {chunk.stop}")
            labels = torch.from_numpy(np.array(self._labels(chunk)))
            device = self.spec.device
            made = run_attack(
                self.model,
                pixels[known:].to(device),
                labels[known:].to(device),
                self.attack,
                on_pass=self.flow.check_stop,
            )
            fresh = {"pixels": made.pixels.cpu().numpy(), "zero_gradient": made.zero_gradient.numpy()}
            arrays = {part: np.concatenate([arrays[part], fresh[part]]) if arrays else fresh[part] for part in fresh}
            store.put(name, arrays, meta={"attack": asdict(self.attack)})
        adversarial, zero_gradient = (arrays[part][: chunk.num_images] for part in ("pixels", "zero_gradient"))
        return pixels, torch.from_numpy(adversarial), zero_gradient.astype(np.bool_)

    def _unfiltered(self, chunk: Chunk) -> Predictions:
        known = self.archive.unfiltered(chunk)
        if known is not None:
            return known[1]
        with self.flow.claim(f"unfiltered/{self.archive.key}/{chunk.index}", "the unfiltered network"):
            known = self.archive.unfiltered(chunk)
            if known is not None:
                return known[1]
            pixels, adversarial, zero_gradient = self._attacked(chunk)
            predictions = self.measurer.unfiltered(pixels, adversarial, zero_gradient)
            self.archive.put_unfiltered(chunk, self._labels(chunk), predictions)
            return predictions

    def prepare(self) -> Header:
        """Do what all layers share: the network, ε, adversarial images, what the unfiltered network predicts.

        Returns:
            The layers, and what each costs.

        Raises:
            UnknownLayerError: a layer was asked for that the network does not have.
        """
        header = self.archive.header()
        if header is None:
            header = Header(
                costs=self.measurer.costs(), num_classes=self.measurer.num_classes, notes=self.measurer.notes
            )
            self.archive.put_header(header)
        for name in self.layers or ():
            choose(
                name,
                header.layers,
                what=f"filterable layer in {self.spec.training.network} called",
                error=UnknownLayerError,
            )
        for chunk in chunks(self.spec.num_images):
            self._unfiltered(chunk)
        self.archive.note_asked(self.spec.num_images, stopping=self._stopping is not None)
        self.flow.store.record(self.archive.key, self._description())
        return header

    def measure(self) -> None:
        """Measure every layer and chunk that is missing, in network order, what others are busy with last."""
        header = self.prepare()
        self.measure_layers([name for name in header.layers if self.layers is None or name in self.layers])

    def measure_layers(self, names: Sequence[str], *, wait: bool = True) -> list[str]:
        """Measure what is missing of some layers; :meth:`prepare` must have been run once, here or elsewhere.

        Args:
            names: which layers.
            wait: wait for those that another process is busy with.

        Returns:
            The layers that were left to another process; none if ``wait``.
        """
        header = self.archive.header()
        assert header is not None, "layers are measured after prepare()"
        self._total = sum(header.costs[name] for name in names)
        self._done = 0.0
        held = [name for name in names if not self._measure_layer(name, header.costs[name], wait=False)]
        if not wait:
            return held
        for name in held:
            self._measure_layer(name, header.costs[name], wait=True)
        return []

    def _description(self) -> dict[str, object]:
        """What the catalogue says: the most that was ever asked for under this key."""
        spec = asdict(self.spec) | {"training": asdict(self.checkpoint.spec)}
        for record in self.flow.store.list_records():
            if record.key == self.archive.key and "measurement" in record.spec:
                before = cast(dict[str, Any], record.spec["measurement"])
                spec["num_images"] = max(spec["num_images"], before["num_images"])
                filters = dict.fromkeys((*before["response"]["filters"], *spec["response"]["filters"]))
                spec["response"] = spec["response"] | {"filters": tuple(filters)}
        return {
            "measurement": spec,
            "attack": asdict(self.attack),
            "checkpoint": self.checkpoint.sha256,
            "dataset_title": self.dataset.title,
            "probe": self.dataset.probe.fingerprint,
        }

    def _measure_layer(self, layer: str, cost: float, *, wait: bool) -> bool:
        """Complete one layer; False if another process is busy with it and ``wait`` is not set."""
        self.flow.tell("measure", self._done, self._total, layer)
        try:
            with self.flow.store.claim(
                f"responses/{self.archive.key}/{layer}",
                wait=wait,
                on_wait=lambda: self.flow.tell(
                    "wait", self._done, self._total, f"another process is busy with {layer}"
                ),
            ):
                before, measured = self._done, 0
                for chunk in self._steps():
                    share = cost * (chunk.stop - measured) / self.spec.num_images
                    self._measure_chunk(layer, chunk, share)
                    measured = chunk.stop
                    self._done += share
                    self.flow.tell("measure", self._done, self._total, layer)
                    if self._is_settled(layer, measured):
                        break
                self._done = before + cost
        except LeaseHeldError:
            if wait:
                raise
            return False
        return True

    def _steps(self) -> list[Chunk]:
        """List what is measured of a layer one after the other; a chunk may come again with more images."""
        if self._stopping is None:
            return chunks(self.spec.num_images)
        return [chunks(number)[-1] for number in looks(self.spec.num_images)]

    def _is_settled(self, layer: str, measured: int) -> bool:
        """Say whether no more images of a layer are needed than were measured."""
        if self._stopping is None or measured == self.spec.num_images:
            return False
        response = self.archive.layer(layer, measured)
        unfiltered, num_layers = self._beside
        return response is not None and self._stopping.is_settled(unfiltered, response, num_layers)

    @cached_property
    def _beside(self) -> tuple[Responses, int]:
        """What the unfiltered network predicts on all images, and how many layers are called."""
        found = self.archive.load(self.spec.num_images, attack=self.attack, layers=())
        header = self.archive.header()
        if found is None or header is None:
            raise StoreError("results vanished while they were measured (another process refreshed them); run again")
        return found[0], len(header.layers if self.layers is None else set(self.layers))

    def _measure_chunk(self, layer: str, chunk: Chunk, share: float) -> None:
        """Measure what is missing of a layer's chunk: filters never measured, and images beyond those that were."""
        response = self.spec.response
        by_start: dict[int, list[Filter]] = {}
        known: dict[Filter, Predictions | None] = {}
        for name in response.filters:
            known[name] = self.archive.predictions(layer, name, chunk)
            start = 0 if (piece := known[name]) is None else piece.num_images
            if start < chunk.num_images:
                by_start.setdefault(start, []).append(name)
        for name in response.filters:
            if not self.archive.has_facts(layer, name):
                self.archive.put_facts(name, self.measurer.facts(layer, filter_rows([name], response.num_draws)))
        num_cells = sum(len(filter_rows(names, response.num_draws)) for names in by_start.values())
        cells_done = 0

        def on_network() -> None:
            nonlocal cells_done
            cells_done += 1
            done = self._done + share * cells_done / (num_cells * response.num_thresholds)
            self.flow.tell("measure", done, self._total, layer)

        for start, names in by_start.items():
            predictions = self._measure_images(layer, chunk, start, names, on_network)
            row = 0
            for name in names:
                stop = row + len(filter_rows([name], response.num_draws))
                fresh = predictions.rows(row, stop)
                before = known[name]
                whole = fresh if before is None else Predictions.join([before, fresh])
                self.archive.put_predictions(layer, name, chunk, self._labels(chunk), whole)
                row = stop

    def _measure_images(
        self, layer: str, chunk: Chunk, start: int, names: list[Filter], on_network: Callable[[], None]
    ) -> Predictions:
        import torch

        pixels, adversarial, _ = self._attacked(chunk)
        unfiltered = self._unfiltered(chunk)
        labels = torch.from_numpy(np.array(self._labels(chunk)))
        return self.measurer.measure(
            layer,
            pixels[start:],
            labels[start:],
            adversarial[start:] if self.attack.mode == "frozen" else None,
            unfiltered.images(start, chunk.num_images),
            attack=self.attack,
            rows=filter_rows(names, self.spec.response.num_draws),
            on_network=on_network,
            on_pass=self.flow.check_stop,
        )
