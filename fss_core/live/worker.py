"""The resident process: reads questions from its standard input, answers on its standard output.

It ends when nobody is left to ask, when nobody has asked for a while, and, after an answer, when it has become larger
than it may be; whoever asks next starts another.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from fss_core.computing import prepare_to_compute
from fss_core.live.frames import FrameReader, write_frame
from fss_core.live.requests import REQUESTS
from fss_core.specs import FssError, choose, from_json
from fss_core.store.entries import encode

IDLE_SECONDS = 900.0
LARGEST_MEMORY = 1_500_000_000
"""Bytes; one network of the largest size and all that is kept of it needs half of that."""

log = logging.getLogger(__name__)


def resident_bytes() -> int:
    """Say how much memory this process holds; 0 where that cannot be said."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def answer(laboratory: Any, message: bytes) -> bytes:
    """Answer one message; what goes wrong is an answer, too."""
    try:
        asked = json.loads(message)
        kind = choose(str(asked["kind"]), REQUESTS, what="question")
        found: bytes = laboratory.answer(from_json(REQUESTS[kind], asked["request"])).to_bytes()
        return found
    except (FssError, ValueError) as error:
        return encode({}, {"error": str(error)})
    except Exception as error:
        log.exception("answering")
        return encode({}, {"error": f"unexpected {type(error).__name__}: {error}; live.log says where"})


def main() -> int:
    """Answer until nobody asks any more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, help="end after so long without a question")
    parser.add_argument("--memory", type=int, default=LARGEST_MEMORY, help="bytes that it may hold")
    options = parser.parse_args()
    prepare_to_compute()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    # Whatever prints, prints into the log: answers have the pipe for themselves.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    questions = FrameReader(sys.stdin.buffer)

    from fss_core.live.laboratory import Laboratory

    laboratory = Laboratory()
    while True:
        try:
            message = questions.get(options.idle_seconds)
        except TimeoutError:
            return 0
        if message is None:
            return 0
        try:
            write_frame(pipe, answer(laboratory, message))
        except OSError:
            return 0  # nobody reads any more
        if resident_bytes() > options.memory:
            return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # the thread that reads may be waiting for ever
