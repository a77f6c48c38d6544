"""What raw data look like before they are split: labels, a stream of images, and the place they come from.

Images are decoded one at a time, so that memory does not grow with their number.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fss_core.specs import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Stamp = list[str]

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "GIF", "TIFF", "WEBP")
"""What Pillow may try to read; leaves out formats that start other programs (EPS) or are no photographs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawImages:
    """One part of a raw data set, in the order of its source.

    Attributes:
        labels: int64 (N,), from 0.
        stream: starts a fresh pass over the N images, each uint8 (C, H, W).
        origin: names the file (and the place in it) that an image came from.
    """

    labels: Labels
    stream: Callable[[], Iterator[Images]]
    origin: Callable[[int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawDataset:
    """A data set before it is split.

    Attributes:
        title: what to call it on screen, honest about where it came from.
        class_names: one per class, in the order of the labels.
        image_shape: (C, H, W) of every image.
        train: the training images, or all images where ``test`` is ``None``.
        test: the held-out images.
    """

    title: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: RawImages
    test: RawImages | None


class Source(Protocol):
    """Raw data in one place and one layout."""

    kind: ClassVar[str]

    @property
    def place(self) -> str:
        """Where the data are: a path, or the package that ships them."""

    def stamp(self) -> Stamp:
        """What changes when files come, go or (unless there are very many) change; takes milliseconds."""

    def full_stamp(self) -> Stamp:
        """What changes when any file does, by size and time of modification."""

    def read(self) -> RawDataset:
        """Check the files and describe what they hold."""


def stamp_files(root: Path, paths: Iterable[Path]) -> Stamp:
    """Note name, size and time of modification of files or folders.

    Args:
        root: what their names are relative to.
        paths: of the files or folders.

    Raises:
        OSError: one is not there.
    """
    lines = []
    for path in paths:
        status = path.stat()
        lines.append(f"{path.relative_to(root).as_posix()} {status.st_size} {status.st_mtime_ns}")
    return lines


def decode_image(file: Path | IO[bytes], origin: str, shape: tuple[int, int, int]) -> Images:
    """Decode one image, made grey or colour as asked.

    Args:
        file: where to read it from.
        origin: what to call it in an error.
        shape: (C, H, W) it must have; C is 1 (grey) or 3 (RGB).

    Returns:
        uint8 (C, H, W).

    Raises:
        DataError: it is no image, is damaged, has another size, more than 8 bits a channel, or more pixels than
            Pillow's limit.
    """
    channels, height, width = shape
    with open_image(file, origin) as image:
        if image.size != (width, height):
            raise DataError(f"{origin} is {image.width}x{image.height} pixels, must be {width}x{height}; replace it")
        # Pillow warns where a palette with transparency goes straight to RGB.
        flat = image.convert("RGBA") if image.mode == "P" else image
        pixels = np.asarray(flat.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


@contextmanager
def open_image(file: Path | IO[bytes], origin: str) -> Iterator[Image]:
    """Open an image for the length of a ``with`` block; whatever fails in the block is the image's fault.

    Args:
        file: where to read it from.
        origin: what to call it in an error.

    Raises:
        DataError: as for ``decode_image``.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                if image.mode.startswith(("I", "F")):
                    raise DataError(
                        f"{origin} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits"
                    )
                yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise DataError(
            f"{origin} has more pixels than Pillow's limit of {limit:,}; remove it or make it smaller"
        ) from error
    except Exception as error:  # Pillow's plug-ins raise whatever their parsers stumble over
        reason = " ".join(str(error).split())
        raise DataError(f"{origin} is not a readable image ({reason}); remove or replace it") from error
