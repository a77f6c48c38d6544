"""Raw data that are image files: folders with a sub-folder for each class, and Tiny ImageNet, zipped or not."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from fss_core.data.downloads import open_archive
from fss_core.data.raw import Images, RawDataset, RawImages, Stamp, decode_image, open_image, stamp_files
from fss_core.specs import DataError

TINY_IMAGENET_TRAIN_PER_CLASS = 500


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Images in ``train/<class>/*`` and ``test/<class>/*``, of one size, grey or colour; hidden files are ignored.

    Attributes:
        root: the folder.
        title: of the data set.
        title_of_jpegs: instead, if any image is a JPEG: then pixels are not those of the data set it stands in for.
    """

    root: Path
    title: str
    title_of_jpegs: str = ""
    kind: ClassVar[str] = "folder"

    @property
    def place(self) -> str:
        """The folder that holds ``train`` and ``test``."""
        return str(self.root)

    def stamp(self) -> Stamp:
        """Times of the class folders, which change when a file comes or goes."""
        folders = [folder for part in ("train", "test") for folder in _subfolders(self.root / part)]
        return stamp_files(self.root, folders)

    def full_stamp(self) -> Stamp:
        """Sizes and times of all images."""
        folders = [folder for part in ("train", "test") for folder in _subfolders(self.root / part)]
        return stamp_files(self.root, [path for folder in folders for path in _visible(folder)])

    def read(self) -> RawDataset:
        """Look at the header of every image: one size, grey or colour."""
        names = {part: [folder.name for folder in _subfolders(self.root / part)] for part in ("train", "test")}
        if len(names["train"]) < 2:
            raise DataError(
                f"{self.root / 'train'} needs a folder for each of at least 2 classes, has {len(names['train'])}"
            )
        for name in sorted(set(names["train"]) ^ set(names["test"])):
            here, there = ("train", "test") if name in names["train"] else ("test", "train")
            raise DataError(
                f"{self.root}: class {name!r} is in {here} and not in {there}; give both the same class folders"
            )
        files = {
            part: [
                (path, label)
                for label, name in enumerate(names["train"])
                for path in _class_files(self.root / part / name)
            ]
            for part in ("train", "test")
        }
        shape = _common_shape([path for part in files.values() for path, _ in part])
        train, test = (_image_files(files[part], shape) for part in ("train", "test"))
        has_jpegs = any(path.suffix.lower() in (".jpg", ".jpeg") for part in files.values() for path, _ in part)
        title = self.title_of_jpegs if has_jpegs and self.title_of_jpegs else self.title
        return RawDataset(title=title, class_names=tuple(names["train"]), image_shape=shape, train=train, test=test)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not there: an image folder holds train/<class>/* and test/<class>/*; create it")
    return [path for path in _visible(folder) if path.is_dir()]


def _class_files(folder: Path) -> list[Path]:
    files = _visible(folder)
    if not files:
        raise DataError(f"{folder} holds no image; add some, or remove the class from train and test")
    for path in files:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no regular file; image folders hold images only, remove it")
    return files


def _common_shape(paths: list[Path]) -> tuple[int, int, int]:
    sizes: dict[tuple[int, int], Path] = {}
    colour = False
    for path in paths:
        with open_image(path, str(path)) as image:
            sizes.setdefault(image.size, path)
            colour |= image.mode not in ("1", "L", "LA")
        if len(sizes) > 1:
            (one, first), (other, _) = sizes.items()
            raise DataError(
                f"{path} is {other[0]}x{other[1]} pixels where {first} is {one[0]}x{one[1]}; give all images one size"
            )
    ((width, height),) = sizes
    return (3 if colour else 1, height, width)


def _image_files(files: list[tuple[Path, int]], shape: tuple[int, int, int]) -> RawImages:
    return RawImages(
        labels=np.array([label for _, label in files], dtype=np.int64),
        stream=lambda: (decode_image(path, str(path), shape) for path, _ in files),
        origin=lambda index: str(files[index][0]),
    )


# Tiny ImageNet --------------------------------------------------------------------------------------------


class _Files(Protocol):
    """The files of Tiny ImageNet, named relative to the folder of ``wnids.txt``."""

    def names(self, folder: str) -> list[str]: ...

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TinyImageNet:
    """Tiny ImageNet in its official layout, as a folder or as the zip archive, or its first classes only."""

    path: Path
    num_classes: int
    kind: ClassVar[str] = "tiny-imagenet"

    @property
    def place(self) -> str:
        """The folder or the archive."""
        return str(self.path)

    def stamp(self) -> Stamp:
        """Time (and size) of the archive, or times of the folders of images."""
        if self.path.is_file():
            return stamp_files(self.path.parent, [self.path])
        return stamp_files(self.path, self._folders())

    def full_stamp(self) -> Stamp:
        """Time and size of the archive, or of every image."""
        if self.path.is_file():
            return self.stamp()
        return stamp_files(self.path, [path for folder in self._folders() for path in _visible(folder)])

    def _folders(self) -> list[Path]:
        folders = [self.path, self.path / "val", self.path / "val" / "images"]
        folders += [folder / "images" for folder in _subfolders(self.path / "train")]
        return [folder for folder in folders if folder.is_dir()]

    def read(self) -> RawDataset:
        """Read the lists of classes and images; labels of ``val`` come from ``val_annotations.txt``."""
        with self._open() as files:
            wnids = files.read("wnids.txt").decode(errors="replace").split()[: self.num_classes]
            labels = {wnid: label for label, wnid in enumerate(wnids)}
            train = [
                (f"train/{wnid}/images/{name}", wnid) for wnid in wnids for name in files.names(f"train/{wnid}/images")
            ]
            rows = [
                line.split("\t") for line in files.read("val/val_annotations.txt").decode(errors="replace").splitlines()
            ]
            for name in (*wnids, *(row[0] for row in rows)):
                if "/" in name or name in (".", ".."):
                    raise DataError(
                        f"{self.path} names {name!r} as a class or image, which leads elsewhere; replace it"
                    )
            val = [(f"val/images/{row[0]}", row[1]) for row in rows if len(row) > 1 and row[1] in labels]
            class_names = _class_names(wnids, files.read("words.txt").decode(errors="replace"))
        if len(wnids) < self.num_classes or {wnid for _, wnid in train} != set(wnids):
            raise DataError(
                f"{self.path} lacks classes: all {self.num_classes} must be in wnids.txt and in train/; replace it"
            )
        parts = [
            RawImages(
                labels=np.array([labels[wnid] for _, wnid in members], dtype=np.int64),
                stream=lambda members=members: self._stream([name for name, _ in members]),  # type: ignore[misc]
                origin=lambda index, members=members: f"{self.path}/{members[index][0]}",  # type: ignore[misc]
            )
            for members in (train, val)
        ]
        title = self._title(len(train))
        return RawDataset(title=title, class_names=class_names, image_shape=(3, 64, 64), train=parts[0], test=parts[1])

    def _title(self, num_train: int) -> str:
        title = "Tiny ImageNet" if self.num_classes == 200 else f"Tiny ImageNet, first {self.num_classes} classes"
        complete = TINY_IMAGENET_TRAIN_PER_CLASS * self.num_classes
        return title if num_train == complete else f"{title} ({num_train:,} of {complete:,} training images)"

    def _stream(self, names: list[str]) -> Iterator[Images]:
        with self._open() as files:
            for name in names:
                yield decode_image(BytesIO(files.read(name)), f"{self.path}/{name}", (3, 64, 64))

    def _open(self) -> AbstractContextManager[_Files]:
        return _zip_files(self.path) if self.path.is_file() else nullcontext(_FolderFiles(self.path))


def _class_names(wnids: list[str], words: str) -> tuple[str, ...]:
    """Call a class by its first word, or by its WordNet id where that word is missing or not unique."""
    first_word = {
        wnid: text.split(",")[0].strip() for wnid, _, text in (row.partition("\t") for row in words.splitlines())
    }
    count = Counter(first_word.get(wnid) for wnid in wnids)
    return tuple(first_word[wnid] if first_word.get(wnid) and count[first_word[wnid]] == 1 else wnid for wnid in wnids)


@dataclass(frozen=True, slots=True)
class _FolderFiles:
    root: Path

    def names(self, folder: str) -> list[str]:
        path = self.root / folder
        return [file.name for file in _visible(path)] if path.is_dir() else []

    def read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.root / name} cannot be read ({error.strerror}); restore it") from error


@dataclass(frozen=True, slots=True)
class _ZipFiles:
    archive: zipfile.ZipFile
    prefix: str
    folders: dict[str, list[str]]

    def names(self, folder: str) -> list[str]:
        return sorted(name for name in self.folders.get(folder, ()) if name and not name.startswith("."))

    def read(self, name: str) -> bytes:
        try:
            return self.archive.read(self.prefix + name)
        except Exception as error:  # a damaged archive shows itself as anything from BadZipFile to zlib.error
            reason = " ".join(str(error).split())
            raise DataError(
                f"{self.archive.filename}: member {self.prefix}{name} cannot be read ({reason}); replace it"
            ) from error


@contextmanager
def _zip_files(path: Path) -> Iterator[_ZipFiles]:
    with open_archive(path) as archive:
        lists = (name for name in archive.namelist() if name == "wnids.txt" or name.endswith("/wnids.txt"))
        prefix = next((name.removesuffix("wnids.txt") for name in lists), None)
        if prefix is None:
            raise DataError(f"{path} is not Tiny ImageNet in its official layout: it holds no wnids.txt; replace it")
        folders: dict[str, list[str]] = {}
        for name in archive.namelist():
            folder, _, file = name.removeprefix(prefix).rpartition("/")
            folders.setdefault(folder, []).append(file)
        yield _ZipFiles(archive, prefix, folders)
