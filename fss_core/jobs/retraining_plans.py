"""Asking for a retraining: the request, and which tasks are left of it, without torch.

One initialisation is brought to its end before the next begins, so that there is something to see early. Of each, the
checkpoint is trained and its layers are measured as for any measurement; then comes one task per distinct selection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fss_core.data import DatasetCard, dataset_card, dataset_state
from fss_core.flow import Measured, find_measured
from fss_core.jobs.board import Board, Task
from fss_core.jobs.plans import Plan, plan_measurement, seconds_of, typical_dataset
from fss_core.jobs.rates import Basis, Machine, Rate, Rates
from fss_core.jobs.requests import MeasureRequest, request_key
from fss_core.retraining.archive import CRITICALITY_STEPS, RetrainingArchive, find_before
from fss_core.retraining.evidence import make_choices
from fss_core.retraining.lookup import (
    distinct_selections,
    known_criticality,
    num_report_images,
    of_seed,
    setting_of,
    spec_of_seed,
)
from fss_core.retraining.rules import RULES, Selection
from fss_core.retraining.spec import RetrainingSpec
from fss_core.specs import NETWORKS, digest, to_json
from fss_core.store import Store

LARGEST_NUM_SEEDS = 100
"""Beyond this a number is a slip of the keyboard."""

_PASSES_OF_JUDGING = 2 + 11 + 1
"""Forward and backward passes of FGSM and of PGD, and the four forward passes that predict."""

_PLACEHOLDER_EPSILON = 8 / 255
"""Stands for an ε that is calibrated later, in tasks that are only estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainRequest:
    """Asks for the retraining of one checkpoint of several initialisations.

    Attributes:
        spec: what to do; its initialisation is the first of ``seeds``, whatever it was.
        seeds: the initialisations, each once; ε, unless given, is calibrated on the first.
        factory: ``module:function`` of a network of the user's own.
    """

    spec: RetrainingSpec
    seeds: tuple[int, ...] = (0,)
    factory: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be retrained, and name the same work in one way only."""
        if not 1 <= len(self.seeds) <= LARGEST_NUM_SEEDS or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(
                f"seeds must name 1 to {LARGEST_NUM_SEEDS} initialisations, each once, got {len(self.seeds)}: "
                f"{', '.join(map(str, self.seeds[:5]))}"
            )
        object.__setattr__(self, "spec", of_seed(self.spec, self.seeds[0], self.spec.measurement.epsilon))

    @property
    def kind(self) -> str:
        """Which kind of run this asks for."""
        return "retrain"

    @property
    def key(self) -> str:
        """Names the run; the same as the board's."""
        return request_key(self.kind, self.to_json())

    def to_json(self) -> dict[str, object]:
        """Write the request so that :func:`fss_core.specs.from_json` reads it back."""
        return to_json(self)

    def words(self) -> str:
        """Say in one line what is asked for."""
        spec, training = self.spec, self.spec.measurement.training
        seeds = f"initialisation{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        epochs = f"{spec.budget} epoch{'s' if spec.budget > 1 else ''} of retraining"
        return "; ".join(
            [
                f"Retrain {NETWORKS.get(training.network, training.network)} on {training.dataset}, "
                f"epoch {spec.measurement.epoch}, {seeds}",
                *([training.subset] if training.subset else []),
                f"{epochs} under {', '.join(spec.rules)}",
                *(["pulses of weights"] if spec.granularity == "weights" else []),
                f"chosen on {spec.measurement.num_images} images, "
                f"{spec.measurement.response.num_thresholds} thresholds",
                *([f"judged on {spec.num_report_images} report images"] if spec.num_report_images else []),
            ]
        )

    def measurement(self, spec: RetrainingSpec) -> MeasureRequest:
        """Ask for the scores by which layers are chosen: of ``spec``, which is that of one initialisation."""
        return MeasureRequest(spec=spec.measurement, factory=self.factory)


def plan_retraining(store: Store, request: RetrainRequest, machine: Machine, *, assume_data: bool = False) -> Plan:
    """Plan what is left of a retraining.

    Args:
        store: what is there already.
        request: what is asked for.
        machine: who would do it.
        assume_data: estimate what a data set that is missing would take, as if it were there.

    Returns:
        The tasks, named ``stage:seed`` or ``stage:seed/piece``; none when everything is there.

    Raises:
        FssError: a piece that is there is broken, or the data set is missing.
        ValueError: more probe or report images than there are.
    """
    planner = _Planner(store, request, machine, assume_data=assume_data)
    tasks = tuple(planner.tasks())
    seconds = seconds_of(tasks, machine)
    return Plan(
        tasks=tasks,
        seconds=seconds,
        first_seconds=seconds,
        basis=max(planner.bases, key=("measured", "scaled", "typical").index, default="measured"),
    )


def retrain_task_name(seed: int, selection: Selection, rules: Sequence[str]) -> str:
    """Name the task that retrains a selection."""
    return f"retrain:{seed}/{rules[0]}-{_short_digest(selection)}"


def is_retrained_by(task: Task, selection: Selection) -> bool:
    """Say whether a task is that of a selection; another rule may have been the first that was known to choose it."""
    return task.name.endswith(f"-{_short_digest(selection)}")


def _short_digest(selection: Selection) -> str:
    return digest(selection)[:8]


