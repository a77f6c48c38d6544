"""What all tests share: a cache of their own, and real data where there are some."""

import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from commands import fss as fss
from picture_fixtures import columns_store as columns_store
from picture_fixtures import columns_template as columns_template
from picture_fixtures import empty_cache as empty_cache
from picture_fixtures import known_cache as known_cache
from picture_fixtures import known_store as known_store
from picture_fixtures import known_template as known_template
from picture_fixtures import runners as runners
from PIL import Image

from fss_core.computing import prepare_to_compute
from fss_core.store import Store

prepare_to_compute()

GIVEN_DATA_DIR = os.environ.get("FSS_DATA_DIR")
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

CIFAR10_TRAIN_PER_CLASS, CIFAR10_TEST_PER_CLASS = 100, 20


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep every test away from the user's cache and data; what one prepares, the next may use."""
    path = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(path))
        patch.delenv("FSS_DATA_DIR", raising=False)
        patch.setenv("FSS_PUBLISHED_DIR", "published")  # and never the study that came with this version
        yield path


@pytest.fixture
def cache(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the cache that a module makes as its ``template``, for this test alone."""
    shutil.copytree(template, tmp_path / "cache")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(cache: Path) -> Iterator[Store]:
    """The store in it."""
    with Store() as store:
        yield store


@pytest.fixture(scope="session")
def real_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with real data: FSS_DATA_DIR as it is, or ../shared/data, unpacked as far as tests need it.

    MNIST and (the zip archive of) Tiny ImageNet are then whole, and CIFAR10 is an image folder of 100 training and 20
    test images a class.
    """
    if GIVEN_DATA_DIR:
        return Path(GIVEN_DATA_DIR)
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data are not there: neither FSS_DATA_DIR nor {SHARED_DATA}")
    root = tmp_path_factory.mktemp("data")
    with tarfile.open(SHARED_DATA / "mnist-raw.tar.gz") as archive:
        archive.extractall(root, filter="data")
    with zipfile.ZipFile(SHARED_DATA / "cifar10-jpeg.zip") as archive:
        archive.extractall(root, [name for name in archive.namelist() if _is_wanted(name)])
    name = "tiny-imagenet-200-part.zip"
    (root / name).symlink_to(SHARED_DATA / name)
    return root


def _is_wanted(member: str) -> bool:
    _, part, _, file = Path(member).parts
    return int(Path(file).stem) < (CIFAR10_TRAIN_PER_CLASS if part == "train" else CIFAR10_TEST_PER_CLASS)


class MakeImageFolder(Protocol):
    """Writes images of random pixels in ``train/<class>/`` and ``test/<class>/``."""

    def __call__(
        self,
        root: Path,
        *,
        num_train: int = 4,
        num_test: int = 10,
        classes: str = "ab",
        mode: str = "RGB",
        suffix: str = "png",
    ) -> Path: ...


@pytest.fixture(scope="session")
def make_image_folder() -> MakeImageFolder:
    """A builder of small image folders: 6 by 5 pixels, the same ones every time."""

    def make(
        root: Path,
        *,
        num_train: int = 4,
        num_test: int = 10,
        classes: str = "ab",
        mode: str = "RGB",
        suffix: str = "png",
    ) -> Path:
        rng = np.random.default_rng(0)
        for part, number in (("train", num_train), ("test", num_test)):
            for name in classes:
                folder = root / part / name
                folder.mkdir(parents=True)
                for index in range(number):
                    pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
                    Image.fromarray(pixels).convert(mode).save(folder / f"{index:03}.{suffix}")
        return root

    return make
