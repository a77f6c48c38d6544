"""A story's file, checked: whatever is wrong with it is said with the file and the line."""

from __future__ import annotations

import os
import re
import string
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fss_core.data import EMBEDDED
from fss_core.specs import NETWORKS, FssError, cache_dir
from fss_core.stories.components import COMPONENTS, Component, Value
from fss_core.stories.lines import find_lines, line_of

LARGEST_FILE = 200_000
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class StoryError(FssError):
    """A story's file is not as it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a story.

    Attributes:
        title: in a few words, as plain text.
        text: Markdown with fields in braces.
        show: name of the component.
        settings: its parameters, all of them.
        question: Markdown, likewise.
        answer: Markdown, likewise.
        source: where a finding is stated, as plain text; may be empty.
    """

    title: str
    text: str
    show: str
    settings: Mapping[str, Value]
    question: str
    answer: str
    source: str

    @property
    def component(self) -> Component:
        """What it shows."""
        return COMPONENTS[self.show]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A story.

    Attributes:
        name: of its file, without the ending; its name in an address.
        title: as plain text.
        about: what it is about, in a sentence, as plain text.
        order: stories are listed by it.
        network: whose layers are filtered live.
        dataset: that it is trained on.
        epoch: of its checkpoint.
        steps: at least one.
    """

    name: str
    title: str
    about: str
    order: int
    network: str
    dataset: str
    epoch: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenStory:
    """A file that is no story.

    Attributes:
        path: of the file.
        reason: one line that names file and line.
    """

    path: Path
    reason: str


# Reading --------------------------------------------------------------------------------------------------


def directories() -> tuple[Path, ...]:
    """List where stories lie: those that come with the package, and the user's own."""
    return Path(__file__).parent, cache_dir() / "stories"


def list_stories() -> tuple[list[Story], list[BrokenStory]]:
    """Read all stories.

    Returns:
        The stories in their order, and the files that are none.
    """
    stories: dict[str, Story] = {}
    broken = []
    for directory in directories():
        # Path.glob would raise where the way there is barred.
        for path in sorted(directory.glob("*.toml")) if os.path.isdir(directory) else ():  # noqa: PTH112
            try:
                found = read_story(path)
                if found.name in stories:
                    raise StoryError(f"{path.name}, line 1: there is a story of that name already; rename the file")
                stories[found.name] = found
            except StoryError as error:
                broken.append(BrokenStory(path=path, reason=str(error)))
    return sorted(stories.values(), key=lambda own: (own.order, own.name)), broken


def read_story(path: Path) -> Story:
    """Read one story.

    Raises:
        StoryError: it cannot be read, or is not as it must be; the text names file and line.
    """
    try:
        stamp = path.stat()
        return _read(path, stamp.st_mtime_ns, stamp.st_size)
    except OSError as error:
        raise StoryError(f"{path.name}, line 1: it cannot be read ({error.strerror})") from error


