"""Data sets: the built-in ones and registered image folders, their four fixed splits and their fingerprints.

The splits are METHOD's: scores are measured on ``probe``, retraining is judged on ``report``, ε is chosen on
``calibration``. Importing this module, and everything in it but ``Split.pixels`` and preparing MNIST or CIFAR10 for the
first time, does without torch.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fss_core.data.downloads import Progress, fetch
from fss_core.data.folders import ImageFolder
from fss_core.data.prepared import (
    DatasetCard,
    Split,
    array_paths,
    ensure_prepared,
    open_arrays,
    prepared_folder,
    read_card,
)
from fss_core.data.raw import Source
from fss_core.data.sources import find_source, places
from fss_core.data.splits import SPLIT_SEED, SPLITS, fingerprint, split_places
from fss_core.specs import DataError, cache_dir, choose, data_dir

__all__ = [
    "DATASETS",
    "EMBEDDED",
    "SPLITS",
    "SPLIT_SEED",
    "Dataset",
    "DatasetCard",
    "DatasetState",
    "Split",
    "Verification",
    "dataset_card",
    "dataset_state",
    "fetch_dataset",
    "list_datasets",
    "load_dataset",
    "register_folder",
    "verify_dataset",
]

DATASETS: dict[str, str] = {
    "mnist5k": "MNIST (5,000 digits)",
    "mnist": "MNIST",
    "cifar10": "CIFAR10",
    "tiny-imagenet": "Tiny ImageNet",
    "tiny-imagenet-20": "Tiny ImageNet, first 20 classes",
}
"""The built-in data sets: name and title. A card's title says more where the files found are not the original ones."""

