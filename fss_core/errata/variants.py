"""Which cell is looked at, and what it is compared with: each difference by itself, and all at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from fss_core.errata.differences import AS_IN_THE_NOTEBOOKS, DIFFERENCES, NOTEBOOK_SCORE, NotebookProcedure
from fss_core.specs import NETWORKS, ScoreSpec, TrainingSpec

Scope = Literal["layers", "whole"]

CORRECTED = "corrected"
HALF_WIDTH = "shufflenet_v2_x0_5"
"""torchvision's name of what the notebooks built; not one of this project's networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrataSpec:
    """Names the cell whose scores are compared.

    Attributes:
        training: of the first initialisation.
        epoch: which epoch of it.
        num_images: probe images.
        num_thresholds: per layer; odd, for Simpson's rule.
        every: every so many layers are filtered, the first among them.
        seeds: initialisations; the first is that of ``training``.
        notebook_epsilon: in standard deviations: what the notebooks take for ResNet-18 on MNIST.
        score: how the corrected method scores.
    """

    training: TrainingSpec = field(
        default_factory=lambda: TrainingSpec(network="shufflenet_v2_x1_0", dataset="mnist5k")
    )
    epoch: int = 3
    num_images: int = 200
    num_thresholds: int = 13
    every: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)
    notebook_epsilon: float = 0.38
    score: ScoreSpec = field(default_factory=ScoreSpec)

    def __post_init__(self) -> None:
        """Refuse what is no cell."""
        if self.num_thresholds % 2 == 0 or self.every < 1:
            raise ValueError(
                f"num_thresholds must be odd and every at least 1, got {self.num_thresholds} and {self.every}"
            )
        if self.seeds[:1] != (self.training.seed,) or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must begin with {self.training.seed} and differ, got {self.seeds}")

    def of_seed(self, seed: int) -> TrainingSpec:
        """Name the trajectory of an initialisation."""
        return replace(self.training, seed=seed)

    def words(self) -> str:
        """Say in one line what is looked at."""
        own = self.training
        return (
            f"{NETWORKS.get(own.network, own.network)} on {own.dataset}, epoch {self.epoch}"
            + (f", {own.subset}" if own.subset else "")
            + f"; {self.num_images} images, {self.num_thresholds} thresholds, {len(self.seeds)} initialisations"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way of coming to the scores of the cell.

    Attributes:
        name: names it, in the file and in addresses.
        title: in a few words.
        differences: which of the notebooks' it has.
        procedure: how it is measured.
        network: what is measured.
        seed: which initialisation.
        own_epsilon: whether ε is ``ErrataSpec.notebook_epsilon``.
        score: how it is scored.
        measured: the variant whose responses these scores are of; itself where it is measured anew.
        scope: which scores it is about.
    """

    name: str
    title: str
    differences: tuple[int, ...]
    network: str
    seed: int
    score: ScoreSpec
    measured: str
    procedure: NotebookProcedure = field(default_factory=NotebookProcedure)
    own_epsilon: bool = False
    scope: Scope = "layers"

    @property
    def short_title(self) -> str:
        """Its name where there is little room: the number of the difference, wherever it is one."""
        return {CORRECTED: "Corr.", "2-own-epsilon": "2, ε", "procedure": "not 7", "all": "All"}.get(
            self.name, self.name
        )


def list_variants(spec: ErrataSpec) -> tuple[Variant, ...]:
    """List what is compared, the corrected method first.

    >>> [own.name for own in list_variants(ErrataSpec())]
    ['corrected', '1', '2', '2-own-epsilon', '3', '4', '6', '7', '8', 'procedure', 'all', 'seed1', 'seed2']
    """
    titles = {own.number: own.title for own in DIFFERENCES}

    def variant(name: str, title: str, *differences: int, **more: object) -> Variant:
        given: dict[str, object] = {
            "network": spec.training.network,
            "seed": spec.seeds[0],
            "score": spec.score,
            "measured": name,
        }
        return Variant(name=name, title=title, differences=differences, **(given | more))  # type: ignore[arg-type]

    def switched(number: int, **switches: bool) -> Variant:
        return variant(str(number), titles[number], number, procedure=NotebookProcedure(**switches))

    found = [
        variant(CORRECTED, "Corrected method"),
        switched(1, training_mode=True),
        switched(2, unclamped=True),
        variant(
            "2-own-epsilon",
            "Not clamped, their ε",
            2,
            procedure=NotebookProcedure(unclamped=True),
            own_epsilon=True,
        ),
        switched(3, adaptive=True),
    ]
    if spec.training.network == "shufflenet_v2_x1_0":
        found.append(variant("4", titles[4], 4, network=HALF_WIDTH))
    found += [
        replace(switched(6, last_layer_only=True), scope="whole"),
        variant("7", titles[7], 7, score=NOTEBOOK_SCORE, measured=CORRECTED),
        switched(8, gapped_pulses=True),
        variant("procedure", "All but the score", 1, 2, 3, 6, 8, procedure=AS_IN_THE_NOTEBOOKS),
        variant(
            "all",
            "All at once",
            *(1, 2, 3, 6, 7, 8),
            procedure=AS_IN_THE_NOTEBOOKS,
            score=NOTEBOOK_SCORE,
            measured="procedure",
        ),
    ]
    found += [variant(f"seed{seed}", f"Initialisation {seed}", 5, seed=seed) for seed in spec.seeds[1:]]
    return tuple(found)