@lru_cache(maxsize=64)
def _read(path: Path, modified: int, size: int) -> Story:
    """Read a file once, until it is another."""
    if size > LARGEST_FILE:
        raise StoryError(f"{path.name}, line 1: a story must have at most {LARGEST_FILE:,} bytes, got {size:,}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise StoryError(f"{path.name}, line {line}: it must be UTF-8") from error
    return parse_story(text, path.name)


def parse_story(text: str, file: str) -> Story:
    """Read a story from its text.

    Args:
        text: TOML.
        file: name of its file, which names the story, too.

    Raises:
        StoryError: it is not as it must be; the text names file and line.
    """
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StoryError(_syntax(str(error), text, file)) from error
    return _Reader(text, file).story(value)


def _syntax(message: str, text: str, file: str) -> str:
    """Put the line, which ``tomllib`` names at the end, to the front."""
    found = re.search(r"\(at line (\d+), column \d+\)", message)
    line = int(found[1]) if found else text.count("\n") + 1
    reason = re.sub(r"\s*\(at (line|end).*\)", "", message)
    return f"{file}, line {line}: this is no TOML ({reason[0].lower()}{reason[1:]})"


class _Reader:
    """Checks one file."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text.splitlines()
        self._file = file
        self._lines = find_lines(text)

    def _refuse(self, path: tuple[str | int, ...], reason: str, word: str = "") -> StoryError:
        """Make the error: at the line of a key, or of a word in the text that begins there."""
        line = line_of(self._lines, path)
        if word:
            line = next((i for i in range(line, len(self._text) + 1) if word in self._text[i - 1]), line)
        return StoryError(f"{self._file}, line {line}: {reason}")

    def story(self, value: Mapping[str, Any]) -> Story:
        name = self._file.removesuffix(".toml")
        if not _NAME.fullmatch(name):
            raise self._refuse((), "its name must be of small letters, digits and hyphens; rename the file")
        known = ("title", "about", "order", "network", "dataset", "epoch", "step")
        self._check_keys((), value, known)
        steps = value.get("step")
        if not isinstance(steps, list) or not steps or not all(isinstance(own, dict) for own in steps):
            raise self._refuse(("step",), "a story needs at least one [[step]]")
        network = self._text_of((), value, "network", "shufflenet_v2_x1_0")
        if network not in NETWORKS:
            raise self._refuse(("network",), f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
        return Story(
            name=name,
            title=self._text_of((), value, "title"),
            about=self._text_of((), value, "about", ""),
            order=self._number((), value, "order", 1000, (0, 10_000)),
            network=network,
            dataset=self._text_of((), value, "dataset", EMBEDDED),
            epoch=self._number((), value, "epoch", 3, (1, 1000)),
            steps=tuple(self._step(("step", index), own) for index, own in enumerate(steps)),
        )

    def _step(self, path: tuple[str | int, ...], value: Mapping[str, Any]) -> Step:
        self._check_keys(path, value, ("title", "text", "show", "with", "question", "answer", "source"))
        show = self._text_of(path, value, "show")
        if show not in COMPONENTS:
            raise self._refuse((*path, "show"), f"show must be one of {', '.join(COMPONENTS)}, got {show!r}")
        component = COMPONENTS[show]
        texts = {name: self._template(path, value, name, component) for name in ("text", "question", "answer")}
        return Step(
            title=self._text_of(path, value, "title"),
            show=show,
            settings=self._settings((*path, "with"), value.get("with", {}), show),
            source=self._text_of(path, value, "source", ""),
            **texts,
        )

    def _settings(self, path: tuple[str | int, ...], value: object, show: str) -> dict[str, Value]:
        if not isinstance(value, dict):
            raise self._refuse(path, "with must be a table: [step.with]")
        known = COMPONENTS[show].known_parameters()
        self._check_keys(path, value, known, what=f"a parameter of {show}")
        for name, own in value.items():
            problem = "" if name == "start" and isinstance(own, str | int) else known[name].problem(own)
            if problem:
                raise self._refuse((*path, name), f"{name} {problem}, got {own!r}")
        return {name: own.default for name, own in known.items()} | value

    def _template(self, path: tuple[str | int, ...], value: Mapping[str, Any], key: str, component: Component) -> str:
        text = self._text_of(path, value, key)
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise self._refuse(
                (*path, key), f"{key} has a brace too many or too few ({error}); write {{{{ for {{"
            ) from (error)
        for _, name, spec, conversion in parts:
            if name is not None and (name not in component.fields or spec or conversion):
                known = ", ".join(component.fields)
                raise self._refuse((*path, key), f"{{{name}}} is no field of this step; there are {known}", f"{{{name}")
        return text

    def _text_of(
        self, path: tuple[str | int, ...], value: Mapping[str, Any], key: str, default: str | None = None
    ) -> str:
        own = value.get(key, default)
        if own is None:
            raise self._refuse(path, f"{key} is missing")
        if not isinstance(own, str) or (default is None and not own.strip()):
            raise self._refuse((*path, key), f"{key} must be a text, got {own!r}")
        return own.strip()

    def _number(
        self,
        path: tuple[str | int, ...],
        value: Mapping[str, Any],
        key: str,
        default: int,
        bounds: tuple[int, int],
    ) -> int:
        own = value.get(key, default)
        if type(own) is not int or not bounds[0] <= own <= bounds[1]:
            raise self._refuse((*path, key), f"{key} must be a number from {bounds[0]} to {bounds[1]}, got {own!r}")
        return own

    def _check_keys(
        self, path: tuple[str | int, ...], value: Mapping[str, Any], known: Iterable[str], what: str = "known here"
    ) -> None:
        for key in value:
            if key not in known:
                raise self._refuse((*path, key), f"{key!r} is not {what}; there are {', '.join(known)}")
