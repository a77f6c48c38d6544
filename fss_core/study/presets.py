"""The studies that can be asked for by name: which cells, in which order, at which size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fss_core.retraining.rules import RULES
from fss_core.specs import choose
from fss_core.study.cells import Cell, CellRetraining, second_look


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A study.

    Attributes:
        name: under which it is asked for; names a directory.
        title: what it is, in a line.
        cells: the most informative first.
        notes: what it does not do, and what a reader must know.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    def chosen(self, pairs: list[str] | None) -> tuple[Cell, ...]:
        """Pick cells by name, ``network/dataset`` or ``network/dataset#2``; all by default.

        Raises:
            UnknownNameError: the study has no such cell.
        """
        if pairs is None:
            return self.cells
        known = dict.fromkeys(name for cell in self.cells for name in (cell.pair, cell.name))
        for pair in pairs:
            choose(pair, known, what=f"cell in the study {self.name}")
        return tuple(cell for cell in self.cells if cell.pair in pairs or cell.name in pairs)


_FEW_RULES = ("robust_antifragile", "all", "fragile", "complement", "random", "last_layer")
"""The paper's rule, everything, what it leaves out (often one retraining), and the two cheap ones that it must beat."""


def _demo() -> Preset:
    cell = Cell(
        network="shufflenet_v2_x1_0",
        dataset="mnist5k",
        epochs=(1, 3),
        num_images=150,
        num_thresholds=13,
        retraining=CellRetraining(
            budget=1, rules=("robust_antifragile", "all", "fragile", "last_layer"), num_report_images=300
        ),
    )
    # What the dashboard opens with.
    opening = second_look(cell, epochs=(3,), num_images=300, num_thresholds=25, control=True, retraining=None)
    return Preset(
        name="demo", title="One network on the digits that come with a package, in minutes", cells=(cell, opening)
    )


def _laptop() -> Preset:
    def cell(network: str, dataset: str) -> Cell:
        epochs = {"squeezenet1_1": (0, 1, 2, 4, 8, 16), "shufflenet_v2_x1_0": (0, 1, 2, 4, 8)}
        own, num_images, tiny = epochs.get(network, (0, 1, 2, 4)), 200, dataset == "tiny-imagenet-20"
        slow = network == "resnet50"
        if slow or (tiny and network == "resnet18"):
            own = own[-1:]  # its other epochs are in the second round
        if slow and tiny:
            num_images = 100
        return Cell(
            network=network,
            dataset=dataset,
            epochs=own,
            num_images=num_images,
            num_thresholds=13,
            num_train=10_000,  # tiny-imagenet-20 has no more: named all the same, so that it can be compared
            whole=not (slow and tiny),
            retraining=CellRetraining(
                budget=1 if slow or (tiny and network == "resnet18") else 2,
                rules=_FEW_RULES,
                num_report_images=300 if slow else 500,
            ),
        )

    order = (
        *((network, "cifar10") for network in ("shufflenet_v2_x1_0", "resnet18", "squeezenet1_1")),
        *((network, "mnist") for network in ("shufflenet_v2_x1_0", "resnet18", "squeezenet1_1")),
        *((network, "tiny-imagenet-20") for network in ("shufflenet_v2_x1_0", "squeezenet1_1", "resnet18")),
        *(("resnet50", dataset) for dataset in ("cifar10", "mnist", "tiny-imagenet-20")),
    )
    first = tuple(cell(*pair) for pair in order)
    # Where it pays: networks that are quick, on data sets that they learn; more images, thresholds, initialisations.
    second = tuple(
        second_look(own, epochs=own.epochs[-1:], num_images=300, num_thresholds=25, seeds=(0, 1, 2), control=True)
        for own in first
        if own.network in ("shufflenet_v2_x1_0", "squeezenet1_1") and own.dataset != "tiny-imagenet-20"
    )
    second += tuple(
        second_look(own, epochs=(0, 1, 2, 4), retraining=None)
        for own in first
        if len(own.epochs) == 1 and own.pair != "resnet50/tiny-imagenet-20"
    )
    return Preset(
        name="laptop",
        title="All networks on all data sets, at a size that two cores manage",
        cells=first + second,
        notes=(
            "Trained on 10,000 images for a few epochs: not the paper's networks, which are trained on all for 100.",
            "ResNet-50, and ResNet-18 on tiny-imagenet-20, are measured at their last epoch first, at the others in a "
            "second round; ResNet-50 on tiny-imagenet-20 at its last epoch only, on 100 images.",
        ),
    )


def _paper() -> Preset:
    networks = ("resnet18", "shufflenet_v2_x1_0", "squeezenet1_1", "resnet50")
    cells = tuple(
        Cell(
            network=network,
            dataset=dataset,
            epochs=tuple(range(0, 101, 10)),
            seeds=(0, 1, 2),
            num_images=300,
            num_thresholds=25,
            control=True,
            retraining=CellRetraining(budget=10, rules=tuple(RULES), num_draws=3),
            device="cuda",
        )
        for dataset in ("cifar10", "mnist", "tiny-imagenet")
        for network in networks
    )
    return Preset(
        name="paper",
        title="The paper's grid: 100 epochs, three initialisations, every rule; for a machine with a GPU",
        cells=cells,
        notes=("Where a rate is not measured on a GPU, its cost is that of two laptop cores.",),
    )


PRESETS: Mapping[str, Callable[[], Preset]] = {
    "demo": _demo,
    "laptop": _laptop,
    "paper": _paper,
}
"""By name; each is made when it is asked for."""


def find_preset(name: str) -> Preset:
    """Make a study.

    Raises:
        UnknownNameError: there is none of that name.

    >>> len({cell.pair for cell in find_preset("laptop").cells})
    12
    """
    return PRESETS[choose(name, PRESETS, what="study")]()