EMBEDDED = "mnist5k"
"""The data set that comes with the packages and needs no download."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """A data set with its four splits.

    Attributes:
        card: everything but the arrays.
        train: what networks learn from, in the order of the source.
        calibration: what ε is chosen on, and nothing else.
        probe: what scores are measured on, in one fixed random order: n images are its first n.
        report: what retraining is judged on.
    """

    card: DatasetCard
    train: Split
    calibration: Split
    probe: Split
    report: Split

    @property
    def name(self) -> str:
        """The name it is asked for by."""
        return self.card.name

    @property
    def title(self) -> str:
        """What to call it on screen."""
        return self.card.title

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.card.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in the order of the labels."""
        return self.card.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.card.image_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetState:
    """Whether a data set can be used now.

    Attributes:
        name: under which it is asked for.
        title: what to call it on screen.
        state: ``"ready"`` (prepared), ``"available"`` (prepared at first use), ``"missing"`` or ``"broken"``.
        detail: its size where it is ready, otherwise what happens next or what to do, in one line.
        where: the place its raw data are in, or would be.
    """

    name: str
    title: str
    state: Literal["ready", "available", "missing", "broken"]
    detail: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What ``verify_dataset`` found in order.

    Attributes:
        name: of the data set.
        title: of the data set.
        where: the place of its raw data.
        num_images: decoded anew and compared with the prepared ones.
        fingerprints: per split, confirmed.
    """

    name: str
    title: str
    where: str
    num_images: int
    fingerprints: dict[str, str]


def load_dataset(name: str, *, thorough: bool = True) -> Dataset:
    """Open a data set, decoding it to disk first where that has not been done.

    Args:
        name: of a built-in data set or a registered folder.
        thorough: ask after every file of a folder even where there are more than 5,000, to notice images that were
            changed in place; needless where only what was decoded is looked at.

    Returns:
        The data set; its images stay on disk until they are looked at.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: its files are missing or broken.
    """
    source = _source(name)
    for attempt in range(3):
        card, folder = ensure_prepared(name, source, _prepared_root(), thorough=thorough)
        try:
            arrays = {split: open_arrays(folder, split) for split in SPLITS}
        except (OSError, ValueError):
            if attempt == 2:
                raise
            continue  # another process is replacing the folder; look again
        break
    splits = {
        split: Split(images=images, labels=np.array(labels), fingerprint=card.fingerprints[split])
        for split, (images, labels) in arrays.items()
    }
    return Dataset(card=card, **splits)


def dataset_card(name: str) -> DatasetCard:
    """Describe a data set without opening its arrays, decoding it to disk first where that has not been done.

    In folders of more than 5,000 images, one that was changed in place is noticed by ``verify_dataset`` and by a
    thorough ``load_dataset`` only.

    Args:
        name: of a built-in data set or a registered folder.

    Returns:
        The card.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: its files are missing or broken.
    """
    return ensure_prepared(name, _source(name), _prepared_root(), thorough=False)[0]


def list_datasets() -> list[DatasetState]:
    """Say of every built-in and registered data set whether it can be used, without decoding anything.

    Raises:
        DataError: the list of registered folders is broken.
    """
    return [_state(name) for name in (*DATASETS, *_registered())]


def dataset_state(name: str) -> DatasetState:
    """Say whether one data set can be used, without decoding anything.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: the list of registered folders is broken.
    """
    return _state(choose(name, _known(), what="data set"))


def register_folder(name: str, path: str | Path) -> DatasetCard:
    """Give an image folder a name under which it is a data set from now on, and prepare it.

    Args:
        name: a letter or digit and up to 39 more of a-z, 0-9, ``_`` and ``-``; a name registered before is given to the
            new folder.
        path: holds ``train/<class>/*`` and ``test/<class>/*``, images of one size, grey or colour.

    Returns:
        The card.

    Raises:
        DataError: the name or the folder will not do.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
        raise DataError(
            f"data set name {name!r} will not do; use 1 to 40 of a-z, 0-9, '_' and '-', the first a letter or digit"
        )
    if name in DATASETS:
        raise DataError(f"data set name {name!r} belongs to a built-in data set; choose another")
    root = Path(path).expanduser().resolve()
    card, _ = ensure_prepared(name, _folder_source(name, root), _prepared_root(), thorough=True)
    _write_registry(_registered() | {name: str(root)})
    return card


def fetch_dataset(name: str, *, progress: Progress | None = None) -> DatasetCard:
    """Download a data set's original files where they are not there, incomplete or broken, and prepare it.

    Args:
        name: of a data set; for ``mnist5k`` and registered folders there is nothing to download.
        progress: called with the bytes fetched and the bytes in all, instead of a bar on standard error (Tiny ImageNet;
            torchvision always shows its bar).

    Returns:
        The card.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: there is no connection, or the files are broken.
    """
    choose(name, _known(), what="data set")
    if name in DATASETS and name != EMBEDDED and not _originals_are_good(name):
        fetch(name, data_dir(), progress=progress)
    return dataset_card(name)


def verify_dataset(name: str) -> Verification:
    """Check a data set thoroughly: hash the prepared arrays, read the raw files anew and compare every image.

    Args:
        name: of a built-in data set or a registered folder.

    Returns:
        What was confirmed.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: a file is missing or broken, or differs from what was prepared; the error names it.
    """
    source = _source(name)
    card, folder = ensure_prepared(name, source, _prepared_root(), thorough=True)
    remedy = f"delete {folder}, and the next use prepares it anew"
    raw = source.read()
    num_images = 0
    for split, expected in card.fingerprints.items():
        if fingerprint(*open_arrays(folder, split)) != expected:
            raise DataError(f"{array_paths(folder, split)[0]} or its labels changed since they were prepared; {remedy}")
    for part, indices in split_places(raw, source.place):
        rows = {int(index): (split, row) for split, chosen in indices.items() for row, index in enumerate(chosen)}
        arrays = {split: open_arrays(folder, split) for split in indices}
        for index, image in enumerate(part.stream()):
            split, row = rows[index]
            images, labels = arrays[split]
            if labels[row] != part.labels[index] or not np.array_equal(images[row], image):
                raise DataError(f"{part.origin(index)} changed since it was prepared; restore it, or {remedy}")
            num_images += 1
    return Verification(
        name=name, title=card.title, where=source.place, num_images=num_images, fingerprints=card.fingerprints
    )


# Names and places -----------------------------------------------------------------------------------------


def _source(name: str) -> Source:
    if name not in DATASETS:
        choose(name, _known(), what="data set")
        return _folder_source(name, Path(_registered()[name]))
    # Resolved, so that one place has one prepared data set however it is spelled.
    try:
        source = find_source(name, data_dir().resolve())
    except PermissionError:
        source = None
    if source is None:
        raise DataError(
            f"data set {name!r} is not there: looked for {' and '.join(places(name, data_dir()))}; "
            f"run `fss data fetch {name}`, or use {EMBEDDED}, which is embedded"
        )
    return source


def _folder_source(name: str, root: Path) -> ImageFolder:
    if not root.is_dir():
        raise DataError(f"data set {name!r}: {root} is not a folder; restore it, or run `fss data add {name} PATH`")
    return ImageFolder(root, f"{name} (image folder)")


def _state(name: str) -> DatasetState:
    title = DATASETS.get(name, f"{name} (image folder)")
    where = _registered().get(name) or str(data_dir())
    try:
        source = _source(name)
    except DataError as error:
        return DatasetState(name=name, title=title, state="missing", detail=str(error), where=where)
    where = source.place
    try:
        card = read_card(prepared_folder(name, source, _prepared_root()), source)
    except DataError as error:
        return DatasetState(name=name, title=title, state="broken", detail=str(error), where=where)
    if card is None:
        return DatasetState(name=name, title=title, state="available", detail="is prepared at first use", where=where)
    shape = "x".join(str(side) for side in card.image_shape)
    detail = f"{card.num_classes} classes, {card.split_sizes['train']:,} training images, {shape}"
    return DatasetState(name=name, title=card.title, state="ready", detail=detail, where=where)


def _originals_are_good(name: str) -> bool:
    # Image folders and incomplete archives have other titles.
    try:
        return dataset_card(name).title == DATASETS[name]
    except DataError:
        return False


def _prepared_root() -> Path:
    return cache_dir().resolve() / "prepared"


def _registry_path() -> Path:
    return cache_dir() / "datasets.json"


def _known() -> list[str]:
    return [*DATASETS, *_registered()]


def _registered() -> dict[str, str]:
    path = _registry_path()
    try:
        folders = json.loads(path.read_text(encoding="utf-8"))["folders"]
        return {str(name): str(folder) for name, folder in folders.items()}
    except (FileNotFoundError, PermissionError):
        return {}  # a cache that is barred is named by who opens the store
    except OSError as error:
        raise DataError(f"{path}, the list of registered data sets, cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}, the list of registered data sets, is broken; delete it and add them again") from error


def _write_registry(folders: dict[str, str]) -> None:
    path = _registry_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".datasets-", encoding="utf-8", delete=False) as file:
        json.dump({"folders": folders}, file, indent=1)
    Path(file.name).replace(path)
