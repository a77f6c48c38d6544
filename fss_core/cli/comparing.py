"""The verb that compares what is measured: invariance."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fss_core.cli.naming import measurement_spec, score_spec
from fss_core.cli.printing import print_json
from fss_core.specs import StoreError

if TYPE_CHECKING:
    from fss_core.invariance.lookup import ComparisonSpec

_FIXED = {"epochs": ("network", "dataset"), "datasets": ("network", "epoch"), "networks": ("dataset", "epoch")}
_LISTS = ("epochs", "datasets", "networks")


def _comparison(options: argparse.Namespace) -> ComparisonSpec:
    from fss_core.invariance.lookup import ComparisonSpec

    across = options.across
    absent = [f"--{name}" for name in _FIXED[across] if getattr(options, name) is None]
    if absent:
        raise ValueError(f"fss invariance {across} needs {' and '.join(absent)}")
    for name in ({"network", "dataset", "epoch"} - {*_FIXED[across]}) | ({*_LISTS} - {across}):
        if getattr(options, name) is not None:
            raise ValueError(f"fss invariance {across} takes no --{name}; did you mean --{across}?")
    labels = tuple(dict.fromkeys(map(str, getattr(options, across) or ())))
    return ComparisonSpec(across=across, measurement=measurement_spec(options), labels=labels)


def invariance(options: argparse.Namespace) -> int:
    """Compare what is stored, and print it; nothing is measured."""
    from fss_core.invariance import measure_invariance
    from fss_core.invariance.lookup import epsilon_caution, find_candidates, list_known, shared_epsilon
    from fss_core.invariance.reports import invariance_json, invariance_lines, missing_words
    from fss_core.scores import quadrature
    from fss_core.store import Store

    comparison, score = _comparison(options), score_spec(options)
    quadrature(options.thresholds, options.integration)
    with Store() as store:
        known = list_known(store)
        candidates = find_candidates(store, comparison, known)
        shared = shared_epsilon(store, comparison.measurement, known)
    missing = [own for own in candidates if own.measured is None]
    if comparison.labels and missing:
        raise StoreError(missing_words(missing))
    columns = {own.label: own.measured.responses for own in candidates if own.measured is not None}
    if not columns:
        raise StoreError(missing_words(missing) if missing else _nothing(comparison))
    found = measure_invariance(columns, across=comparison.across, spec=score, filter=options.filter, kind=options.kind)
    caution = ""
    if comparison.across == "epochs":
        caution = epsilon_caution(shared, comparison.measurement, map(int, columns))
    if options.json:
        print_json(invariance_json(comparison, candidates, found, caution))
    else:
        print("\n".join(invariance_lines(comparison, candidates, found, caution)))
    return 0


def _nothing(comparison: ComparisonSpec) -> str:
    own = comparison.measurement
    what = {
        "epochs": f"{own.training.network} on {own.training.dataset}",
        "datasets": f"{own.training.network}, epoch {own.epoch}",
        "networks": f"{own.training.dataset}, epoch {own.epoch}",
    }[comparison.across]
    more = {"epochs": "--epoch E", "datasets": "--dataset NAME", "networks": "--network NAME"}[comparison.across]
    given = {
        "epochs": f"--network {own.training.network} --dataset {own.training.dataset} {more}",
        "datasets": f"--network {own.training.network} {more} --epoch {own.epoch}",
        "networks": f"{more} --dataset {own.training.dataset} --epoch {own.epoch}",
    }[comparison.across]
    return (
        f"nothing is measured of {what} with {own.response.num_thresholds} thresholds as asked for; "
        f"`fss score {given} --images {own.num_images} --thresholds {own.response.num_thresholds}` measures one, "
        "`fss show` lists what there is"
    )
