"""The verbs that measure and show: score, show, export, import, train."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fss_core.cli.naming import factory_of, measurement_spec, score_spec, training_spec
from fss_core.cli.printing import bars, print_json
from fss_core.cli.working import do_request
from fss_core.specs import (
    CONTROL_FILTER,
    NETWORKS,
    DataError,
    MeasurementSpec,
    ResponseSpec,
    StoreError,
    UnknownNameError,
    choose,
)

if TYPE_CHECKING:
    from fss_core.exports import Format
    from fss_core.flow import Measured
    from fss_core.jobs.requests import MeasureRequest
    from fss_core.scores import Scores
    from fss_core.stopping import Stopping
    from fss_core.store import Store


def _measurement_spec(options: argparse.Namespace) -> MeasurementSpec:
    filters = options.filters
    if options.control and CONTROL_FILTER not in filters:
        filters = (*filters, CONTROL_FILTER)
    response = ResponseSpec(
        filters=filters,
        num_thresholds=options.thresholds,
        scope=options.scope,
        engine=options.engine,
        arithmetic=options.arithmetic,
    )
    spec = measurement_spec(options, response)
    if options.effort != "preview":
        return spec
    from fss_core.jobs.requests import preview_of

    return preview_of(spec) or spec


def _stopping(options: argparse.Namespace) -> Stopping | None:
    if options.effort != "labels":
        return None
    from fss_core.stopping import Stopping

    return Stopping(spec=score_spec(options), simultaneous=options.simultaneous)


def _scored(measured: Measured, options: argparse.Namespace, stopping: Stopping | None = None) -> Scores:
    from fss_core.scores import require_measurable, score_responses

    if stopping is None:
        own = asdict(score_spec(options))
        return score_responses(measured.responses, **own, simultaneous=options.simultaneous, strict=options.strict)
    scores = stopping.score(measured.responses)
    if options.strict:
        require_measurable(scores.rows)
    return scores


def _print_measured(measured: Measured, options: argparse.Namespace, stopping: Stopping | None = None) -> int:
    from fss_core import reports

    scores = _scored(measured, options, stopping)
    if options.json:
        print_json(reports.measured_json(measured, scores))
        return 0
    known = list(dict.fromkeys(row.filter for row in scores.rows))
    if options.table != "all" and options.table not in known:
        tables = known
    else:
        tables = known if options.table == "all" else [options.table]
    lines = reports.heading(measured, scores) + reports.score_table(measured, scores, tables) + reports.legend(scores)
    print("\n".join(lines))
    return 0


def score(options: argparse.Namespace) -> int:
    """Measure what is missing, in this process or by workers, and print the scores."""
    from fss_core.flow import find_measured
    from fss_core.jobs.requests import MeasureRequest
    from fss_core.scores import quadrature
    from fss_core.store import Store

    factory = factory_of(options)
    if factory is None:
        choose(options.network, NETWORKS, what="network")
    spec = _measurement_spec(options)
    stopping = _stopping(options)
    if stopping is not None and options.workers:
        raise ValueError("--effort labels is measured by this process; leave --workers out")
    quadrature(spec.response.num_thresholds, score_spec(options).integration)  # refuse it now, not after measuring
    request = MeasureRequest(
        spec=spec, layers=None if options.layers is None else tuple(options.layers), factory=options.factory
    )
    with Store() as store:
        found = None if options.refresh else find_measured(store, spec, layers=options.layers, stopping=stopping)
        if found is None or found.missing:
            _measure(store, request, options, factory, stopping)
            found = find_measured(store, spec, layers=options.layers, stopping=stopping)
    if found is None or found.missing:
        raise StoreError("results vanished while they were measured (another process refreshed them); run again")
    return _print_measured(found, options, stopping)


def _measure(
    store: Store,
    request: MeasureRequest,
    options: argparse.Namespace,
    factory: Callable[..., Any] | None,
    stopping: Stopping | None,
) -> None:
    """Measure what is missing; everything, if what is there is to be forgotten."""
    if options.refresh or stopping is not None:
        from fss_core.flow import Flow
        from fss_core.measurement import Measurement

        with bars() as show:
            flow = Flow(store, on_progress=show, factory=factory)
            own = Measurement(flow, request.spec, request.layers, refresh=options.refresh, stopping=stopping)
            if stopping is not None:
                own.measure()
                return
            own.prepare()
    do_request(store, request, options.workers)


def _stored(options: argparse.Namespace) -> Measured:
    from fss_core.checkpoints import find_checkpoint
    from fss_core.flow import find_measured
    from fss_core.store import Store

    spec = _measurement_spec(options)
    with Store() as store:
        measured = find_measured(
            store, spec, layers=options.layers, every_image=options.images is None, stopping=_stopping(options)
        )
    if find_checkpoint(spec.training, spec.epoch) is None:
        raise StoreError(
            f"no epoch {options.epoch} of {options.network} on {options.dataset}, seed {options.seed}, is there (never "
            "trained, or pruned); what was measured of it can be read again once `fss train` has made the same weights"
        )
    if measured is None or not measured.responses.layers:
        raise StoreError(
            f"nothing is measured yet of {options.network} on {options.dataset}, epoch {options.epoch}, as asked for; "
            "run `fss score` with the same options, or `fss show` for the list"
        )
    return measured


def show(options: argparse.Namespace) -> int:
    """Print one stored measurement, or the list of all."""
    given = [options.network, options.dataset, options.epoch]
    if all(value is None for value in given):
        return _show_all(options)
    if any(value is None for value in given):
        raise ValueError("give --network, --dataset and --epoch, or none of them for the list of all measurements")
    elsewhere = _elsewhere(options)
    if elsewhere is not None:
        return _print_measured(elsewhere, options)
    return _print_measured(_stored(options), options, _stopping(options))


def _elsewhere(options: argparse.Namespace) -> Measured | None:
    """Find what is imported or published, where nothing is measured here; that needs no data set."""
    from fss_core.flow import find_measured
    from fss_core.imports import imported, published
    from fss_core.store import Store

    spec, every_image = _measurement_spec(options), options.images is None
    if options.layers is not None:
        return None
    with Store() as store, suppress(DataError, UnknownNameError):
        found = find_measured(store, spec, every_image=every_image, stopping=_stopping(options))
        if found is not None and found.responses.layers:
            return None
    for collection in (imported(), published()):
        if (measured := collection.find(spec, every_image=every_image)) is not None:
            print(f"Nothing of this is measured here; this is {collection.origin}:", file=sys.stderr)
            return measured
    return None


def _show_all(options: argparse.Namespace) -> int:
    from fss_core.imports import Entry, published
    from fss_core.invariance.lookup import score_command
    from fss_core.reports import columns
    from fss_core.store import Store

    with Store() as store:
        records = store.list_records()
    if options.json:
        print_json(records)
        return 0
    if not records:
        print("Nothing is measured yet. Try: fss score --network shufflenet_v2_x1_0 --dataset mnist5k --epoch 3")
        if entries := [own for own in published().entries() if isinstance(own, Entry)]:
            last = max((own.manifest.measurement for own in entries), key=lambda spec: spec.epoch)
            example = score_command(last).replace("score", "show", 1)
            print(f"{len(entries)} measurements are published with this version, for example: {example}")
        return 0
    rows = [["network", "data set", "epoch", "init.", "images", "thresholds", "scope", "attack", "ε·255", "key"]]
    for record in records:
        if not {"measurement", "attack", "dataset_title"} <= record.spec.keys():
            print(f"fss: {record.damage or f'the record {record.key[:8]} is of another version'}", file=sys.stderr)
            continue
        spec: Any = record.spec["measurement"]
        attack: Any = record.spec["attack"]
        rows.append(
            [
                spec["training"]["network"],
                str(record.spec["dataset_title"]),
                str(spec["epoch"]),
                str(spec["training"]["seed"]),
                str(spec["num_images"]),
                str(spec["response"]["num_thresholds"]),
                spec["response"]["scope"],
                f"{attack['kind']}, {attack['mode']}",
                f"{attack['epsilon'] * 255:.3g}",
                record.key[:8],
            ]
        )
    print("\n".join(columns(rows)))
    return 0


def export(options: argparse.Namespace) -> int:
    """Write what is stored into a directory, or into one ZIP."""
    from fss_core.exports import export_measured, export_zip

    if options.zip is not None and options.format is not None:
        raise ValueError("--format is for a directory, a ZIP has Parquet and JSON only; leave it out")
    if options.effort == "labels":
        raise ValueError("export writes layers on all images; leave --effort labels out, or use `fss score --json`")
    measured = _stored(options)
    scores = _scored(measured, options)
    if options.zip is not None:
        export_zip(measured, scores, options.zip)
        written = [options.zip]
    else:
        formats: tuple[Format, ...] = ("parquet", "csv") if options.format in (None, "both") else (options.format,)
        written = export_measured(measured, scores, options.directory, formats=formats)
    if options.json:
        print_json({"files": written})
    else:
        print("\n".join(str(path) for path in written))
    return 0


def import_(options: argparse.Namespace) -> int:
    """Check a ZIP and keep it among the imported results."""
    from fss_core.imports import import_zip

    return _print_measured(import_zip(options.file), options)


def train(options: argparse.Namespace) -> int:
    """Train, and print the epochs that were asked for."""
    from fss_core.cli.keeping import print_checkpoints
    from fss_core.flow import Flow
    from fss_core.store import Store

    choose(options.network, NETWORKS, what="network")
    with Store() as store, bars() as show:
        trained = Flow(store, on_progress=show).train(training_spec(options), options.epochs, device=options.device)
    return print_checkpoints(trained, options)
