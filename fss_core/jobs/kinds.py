"""The kinds of runs: how each request is read, planned and worked on.

A new kind of long work is a request, a plan and a piece of work of its own, and a line in :data:`KINDS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fss_core.jobs.board import Run, Task
from fss_core.jobs.plans import Plan
from fss_core.jobs.rates import Machine
from fss_core.jobs.requests import MeasureRequest, Request, essence
from fss_core.specs import UnknownNameError, choose, from_json
from fss_core.store import Store

if TYPE_CHECKING:
    from fss_core.flow import Flow


class Work(Protocol):
    """Does tasks of one kind in one process, and keeps what the next task needs."""

    def do(self, request: Any, task: Task, *, wait: bool) -> tuple[float, float]:
        """Do a task.

        Args:
            request: what the task belongs to.
            task: what to do.
            wait: wait for what another process is busy with.

        Returns:
            The work that it was, in units of the task's rate, and the seconds it took.

        Raises:
            LeaseHeldError: another process is busy with it, and ``wait`` is not set.
        """


MakeFlow = Callable[[str | None], "Flow"]
"""Makes the flow that a process works with, given the factory of a network of the user's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of run; of what it names, a process imports what it needs, when it first does.

    Attributes:
        request: ``module:class`` of what is asked for.
        plan: ``module:function`` that lists the tasks that are left of a request.
        work: ``module:class`` of what does them, for workers only, since it needs torch.
    """

    request: str
    plan: str
    work: str

    def read(self, request: object) -> Request:
        """Rebuild a request from what JSON made of it.

        Raises:
            ValueError: it cannot be read.
        """
        read: Request = from_json(_imported(self.request), request)
        return read

    def plan_request(self, store: Store, request: Request, machine: Machine) -> Plan:
        """Plan what is left of a request."""
        planned: Plan = _imported(self.plan)(store, request, machine)
        return planned

    def make_work(self, make_flow: MakeFlow) -> Work:
        """Make what does the tasks."""
        made: Work = _imported(self.work)(make_flow)
        return made


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


KINDS: dict[str, Kind] = {
    "measure": Kind(
        request="fss_core.jobs.requests:MeasureRequest",
        plan="fss_core.jobs.plans:plan_measurement",
        work="fss_core.jobs.measuring:MeasureWork",
    ),
    "retrain": Kind(
        request="fss_core.jobs.retraining_plans:RetrainRequest",
        plan="fss_core.jobs.retraining_plans:plan_retraining",
        work="fss_core.jobs.retraining:RetrainWork",
    ),
}
"""By the name that the board knows them by."""


def kind_of(run: Run) -> Kind:
    """Find the kind of a run.

    Raises:
        UnknownNameError: this version does not know it.
    """
    return KINDS[choose(run.kind, KINDS, what="kind of run")]


def read_request(run: Run) -> Request:
    """Read what a run asks for.

    Raises:
        UnknownNameError: this version does not know its kind.
        ValueError: the request cannot be read.
    """
    return kind_of(run).read(run.request)


def plan_run(store: Store, run: Run, machine: Machine) -> Plan:
    """Plan what is left of a run.

    Raises:
        FssError: it cannot be done.
        ValueError: it asks for what cannot be.
    """
    return plan_request(store, read_request(run), machine)


def plan_request(store: Store, request: Request, machine: Machine) -> Plan:
    """Plan what is left of a request.

    Raises:
        FssError: it cannot be done.
        ValueError: it asks for what cannot be.
    """
    return KINDS[request.kind].plan_request(store, request, machine)


def overlap(request: Request, run: Run) -> bool:
    """Say whether a run measures some of what a request asks for: other rows, images, filters, or less beside them."""
    if not isinstance(request, MeasureRequest) or run.kind != "measure":
        return False
    try:
        own = read_request(run)
    except (UnknownNameError, ValueError):
        return False
    assert isinstance(own, MeasureRequest)
    return own.layers != () and essence(own.spec) == essence(request.spec)


def words(run: Run) -> str:
    """Say in one line what a run is for."""
    try:
        return read_request(run).words()
    except (UnknownNameError, ValueError):
        return "a request that this version cannot read"
