"""What sharing cores costs, and what it saves: ``python -m benchmarks.cores``.

Trains ShuffleNet for two epochs on 5,000 digits with as many threads as there are cores, with each setting of how long
OpenMP's threads spin before they sleep: alone, and beside programs that keep cores busy. Settings take turns, each in a
process of its own. Prints seconds and ratios to the setting of :func:`fss_core.computing.share_cores`, and whether all
trained the same network, bit for bit. Let nothing else run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SETTINGS: dict[str, dict[str, str]] = {
    "OpenMP's default": {},
    "shared (fss)": {"GOMP_SPINCOUNT": "300"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
_OURS = "shared (fss)"
_LONGEST = 120.0
"""Seconds after which a training is given up."""

_TRAIN = """
import json, time
from fss_core.specs import TrainingSpec
from fss_core.training import train
spec = TrainingSpec(network="shufflenet_v2_x1_0", dataset="mnist5k")
train(spec, [0])
started = time.perf_counter()
[checkpoint] = train(spec, [2])
print(json.dumps([time.perf_counter() - started, checkpoint.sha256]))
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="of each setting (default: 3)")
    parser.add_argument("--busy", type=int, default=2, help="programs beside, at most (default: 2)")
    options = parser.parse_args()
    networks: set[str] = set()
    for num_busy in range(options.busy + 1):
        seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
        for _ in range(options.repetitions):
            for name, own in SETTINGS.items():
                with _busy(num_busy):
                    took, network = _train(own)
                seconds[name].append(took)
                networks |= {network} - {""}
        ours = statistics.median(seconds[_OURS])
        for name, found in seconds.items():
            middle = statistics.median(found)
            print(
                f"beside {num_busy} busy programs, {name}: {middle:.1f} s "
                f"({min(found):.1f} to {max(found):.1f}; more than {_LONGEST:g} s are not waited for), "
                f"{middle / ours:.2f} times the shared one",
                flush=True,
            )
    print("all trained the same network, bit for bit" if len(networks) == 1 else f"{len(networks)} different networks")


def _train(setting: dict[str, str]) -> tuple[float, str]:
    """Train in a process of its own; return the seconds and the network's SHA-256."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {name: text for name, text in os.environ.items() if name not in NAMES}
        try:
            done = subprocess.run(
                [sys.executable, "-c", _TRAIN],
                env=environment | setting | {"FSS_CACHE_DIR": cache},
                capture_output=True,
                text=True,
                check=True,
                timeout=_LONGEST,
            )
        except subprocess.TimeoutExpired:
            return _LONGEST, ""
    seconds, network = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), str(network)


@contextlib.contextmanager
def _busy(number: int) -> Iterator[None]:
    """Keep cores busy meanwhile, as programs of another session would."""
    programs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(number)
    ]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


if __name__ == "__main__":
    main()
