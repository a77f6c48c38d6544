"""How the tasks of a retraining are done, one by one."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache

from fss_core.checkpoints import find_checkpoint
from fss_core.data import load_dataset
from fss_core.flow import find_measured
from fss_core.jobs.board import Task
from fss_core.jobs.kinds import MakeFlow
from fss_core.jobs.measuring import MeasureWork, placed
from fss_core.jobs.retraining_plans import RetrainRequest, is_retrained_by
from fss_core.retraining.lookup import spec_of_seed
from fss_core.retraining.running import refuse_overlap
from fss_core.retraining.spec import RetrainingSpec
from fss_core.retraining.work import Work
from fss_core.specs import StoreError

_OWN_STAGES = ("criticality", "judge", "retrain")


class RetrainWork:
    """Measures, judges and retrains, and keeps the network and the images that it worked on last.

    Args:
        make_flow: makes the flow to work with.
    """

    def __init__(self, make_flow: MakeFlow) -> None:
        """Begin without a network."""
        self._flow = make_flow
        self._measuring = MeasureWork(make_flow)
        self._work = lru_cache(maxsize=1)(self._make_work)
        self._refuse_overlap = lru_cache(maxsize=1)(lambda name, fingerprint: refuse_overlap(load_dataset(name)))

    def do(self, request: RetrainRequest, task: Task, *, wait: bool) -> tuple[float, float]:
        """Do a task; see :meth:`fss_core.jobs.kinds.Work.do`.

        Raises:
            DataError: the probe and report images overlap; found out before anything is trained.
        """
        stage, _, rest = task.name.partition(":")
        number, _, name = rest.partition("/")
        seed = int(number)
        dataset = load_dataset(request.spec.measurement.training.dataset)
        self._refuse_overlap(dataset.name, dataset.probe.fingerprint + dataset.report.fingerprint)
        flow = self._flow(request.factory)
        spec = spec_of_seed(flow.store, request.spec, request.seeds, seed)
        assert spec is not None, "ε is chosen before any other initialisation is begun"
        if stage not in _OWN_STAGES:
            own = replace(task, name=f"{stage}:{name}" if name else stage)
            return self._measuring.do(request.measurement(spec), own, wait=wait)
        checkpoint = find_checkpoint(spec.measurement.training, spec.measurement.epoch)
        work = self._work(
            replace(spec, measurement=placed(spec.measurement)),
            request.factory,
            None if checkpoint is None else checkpoint.sha256,
        )
        started = time.perf_counter()
        if stage == "criticality":
            work.measure_criticality(wait=wait)
        elif stage == "judge":
            work.judge_before(wait=wait)
        else:
            chosen = [own for own in work.selections().items() if is_retrained_by(task, own[0])]
            if not chosen:
                return 0.0, time.perf_counter() - started  # what the rules choose has changed: it is planned anew
            [(selection, rules)] = chosen
            work.retrain(selection, rules, wait=wait)
        return task.units, time.perf_counter() - started

    def _make_work(self, spec: RetrainingSpec, factory: str | None, weights: str | None) -> Work:
        # Named by the weights: an epoch that was pruned and trained anew is another network.
        flow = self._flow(factory)
        measured = find_measured(flow.store, spec.measurement)
        if measured is None or measured.missing:
            raise StoreError(
                "results vanished while networks were retrained (another process refreshed them); run again"
            )
        dataset = load_dataset(spec.measurement.training.dataset)
        return Work(spec, measured, dataset, flow.store, flow.tell, flow.factory, refresh=False)
