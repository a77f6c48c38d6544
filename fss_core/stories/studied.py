"""What texts say of epochs and of retraining, published or measured here, by the name that they have in a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from fss_core.flow import Measured
from fss_core.invariance import Invariance
from fss_core.invariance.groups import entries_by_row
from fss_core.invariance.reports import statistic_words
from fss_core.invariance.results import RankAgreement
from fss_core.numerals import signed, signed_interval, with_interval
from fss_core.retraining.comparing import NO_RETRAINING, Comparison, Estimate
from fss_core.retraining.pictures import RetrainPicture
from fss_core.retraining.results import Judged
from fss_core.retraining.rules import PAPERS_RULE, RULES
from fss_core.scores import Call
from fss_core.specs import NETWORKS
from fss_core.stories.fields import Fields, epsilon_words, percent

_CALLS: tuple[Call, ...] = get_args(Call)


# Epochs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where numbers come from.

    Attributes:
        network: its title.
        dataset: its title.
        epsilon: of the attack, in pixels on [0, 1].
        published: whether they come with this version.
    """

    network: str
    dataset: str
    epsilon: float
    published: bool

    @staticmethod
    def of(measured: Measured) -> Place:
        """Read it off a measurement, the last of several epochs."""
        own = measured.spec.training
        assert measured.responses.attack is not None
        return Place(
            network=NETWORKS.get(own.network, own.network),
            dataset=measured.card.title,
            epsilon=measured.responses.attack.epsilon,
            published=measured.origin == "published",
        )

    def fields(self, num_images: int) -> Fields:
        """Say it."""
        return {
            "network": self.network,
            "dataset": self.dataset,
            "images": str(num_images),
            "epsilon": epsilon_words(self.epsilon),
            "origin": "the published study" if self.published else "what is measured on this machine",
        }


def _counts(found: Invariance, label: str) -> str:
    """Count the calls at an epoch, in words."""
    calls = Counter(own.call for own in found.table.entries if own.column == label)
    parts = [f"{calls[call]} {call}" for call in _CALLS]
    if calls[None]:
        parts.append(f"{calls[None]} not measurable")
    return ", ".join(parts)


def _over_epochs(found: Invariance, place: Place) -> Fields:
    labels = [own.label for own in found.table.columns]
    return place.fields(found.table.columns[0].num_images) | {
        "first": labels[0],
        "last": labels[-1],
        "kind": found.kind,
    }


def epochs_fields(found: Invariance, place: Place) -> Fields:
    """Say how calls change from the first epoch to the last, and how many stay."""
    labels = [own.label for own in found.table.columns]
    share = found.calls.share
    return _over_epochs(found, place) | {
        "layers": str(len(found.table.rows)),
        "first_calls": _counts(found, labels[0]),
        "last_calls": _counts(found, labels[-1]),
        "share": "not defined" if share.value is None else percent(share.value),
        "null_share": "not defined" if share.null is None else percent(share.null.mean),
    }


def profile_fields(found: Invariance, place: Place, label: str) -> Fields:
    """Say what the calls are at one epoch."""
    return _over_epochs(found, place) | {
        "layers": str(len(found.table.rows)),
        "epoch": label,
        "calls": _counts(found, label),
    }


def trajectory_fields(found: Invariance, place: Place, layer: str) -> Fields:
    """Say where a layer begins and where it ends, of the epochs at which it is measurable."""
    entries = entries_by_row(found.table)[layer]
    measurable = [own for own in entries if own.score is not None] or entries
    first, last = measurable[0], measurable[-1]

    def score(value: float | None) -> str:
        return "not measurable" if value is None else signed(value)

    return _over_epochs(found, place) | {
        "layer": layer,
        "first": first.column,
        "last": last.column,
        "first_score": score(first.score),
        "last_score": score(last.score),
        "first_call": str(first.call or "not measurable"),
        "last_call": str(last.call or "not measurable"),
    }


def rankings_fields(found: Invariance, place: Place) -> Fields:
    """Say how alike the first and the last epoch rank the layers, of the epochs at which they can be ranked."""

    def distance(own: RankAgreement) -> tuple[bool, int]:
        return own.tau.value is not None, abs(int(own.second) - int(own.first))

    sentence = "There is only one epoch."
    if found.rankings:
        own = max(found.rankings, key=distance)
        sentence = f"Kendall's τ between epochs {own.first} and {own.second}: {statistic_words(own.tau)}."
    return _over_epochs(found, place) | {"layers": str(len(found.table.rows)), "tau_sentence": sentence}


