"""Having a request done: in this process, by workers, or by whoever is at it already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fss_core.cli.printing import bars

if TYPE_CHECKING:
    from fss_core.jobs.requests import Request
    from fss_core.store import Store

_SECONDS_WORTH_WORKERS = 60.0
"""So much must be left that workers can share: to start them takes some ten seconds."""


def do_request(store: Store, request: Request, workers: int | None) -> None:
    """Do what is missing of a request, where everybody can see it move; if nothing is, ask for nothing.

    Args:
        store: where results go.
        request: what is asked for.
        workers: so many worker processes; 0 for this process; ``None`` for what is quicker.

    Raises:
        Cancelled: somebody cancelled it.
        FssError: it cannot be done.
        ValueError: it asks for what cannot be.
    """
    from fss_core.jobs import service
    from fss_core.jobs.here import carry_out
    from fss_core.jobs.pool import local_machine

    tasks = service.estimate(store, request, workers=1).tasks  # what cannot be done is refused before it is asked for
    if not tasks:
        return
    if workers is None and local_machine().workers > 1:
        alone = sum(task.seconds for task in tasks if not task.wide) <= _SECONDS_WORTH_WORKERS
    else:
        alone = not workers
    with bars() as show:
        if alone and carry_out(store, request, on_progress=show) is not None:
            return
        service.follow(store, request, on_progress=show, workers=workers or None)
