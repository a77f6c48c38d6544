"""Dask, as the runner uses it: a cluster of processes on this machine, or the one that ``FSS_SCHEDULER`` names."""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fss_core.jobs.rates import Machine, num_cores
from fss_core.jobs.workers import Order, do_order, warm_up
from fss_core.specs import StoreError

if TYPE_CHECKING:
    from distributed import Future

SCHEDULER_VARIABLE = "FSS_SCHEDULER"

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

log = logging.getLogger(__name__)


def num_gpus() -> int:
    """Count this machine's NVIDIA GPUs, without torch."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def local_machine(num_workers: int | None = None) -> Machine:
    """Say how this machine's cores are shared out.

    On a CPU one worker a core measured fastest (ShuffleNet 1.6 times one worker with two threads, ResNet-50 1.1 times,
    ResNet-18 as fast); with GPUs it is one worker each.

    Args:
        num_workers: at most one a core; by default one a core, or one a GPU where there are GPUs.
    """
    cores = num_cores()
    return Machine(cores=cores, workers=min(max(num_workers or num_gpus() or cores, 1), cores))


class Pool:
    """Workers that do orders; the Dask scheduler sends each to one that is free.

    Args:
        num_workers: processes on this machine; by default as :func:`local_machine` says. Where ``FSS_SCHEDULER`` names
            a scheduler, that cluster's workers are used.

    Raises:
        StoreError: the scheduler cannot be reached, or has no workers.
    """

    def __init__(self, num_workers: int | None = None) -> None:
        """Start or find the workers."""
        import dask
        import distributed

        logging.getLogger("distributed").setLevel(logging.ERROR)
        self._cluster: Any = None
        self._warming: dict[str, Future] = {}
        self._killed: set[str] = set()
        address = os.environ.get(SCHEDULER_VARIABLE)
        if address:
            try:
                self._client = distributed.Client(address, timeout="10s", set_as_default=False)
                self._client.wait_for_workers(1, timeout=30)
            except (OSError, TimeoutError, ValueError) as error:
                raise StoreError(
                    f"no workers at {SCHEDULER_VARIABLE}={address} ({error or type(error).__name__}); "
                    "start the cluster, or unset the variable to use this machine"
                ) from error
            threads = self._client.nthreads()
            self.machine = Machine(cores=max(threads.values()), workers=len(threads))
            return
        self.machine = local_machine(num_workers)
        threads = str(self.machine.cores)
        own = {
            # A task sets its number of threads itself; Dask's own default would keep a wide one to a single core.
            "distributed.nanny.pre-spawn-environ": {name: threads for name in _THREAD_VARIABLES},
            "distributed.scheduler.http.routes": ["distributed.http.health"],
            "distributed.worker.http.routes": ["distributed.http.health"],
        }
        with dask.config.set(own):
            self._cluster = distributed.LocalCluster(
                n_workers=self.machine.workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                security=True,
                memory_limit=0,
                silence_logs=logging.ERROR,
            )
        self._client = distributed.Client(self._cluster, set_as_default=False)
        self._warming = {
            address: self._client.submit(warm_up, workers=[address], pure=False) for address in self._client.nthreads()
        }

    @property
    def is_local(self) -> bool:
        """Whether the workers are this machine's own."""
        return self._cluster is not None

    def num_ready(self) -> int:
        """Count the workers, idle or busy, that are there and warm; of a user's cluster, those at the start.

        While one warms up, or while another takes the place of one that died, Dask puts an order behind another's on a
        worker that is there, and leaves it there when the other worker comes: no more orders than this must be under
        way.
        """
        if self._cluster is None:
            return self.machine.workers
        present = set(self._cluster.scheduler.workers) - self._killed
        return sum(address not in self._warming or self._warming[address].done() for address in present)

    def submit(self, order: Order) -> Future:
        """Send an order to a worker that is free."""
        return self._client.submit(
            do_order, order, key=f"{order.task.name}-{order.run[:12]}-{time.monotonic_ns()}", pure=False, retries=0
        )

    def kill(self, future: Future) -> None:
        """End a task that does not listen, with the process it runs in; another process takes its place."""
        working = self._client.processing()
        addresses = [address for address, keys in working.items() if future.key in keys]
        future.cancel()
        log.warning("ending %s, whose task does not stop", ", ".join(addresses) or "a worker")
        if self._cluster is None:
            self._client.restart_workers(addresses, timeout=30, raise_for_error=False)
            return
        for nanny in self._cluster.workers.values():
            if nanny.worker_address in addresses and nanny.pid:
                self._killed.add(nanny.worker_address)
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)

    def close(self) -> None:
        """Disconnect, and end the workers that were started here."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def __enter__(self) -> Self:
        """Return the pool itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
