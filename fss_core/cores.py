"""Sharing the machine's cores with other programs."""

from __future__ import annotations

import os

_SPIN_COUNT = "300"


def share_cores() -> None:
    """See that threads of this process, and of those it starts, wait for each other without keeping a core busy.

    Beside other busy programs, threads that spin as long as OpenMP lets them take the cores from the thread that they
    wait for: ``python -m benchmarks.cores`` measures what that costs, alone and beside others. Results are the same bit
    for bit. Takes effect if it is called before torch is imported; ``GOMP_SPINCOUNT`` and ``OMP_WAIT_POLICY`` of the
    environment go first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
