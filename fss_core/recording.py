"""A computation recorded once and replayed, where the device has that: an NVIDIA GPU's CUDA graphs.

A GPU runs small networks in less time than Python takes to ask for their operations one by one: asked so, ShuffleNet
takes 4.9 times as long, SqueezeNet 2.4, ResNet-18 2.2 at 32 × 32 pixels and as long as recorded at 64 × 64, ResNet-50
1.3 (float32, one H100: ``python -m benchmarks.devices``). Recording takes as long as a few runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Run = Callable[[], Tensor]
Record = Callable[[Run], Run]
"""Turns a computation on tensors that stay in place into one that is replayed; its result is overwritten each time.

Raises RuntimeError where the computation cannot be recorded.
"""


def recorder(device: torch.device) -> Record | None:
    """Say how to record on a device; ``None`` where nothing can be."""
    if device.type != "cuda":
        return None
    return partial(_record_on_cuda, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _record_on_cuda(aside: torch.cuda.Stream, run: Run) -> Run:
    """Record on a stream of its own, which belongs to one device."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(aside.device):
        usual = torch.cuda.current_stream()
        aside.wait_stream(usual)
        with torch.cuda.stream(aside):
            _rehearse(run)
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                result = run()
        usual.wait_stream(aside)

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def _rehearse(run: Run) -> None:
    """Run once before recording: libraries set themselves up, and what waits for the GPU, as no recording can, fails.

    It fails here because a recording that breaks off leaves torch's memory as if it still went on.
    """
    mode = torch.cuda.get_sync_debug_mode()
    try:
        _refuse_waiting("error")
        run()
    finally:
        _refuse_waiting(mode)


def _refuse_waiting(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch may change this
        torch.cuda.set_sync_debug_mode(mode)
