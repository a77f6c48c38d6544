"""The rules of METHOD: which layers, or pulses of weights, are retrained, by their calls or to compare with them.

A rule chooses among units: whole layers, or at the granularity of weights the pulses of every layer. It sees calls,
numbers of live weights and, if it asks for it, how critical each layer is; no rule sees a network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from fss_core.scores import Call
from fss_core.specs import digest

PAPERS_RULE = "robust_antifragile"
"""The rule whose claim is tested, and whose number of weights others match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What a rule takes or leaves: a layer, or one pulse of its weights.

    Attributes:
        layer: dotted module name.
        kind: of the layer, as in ``models.Layer``.
        num_live: weights that can change the output.
        call: by which a rule may choose; ``None`` where there is none.
        reason: why there is none; empty otherwise.
        pulse: which pulse; ``None`` for the whole layer.
    """

    layer: str
    kind: str
    num_live: int
    call: Call | None
    reason: str = ""
    pulse: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a rule may look at.

    Attributes:
        units: in network order.
        seeds: of random draws: the retraining's own, and the initialisation's.
        draw: which of them.
        criticality: layer → its worst loss near its weights, in nats; empty unless the rule asks for it.
    """

    units: tuple[Unit, ...]
    seeds: tuple[int, ...] = (0,)
    draw: int = 0
    criticality: Mapping[str, float] = field(default_factory=dict)

    def called(self, calls: Collection[Call]) -> list[Unit]:
        """The units with one of these calls."""
        return [unit for unit in self.units if unit.call in calls]

    @property
    def budget(self) -> int:
        """Live weights that the paper's rule trains."""
        return sum(unit.num_live for unit in self.called(("robust", "antifragile")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One way to choose.

    Attributes:
        title: the rule in words.
        choose: the choice itself.
        if_nothing: why nothing was chosen, when nothing was.
        by_call: whether it needs calls to choose anything.
        needs_criticality: whether ``Evidence.criticality`` must be filled.
        is_random: whether several draws make sense.
        with_norms: whether normalisation layers are trained too, and everything else a network may have.
    """

    title: str
    choose: Callable[[Evidence], Iterable[Unit]]
    if_nothing: str = "there is no layer"
    by_call: bool = False
    needs_criticality: bool = False
    is_random: bool = False
    with_norms: bool = False


def _called(*calls: Call) -> Rule:
    words = " or ".join(calls)
    return Rule(
        title=f"called {words}",
        choose=lambda evidence: evidence.called(calls),
        if_nothing=f"nothing is called {words}",
        by_call=True,
    )


def _complement(evidence: Evidence) -> list[Unit]:
    chosen = set(evidence.called(("robust", "antifragile")))
    return [unit for unit in evidence.units if unit not in chosen]


def _that_fit(units: Iterable[Unit], budget: int) -> list[Unit]:
    """Take units in order, each that still fits into a number of live weights."""
    chosen = []
    for unit in units:
        if 0 < unit.num_live <= budget:
            chosen.append(unit)
            budget -= unit.num_live
    return chosen


def _random(evidence: Evidence) -> list[Unit]:
    # Ordered by hashes: a shuffle that no version of a random generator can change.
    def place(unit: Unit) -> str:
        return digest(["random", *evidence.seeds, evidence.draw, unit.layer, unit.pulse])

    return _that_fit(sorted(evidence.units, key=place), evidence.budget)


def _most_critical(evidence: Evidence) -> list[Unit]:
    order = sorted(evidence.units, key=lambda unit: -evidence.criticality[unit.layer])
    return _that_fit(order, evidence.budget)


def _least_critical(evidence: Evidence) -> list[Unit]:
    lowest = min(evidence.criticality, key=lambda layer: evidence.criticality[layer])
    return [unit for unit in evidence.units if unit.layer == lowest]


_NOTHING_TO_MATCH = "the paper's rule chooses no weights whose number could be matched"

RULES: dict[str, Rule] = {
    PAPERS_RULE: _called("robust", "antifragile"),
    "antifragile": _called("antifragile"),
    "robust": _called("robust"),
    "fragile": _called("fragile"),
    "complement": Rule(
        title="everything the paper's rule did not choose",
        choose=_complement,
        if_nothing="the paper's rule chose everything",
    ),
    "all": Rule(title="every layer", choose=lambda evidence: evidence.units),
    "all_with_bn": Rule(
        title="ordinary further training, normalisation included",
        choose=lambda evidence: evidence.units,
        with_norms=True,
    ),
    "last_layer": Rule(
        title="the classifier",
        choose=lambda evidence: (unit for unit in evidence.units if unit.kind == "classifier"),
    ),
    "random": Rule(
        title="at random, as many live weights as the paper's rule",
        choose=_random,
        if_nothing=_NOTHING_TO_MATCH,
        is_random=True,
    ),
    "least_critical": Rule(
        title="the least critical layer",
        choose=_least_critical,
        needs_criticality=True,
    ),
    "most_critical": Rule(
        title="the most critical layers, up to as many live weights as the paper's rule",
        choose=_most_critical,
        if_nothing=_NOTHING_TO_MATCH,
        needs_criticality=True,
    ),
}
"""METHOD's eleven rules, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is trained of one layer.

    Attributes:
        layer: dotted module name.
        pulses: whose weights, ascending; ``None`` for all weights and the layer's own bias.
    """

    layer: str
    pulses: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is trained of a network; two rules with the same selection are the same retraining.

    Attributes:
        parts: in network order.
        with_norms: normalisation layers too, and whatever else has parameters: ordinary training.
        num_thresholds: A, which fixes what a pulse is; ``None`` where layers are whole.
    """

    parts: tuple[Part, ...]
    with_norms: bool = False
    num_thresholds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What one rule chose.

    Attributes:
        rule: its name.
        draw: of ``random``; 0 for every other rule.
        selection: what to train.
        reason: why that is nothing; empty otherwise.
    """

    rule: str
    draw: int
    selection: Selection
    reason: str = ""

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are trained, in whole or in part, in network order."""
        return tuple(part.layer for part in self.selection.parts)


def choose_units(rule: str, evidence: Evidence, num_thresholds: int | None = None) -> Choice:
    """Let a rule choose.

    Args:
        rule: a name from ``RULES``.
        evidence: what it may look at.
        num_thresholds: A, where units are pulses; else ``None``.

    Returns:
        The choice; where it is nothing, with the reason.

    Source: METHOD, "Selective retraining".
    """
    own = RULES[rule]
    chosen = set(own.choose(evidence))
    # Ordinary training knows no pulses: it trains everything whatever the granularity.
    whole = num_thresholds is None or own.with_norms
    pulses: dict[str, list[int]] = {}
    for unit in evidence.units:
        if unit in chosen:
            pulses.setdefault(unit.layer, []).extend([] if unit.pulse is None else [unit.pulse])
    selection = Selection(
        parts=tuple(Part(layer=name, pulses=None if whole else tuple(some)) for name, some in pulses.items()),
        with_norms=own.with_norms,
        num_thresholds=None if whole else num_thresholds,
    )
    return Choice(rule=rule, draw=evidence.draw, selection=selection, reason="" if chosen else _reason(own, evidence))


def _reason(rule: Rule, evidence: Evidence) -> str:
    without = {unit.reason for unit in evidence.units if unit.call is None}
    if rule.by_call and all(unit.call is None for unit in evidence.units):
        return f"nothing has a call: {'; '.join(sorted(without))}"
    return rule.if_nothing
