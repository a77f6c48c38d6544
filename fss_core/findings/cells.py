"""Published cells as findings name them: ``network/dataset`` of a study, with the measurements in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

from fss_core.data import DATASETS
from fss_core.exports import MANIFEST
from fss_core.flow import Measured
from fss_core.imports import read_export
from fss_core.retraining.published import RETRAINING, read_retraining
from fss_core.retraining.results import Retraining
from fss_core.specs import NETWORKS, UnknownNameError, choose
from fss_core.study.publishing import CELL, CellRecord, read_cell


@dataclass(frozen=True, slots=True)
class PublishedCell:
    """A published cell.

    Attributes:
        path: its directory.
        record: what it says of itself.
    """

    path: Path
    record: CellRecord

    @property
    def name(self) -> str:
        """As findings name it."""
        return self.record.cell.name

    @property
    def trained_epochs(self) -> tuple[int, ...]:
        """The epochs at which it is measured, without that of the untrained network."""
        return tuple(epoch for epoch in self.record.cell.epochs if epoch > 0)

    def measured(self, epoch: int | None = None, seed: int | None = None, *, whole: bool = False) -> Measured:
        """Read one measurement.

        Args:
            epoch: which; the last by default.
            seed: which initialisation; the first by default.
            whole: that of the whole network instead of its layers.

        Raises:
            StoreError: it is not sound.
            UnknownNameError: the cell has no such measurement.
        """
        cell = self.record.cell
        epoch, seed = cell.last if epoch is None else epoch, cell.seeds[0] if seed is None else seed
        name = f"seed{seed}-epoch{epoch:03d}" + ("-whole" if whole else "")
        there = sorted(path.name for path in self.path.iterdir() if (path / MANIFEST).is_file())
        path = self.path / choose(name, there, what=f"measurement in {self.name}")
        return _read(path, (path / MANIFEST).stat().st_mtime_ns)

    def retrainings(self) -> list[Retraining]:
        """Read the retrainings of all initialisations; empty if there are none.

        Raises:
            StoreError: one is not sound.
        """
        paths = [self.path / f"seed{seed}-retraining" for seed in self.record.cell.seeds]
        return [read_retraining(path).retraining for path in paths if (path / RETRAINING).is_file()]


@lru_cache(maxsize=64)
def _read(path: Path, modified: int) -> Measured:
    """Read a measurement once, until it is another: many numbers may be asked of it."""
    return read_export(path, origin="published")


def list_cells(directory: Path, study: str) -> list[PublishedCell]:
    """List the published cells of a study, by name.

    Raises:
        StoreError: one is not sound.
    """
    found = [PublishedCell(path.parent, read_cell(path.parent)) for path in (directory / study).glob(f"*/{CELL}")]
    return sorted(found, key=lambda own: own.name)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two published cells that can be compared.

    Attributes:
        first: the one that is listed first.
        second: the other.
        epoch: the last at which both are measured.
    """

    first: PublishedCell
    second: PublishedCell
    epoch: int


def neighbours(cells: Sequence[PublishedCell], across: Literal["datasets", "networks"]) -> list[Pair]:
    """Pair each cell with the next that it can be compared with: of the same network, or of the same data set.

    Networks are compared on the same images: those with as many are neighbours. Data sets and networks are compared at
    the same trained epoch: what has none in common with its neighbour makes no pair.

    Args:
        cells: of one study.
        across: what the two differ in.

    Returns:
        Pairs, by what they have in common; networks and data sets in the order in which the product lists them.
    """
    places = {name: place for place, name in enumerate((*NETWORKS, *DATASETS))}

    def order(own: PublishedCell) -> tuple[tuple[int, ...], tuple[str, ...]]:
        cell = own.record.cell
        names = (cell.network, cell.dataset) if across == "datasets" else (cell.dataset, cell.network)
        return (cell.round, *(places.get(name, len(places)) for name in names)), names

    comparable: dict[tuple[int | str, ...], list[PublishedCell]] = {}
    for own in sorted(cells, key=order):
        cell = own.record.cell
        alike = (cell.network,) if across == "datasets" else (cell.dataset, cell.num_images)
        comparable.setdefault((cell.round, *alike), []).append(own)
    pairs = []
    for group in comparable.values():
        for first, second in pairwise(group):
            if epochs := {*first.trained_epochs} & {*second.trained_epochs}:
                pairs.append(Pair(first, second, max(epochs)))
    return pairs


def find_cell(directory: Path, study: str, name: str) -> PublishedCell:
    """Find a published cell by name.

    Args:
        directory: of published studies.
        study: which.
        name: ``network/dataset``, with ``#2`` for a second look.

    Raises:
        StoreError: it is not sound.
        UnknownNameError: the study has no such cell, or it is not published.
    """
    for own in list_cells(directory, study):
        if own.name == name:
            return own
    names = [own.name for own in list_cells(directory, study)]
    if not names:
        raise UnknownNameError(f"nothing of the study {study!r} is published, so not {name!r}; run `fss study`")
    raise UnknownNameError(choose(name, names, what=f"published cell of the study {study}"))
