from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fss_core.specs import Cancelled, StoreError
from fss_core.store import LeaseHeldError, Store, leases

spawn = multiprocessing.get_context("spawn")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def is_held(store: Store, key: str = "k") -> bool:
    try:
        with store.claim(key, wait=False):
            return False
    except LeaseHeldError:
        return True


def shift_renewal(store: Store, seconds: float) -> None:
    with closing(sqlite3.connect(store.directory / "index.sqlite")) as connection, connection:
        assert connection.execute("UPDATE leases SET renewed = renewed + ?", (seconds,)).rowcount == 1


# One holder -----------------------------------------------------------------------------------------------


def test_one_holder_per_key(store: Store) -> None:
    with store.claim("k") as lease:
        assert not lease.lost
        assert is_held(store)
        assert is_held(Store(store.directory))
        assert not is_held(store, "another")
    assert not is_held(store)
    assert not lease.lost


def test_a_held_key_is_named(store: Store) -> None:
    with store.claim("k"), pytest.raises(LeaseHeldError, match=r"^k is being worked on by another process"):
        store.claim("k", wait=False).__enter__()


def test_an_exception_releases(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.claim("k"):
        raise KeyboardInterrupt
    assert not is_held(store)


def test_no_thread_is_left_behind(store: Store) -> None:
    before = threading.active_count()
    with store.claim("k"):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_threads_take_turns(store: Store) -> None:
    count = 0

    def work() -> None:
        nonlocal count
        for _ in range(5):
            with store.claim("k", poll_seconds=0.001):
                seen = count
                time.sleep(0.001)
                count = seen + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == 20


def test_waiting_calls_back_and_can_be_cancelled(store: Store) -> None:
    calls = []

    def on_wait() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise Cancelled("stopped while waiting")

    with store.claim("k"):
        with pytest.raises(Cancelled):
            store.claim("k", poll_seconds=0.01, on_wait=on_wait).__enter__()
        assert is_held(store)
    assert len(calls) == 3


@pytest.mark.parametrize("times", [{"lease_seconds": 0}, {"poll_seconds": 0}, {"lease_seconds": float("nan")}])
def test_times_must_be_positive(store: Store, times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        store.claim("k", **times).__enter__()


# Expiry ---------------------------------------------------------------------------------------------------


def test_a_living_holder_keeps_its_lease_beyond_its_length(store: Store) -> None:
    with store.claim("k", lease_seconds=1.2) as lease:
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert is_held(store)
            time.sleep(0.05)
        assert not lease.lost


def test_the_lease_of_a_silent_holder_is_taken_over_and_not_released_by_it(store: Store) -> None:
    stalled = store.claim("k")
    first = stalled.__enter__()
    shift_renewal(store, -29)
    assert is_held(store)
    shift_renewal(store, -2)
    with store.claim("k", wait=False) as second:
        assert first.lost
        stalled.__exit__(None, None, None)
        assert first.lost
        assert not second.lost
        assert is_held(store)
    assert not is_held(store)


def test_a_late_holder_whose_lease_nobody_took_still_has_it(store: Store) -> None:
    with store.claim("k", lease_seconds=1) as lease:
        shift_renewal(store, -100)
        assert not lease.lost
        time.sleep(1)
        assert is_held(store)


@pytest.mark.parametrize(("shift", "held"), [(10, True), (29, True), (31, False), (86400, False)])
def test_a_clock_set_back_makes_no_eternal_lease(store: Store, shift: float, held: bool) -> None:
    with store.claim("k"):
        shift_renewal(store, shift)
        assert is_held(store) is held


def test_the_heartbeat_survives_a_locked_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BUSY_SECONDS", 0.05)
    with store.claim("k", lease_seconds=1.2) as lease:
        with closing(sqlite3.connect(store.directory / "index.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match=r"locked.*try again"):
                store.record("k", {})
            time.sleep(0.5)
            other.execute("COMMIT")
        time.sleep(1)
        assert is_held(store)
        assert not lease.lost


# Processes ------------------------------------------------------------------------------------------------


def measure(directory: Path, log: Path) -> None:
    with Store(directory) as store:
        for number in range(5):
            key = f"layer/{number}"
            if store.get(key) is not None:
                continue
            with store.claim(key, poll_seconds=0.01):
                if store.get(key) is None:
                    time.sleep(0.05)
                    with log.open("a") as file:
                        file.write(f"{key}\n")
                    store.put(key, {"x": np.arange(3)}, meta={})


def test_two_processes_measure_everything_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [spawn.Process(target=measure, args=(tmp_path / "results", log)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(log.read_text().split()) == [f"layer/{number}" for number in range(5)]


def hold(directory: Path, lease_seconds: float, pipe: Any) -> None:
    with Store(directory).claim("k", lease_seconds=lease_seconds) as lease:
        pipe.send("held")
        pipe.recv()
        pipe.send(lease.lost)


def start_holder(store: Store, lease_seconds: float) -> tuple[Any, Any]:
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=hold, args=(store.directory, lease_seconds, theirs))
    process.start()
    assert ours.poll(30)
    assert ours.recv() == "held"
    return process, ours


def test_the_lease_of_a_holder_killed_on_this_host_is_free_at_once(store: Store) -> None:
    process, _ = start_holder(store, 600)
    process.kill()
    killed = time.monotonic()
    process.join()
    assert not store.is_held("k")
    with store.claim("k", wait=False) as lease:
        assert not lease.lost
    assert time.monotonic() - killed < 30


def test_a_killed_child_that_nobody_asked_after_is_dead(store: Store) -> None:
    process, _ = start_holder(store, 600)
    assert store.is_held("k")
    os.kill(process.pid, signal.SIGKILL)
    while store.is_held("k"):  # until the signal has arrived; the child stays a zombie
        time.sleep(0.01)
    assert not is_held(store)
    process.join()


@pytest.mark.parametrize("holder", ["another host/{pid}/x", "written by an older version", "{host}/{alive}/x"])
def test_a_holder_not_known_to_be_dead_is_outlived_by_its_lease_and_no_longer(store: Store, holder: str) -> None:
    dead = spawn.Process(target=int)
    dead.start()
    dead.join()
    name = holder.format(pid=dead.pid, host=leases._host(), alive=os.getpid())
    with store.index.connect() as connection:
        connection.execute("INSERT INTO leases VALUES ('k', ?, ?, 30)", (name, time.time()))
    assert store.is_held("k")
    assert is_held(store)
    shift_renewal(store, -29)
    assert is_held(store)
    shift_renewal(store, -2)
    assert not store.is_held("k")
    assert not is_held(store)


def test_a_suspended_holder_learns_that_it_lost_the_lease(store: Store) -> None:
    process, pipe = start_holder(store, 0.5)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with store.claim("k", poll_seconds=0.02):
            os.kill(process.pid, signal.SIGCONT)
            pipe.send("go on")
            assert pipe.poll(30)
            assert pipe.recv() is True
            process.join()
            assert is_held(store)
    finally:
        process.kill()
        process.join()
