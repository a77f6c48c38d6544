"""What keeping freed memory saves: ``python -m benchmarks.memory``.

Runs networks on 200 images again and again, by the fast engine, with glibc's own settings and with those of
:func:`fss_core.computing.keep_memory`. Settings take turns, each in a process of its own. Prints milliseconds and page
faults of a pass, the ratio, and whether all gave the same logits, bit for bit. Let nothing else run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

CASES = (("shufflenet_v2_x1_0", 32), ("squeezenet1_1", 64), ("resnet18", 32), ("resnet50", 32))
SETTINGS = {"glibc's own": "pass", "kept (fss)": "keep_memory()"}
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")

_RUN = """
import hashlib, json, resource, sys, time
from fss_core.computing import keep_memory
{setting}
import torch
from benchmarks.engine import random_network
from fss_core.engines import make_engine
size, num_passes = int(sys.argv[2]), int(sys.argv[3])
network = random_network(sys.argv[1], size)
images = torch.rand((200, 3, size, size), generator=torch.Generator().manual_seed(0))
first = next(name for name, own in network.named_modules() if isinstance(own, torch.nn.Conv2d))
weights = {{first: network.get_submodule(first).weight.data}}
prepared = make_engine("fast", network, (3, size, size)).prepare(images, [first])
logits = [prepared.logits(weights) for _ in range(3)][-1]
started, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(num_passes):
    prepared.logits(weights)
seconds = time.perf_counter() - started
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
digest = hashlib.sha256(logits.numpy().tobytes()).hexdigest()
print(json.dumps([seconds / num_passes, faults / num_passes, digest]))
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="of each setting (default: 3)")
    parser.add_argument("--passes", type=int, default=20, help="of each repetition (default: 20)")
    options = parser.parse_args()
    for network, size in CASES:
        seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
        faults: dict[str, float] = {}
        digests = set()
        for _ in range(options.repetitions):
            for name, setting in SETTINGS.items():
                took, faults[name], digest = _run(setting, network, size, options.passes)
                seconds[name].append(took)
                digests.add(digest)
        own, kept = (statistics.median(found) for found in seconds.values())
        for name, found in seconds.items():
            print(
                f"{network} {size}×{size}, {name}: {1000 * statistics.median(found):.0f} ms a pass "
                f"({1000 * min(found):.0f} to {1000 * max(found):.0f}), {faults[name]:,.0f} page faults"
            )
        print(f"{network} {size}×{size}: {own / kept:.2f} times as fast, {len(digests)} different results", flush=True)


def _run(setting: str, network: str, size: int, num_passes: int) -> tuple[float, float, str]:
    """Run a network in a process of its own; return seconds and page faults of a pass, and the logits' SHA-256."""
    environment = {name: text for name, text in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", _RUN.format(setting=setting), network, str(size), str(num_passes)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, faults, digest = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), float(faults), str(digest)


if __name__ == "__main__":
    main()
