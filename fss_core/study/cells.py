"""What a cell of a study is: one network on one data set, with everything that is asked of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fss_core.exports import EXPORT_FORMAT
from fss_core.jobs.requests import MeasureRequest
from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.retraining.spec import RetrainingSpec
from fss_core.specs import NETWORKS, AttackMode, MeasurementSpec, ResponseSpec, ScoreSpec, TrainingSpec, digest
from fss_core.store import SCHEMA

STUDY_FORMAT = 1
"""The form of published cells and of a study's manifest; part of every cell's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRetraining:
    """What is retrained in a cell, from its last epoch; fields as in ``RetrainingSpec``.

    Attributes:
        budget: epochs of retraining.
        rules: which rules are compared.
        num_draws: of the rule ``random``.
        num_report_images: to judge on.
    """

    budget: int
    rules: tuple[str, ...]
    num_draws: int = 1
    num_report_images: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One network on one data set: what is trained, measured and retrained of it.

    Attributes:
        network: a name from ``NETWORKS``.
        dataset: a registered data set.
        epochs: which checkpoints are measured, ascending; ε, unless given, is calibrated on the last.
        num_images: probe images.
        num_thresholds: per layer.
        num_train: train on so many images; ``None`` means all.
        seeds: initialisations; ε is calibrated on the first.
        whole: filter the whole network at once, too.
        control: measure the random control, too, of the last epoch.
        attack_mode: as in ``AttackSpec``.
        epsilon: in pixels; ``None`` means calibrated.
        score: how the published scores are made.
        retraining: from the last epoch; ``None`` for none.
        device: where everything is computed.
        round: 2 for a second look at the same network and data set, with more of everything.
    """

    network: str
    dataset: str
    epochs: tuple[int, ...]
    num_images: int
    num_thresholds: int
    num_train: int | None = None
    seeds: tuple[int, ...] = (0,)
    whole: bool = True
    control: bool = False
    attack_mode: AttackMode = "frozen"
    epsilon: float | None = None
    score: ScoreSpec = field(default_factory=ScoreSpec)
    retraining: CellRetraining | None = None
    device: str = "cpu"
    round: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no cell."""
        if not self.epochs or list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(f"epochs must name at least one epoch, each once, ascending, got {self.epochs}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must name at least one initialisation, each once, got {self.seeds}")

    @property
    def pair(self) -> str:
        """Network and data set, as a person names a cell.

        >>> Cell(network="resnet18", dataset="mnist", epochs=(1,), num_images=10, num_thresholds=5, round=2).pair
        'resnet18/mnist'
        """
        return f"{self.network}/{self.dataset}"

    @property
    def name(self) -> str:
        """Names it in its study."""
        return self.pair + (f"#{self.round}" if self.round > 1 else "")

    @property
    def folder(self) -> str:
        """Where it is published, below its study."""
        return f"{self.network}-{self.dataset}" + (f"-{self.round}" if self.round > 1 else "")

    @property
    def key(self) -> str:
        """The SHA-256 of all that is asked of it, and of the forms of files: under another key it is another cell."""
        forms = {"study": STUDY_FORMAT, "export": EXPORT_FORMAT, "schema": SCHEMA}
        return digest({"what": "cell of a study", "forms": forms, "cell": self})

    @property
    def clock(self) -> str:
        """Names the time that it takes: asked for with more images or epochs, it goes on from what it has."""
        trained = self.training(self.seeds[0])
        return digest({"what": "time of a cell", "name": self.name, "training": trained, "device": self.device})

    @property
    def last(self) -> int:
        """The epoch that ε is calibrated on, and that is retrained."""
        return self.epochs[-1]

    def words(self) -> str:
        """Say in one line what is asked of it."""
        seeds = f"{len(self.seeds)} initialisation{'s' if len(self.seeds) > 1 else ''}"
        return (
            f"{NETWORKS.get(self.network, self.network)} on {self.dataset}; "
            f"epochs {', '.join(map(str, self.epochs))}; {self.num_images} images, {self.num_thresholds} thresholds, "
            f"{seeds}" + (f"; {self.num_train:,} training images" if self.num_train is not None else "")
        )

    def training(self, seed: int) -> TrainingSpec:
        """Name the trajectory of an initialisation."""
        return TrainingSpec(network=self.network, dataset=self.dataset, seed=seed, num_train=self.num_train)

    def points(self) -> list[tuple[int, int]]:
        """List initialisations and epochs, in the order in which they are measured: the last epochs first."""
        return [(seed, epoch) for epochs in ((self.last,), self.epochs[:-1]) for seed in self.seeds for epoch in epochs]

    def calibrates(self, seed: int, epoch: int) -> bool:
        """Say whether ε is calibrated on this checkpoint, for all of the cell."""
        return self.epsilon is None and (seed, epoch) == (self.seeds[0], self.last)

    def request(self, seed: int, epoch: int, epsilon: float | None) -> MeasureRequest:
        """Ask for the measurement of one checkpoint.

        Args:
            seed: which initialisation.
            epoch: which epoch.
            epsilon: that of the whole cell; it is not looked at where it is calibrated.
        """
        if self.calibrates(seed, epoch):
            epsilon = None
        spec = MeasurementSpec(
            training=self.training(seed),
            epoch=epoch,
            num_images=self.num_images,
            attack_mode=self.attack_mode,
            epsilon=epsilon if self.epsilon is None else self.epsilon,
            response=ResponseSpec(num_thresholds=self.num_thresholds),
            device=self.device,
        )
        return MeasureRequest(spec=spec, whole=self.whole, control=self.control and epoch == self.last)

    def retrain_request(self) -> RetrainRequest | None:
        """Ask for the retraining of the last epoch of all initialisations, if there is to be one."""
        own = self.retraining
        if own is None:
            return None
        spec = RetrainingSpec(
            measurement=self.request(self.seeds[0], self.last, None).spec,
            budget=own.budget,
            rules=own.rules,
            score=self.score,
            num_draws=own.num_draws,
            num_report_images=own.num_report_images,
        )
        return RetrainRequest(spec=spec, seeds=self.seeds)


def second_look(cell: Cell, **more: object) -> Cell:
    """Ask for more of the same network and data set, in a cell of its own."""
    return replace(cell, round=cell.round + 1, **more)  # type: ignore[arg-type]
