"""``fss`` called as the command line calls it, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from fss_core.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


Fss = Callable[..., Done]


@pytest.fixture
def fss(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fss:
    monkeypatch.delenv("FSS_TRACEBACK", raising=False)

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(str(stop.code))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def refused(done: Done, code: int, *, after_bars: bool = False) -> str:
    """The one line of a refusal: all that is written, or all but the bars that were drawn before."""
    assert done.code == code, done
    assert done.out == ""
    assert "Traceback" not in done.err
    assert "unexpected" not in done.err
    lines = [line for line in done.err.splitlines() if line.startswith("fss") or not after_bars]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("fss")
    return lines[0]
