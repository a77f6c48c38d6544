"""The verb that retrains and compares: retrain."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fss_core.cli.naming import factory_of, measurement_spec, score_spec
from fss_core.cli.printing import print_json
from fss_core.cli.working import do_request
from fss_core.specs import NETWORKS, StoreError, choose

if TYPE_CHECKING:
    from fss_core.jobs.retraining_plans import RetrainRequest


def _request(options: argparse.Namespace) -> RetrainRequest:
    from fss_core.jobs.retraining_plans import LARGEST_NUM_SEEDS, RetrainRequest
    from fss_core.retraining import RULES, RetrainingSpec

    if not 1 <= options.seeds <= LARGEST_NUM_SEEDS:
        raise ValueError(f"--seeds must be at least 1 and at most {LARGEST_NUM_SEEDS}, got {options.seeds}")
    spec = RetrainingSpec(
        measurement=measurement_spec(options),
        budget=options.budget,
        rules=tuple(options.rules or RULES),
        score=score_spec(options),
        kind=options.kind,
        filter=options.filter,
        leaning=options.leaning,
        granularity=options.granularity,
        num_draws=options.draws,
        num_report_images=options.report_images,
    )
    return RetrainRequest(
        spec=spec, seeds=tuple(range(options.seed, options.seed + options.seeds)), factory=options.factory
    )


def retrain(options: argparse.Namespace) -> int:
    """Retrain what is missing, in this process or by workers, and print the comparison and the verdict."""
    from fss_core.retraining import compare, verdict
    from fss_core.retraining.lookup import find_retrained_seeds
    from fss_core.retraining.reports import retraining_json, retraining_lines
    from fss_core.scores import quadrature
    from fss_core.store import Store

    factory = factory_of(options)
    if factory is None:
        choose(options.network, NETWORKS, what="network")
    request = _request(options)
    quadrature(options.thresholds, options.integration)  # refuse it now, not after measuring
    with Store() as store:
        do_request(store, request, options.workers)
        found = find_retrained_seeds(store, request.spec, request.seeds)
    if len(found) < len(request.seeds) or not all(own.complete for own in found):
        raise StoreError("results vanished while networks were retrained (another process refreshed them); run again")
    comparison = compare(found, level=options.level)
    answer = verdict(comparison)
    if options.json:
        print_json(retraining_json(found, comparison, answer))
    else:
        print("\n".join(retraining_lines(found, comparison, answer)))
    return 0
