"""Retrainings put together from the store, complete or not, without computing anything or importing torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fss_core.checkpoints import find_checkpoint
from fss_core.data import DatasetCard, dataset_card
from fss_core.flow import Measured, find_epsilon, find_measured
from fss_core.retraining.archive import RetrainingArchive, Setting, find_before, find_criticality
from fss_core.retraining.evidence import make_choices
from fss_core.retraining.results import Retraining, RuleResult
from fss_core.retraining.rules import RULES, Choice, Selection
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


def find_retrained_seeds(store: Store, spec: RetrainingSpec, seeds: Sequence[int]) -> tuple[Retraining, ...]:
    """Look the retrainings of several initialisations up, at one ε; those of which nothing is there are left out.

    Args:
        store: where to look.
        spec: what to look for; its own seed does not matter.
        seeds: the initialisations; ε, unless given, is the one calibrated on the first.

    Raises:
        FssError: as :func:`find_retrained`.
        ValueError: more report images than there are.
    """
    specs = [spec_of_seed(store, spec, seeds, seed) for seed in seeds]
    found = [find_retrained(store, own) for own in specs if own is not None]
    return tuple(own for own in found if own is not None)


def of_seed(spec: RetrainingSpec, seed: int, epsilon: float | None) -> RetrainingSpec:
    """Ask the same of another initialisation, at an ε."""
    training = replace(spec.measurement.training, seed=seed)
    return replace(spec, measurement=replace(spec.measurement, training=training, epsilon=epsilon))


def spec_of_seed(store: Store, spec: RetrainingSpec, seeds: Sequence[int], seed: int) -> RetrainingSpec | None:
    """Ask the same of one of several initialisations, at the ε of all: the one given, or calibrated on the first.

    Returns:
        What to ask for; ``None`` if ε is not known yet, and is not for this one to choose.
    """
    epsilon = spec.measurement.epsilon
    if seed != seeds[0] and epsilon is None:
        first = of_seed(spec, seeds[0], None).measurement
        checkpoint = find_checkpoint(first.training, first.epoch)
        if checkpoint is None:
            return None
        found = find_epsilon(store, checkpoint, dataset_card(first.training.dataset), first.device_type)
        if found is None:
            return None
        epsilon = found.epsilon
    return of_seed(spec, seed, epsilon)


def distinct_selections(choices: Iterable[Choice]) -> dict[Selection, list[str]]:
    """List what is to be trained, in order, with the rules that chose it; choices of nothing are left out."""
    rules: dict[Selection, list[str]] = {}
    for choice in choices:
        if not choice.reason and choice.rule not in rules.setdefault(choice.selection, []):
            rules[choice.selection].append(choice.rule)
    return rules


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