class _Planner:
    def __init__(self, store: Store, request: RetrainRequest, machine: Machine, *, assume_data: bool) -> None:
        self.store = store
        self._assume_data = assume_data
        self.request = request
        self.machine = machine
        self.bases: list[Basis] = []
        self._rates = Rates(Board(store).rates())
        self._dataset = request.spec.measurement.training.dataset
        ready = dataset_state(self._dataset).state == "ready"
        self._card: DatasetCard | None = dataset_card(self._dataset) if ready else None
        self._num_report = self._split_size("report")
        if self._card is not None:
            self._num_report = num_report_images(request.spec, self._card)
        elif request.spec.num_report_images is not None:
            self._num_report = min(request.spec.num_report_images, self._num_report)

    def tasks(self) -> Iterator[Task]:
        """List what is left, one initialisation after the other; only the first that is not complete can begin."""
        seeds, ready = self.request.seeds, True
        for seed in seeds:
            known = None if self._card is None else spec_of_seed(self.store, self.request.spec, seeds, seed)
            epsilon = self.request.spec.measurement.epsilon if seed == seeds[0] else _PLACEHOLDER_EPSILON
            tasks = list(self._seed(seed, known or of_seed(self.request.spec, seed, epsilon)))
            if seed != seeds[0]:
                tasks = [task for task in tasks if task.stage != "data"]
            yield from tasks if ready else (replace(task, ready=False) for task in tasks)
            ready = ready and not tasks

    def _seed(self, seed: int, spec: RetrainingSpec) -> Iterator[Task]:
        request = self.request.measurement(spec)
        plan = plan_measurement(self.store, request, self.machine, assume_data=self._assume_data)
        if plan.tasks:
            self.bases.append(plan.basis)
            for task in plan.tasks:
                stage, _, rest = task.name.partition(":")
                yield replace(task, name=f"{stage}:{seed}/{rest}" if rest else f"{stage}:{seed}")
            yield from self._unknown(seed)
            return
        measured = find_measured(self.store, spec.measurement)
        assert measured is not None
        yield from self._known(seed, spec, measured)

    def _unknown(self, seed: int) -> Iterator[Task]:
        """Stand in for the retraining of layers that are not measured yet."""
        spec = self.request.spec
        if any(RULES[rule].needs_criticality for rule in spec.rules):
            yield self._criticality(seed, num_layers=50, ready=False)
        yield self._task(f"judge:{seed}", self._judging, ready=False)
        for rule in spec.rules:
            yield from self._placeholders(seed, rule)

    def _placeholders(self, seed: int, rule: str) -> Iterator[Task]:
        for draw in self.request.spec.draws(rule):
            yield self._task(f"retrain:{seed}/{rule}-{draw}", self.request.spec.budget * self._epoch, ready=False)

    def _known(self, seed: int, spec: RetrainingSpec, measured: Measured) -> Iterator[Task]:
        """List what is left of retraining a checkpoint whose layers are measured."""
        setting = setting_of(spec, measured)
        criticality = known_criticality(self.store, spec, measured)
        if criticality is None:
            yield self._criticality(seed, num_layers=len(measured.responses.layers))
        if find_before(self.store, setting) is None:
            yield self._task(f"judge:{seed}", self._judging)
        choices = make_choices(measured.responses, spec, criticality)
        for selection, rules in distinct_selections(choices).items():
            archive = RetrainingArchive(self.store, setting.retraining_key(selection))
            if missing := spec.budget - len(archive.epochs(spec.budget)):
                yield self._task(retrain_task_name(seed, selection, rules), missing * self._epoch)
        if criticality is None:
            for rule in spec.rules:
                if RULES[rule].needs_criticality:
                    yield from self._placeholders(seed, rule)

    # Units: images that pass through a network, forward and backward

    @property
    def _judging(self) -> float:
        return float(self._num_report * _PASSES_OF_JUDGING)

    @property
    def _epoch(self) -> float:
        num_train = self.request.spec.measurement.training.num_train
        return (num_train or self._split_size("train")) + self._judging

    def _split_size(self, split: str) -> int:
        if self._card is not None:
            return self._card.split_sizes[split]
        # How many images a data set that is not decoded yet judges on is not known: about as many as it calibrates on.
        sizes = typical_dataset(self._dataset)[1]
        return sizes.get(split, 3 * sizes["calibration"])

    def _criticality(self, seed: int, *, num_layers: int, ready: bool = True) -> Task:
        passes = num_layers * (CRITICALITY_STEPS + 1)
        return self._task(f"criticality:{seed}", float(self.request.spec.measurement.num_images * passes), ready=ready)

    def _task(self, name: str, units: float, *, ready: bool = True) -> Task:
        # On the CPU each keeps all cores busy, so that every rule is trained by the same number of threads, whoever
        # does it. Side by side with a thread each, two rules of ShuffleNet took 0.63 of the time on two cores; but a
        # rule that another process goes on with, by other threads, may end as another network.
        wide = self.request.spec.measurement.device_type == "cpu"
        rate = self._rate(self.machine.cores if wide else self.machine.threads)
        return Task(name=name, units=units, rate=rate.key, seconds=units * rate.seconds, wide=wide, ready=ready)

    def _rate(self, threads: int) -> Rate:
        measurement = self.request.spec.measurement
        shape = self._card.image_shape if self._card is not None else typical_dataset(self._dataset)[0]
        network = measurement.training.network
        rate = self._rates.find("backward", network, shape, measurement.device_type, threads)
        self.bases.append(rate.basis)
        return rate
