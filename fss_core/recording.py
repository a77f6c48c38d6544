"""A computation recorded once and replayed, where the device has that: an NVIDIA GPU's CUDA graphs.

A GPU runs most of the paper's networks in less time than Python takes to ask for their operations one by one;
``python -m benchmarks.devices`` measures what asking once brings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Run = Callable[[], Tensor]
Record = Callable[[Run], Run]
"""Turns a computation on tensors that stay in place into one that is replayed; its result is overwritten each time."""


def recorder(device: torch.device) -> Record | None:
    """Say how to record on a device; ``None`` where nothing can be."""
    return partial(_record_on_cuda, device) if device.type == "cuda" else None


def _record_on_cuda(device: torch.device, run: Run) -> Run:
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run()  # libraries set themselves up, which cannot be recorded
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
