"""What the cache holds, by kind, and how to be rid of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fss_core.checkpoints import prune_checkpoints
from fss_core.checkpoints.sidecars import checkpoints_dir
from fss_core.explore import result_keys
from fss_core.imports import delete_imported, list_imported
from fss_core.jobs.board import OPEN_STATES, Board, Run
from fss_core.jobs.kinds import read_request, words
from fss_core.jobs.requests import MeasureRequest, essence
from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.retraining.lookup import spec_of_seed
from fss_core.specs import (
    FssError,
    MeasurementSpec,
    StoreError,
    cache_dir,
    choose,
    from_json,
)
from fss_core.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What one kind of thing takes on disk.

    Attributes:
        name: of the kind.
        title: what to call it on screen.
        num_bytes: what it takes.
        num_pieces: entries, or files.
        is_clearable: whether it can be deleted from here.
        loss: what deleting it would cost, in words.
    """

    name: str
    title: str
    num_bytes: int
    num_pieces: int
    is_clearable: bool
    loss: str


_STORED = {
    "responses": ("Responses (what filtered networks predict)", "every score has to be measured again."),
    "adversarial": (
        "Adversarial images",
        "they are made again when they are needed; images cannot be shown until then.",
    ),
    "epsilon": ("Calibrations of ε", "the size of every attack has to be calibrated again."),
    "retraining": ("Retrainings (states and judgements)", "every network has to be retrained again."),
    "criticality": ("Criticality of layers", "it is measured again when a rule asks for it."),
    "errata": ("Notebooks compared (pieces)", "an unfinished comparison begins anew; what is published stays."),
    "study": ("Time that studies took", "an unfinished study counts its time anew."),
}


def disk_use(store: Store) -> list[Disk]:
    """List what the cache holds, by kind.

    Raises:
        StoreError: the store cannot be read.
    """
    kinds = [
        Disk(
            name=name,
            title=title,
            num_bytes=store.num_bytes(f"{name}/"),
            num_pieces=store.count(f"{name}/"),
            is_clearable=True,
            loss=loss,
        )
        for name, (title, loss) in _STORED.items()
    ]
    imported = list_imported()
    kinds.append(
        Disk(
            name="imported",
            title="Imported results",
            num_bytes=sum(entry.num_bytes for entry in imported),
            num_pieces=len(imported),
            is_clearable=True,
            loss="they have to be imported again.",
        )
    )
    kinds.append(
        _directory(
            "checkpoints",
            "Checkpoints",
            checkpoints_dir(),
            "they have to be trained or imported again.",
            clearable=True,
        )
    )
    kinds.append(_directory("prepared", "Decoded data sets", cache_dir() / "prepared", "", clearable=False))
    return kinds


def _directory(name: str, title: str, path: Path, loss: str, *, clearable: bool) -> Disk:
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    return Disk(name=name, title=title, num_bytes=sum(sizes), num_pieces=len(sizes), is_clearable=clearable, loss=loss)


def clear(store: Store, name: str) -> None:
    """Delete everything of one kind.

    Args:
        store: of what is measured here.
        name: of the kind, as in :class:`Disk`.

    Raises:
        StoreError: something is being measured, or the disk refuses.
        UnknownNameError: there is no such kind, or it cannot be cleared.
    """
    actions: dict[str, Callable[[], object]] = {
        **{own: (lambda own=own: store.delete_prefix(f"{own}/")) for own in _STORED},  # type: ignore[misc]
        "imported": lambda: [delete_imported(entry.path.stem) for entry in list_imported()],
        "checkpoints": prune_checkpoints,
    }
    choose(name, actions, what="kind of results to clear")
    _refuse_stand_in(store)
    board = Board(store)
    if board.open_runs():
        raise StoreError("something is being measured; cancel it first, or wait for it, and clear then")
    actions[name]()
    if name == "responses":
        for record in store.list_records():
            store.delete_record(record.key)


def forget_result(store: Store, request: MeasureRequest) -> None:
    """Forget what was measured of a request, and strike its run off the board, with those of :func:`runs_beside`.

    Checkpoints and images stay.

    Raises:
        StoreError: it is being measured, or an open run needs the same results.
        FssError: something on the way to the results is broken.
    """
    _refuse_stand_in(store)
    board = Board(store)
    beside = runs_beside(store, request)
    keys = _keys_of(store, request)
    for run in board.open_runs():
        if run.key == request.key:
            raise StoreError("this is being measured; cancel it first")
        if keys.intersection(_keys_needed(store, run)):
            raise StoreError(f"the same results are needed by a run that is not done; cancel that first: {words(run)}")
    others = [run for run in board.runs() if run.key not in (request.key, *(own.key for own in beside))]
    needed = {key for run in others for key in _keys_needed(store, run)}
    looks = set(result_keys(store, request)) - keys - needed  # a first look, unless another run is that
    for key in keys | looks:
        store.delete_prefix(f"responses/{key}/")
        store.delete_record(key)
    for key in (request.key, *(run.key for run in beside)):
        board.delete(key)


def runs_beside(store: Store, request: MeasureRequest) -> list[Run]:
    """List the measurements that are done, or were stopped, and whose results lie under the same keys.

    More or fewer images, and other filters, are pieces of one result: whoever forgets it forgets them all.
    """
    keys = _keys_of(store, request)
    return [
        run
        for run in Board(store).runs()
        if run.state not in OPEN_STATES
        and run.kind == request.kind
        and run.key != request.key
        and keys.intersection(_keys_needed(store, run))
    ]


def _refuse_stand_in(store: Store) -> None:
    """Delete nothing where the store cannot be read, and so cannot say what is being measured."""
    if store.problem:
        raise StoreError(store.problem)


def _keys_of(store: Store, request: MeasureRequest) -> set[str]:
    """List the keys of what a request measures, but for its first look, which other requests may share."""
    whole = replace(request, preview=False)
    return {*result_keys(store, whole), *_recorded_keys(store, whole)}


def _keys_needed(store: Store, run: Run) -> list[str]:
    """List the keys of the results that a run measures, as far as they are known."""
    try:
        request = read_request(run)
        if isinstance(request, MeasureRequest):
            return list(_keys_of(store, request))
        needed = []
        if isinstance(request, RetrainRequest):
            specs = [spec_of_seed(store, request.spec, request.seeds, seed) for seed in request.seeds]
            needed = [request.measurement(spec) for spec in specs if spec is not None]
        return [key for own in needed for key in result_keys(store, own)]
    except (FssError, ValueError):
        return []  # of another version, or something on the way is broken: whoever shows that run says so


def _recorded_keys(store: Store, request: MeasureRequest) -> list[str]:
    """Find the results of a request by the catalogue: its data set, its checkpoint or its ε may be gone meanwhile."""
    wanted = {essence(part) for part in request.parts().values()}
    found = []
    for record in store.list_records():
        try:
            spec = from_json(MeasurementSpec, record.spec.get("measurement"))
        except ValueError:
            continue  # of another version
        if essence(spec) in wanted:
            found.append(record.key)
    return found