# Retraining -----------------------------------------------------------------------------------------------


def estimate_words(own: Estimate) -> str:
    """Write a difference with its interval.

    >>> estimate_words(Estimate(value=0.1, low=0.05, high=0.15, basis="images", seed_values=(0.1,)))
    '+0.100 [+0.050, +0.150]'
    """
    return signed_interval(own.value, own.low, own.high)


def picture_title(picture: RetrainPicture) -> str:
    """Name a retraining in a few words."""
    training = picture.spec.measurement.training
    seeds = f", {len(picture.seeds)} init." if len(picture.seeds) > 1 else ""
    return f"{NETWORKS.get(training.network, training.network)}, {training.dataset}{seeds}"


def _of(picture: RetrainPicture) -> Fields:
    own, training = picture.last, picture.spec.measurement.training
    titles = [retraining.dataset_title for retraining in picture.retrainings]
    place = Place(
        network=NETWORKS.get(training.network, training.network),
        dataset=titles[0] if titles else training.dataset,
        epsilon=own.epsilon,
        published=picture.origin == "published",
    )
    return place.fields(own.num_images)


def only_rule(comparison: Comparison, rule: str) -> Comparison:
    """Leave the network before retraining, and one rule."""
    rows = tuple(row for row in comparison.rows if row.rule in (NO_RETRAINING, rule))
    return replace(comparison, spec=replace(comparison.spec, rules=(rule,)), rows=rows)


def coverage_fields(picture: RetrainPicture, rule: str) -> Fields:
    """Say how much a rule trains."""
    coverage = picture.coverages[0]
    place = coverage.rules.index(rule)
    return _of(picture) | {
        "rule": rule,
        "rule_title": RULES[rule].title,
        "trained_layers": str(coverage.num_layers(rule)),
        "layers": str(len(coverage.layers)),
        "trained_share": percent(coverage.trained[place] / max(sum(coverage.num_live), 1)),
        "epoch": str(picture.spec.measurement.epoch),
    }


def retraining_fields(picture: RetrainPicture, rule: str) -> Fields:
    """Say what a rule gains or costs."""
    row, last = picture.last.row(rule), picture.last

    def accuracy(own: Estimate) -> str:
        return with_interval(own.value, own.low, own.high, 3)

    there = row is not None and bool(row.accuracy)
    return _of(picture) | {
        "rule": rule,
        "rule_title": RULES[rule].title,
        "budget": f"{last.epoch} epoch{'s' if last.epoch > 1 else ''}",
        "before": accuracy(last.rows[0].accuracy["fgsm"]),
        "after": accuracy(row.accuracy["fgsm"]) if row is not None and there else "nothing was retrained",
        "difference": estimate_words(row.to_before["fgsm"]) if row is not None and there else "not tested",
        "pgd_difference": estimate_words(row.to_before["pgd"]) if row is not None and there else "not tested",
        "epoch": str(picture.spec.measurement.epoch),
    }


def judged_words(judged: str) -> str:
    """Write what networks are judged on.

    >>> judged_words("fgsm"), judged_words("clean")
    ('FGSM', 'clean')
    """
    return judged.upper() if judged in ("fgsm", "pgd") else judged


def difference(comparison: Comparison, judged: Judged, against: str) -> Estimate | None:
    """Find what the paper's rule gains; ``None`` where that was not tested."""
    row = comparison.row(PAPERS_RULE)
    if row is None:
        return None
    return (row.to_all if against == "all" else row.to_before).get(judged)


def verdicts_fields(pictures: Sequence[RetrainPicture], judged: Judged, against: str) -> Fields:
    """Say in how many places it helps, and in how many it does not."""
    found = [difference(own.last, judged, against) for own in pictures]
    helps = sum(own is not None and own.low > 0 for own in found)
    hurts = sum(own is not None and own.high < 0 for own in found)
    missing = sum(own is None for own in found)
    return _of(pictures[0]) | {
        "judged": judged_words(judged),
        "against": against,
        "cells": str(len(found)),
        "helps": str(helps),
        "hurts": str(hurts),
        "undecided": str(len(found) - helps - hurts - missing),
        "not_tested": str(missing),
    }
