"""How long a cell takes: what is left of it, from the plans of its measurements, each piece counted once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fss_core.checkpoints import read_trajectory
from fss_core.data import dataset_card, dataset_state
from fss_core.flow import find_epsilon
from fss_core.jobs.board import Board
from fss_core.jobs.plans import Plan, plan_measurement, seconds_of, typical_dataset
from fss_core.jobs.rates import Basis, Machine, Rate, Rates, num_cores
from fss_core.jobs.retraining_plans import plan_retraining
from fss_core.store import Store
from fss_core.study.cells import Cell

_PLACEHOLDER_EPSILON = 8 / 255
"""Stands for an ε that is calibrated later, in tasks that are only estimated."""

_BASES: tuple[Basis, ...] = ("measured", "scaled", "typical")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """How long what is left of a cell takes.

    Attributes:
        train: seconds of training.
        measure: seconds of choosing ε, attacking and filtering.
        retrain: seconds of retraining and judging.
        basis: the weakest ground that these stand on.
    """

    train: float
    measure: float
    retrain: float
    basis: Basis

    @property
    def seconds(self) -> float:
        """In all."""
        return self.train + self.measure + self.retrain


def here() -> Machine:
    """This process, with all cores."""
    return Machine(cores=num_cores(), workers=1)


def estimate(store: Store, cell: Cell, machine: Machine | None = None) -> Cost:
    """Say what is left of a cell; its data set may be missing.

    Raises:
        FssError: a piece that is there is broken.
        ValueError: it asks for what its data set does not have.
    """
    machine = machine or here()
    measured = list(_measuring(store, cell, machine))
    retraining = cell.retrain_request()
    retrained = [] if retraining is None else [plan_retraining(store, retraining, machine, assume_data=True)]
    train, rate = _training(store, cell, machine)
    tasks = [task for plan in measured for task in plan.tasks if task.stage not in ("data", "train")]
    judged = [task for plan in retrained for task in plan.tasks if task.stage in ("criticality", "judge", "retrain")]
    bases: list[Basis] = [rate.basis] if train else []
    bases += [plan.basis for plan, own in ((p, p.tasks) for p in (*measured, *retrained)) if own]
    return Cost(
        train=train,
        measure=seconds_of(tasks, machine),
        retrain=seconds_of(judged, machine),
        basis=max(bases, key=_BASES.index, default="measured"),
    )


def known_epsilon(store: Store, cell: Cell) -> float | None:
    """Look up the ε of a cell: the one given, or calibrated on the last epoch of its first initialisation."""
    if cell.epsilon is not None:
        return cell.epsilon
    own = cell.request(cell.seeds[0], cell.last, None).spec
    if dataset_state(cell.dataset).state != "ready":
        return None
    checkpoint = read_trajectory(own.training).get(cell.last)
    if checkpoint is None:
        return None
    found = find_epsilon(store, checkpoint, dataset_card(cell.dataset), own.device_type)
    return None if found is None else found.epsilon


def training_rate(store: Store, cell: Cell, machine: Machine) -> Rate:
    """Say how fast a cell's network is trained."""
    ready = dataset_state(cell.dataset).state == "ready"
    shape = dataset_card(cell.dataset).image_shape if ready else typical_dataset(cell.dataset)[0]
    device_type = cell.device.partition(":")[0]
    return Rates(Board(store).rates()).find("backward", cell.network, shape, device_type, machine.cores)


def num_training_images(cell: Cell) -> int:
    """Count the images of one epoch."""
    if cell.num_train is not None:
        return cell.num_train
    if dataset_state(cell.dataset).state == "ready":
        return dataset_card(cell.dataset).split_sizes["train"]
    return typical_dataset(cell.dataset)[1]["train"]


def _training(store: Store, cell: Cell, machine: Machine) -> tuple[float, Rate]:
    """Seconds until every epoch of every initialisation is trained."""
    ready = dataset_state(cell.dataset).state == "ready"
    rate = training_rate(store, cell, machine)
    epochs = 0
    for seed in cell.seeds:
        saved = read_trajectory(cell.training(seed)) if ready else {}
        wanted = [epoch for epoch in cell.epochs if epoch not in saved or not saved[epoch].kept]
        begun = max((epoch for epoch in saved if wanted and epoch <= wanted[-1]), default=0)
        epochs += wanted[-1] - min(begun, wanted[-1]) if wanted else 0
    return epochs * num_training_images(cell) * rate.seconds, rate


def _measuring(store: Store, cell: Cell, machine: Machine) -> Iterator[Plan]:
    epsilon = known_epsilon(store, cell) or _PLACEHOLDER_EPSILON
    for seed, epoch in cell.points():
        yield plan_measurement(store, cell.request(seed, epoch, epsilon), machine, assume_data=True)


def add_up(costs: list[Cost]) -> Cost:
    """Add costs up, on the weakest ground of all."""
    return Cost(
        train=sum(cost.train for cost in costs),
        measure=sum(cost.measure for cost in costs),
        retrain=sum(cost.retrain for cost in costs),
        basis=max((cost.basis for cost in costs), key=_BASES.index, default="measured"),
    )
