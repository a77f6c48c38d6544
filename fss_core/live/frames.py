"""Messages through a pipe: the length in eight bytes, then the bytes."""

from __future__ import annotations

import queue
import struct
import threading
from typing import BinaryIO

LARGEST_FRAME = 2**26
"""More than any question or answer has; a longer one is rubbish."""

_LENGTH = struct.Struct("<Q")


def write_frame(pipe: BinaryIO, content: bytes) -> None:
    """Send a message.

    Raises:
        OSError: nobody reads any more.
    """
    pipe.write(_LENGTH.pack(len(content)) + content)
    pipe.flush()


def read_frame(pipe: BinaryIO) -> bytes | None:
    """Receive a message; ``None`` at the end, or where it is cut short or no message.

    >>> import io
    >>> pipe = io.BytesIO()
    >>> write_frame(pipe, b"hello")
    >>> pipe.seek(0), read_frame(pipe), read_frame(pipe)
    (0, b'hello', None)
    """
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > LARGEST_FRAME:
        return None
    content = pipe.read(length)
    return content if len(content) == length else None


class FrameReader:
    """Receives messages in a thread of its own, so that one can wait for them for a limited time.

    Args:
        pipe: to read from; whatever comes after its end is never looked at.
    """

    def __init__(self, pipe: BinaryIO) -> None:
        """Begin to read."""
        self._pipe = pipe
        self._frames: queue.Queue[bytes | None] = queue.Queue(maxsize=4)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        frame: bytes | None = b""
        while frame is not None:
            try:
                frame = read_frame(self._pipe)
            except (OSError, ValueError):  # the pipe was closed
                frame = None
            self._frames.put(frame)

    def get(self, seconds: float) -> bytes | None:
        """Wait for the next message; ``None`` at the end.

        Raises:
            TimeoutError: there was none for so long.
        """
        try:
            return self._frames.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"no message within {seconds:g} s") from None
