"""How a process uses the machine: its cores, beside other programs, and its memory."""

from __future__ import annotations

import ctypes
import os
import sys

_SPIN_COUNT = "300"

_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": (-3, 1 << 30), "MALLOC_TRIM_THRESHOLD_": (-1, 1 << 30)}
_SPARED_MEMORY = {"MALLOC_ARENA_MAX": (-8, 1), "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 15)}
"""glibc's settings: variable → number of the parameter in ``malloc.h``, and its value (but for the number, bytes)."""


def prepare_to_compute() -> None:
    """Set this process up to compute, and those that it starts; results are the same bit for bit.

    Call it before torch is imported. What the environment says of the same goes first.
    """
    share_cores()
    keep_memory()


def share_cores() -> None:
    """See that threads wait for each other without keeping a core busy.

    Beside other busy programs, threads that spin as long as OpenMP lets them take the cores from the thread that they
    wait for: ``python -m benchmarks.cores`` measures what that costs, alone and beside others. ``GOMP_SPINCOUNT`` and
    ``OMP_WAIT_POLICY`` of the environment go first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def keep_memory() -> None:
    """See that memory which a tensor gives back is used for the next, where the C library is glibc.

    By default glibc gives freed memory of more than a few megabytes back to the system, which hands it out again a page
    at a time, each filled with zeros: ``python -m benchmarks.memory`` measures what that costs. Up to 1 GB is kept.
    glibc's own variables, ``MALLOC_MMAP_THRESHOLD_`` and ``MALLOC_TRIM_THRESHOLD_``, go first.
    """
    for name, (_, size) in _set_by_glibc(_KEPT_MEMORY).items():
        os.environ[name] = str(size)  # glibc has read its own already; this is for processes started from here


def spare_memory() -> None:
    """See that memory which is given back leaves this process, where the C library is glibc; others keep their way.

    Every run of a page is a thread, and by default glibc gives many threads a heap of their own, and finds room in
    heaps for ever larger arrays, the more of them were given back. Here there is one heap, and arrays lie outside it;
    ``python -m benchmarks.dashboard`` says how much the page's process takes. glibc's own variables,
    ``MALLOC_ARENA_MAX`` and ``MALLOC_MMAP_THRESHOLD_``, go first.
    """
    _set_by_glibc(_SPARED_MEMORY)


def _set_by_glibc(settings: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Make glibc's settings those, but for what the environment says; return which it does not."""
    if not sys.platform.startswith("linux"):
        return {}
    chosen = {name: own for name, own in settings.items() if name not in os.environ}
    if (set_parameter := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for parameter, value in chosen.values():
            set_parameter(parameter, value)
    return chosen
