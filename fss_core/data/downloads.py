"""Getting raw data from elsewhere: downloads that leave nothing half-written, and archives that are safe to read."""

from __future__ import annotations

import hashlib
import re
import socket
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

from fss_core.specs import DataError

Progress = Callable[[int, int], None]
"""Called with the bytes fetched so far and the bytes in all (0 where the server does not say)."""

MAX_MEMBER_BYTES = 64 * 2**20
"""The largest file accepted inside an archive; the largest in Tiny ImageNet is 2.6 MB."""

TINY_IMAGENET_ARCHIVE = "tiny-imagenet-200.zip"
TINY_IMAGENET_URL = f"http://cs231n.stanford.edu/{TINY_IMAGENET_ARCHIVE}"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"

TIMEOUT_SECONDS = 30.0
CHUNK_BYTES = 2**18


def fetch(name: str, root: Path, *, progress: Progress | None = None) -> None:
    """Download the original files of a built-in data set, checked against their published MD5.

    Files appear under their final names only when they are whole; what was there before is replaced then.

    Args:
        name: ``mnist``, ``cifar10``, ``tiny-imagenet`` or ``tiny-imagenet-20``.
        root: the data directory; made if need be.
        progress: told how far Tiny ImageNet is, instead of a bar on standard error; torchvision always shows its bar.

    Raises:
        DataError: there is no connection, or what came is not what was published.
    """
    if name == "mnist":
        files, final, fetch_into = "the four *-ubyte files", root / "MNIST" / "raw", _fetch_mnist
    elif name == "cifar10":
        files, final, fetch_into = "the files of cifar-10-python.tar.gz", root / "cifar-10-batches-py", _fetch_cifar10
    else:
        files, final = TINY_IMAGENET_ARCHIVE, root
        fetch_into = partial(_fetch_tiny_imagenet, progress=progress)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as staging, _default_timeout():
            fetched = fetch_into(Path(staging))
            final.mkdir(parents=True, exist_ok=True)
            for file in fetched:
                file.replace(final / file.name)
    except (OSError, HTTPException, RuntimeError) as error:  # torchvision says RuntimeError for a wrong checksum
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"data set {name!r} could not be fetched ({reason}); place {files} by hand in {final}, "
            "or use the embedded data set mnist5k"
        ) from error


def _fetch_mnist(staging: Path) -> list[Path]:
    from torchvision.datasets import MNIST

    MNIST(staging, download=True)
    return sorted((staging / "MNIST" / "raw").glob("*-ubyte"))


def _fetch_cifar10(staging: Path) -> list[Path]:
    from torchvision.datasets import CIFAR10

    CIFAR10(staging, download=True)
    return sorted((staging / CIFAR10.base_folder).iterdir())


def _fetch_tiny_imagenet(staging: Path, progress: Progress | None) -> list[Path]:
    part = staging / f"{TINY_IMAGENET_ARCHIVE}.part"
    download(TINY_IMAGENET_URL, part, progress=progress)
    if (found := md5_of(part)) != TINY_IMAGENET_MD5:
        raise OSError(f"{TINY_IMAGENET_URL}: its MD5 must be {TINY_IMAGENET_MD5}, is {found}")
    return [part.rename(part.with_suffix(""))]


def download(url: str, path: Path, *, progress: Progress | None = None) -> None:
    """Stream a URL into a file.

    Args:
        url: what to fetch.
        path: where to write it, as it comes.
        progress: told how far it is, instead of a bar on standard error.

    Raises:
        OSError: there is no connection, or it breaks.
    """
    from tqdm import tqdm

    request = Request(url, headers={"User-Agent": "filtering-score-studio"})
    with urlopen(request, timeout=TIMEOUT_SECONDS) as response, path.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        shown = progress is None
        with tqdm(
            total=total or None, unit="B", unit_scale=True, desc=url.rpartition("/")[2], disable=not shown
        ) as bar:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                if progress is not None:
                    progress(file.tell(), total)
        if total and file.tell() != total:
            raise OSError(f"{url}: the connection broke after {file.tell():,} of {total:,} bytes")


@contextmanager
def _default_timeout() -> Iterator[None]:
    # torchvision opens its connections without one and would wait for minutes behind a silent firewall.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def md5_of(path: Path) -> str:
    """Hash a file against transmission errors: its MD5, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open a zip archive none of whose members can leave the folder it would be unpacked to.

    Args:
        path: of the archive.

    Returns:
        The open archive; the caller closes it.

    Raises:
        DataError: it is no zip archive, or a member has an absolute path, a ``..`` in it, is a link or a device, or is
            larger than ``MAX_MEMBER_BYTES``.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is not a readable zip archive ({error}); delete it and fetch it again") from error
    for member in archive.infolist():
        if reason := _refusal(member):
            archive.close()
            raise DataError(
                f"{path} is refused: member {member.filename!r} {reason}; get the archive from its official place"
            )
    return archive


def _refusal(member: zipfile.ZipInfo) -> str | None:
    name = member.filename.replace("\\", "/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "leaves the archive with '..'"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.file_size > MAX_MEMBER_BYTES:
        return f"is larger than {MAX_MEMBER_BYTES // 2**20} MiB"
    return None
