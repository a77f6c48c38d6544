"""How the tasks of a measurement are done, one by one."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from typing import cast

from fss_core.checkpoints import find_checkpoint
from fss_core.data import dataset_card, load_dataset
from fss_core.jobs.board import Task
from fss_core.jobs.kinds import MakeFlow
from fss_core.jobs.rates import PASSES_OF_CALIBRATION
from fss_core.jobs.requests import MeasureRequest, Part
from fss_core.jobs.workers import worker_index
from fss_core.measurement import Measurement
from fss_core.specs import MeasurementSpec
from fss_core.store import LeaseHeldError


class MeasureWork:
    """Measures layer after layer, and keeps the network that it measured last.

    Args:
        make_flow: makes the flow to work with.
    """

    def __init__(self, make_flow: MakeFlow) -> None:
        """Begin without a network."""
        self._flow = make_flow
        self._measurement = lru_cache(maxsize=1)(self._make_measurement)

    def _make_measurement(
        self, spec: MeasurementSpec, layers: tuple[str, ...] | None, factory: str | None, weights: str | None
    ) -> Measurement:
        # Named by the weights: an epoch that was pruned and trained anew is another network.
        return Measurement(self._flow(factory), spec, layers)

    def do(self, request: MeasureRequest, task: Task, *, wait: bool) -> tuple[float, float]:
        """Do a task; see :meth:`fss_core.jobs.kinds.Work.do`."""
        stage, _, name = task.name.partition(":")
        spec = request.spec
        started = time.perf_counter()
        if stage == "data":
            load_dataset(spec.training.dataset)
            return 0.0, 0.0
        part = cast(Part, name if stage == "images" else stage if stage in request.parts() else "layers")
        checkpoint = find_checkpoint(spec.training, spec.epoch)
        weights = None if checkpoint is None else checkpoint.sha256
        layers = request.layers if part != "whole" else None
        measurement = self._measurement(placed(request.parts()[part]), layers, request.factory, weights)
        if stage == "train":
            _ = measurement.checkpoint
            return task.units, time.perf_counter() - started
        if stage == "epsilon":
            num_images = dataset_card(spec.training.dataset).split_sizes["calibration"]
            calibration = measurement.calibrate()
            units = float(num_images * PASSES_OF_CALIBRATION * len(calibration.grid))
            return units, time.perf_counter() - started
        if stage == "images":
            measurement.prepare()
            return 0.0, 0.0
        _ = measurement.measurer  # made once for all layers, so its time is not this layer's
        started = time.perf_counter()
        if measurement.measure_layers([name], wait=wait):
            raise LeaseHeldError(f"{name} is being worked on by another process; wait for it, or try again later")
        return task.units, time.perf_counter() - started


def placed(spec: MeasurementSpec) -> MeasurementSpec:
    """Give each worker of a machine with several GPUs one of its own."""
    from torch import cuda

    index = worker_index()
    if spec.device != "cuda" or index is None:
        return spec
    return replace(spec, device=f"cuda:{index % cuda.device_count()}")
