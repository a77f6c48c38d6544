"""Fixtures around ``pictures``, for the tests of pages; ``conftest`` hands them out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import columns
import pictures
import pytest

from fss_core.jobs import service
from fss_core.store import Store


@pytest.fixture(scope="session")
def known_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root / "cache"))
        pictures.make_cache(root / "cache", root / "images")
    return root / "cache"


@pytest.fixture
def known_cache(known_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the whole measurement, for this test alone."""
    shutil.copytree(known_template, tmp_path / "known")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "known"))
    return tmp_path / "known"


@pytest.fixture
def known_store(known_cache: Path) -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture(scope="session")
def columns_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("columns")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root / "cache"))
        columns.make_cache(root / "cache", root / "images")
    return root / "cache"


@pytest.fixture
def columns_store(columns_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with the epochs, data sets and networks of ``columns``, for this test alone."""
    shutil.copytree(columns_template, tmp_path / "columns")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "columns"))
    with Store() as store:
        yield store


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "empty"))
    return tmp_path / "empty"


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Let no process start: the list says for which stores one would have. Nothing is cached before or after."""
    started: list[Path] = []
    monkeypatch.setattr(service, "ensure_runner", lambda store, **options: started.append(store.directory))
    pictures.forget_pages()
    yield started
    pictures.forget_pages()
