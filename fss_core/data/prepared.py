"""Decoded once, used often: the splits of a data set as uint8 arrays on disk, and the card that describes them.

A prepared data set is a folder of ``.npy`` files beside a ``card.json``. It is written under another name and renamed
when whole, and it is trusted only while its source and its own files are what they were: otherwise it is made again.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fss_core.data.raw import Images, Labels, RawDataset, RawImages, Source
from fss_core.data.splits import IMAGES_PER_BLOCK, SPLITS, Places, fingerprint, split_places
from fss_core.specs import DataError, digest

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PREPARED_SCHEMA = 1
"""Raised whenever the same source would be prepared differently."""

STD_FLOOR = 1 / 255
"""A constant channel's standard deviation is taken to be one grey level, so that it can be divided by."""

# Above this many files, asking the file system for each takes too long to do for a card alone.
_MANY_FILES = 5000
_ABANDONED_AFTER_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetCard:
    """Everything about a data set but its arrays.

    Attributes:
        name: under which it is asked for.
        title: what to call it on screen.
        class_names: one per class, in the order of the labels.
        image_shape: (C, H, W).
        mean: per channel, of the training pixels on [0, 1].
        std: per channel, of the training pixels on [0, 1]; at least 1/255.
        split_sizes: number of images per split.
        fingerprints: SHA-256 per split, over shape, type, pixels and labels.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split_sizes: dict[str, int]
    fingerprints: dict[str, str]

    @property
    def num_classes(self) -> int:
        """The number of classes; chance is one over it."""
        return len(self.class_names)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Images and labels of one split.

    Attributes:
        images: uint8 (N, C, H, W), read-only, mapped from disk.
        labels: int64 (N,), in memory.
        fingerprint: SHA-256 that changes when a pixel or a label does.
    """

    images: Images
    labels: Labels
    fingerprint: str

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def pixels(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Copy images ``start`` to ``stop`` (excluded; ``None`` means to the end) into memory as pixels.

        Returns:
            float32 (N, C, H, W) in [0, 1], on the CPU.
        """
        import torch

        return torch.from_numpy(np.array(self.images[start:stop])).to(torch.float32).div_(255)


def prepared_folder(name: str, source: Source, root: Path) -> Path:
    """Say where a data set prepared from this source, as it is now, has its folder.

    Raises:
        DataError: a file of the source is missing.
    """
    return root / f"{name}-{digest([PREPARED_SCHEMA, source.kind, source.place, source.stamp()])[:16]}"


def ensure_prepared(name: str, source: Source, root: Path, *, thorough: bool) -> tuple[DatasetCard, Path]:
    """Find a data set prepared from this source, or prepare it.

    Two processes that prepare at once both do the work, and the one that is late uses what the other made.

    Args:
        name: of the data set.
        source: its raw data.
        root: the folder that holds prepared data sets.
        thorough: ask after every file of the source even where there are more than 5,000, to notice images that were
            changed in place.

    Returns:
        The card, and the folder of the arrays.

    Raises:
        DataError: the source is broken, or there is no room.
    """
    folder = prepared_folder(name, source, root)
    card = read_card(folder, source, thorough=thorough)
    if card is None:
        card = _prepare(name, source, folder)
        _remove_superseded(folder, name, source)
    return card, folder


def read_card(folder: Path, source: Source, *, thorough: bool = False) -> DatasetCard | None:
    """Read a prepared data set's card, or return ``None`` where it cannot be trusted any more.

    Args:
        folder: of the prepared data set.
        source: its raw data.
        thorough: as in ``ensure_prepared``.
    """
    record = _read_record(folder)
    if record is None:
        return None
    card = _card_from(record["card"])
    small = sum(card.split_sizes.values()) <= _MANY_FILES
    if (thorough or small) and record["source"] != digest(source.full_stamp()):
        return None
    if record["files"] != _file_times(folder, card):
        # Copied, restored or tampered with: the contents decide.
        if not _arrays_match(folder, card):
            return None
        with suppress(OSError):  # a cache that cannot be written is checked anew each time
            _write_record(folder, record | {"files": _file_times(folder, card)})
    return card


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        seal = record.pop("sha256")
        return record if seal == digest(record) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    text = json.dumps(record | {"sha256": digest(record)}, indent=1, ensure_ascii=False)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".card-", encoding="utf-8", delete=False) as file:
        file.write(text)
    Path(file.name).replace(folder / "card.json")


def _card_from(fields: dict[str, Any]) -> DatasetCard:
    sequences = {name: tuple(fields[name]) for name in ("class_names", "image_shape", "mean", "std")}
    return DatasetCard(**(fields | sequences))


def _file_times(folder: Path, card: DatasetCard) -> dict[str, list[int]] | None:
    try:
        states = {path.name: path.stat() for split in card.split_sizes for path in array_paths(folder, split)}
    except OSError:
        return None
    return {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()}


def _arrays_match(folder: Path, card: DatasetCard) -> bool:
    try:
        return all(fingerprint(*open_arrays(folder, split)) == card.fingerprints[split] for split in card.split_sizes)
    except (OSError, ValueError, EOFError):
        return False


def array_paths(folder: Path, split: str) -> tuple[Path, Path]:
    """Say where a prepared data set keeps the images and the labels of a split."""
    return folder / f"{split}-images.npy", folder / f"{split}-labels.npy"


def open_arrays(folder: Path, split: str) -> tuple[Images, Labels]:
    """Map the images and the labels of a split from disk, read-only.

    Raises:
        OSError: a file is not there.
        ValueError: a file is no array, or is cut short.
    """
    images_path, labels_path = array_paths(folder, split)
    images = np.lib.format.open_memmap(images_path, mode="r")
    return images, np.lib.format.open_memmap(labels_path, mode="r")


def _prepare(name: str, source: Source, folder: Path) -> DatasetCard:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    log.info("preparing %s from %s", name, source.place)
    # Taken before reading: a file that changes meanwhile makes the result stale, never the stamp too young.
    full_stamp = digest(source.full_stamp())
    raw = source.read()
    parts = split_places(raw, source.place)
    _require_room(folder.parent, raw)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".preparing-"))
    try:
        for part, places in parts:
            _write_arrays(fresh, raw.image_shape, part, places)
        mean, std = channel_moments(open_arrays(fresh, "train")[0])
        sizes = {split: len(places[split]) for split in SPLITS for _, places in parts if split in places}
        card = DatasetCard(
            name=name,
            title=raw.title,
            class_names=raw.class_names,
            image_shape=raw.image_shape,
            mean=mean,
            std=std,
            split_sizes=sizes,
            fingerprints={split: fingerprint(*open_arrays(fresh, split)) for split in sizes},
        )
        files = _file_times(fresh, card)
        _write_record(
            fresh, {"card": asdict(card), "source": full_stamp, "files": files, "place": _place(name, source)}
        )
        return _install(fresh, folder, source) or card
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _require_room(folder: Path, raw: RawDataset) -> None:
    num_images = len(raw.train.labels) + (len(raw.test.labels) if raw.test else 0)
    # Writing to a mapped file on a full disk kills the process instead of raising an error.
    needed, free = num_images * int(np.prod(raw.image_shape)) + 2**20, shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder} has no room for {raw.title}: {needed:,} bytes needed, {free:,} free; "
            "make room, or set FSS_CACHE_DIR"
        )


def _write_arrays(folder: Path, image_shape: tuple[int, int, int], part: RawImages, places: Places) -> None:
    """Decode every image of a part into its place, one at a time."""
    targets: list[tuple[Images, int] | None] = [None] * len(part.labels)
    arrays = []
    for split, indices in places.items():
        images_path, labels_path = array_paths(folder, split)
        shape = (len(indices), *image_shape)
        array = np.lib.format.open_memmap(images_path, mode="w+", dtype=np.uint8, shape=shape)
        np.save(labels_path, part.labels[indices])
        for row, index in enumerate(indices):
            targets[index] = (array, row)
        arrays.append(array)
    for image, target in zip(part.stream(), targets, strict=True):
        assert target is not None, "every image belongs to a split"
        images, row = target
        images[row] = image
    for array in arrays:
        array.flush()


def channel_moments(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, on [0, 1], summed in whole numbers and so exact.

    Args:
        images: uint8 (N, C, H, W), N at least 1; read in blocks.

    Returns:
        C means and C standard deviations, these at least 1/255.

    >>> channel_moments(np.array([[[[0, 255]]]], dtype=np.uint8))
    ((0.5,), (0.5,))
    """
    num_channels = images.shape[1]
    histograms = np.zeros((num_channels, 256), dtype=np.int64)
    for start in range(0, len(images), IMAGES_PER_BLOCK):
        block = images[start : start + IMAGES_PER_BLOCK]
        for channel in range(num_channels):
            histograms[channel] += np.bincount(block[:, channel].ravel(), minlength=256)
    count = images.size // num_channels
    sums = [sum(value * int(n) for value, n in enumerate(histogram)) for histogram in histograms]
    squares = [sum(value**2 * int(n) for value, n in enumerate(histogram)) for histogram in histograms]
    means = tuple(total / (255 * count) for total in sums)
    variances = ((count * square - total**2) / (255 * count) ** 2 for total, square in zip(sums, squares, strict=True))
    return means, tuple(max(variance**0.5, STD_FLOOR) for variance in variances)


def _install(fresh: Path, folder: Path, source: Source) -> DatasetCard | None:
    """Give a prepared folder its final name; return the card that is there already where another process was faster."""
    for _ in range(10):
        try:
            fresh.rename(folder)
            return None
        except OSError:
            if not folder.exists():
                raise
        if card := read_card(folder, source, thorough=True):
            return card
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".replaced-"))
        try:
            folder.rename(aside / "broken")
        except FileNotFoundError:
            continue  # another process took it away first
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    raise DataError(f"{folder} is replaced again and again by other processes; wait for them and try again")


def _remove_superseded(folder: Path, name: str, source: Source) -> None:
    """Remove what was prepared from the same place before its files changed; arrays mapped by others stay theirs."""
    for other in folder.parent.glob(f"{name}-*"):
        record = _read_record(other)
        if other != folder and record is not None and record["place"] == _place(name, source):
            shutil.rmtree(other, ignore_errors=True)


def _place(name: str, source: Source) -> str:
    return digest([name, source.kind, source.place])


def _remove_abandoned(root: Path) -> None:
    for folder in [*root.glob(".preparing-*"), *root.glob(".replaced-*")]:
        try:
            age = time.time() - folder.stat().st_mtime
        except OSError:
            continue  # its owner has just finished
        if age > _ABANDONED_AFTER_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
