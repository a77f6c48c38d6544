"""Retrainings put together from the store, complete or not, without computing anything or importing torch."""

from __future__ import annotations

from fss_core.data import DatasetCard
from fss_core.flow import Measured, find_measured
from fss_core.retraining.archive import RetrainingArchive, Setting, find_before, find_criticality
from fss_core.retraining.evidence import make_choices
from fss_core.retraining.results import Retraining, RuleResult
from fss_core.retraining.rules import RULES, Choice
from fss_core.retraining.spec import RetrainingSpec
from fss_core.store import Store


def find_retrained(store: Store, spec: RetrainingSpec) -> Retraining | None:
    """Look a retraining up, complete or not.

    Args:
        store: where to look.
        spec: what to look for.

    Returns:
        What there is; rules whose choice is not known yet are left out. ``None`` where the checkpoint is not measured
        completely, or not judged.

    Raises:
        DataError: the data set is missing.
        StoreError: a stored piece is broken, or of another schema.
        ValueError: more report images than there are.
    """
    measured = find_measured(store, spec.measurement)
    if measured is None or measured.missing:
        return None
    setting = setting_of(spec, measured)
    before = find_before(store, setting)
    if before is None:
        return None
    choices = make_choices(measured.responses, spec, known_criticality(store, spec, measured))
    return Retraining(
        spec=spec,
        epsilon=setting.epsilon,
        checkpoint_sha256=measured.checkpoint.sha256,
        origin=measured.checkpoint.origin,
        dataset_title=measured.card.title,
        report=measured.card.fingerprints["report"],
        num_live=sum(layer.facts.num_live for layer in measured.responses.layers),
        before=before,
        rules=tuple(_rule_result(store, spec, setting, choice) for choice in choices),
    )


def _rule_result(store: Store, spec: RetrainingSpec, setting: Setting, choice: Choice) -> RuleResult:
    if choice.reason:
        return RuleResult(choice=choice)
    archive = RetrainingArchive(store, setting.retraining_key(choice.selection))
    return RuleResult(choice=choice, start=archive.start(), epochs=archive.epochs(spec.budget))


def num_report_images(spec: RetrainingSpec, card: DatasetCard) -> int:
    """Say on how many report images to judge.

    Raises:
        ValueError: there are not as many.
    """
    most = card.split_sizes["report"]
    if spec.num_report_images is not None and spec.num_report_images > most:
        raise ValueError(
            f"num_report_images must be at most {most}, the report images of {card.name}, got {spec.num_report_images}"
        )
    return spec.num_report_images or most


def setting_of(spec: RetrainingSpec, measured: Measured) -> Setting:
    """Say what a retraining is filed under, apart from its selection."""
    attack = measured.responses.attack
    assert attack is not None
    return Setting(
        checkpoint=measured.checkpoint,
        card=measured.card,
        epsilon=attack.epsilon,
        num_report_images=num_report_images(spec, measured.card),
        device_type=spec.measurement.device_type,
    )


def criticality_key(spec: RetrainingSpec, measured: Measured) -> str:
    """Say what the criticality of a checkpoint's layers is filed under."""
    attack = measured.responses.attack
    assert attack is not None
    return setting_of(spec, measured).criticality_key(attack, spec.measurement.num_images)


def known_criticality(store: Store, spec: RetrainingSpec, measured: Measured) -> dict[str, float] | None:
    """Look the criticality of all layers up.

    Returns:
        Layer → worst loss, in nats; empty if no rule asks for it, ``None`` if it is not complete.
    """
    if not any(RULES[rule].needs_criticality for rule in spec.rules):
        return {}
    key = criticality_key(spec, measured)
    found = {own.facts.name: find_criticality(store, key, own.facts.name) for own in measured.responses.layers}
    known = {name: loss for name, loss in found.items() if loss is not None}
    return known if len(known) == len(found) else None
