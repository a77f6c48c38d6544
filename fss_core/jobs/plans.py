"""Which tasks a request takes, and how long each may last, as far as can be said without torch.

A plan is made anew whenever its tasks are done, from what the store then has: what is there takes no task, so going on
after an interruption is planning again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fss_core.archive import Header, ResponseArchive, chunks
from fss_core.checkpoints import Checkpoint, find_checkpoint, read_trajectory
from fss_core.data import dataset_card, dataset_state
from fss_core.flow import archive_of, check_num_images, find_epsilon
from fss_core.jobs.board import Board, Task
from fss_core.jobs.rates import (
    PASSES_OF_CALIBRATION,
    TYPICAL_SIZES_TRIED,
    Basis,
    Machine,
    Rate,
    Rates,
    Work,
    typical_num_layers,
)
from fss_core.jobs.requests import MeasureRequest, Part
from fss_core.specs import DataError, MeasurementSpec, UnknownLayerError, choose, filter_rows
from fss_core.store import Store

_SECONDS_TO_PREPARE = 5.0
"""To decode a small data set; how long a large one takes is not known before."""


_TYPICAL: dict[str, tuple[tuple[int, int, int], dict[str, int]]] = {
    "mnist5k": ((1, 28, 28), {"train": 3_500, "calibration": 250}),
    "mnist": ((1, 28, 28), {"train": 60_000, "calibration": 1_000}),
    "cifar10": ((3, 32, 32), {"train": 50_000, "calibration": 1_000}),
    "tiny-imagenet-20": ((3, 64, 64), {"train": 10_000, "calibration": 100}),
    "tiny-imagenet": ((3, 64, 64), {"train": 100_000, "calibration": 1_000}),
}
"""Image shape and sizes of splits of a data set that has not been decoded yet."""


def typical_dataset(dataset: str) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Guess the image shape and the sizes of some splits of a data set that has not been decoded yet."""
    return _TYPICAL.get(dataset, _TYPICAL["cifar10"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The tasks that are left of a request.

    Attributes:
        tasks: in the order in which they are taken.
        seconds: until all is done, on this machine.
        first_seconds: until every layer has scores, be it of a first look; what makes them better, and what belongs
            beside them, comes after.
        basis: the weakest ground that the times stand on.
    """

    tasks: tuple[Task, ...]
    seconds: float
    first_seconds: float
    basis: Basis


def plan_measurement(store: Store, request: MeasureRequest, machine: Machine, *, assume_data: bool = False) -> Plan:
    """Plan what is left of a measurement.

    Args:
        store: what is there already.
        request: what is asked for.
        machine: who would do it.
        assume_data: estimate what a data set that is missing would take, as if it were there.

    Returns:
        The tasks; none when everything is there.

    Raises:
        FssError: a piece that is there is broken, or the data set is missing.
        ValueError: more images than the probe split has.
    """
    planner = _Planner(store, request, machine, assume_data=assume_data)
    tasks = tuple(planner.tasks())
    after = {"whole", "control", *(["layers"] if any(task.stage == "preview" for task in tasks) else [])}
    return Plan(
        tasks=tasks,
        seconds=seconds_of(tasks, machine),
        first_seconds=seconds_of([task for task in tasks if task.stage not in after], machine),
        basis=max(planner.bases, key=("measured", "scaled", "typical").index, default="measured"),
    )


def _stands_for(look: Task, layers: Sequence[Task]) -> bool:
    """Say whether the layer of a first look is still to be measured; where layers are not known yet, some are."""
    own, names = look.name.partition(":")[2], {task.name.partition(":")[2] for task in layers}
    return bool(names) and (own == "" or "" in names or own in names)


def seconds_of(tasks: Sequence[Task], machine: Machine) -> float:
    """Say how long tasks take a machine."""
    wide = sum(task.seconds for task in tasks if task.wide)
    return wide + sum(task.seconds for task in tasks if not task.wide) / machine.workers


class _Planner:
    def __init__(self, store: Store, request: MeasureRequest, machine: Machine, *, assume_data: bool) -> None:
        self.store = store
        self.request = request
        self.machine = machine
        self.rates = Rates(Board(store).rates())
        self.bases: list[Basis] = []
        self.training = request.spec.training
        state = dataset_state(self.training.dataset)
        if state.state in ("missing", "broken") and not assume_data:
            raise DataError(state.detail)
        self.is_prepared = state.state == "ready"
        self.card = dataset_card(self.training.dataset) if self.is_prepared else None
        if self.card is not None:
            check_num_images(request.spec, self.card)

    def _rate(self, work: Work, *, threads: int) -> Rate:
        shape = self.card.image_shape if self.card is not None else typical_dataset(self.training.dataset)[0]
        rate = self.rates.find(work, self.training.network, shape, self.request.spec.device_type, threads)
        self.bases.append(rate.basis)
        return rate

    def _task(self, name: str, work: Work, units: float, *, wide: bool = False, ready: bool = True) -> Task:
        rate = self._rate(work, threads=self.machine.cores if wide else self.machine.threads)
        return Task(name=name, units=units, rate=rate.key, seconds=units * rate.seconds, wide=wide, ready=ready)

    def tasks(self) -> Iterator[Task]:
        """List what is left; once a task is not there yet, those behind it wait for another plan."""
        if self.card is None:
            yield Task(name="data", units=0.0, rate="", seconds=_SECONDS_TO_PREPARE, wide=True)
        spec = self.request.spec
        checkpoint = find_checkpoint(self.training, spec.epoch) if self.card is not None else None
        if checkpoint is not None and not checkpoint.kept:
            checkpoint = None
        if checkpoint is None:
            yield self._task("train", "backward", self._num_training_images(), wide=True, ready=self.card is not None)
        if spec.epsilon is not None:
            epsilon: float | None = spec.epsilon
        else:
            known = (
                find_epsilon(self.store, checkpoint, self.card, spec.device_type) if checkpoint and self.card else None
            )
            epsilon = None if known is None else known.epsilon
        if epsilon is None:
            units = self._split_size("calibration") * PASSES_OF_CALIBRATION * TYPICAL_SIZES_TRIED
            yield self._task("epsilon", "backward", units, wide=True, ready=checkpoint is not None)
        parts = self.request.parts()
        if checkpoint is None or self.card is None or epsilon is None:
            for part, own in parts.items():
                yield from self._unknown_layers(part, own)
            return
        images: dict[Part, list[Task]] = {}
        layers: dict[Part, list[Task]] = {}
        for part, own in parts.items():
            archive = archive_of(self.store, own, checkpoint, self.card, own.attack(epsilon))
            images[part] = list(self._images(part, own, archive))
            layers[part] = list(self._layers(part, own, archive))
        looks = [task for task in layers.pop("preview", []) if _stands_for(task, layers["layers"])]
        if looks:  # their rows stand in for those of the whole, which are not known before its images are
            yield from (*images.pop("layers"), *images["preview"], *looks, *layers.pop("layers"))
        for part, own_layers in layers.items():
            yield from (replace(task, ready=task.ready and not looks) for task in (*images[part], *own_layers))

    def _num_training_images(self) -> float:
        begun = 0
        if self.card is not None:
            saved: dict[int, Checkpoint] = read_trajectory(self.training)
            begun = max(
                (epoch for epoch, own in saved.items() if epoch < self.request.spec.epoch and own.has_state), default=0
            )
        per_epoch = self.training.num_train or self._split_size("train")
        return float(max(self.request.spec.epoch - begun, 0) * per_epoch)

    def _split_size(self, split: str) -> int:
        if self.card is not None:
            return self.card.split_sizes[split]
        return typical_dataset(self.training.dataset)[1][split]

    def _attack_passes(self, spec: MeasurementSpec) -> int:
        return 2 if spec.attack_kind.lower() == "fgsm" else spec.attack_steps + 1

    def _units(self, spec: MeasurementSpec, costs: float, num_images: float, rows: int) -> tuple[Work, float]:
        """Images that pass through a network when ``rows`` filters are measured, at all thresholds."""
        networks = rows * spec.response.num_thresholds * costs
        if spec.attack_mode == "adaptive":
            return "backward", networks * num_images * self._attack_passes(spec)
        return "forward", networks * num_images * 2

    def _unknown_layers(self, part: Part, spec: MeasurementSpec) -> Iterator[Task]:
        """Stand in for layers whose names and costs are not known before the network has been looked at."""
        num_layers = 1 if part == "whole" else typical_num_layers(self.training.network)
        if self.request.layers is not None and part != "whole":
            num_layers = len(self.request.layers)
        costs = 1.0 if part == "whole" else num_layers / 2
        rows = len(filter_rows(spec.response.filters, spec.response.num_draws))
        units = self._units(spec, costs, spec.num_images, rows)
        yield self._task(f"images:{part}", "backward", spec.num_images * self._attack_passes(spec), ready=False)
        yield self._task(part, units[0], units[1], ready=False)

    def _images(self, part: Part, spec: MeasurementSpec, archive: ResponseArchive) -> Iterator[Task]:
        if self._shared(spec, archive) is None:
            passes = spec.num_images * self._attack_passes(spec)
            yield self._task(f"images:{part}", "backward", passes, wide=True)

    @staticmethod
    def _shared(spec: MeasurementSpec, archive: ResponseArchive) -> Header | None:
        """Read the header, if all that the layers share is there."""
        if any(archive.unfiltered(chunk) is None for chunk in chunks(spec.num_images)):
            return None
        return archive.header()

    def _layers(self, part: Part, spec: MeasurementSpec, archive: ResponseArchive) -> Iterator[Task]:
        header = self._shared(spec, archive)
        if header is None:
            _, *rest = self._unknown_layers(part, spec)
            yield from rest
            return
        missing_images = archive.missing_images(spec.num_images)
        for name in self._wanted(part, header):
            missing = missing_images[name]
            if sum(missing.values()):
                per_row = {own: len(filter_rows([own], spec.response.num_draws)) for own in missing}
                rows = sum(per_row[own] * number for own, number in missing.items()) / spec.num_images
                work, units = self._units(spec, header.costs[name], spec.num_images, 1)
                yield self._task(f"{part}:{name}", work, units * rows)

    def _wanted(self, part: Part, header: Header) -> list[str]:
        layers = self.request.layers if part != "whole" else None
        for name in layers or ():
            choose(
                name,
                header.layers,
                what=f"filterable layer in {self.training.network} called",
                error=UnknownLayerError,
            )
        return [name for name in header.layers if layers is None or name in layers]
