"""A directory is looked through again when anything below it is another, and only then."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fss_core.imports import listing
from fss_core.imports.listing import Listing, list_below

TICK_SECONDS = 0.1


@pytest.fixture(autouse=True)
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suppose that this file system's clock moves on within a tenth of a second."""
    monkeypatch.setattr(listing, "_TICK_NS", int(TICK_SECONDS * 1e9))


class Reader:
    """Lists the text files below a directory, and notes which were read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read: list[str] = []
        self._known: Listing[str] | None = None

    def _content(self, path: Path) -> str:
        self.read.append(path.name)
        try:
            return path.read_text()
        except OSError:
            return "broken"

    def look(self) -> Listing[str]:
        if self._known is None or not self._known.is_current:
            self._known = list_below(
                self.root,
                lambda _, name: name.endswith(".txt"),
                self._content,
                is_sound=lambda text: text != "broken",
                before=self._known,
            )
        return self._known

    @property
    def texts(self) -> list[str]:
        return list(self.look().found.values())

    def look_once_settled(self) -> Listing[str]:
        """Look when the last change is long enough ago to be told from another."""
        time.sleep(1.5 * TICK_SECONDS)
        self.look()
        self.read.clear()
        assert self.look().is_current
        assert not self.read, "nothing changed, and it was read again"
        return self.look()


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    for name, text in (("b/deep/one.txt", "one"), ("a/two.txt", "two"), ("a/other.bin", "no"), ("three.txt", "three")):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Reader(tmp_path / "root")


def replaced(root: Path) -> None:
    (root / "new").write_text("ONE")
    (root / "new").replace(root / "b/deep/one.txt")


def overwritten(root: Path) -> None:
    with (root / "b/deep/one.txt").open("r+") as file:
        file.write("ONE")


def overwritten_as_if_it_were_old(root: Path) -> None:
    before = (root / "b/deep/one.txt").stat()
    (root / "b/deep/one.txt").write_text("ONE")
    os.utime(root / "b/deep/one.txt", ns=(before.st_atime_ns, before.st_mtime_ns))


def added(root: Path) -> None:
    (root / "b/deep/more").mkdir()
    (root / "b/deep/more/four.txt").write_text("four")


def taken_away(root: Path) -> None:
    (root / "a/two.txt").unlink()


def moved(root: Path) -> None:
    (root / "a").rename(root / "z")


def test_files_are_found_at_any_depth_by_path(reader: Reader) -> None:
    assert reader.texts == ["two", "one", "three"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (replaced, ["two", "ONE", "three"]),
        (overwritten, ["two", "ONE", "three"]),
        (overwritten_as_if_it_were_old, ["two", "ONE", "three"]),
        (added, ["two", "four", "one", "three"]),
        (taken_away, ["one", "three"]),
        (moved, ["one", "three", "two"]),
    ],
)
def test_whatever_changes_is_seen(reader: Reader, change: Callable[[Path], None], found: list[str]) -> None:
    before = reader.look_once_settled()
    change(reader.root)
    assert reader.texts == found
    assert reader.look().version != before.version
    assert list(reader.look_once_settled().found.values()) == found


def test_only_what_changed_is_read_again(reader: Reader) -> None:
    reader.look_once_settled()
    replaced(reader.root)
    reader.look()
    assert reader.read == ["one.txt"]


def test_something_beside_a_file_makes_another_version(reader: Reader) -> None:
    before = reader.look_once_settled()
    (reader.root / "b/deep/table.bin").write_bytes(b"1")
    assert reader.look().version != before.version


def test_a_change_within_the_clocks_tick_is_not_missed(reader: Reader) -> None:
    for number in range(20):
        (reader.root / "three.txt").write_text(f"{number:02}")
        assert reader.texts[-1] == f"{number:02}"


def test_a_file_from_the_future_settles_like_others(reader: Reader) -> None:
    later = time.time() + 3600
    os.utime(reader.root / "three.txt", (later, later))
    assert reader.look_once_settled().is_current


def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "later")
    assert reader.texts == []
    assert reader.look_once_settled().found == {}
    reader.root.mkdir()
    (reader.root / "one.txt").write_text("one")
    assert reader.texts == ["one"]


def test_what_could_not_be_read_is_tried_again(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.look_once_settled()
    replaced(reader.root)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", too_many_files)
        assert reader.texts == ["two", "broken", "three"]
    assert reader.texts == ["two", "ONE", "three"]


def test_what_could_not_be_looked_into_is_tried_again(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.look_once_settled()
    added(reader.root)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", too_many_files)
        assert reader.texts == []
    assert reader.texts == ["two", "four", "one", "three"]


def too_many_files(*_: object, **__: object) -> str:
    raise OSError(errno.EMFILE, "Too many open files")


def test_nothing_changed_is_the_same_version(reader: Reader) -> None:
    first = reader.look_once_settled()
    assert list_below(reader.root, lambda _, name: name.endswith(".txt"), Path.read_text).version == first.version
