"""Asking the resident process, from one that never imports torch.

There is one such process per asking process and cache directory. It is started when it is first needed, again when it
was killed, and ends with whoever started it.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, cast, overload

from fss_core.live.answers import ANSWERS, Attacked, Layers, Response, Sweep
from fss_core.live.frames import FrameReader, write_frame
from fss_core.live.requests import (
    REQUESTS,
    AttackRequest,
    LayersRequest,
    Request,
    RespondRequest,
    SweepRequest,
)
from fss_core.specs import FssError, cache_dir, digest, to_json
from fss_core.store.entries import decode

ANSWER_SECONDS = 120.0
"""So long an answer may take, the start of the process and a busy machine included."""

_MOST_ANSWERS = 512
"""Answers that are kept: a few kilobytes each."""


class LiveError(FssError):
    """The resident process cannot answer."""


class _Process:
    """A running process, and what it says."""

    def __init__(self, log: Path, arguments: list[str]) -> None:
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "fss_core.live.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        self.answers = FrameReader(cast(BinaryIO, self.popen.stdout))

    @property
    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def ask(self, message: bytes, seconds: float) -> bytes | None:
        """Ask, and wait; ``None`` if the process ended over it.

        Raises:
            TimeoutError: it took too long.
        """
        try:
            write_frame(cast(BinaryIO, self.popen.stdin), message)
        except (OSError, ValueError):
            return None
        return self.answers.get(seconds)

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass  # what it was never told is lost with it


class Live:
    """The resident process of a cache directory; threads may ask side by side, and are answered one by one.

    Args:
        directory: the cache directory of this environment, where it writes its log.
        arguments: of ``fss_core.live.worker``.
    """

    def __init__(self, directory: Path, arguments: tuple[str, ...] = ()) -> None:
        """Begin without a process."""
        self._log = directory / "live.log"
        self._arguments = list(arguments)
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._known: OrderedDict[str, bytes] = OrderedDict()

    @property
    def pid(self) -> int | None:
        """The process; ``None`` while there is none."""
        process = self._process
        return process.popen.pid if process is not None and process.is_alive else None

    def start(self) -> None:
        """See that the process is there, so that the first question need not wait for it; returns at once."""
        if self._lock.acquire(blocking=False):
            try:
                self._running()
            finally:
                self._lock.release()

    def stop(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def _running(self) -> _Process:
        if self._process is None or not self._process.is_alive:
            self._end()
            try:
                self._log.parent.mkdir(parents=True, exist_ok=True)
                self._process = _Process(self._log, self._arguments)
            except OSError as error:
                raise LiveError(f"the process that answers cannot be started ({error.strerror})") from error
        return self._process

    @overload
    def ask(self, request: AttackRequest, *, seconds: float = ...) -> Attacked: ...
    @overload
    def ask(self, request: SweepRequest, *, seconds: float = ...) -> Sweep: ...
    @overload
    def ask(self, request: RespondRequest, *, seconds: float = ...) -> Response: ...
    @overload
    def ask(self, request: LayersRequest, *, seconds: float = ...) -> Layers: ...

    def ask(self, request: Request, *, seconds: float = ANSWER_SECONDS) -> Attacked | Sweep | Response | Layers:
        """Ask, and wait for the answer; what was asked before is known.

        Args:
            request: what to ask.
            seconds: how long to wait at most.

        Returns:
            The answer.

        Raises:
            LiveError: it cannot be answered; the text says why.
        """
        kind = next(name for name, own in REQUESTS.items() if isinstance(request, own))
        asked = {"kind": kind, "request": to_json(request)}
        key = digest(asked)
        content = self._known.get(key)
        if content is None:
            with self._lock:
                content = self._known.get(key) or self._send(json.dumps(asked).encode(), seconds)
                found = decode(kind, content)
                if "error" in found.meta:
                    raise LiveError(str(found.meta["error"]))
                self._known[key] = content
                while len(self._known) > _MOST_ANSWERS:
                    self._known.popitem(last=False)
        return ANSWERS[kind].read(decode(kind, content))

    def _send(self, message: bytes, seconds: float) -> bytes:
        """Ask the process; one that ends over it is started once more."""
        for _ in range(2):
            process = self._running()
            try:
                answer = process.ask(message, seconds)
            except TimeoutError:
                self._end()
                raise LiveError(f"no answer within {seconds:g} s; the machine is busy: try again") from None
            if answer is not None:
                return answer
            self._end()
        raise LiveError(f"the process that answers ended twice over the same question; {self._log.name} says why")

    def is_known(self, request: Request) -> bool:
        """Say whether a request is answered at once."""
        kind = next(name for name, own in REQUESTS.items() if isinstance(request, own))
        return digest({"kind": kind, "request": to_json(request)}) in self._known


_lock = threading.Lock()
_lives: dict[Path, Live] = {}


def live_here() -> Live:
    """Find the resident process of this environment's cache directory, for all that this process does."""
    with _lock:
        directory = cache_dir().absolute()
        if directory not in _lives:
            _lives[directory] = Live(directory)
        return _lives[directory]


def stop_all() -> None:
    """End every resident process that this process started."""
    for live in _lives.values():
        live.stop()


atexit.register(stop_all)
