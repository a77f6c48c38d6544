"""Which layers, or pulses of weights, each rule chooses, and from what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fss_core.responses import LayerFacts, LayerResponse, Predictions, Responses
from fss_core.retraining import RULES, RetrainingSpec
from fss_core.retraining.evidence import layer_units, make_choices, pulse_scores, pulse_units
from fss_core.retraining.rules import Choice, Evidence, Part, Selection, Unit, choose_units
from fss_core.scores import Call, score_responses
from fss_core.specs import (
    MeasurementSpec,
    ResponseSpec,
    ScoreSpec,
    TrainingSpec,
    UnknownNameError,
    filter_rows,
)

MEASUREMENT = MeasurementSpec(training=TrainingSpec(network="resnet18", dataset="mnist5k"), epoch=3)
SPEC = RetrainingSpec(measurement=MEASUREMENT, budget=2)

CALLS: tuple[Call | None, ...] = ("fragile", "robust", "antifragile", None, "robust", "fragile")
SIZES = (10, 20, 40, 80, 5, 7)
NAMES = tuple("abcdef")
CRITICALITY = dict(zip(NAMES, (1.0, 5.0, 2.0, 9.0, 0.5, 3.0), strict=True))


def make_units(calls: tuple[Call | None, ...] = CALLS) -> tuple[Unit, ...]:
    return tuple(
        Unit(
            layer=name,
            kind="classifier" if name == "f" else "3x3",
            num_live=size,
            call=call,
            reason="" if call else "too dark",
        )
        for name, size, call in zip(NAMES, SIZES, calls, strict=True)
    )


def chosen(rule: str, calls: tuple[Call | None, ...] = CALLS, **options: Any) -> Choice:
    return choose_units(rule, Evidence(units=make_units(calls), criticality=CRITICALITY, **options))


# Rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "layers"),
    [
        ("robust_antifragile", "bce"),
        ("antifragile", "c"),
        ("robust", "be"),
        ("fragile", "af"),
        ("complement", "adf"),
        ("all", "abcdef"),
        ("all_with_bn", "abcdef"),
        ("last_layer", "f"),
        ("least_critical", "e"),
        # 65 weights to match: d (of 80) does not fit, b (20) and f (7) do, c (40) does not any more, a and e do.
        ("most_critical", "abef"),
    ],
)
def test_what_each_rule_chooses(rule: str, layers: str) -> None:
    choice = chosen(rule)
    assert choice.layers == tuple(layers)
    assert choice.reason == ""
    assert choice.selection == Selection(
        parts=tuple(Part(layer=name) for name in layers), with_norms=rule == "all_with_bn"
    )


def test_the_registry_is_methods_list() -> None:
    assert list(RULES) == [
        "robust_antifragile",
        "antifragile",
        "robust",
        "fragile",
        "complement",
        "all",
        "all_with_bn",
        "last_layer",
        "random",
        "least_critical",
        "most_critical",
    ]
    assert [name for name, rule in RULES.items() if rule.with_norms] == ["all_with_bn"]
    assert [name for name, rule in RULES.items() if rule.is_random] == ["random"]


def test_random_matches_the_papers_rule_as_far_as_layers_go() -> None:
    size = dict(zip(NAMES, SIZES, strict=True))
    draws = [chosen("random", draw=draw).layers for draw in range(20)]
    for layers in draws:
        total = sum(size[name] for name in layers)
        assert total <= 65
        assert all(size[name] > 65 - total for name in NAMES if name not in layers)  # nothing else fits
    assert len(set(draws)) == 3
    assert draws == [chosen("random", draw=draw).layers for draw in range(20)]


def test_random_draws_depend_on_the_seeds() -> None:
    with_seeds = [[chosen("random", draw=draw, seeds=(seed, 0)).layers for draw in range(10)] for seed in (0, 1)]
    assert with_seeds[0] != with_seeds[1]


def test_random_does_not_depend_on_the_order_of_layers() -> None:
    evidence = Evidence(units=make_units())
    backwards = replace(evidence, units=evidence.units[::-1])
    assert choose_units("random", evidence).layers == choose_units("random", backwards).layers[::-1]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("robust_antifragile", "nothing is called robust or antifragile"),
        ("antifragile", "nothing is called antifragile"),
        ("random", "the paper's rule chooses no weights whose number could be matched"),
        ("most_critical", "the paper's rule chooses no weights whose number could be matched"),
    ],
)
def test_choosing_nothing_says_why(rule: str, reason: str) -> None:
    choice = chosen(rule, ("fragile",) * 6)
    assert choice.selection.parts == ()
    assert choice.reason == reason


def test_the_complement_of_everything_is_nothing() -> None:
    assert chosen("complement", ("robust",) * 6).reason == "the paper's rule chose everything"
    assert chosen("complement", ("fragile",) * 6).layers == NAMES


def test_without_any_call_the_reason_is_the_scores_own() -> None:
    assert chosen("robust_antifragile", (None,) * 6).reason == "nothing has a call: too dark"
    assert chosen("fragile", (None,) * 6).reason == "nothing has a call: too dark"
    assert chosen("all", (None,) * 6).reason == ""


def test_pulses_are_chosen_one_by_one_but_ordinary_training_knows_none() -> None:
    units = tuple(
        Unit(layer=name, kind="3x3", num_live=10, call="robust" if pulse == 1 else "fragile", pulse=pulse)
        for name in "ab"
        for pulse in range(3)
    )
    evidence = Evidence(units=units, criticality={"a": 1.0, "b": 2.0})
    paper = choose_units("robust_antifragile", evidence, 3).selection
    assert paper == Selection(parts=(Part(layer="a", pulses=(1,)), Part(layer="b", pulses=(1,))), num_thresholds=3)
    fragile = choose_units("fragile", evidence, 3).selection
    assert [part.pulses for part in fragile.parts] == [(0, 2), (0, 2)]
    assert choose_units("least_critical", evidence, 3).selection.parts == (Part(layer="a", pulses=(0, 1, 2)),)
    assert choose_units("all_with_bn", evidence, 3).selection == Selection(
        parts=(Part(layer="a"), Part(layer="b")), with_norms=True
    )


# What is asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "budget must be at least 1 epoch of retraining and at most 10000, got 0"),
        ({"budget": -1}, "got -1"),
        ({"rules": ()}, "at least one rule, each once, got none"),
        ({"rules": ("all", "all")}, "each once, got all, all"),
        ({"num_draws": 0}, "num_draws must be at least 1"),
        ({"num_report_images": 0}, "num_report_images must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_retrained_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SPEC, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": ("best",)}, "no rule 'best'; choose from robust_antifragile"),
        ({"kind": "overall"}, "no kind of score 'overall'; choose from clean, adversarial, difference"),
        ({"filter": "random"}, "no filter 'random'; choose from mean"),
        ({"leaning": "maybe"}, "no way to treat leaning calls 'maybe'; choose from counted, ignored"),
        ({"granularity": "channel"}, "no granularity 'channel'; choose from layer, weights"),
    ],
)
def test_names_that_do_not_exist_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        replace(SPEC, **change)


def test_the_measurement_must_hold_what_decides() -> None:
    globally = replace(MEASUREMENT, response=ResponseSpec(scope="global"))
    with pytest.raises(ValueError, match="scope must be 'local'"):
        replace(SPEC, measurement=globally)
    pulses = replace(MEASUREMENT, response=ResponseSpec(filters=("pulse",)))
    with pytest.raises(ValueError, match="filters must hold high_pass, low_pass, whose score decides, got pulse"):
        replace(SPEC, measurement=pulses)
    assert replace(SPEC, measurement=pulses, filter="pulse").filter == "pulse"
    assert replace(SPEC, measurement=pulses, granularity="weights").granularity == "weights"
    high = replace(MEASUREMENT, response=ResponseSpec(filters=("high_pass",)))
    with pytest.raises(ValueError, match="filters must hold pulse"):
        replace(SPEC, measurement=high, filter="high_pass", granularity="weights")


def test_only_random_has_draws() -> None:
    assert {rule: len(SPEC.draws(rule)) for rule in RULES if len(SPEC.draws(rule)) != 1} == {"random": 3}


# Evidence -------------------------------------------------------------------------------------------------


def make_responses(num_thresholds: int = 5, num_images: int = 300) -> Responses:
    """Two layers that get worse by filtering in ways of their own; the last pulse of ``b`` holds dead weights only."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, num_images)
    rows = filter_rows(("high_pass", "low_pass", "pulse"), 3)

    def predicted(wrong: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.where(rng.random(num_images) < wrong, (labels + 1) % 4, labels).astype(np.uint8)

    unfiltered = Predictions(clean=predicted(0.1), adversarial=predicted(0.3))

    def layer(name: str, harm: float) -> LayerResponse:
        shape = (len(rows), num_thresholds)
        worse = [
            [unfiltered.clean if k == 4 else predicted(0.1 + harm * k) for k in range(num_thresholds)] for _ in rows
        ]
        bad = [[unfiltered.adversarial if k == 4 else predicted(0.3 + harm * k) for k in range(5)] for _ in rows]
        live_kept = np.array([[10, 8, 6, 4, 0], [0, 2, 4, 6, 10], [9, 8, 6, 7, 10]])
        changes = np.ones(shape, dtype=bool)
        changes[2, 4] = False
        facts = LayerFacts(
            name=name,
            kind="3x3",
            relative_depth=0.0,
            num_weights=12,
            num_live=11,
            thresholds=np.linspace(-1, 1, num_thresholds),
            num_kept=live_kept + 2,
            num_live_kept=live_kept,
            changes=changes,
            histogram=np.empty(0, dtype=np.int64),
            histogram_edges=np.empty(0),
        )
        return LayerResponse(facts=facts, predictions=Predictions(clean=np.array(worse), adversarial=np.array(bad)))

    return Responses(
        spec=ResponseSpec(num_thresholds=num_thresholds),
        attack=None,
        rows=rows,
        labels=labels.astype(np.int64),
        num_classes=4,
        unfiltered=unfiltered,
        layers=(layer("a", 0.0), layer("b", 0.15)),
    )


def expected_pulse_score(responses: Responses, layer: int, k: int, reference: str = "unfiltered") -> float:
    """The integrand of the adversarial score, written out: (p − c) / (p₀ − c) − b at one threshold."""
    filtered, unfiltered = responses.layers[layer].predictions.adversarial[2, k], responses.unfiltered.adversarial
    p, p0 = (
        sum(int(own) == int(label) for own, label in zip(predicted, responses.labels, strict=True)) / 300
        for predicted in (filtered, unfiltered)
    )
    b = 1.0 if reference == "unfiltered" else responses.layers[layer].facts.num_kept[2, k] / 12
    return float((p - 0.25) / (p0 - 0.25) - b)


@pytest.mark.parametrize("reference", ["unfiltered", "retained"])
def test_a_pulses_call_is_that_of_the_scores_integrand(reference: Any) -> None:
    responses, spec = make_responses(), replace(SPEC, score=ScoreSpec(reference=reference), granularity="weights")
    units = pulse_units(responses, spec)
    assert [(unit.layer, unit.pulse) for unit in units] == [(name, k) for name in "ab" for k in range(5)]
    for index, unit in enumerate(units):
        value = expected_pulse_score(responses, index // 5, index % 5, reference)
        if index % 5 == 4:
            assert unit.call is None
            assert "removing it changes nothing" in unit.reason
        else:
            assert unit.call == ("fragile" if value < -0.05 else "antifragile" if value > 0.05 else "robust")
    assert len({unit.call for unit in units} - {None}) >= 2


@pytest.mark.parametrize("integration", ["trapezoid", "simpson"])
def test_pulses_integrate_to_their_layers_pulse_score(integration: Any) -> None:
    responses = make_responses()
    score = next(
        row.score
        for row in score_responses(responses, integration=integration).rows
        if (row.layer, row.filter, row.kind) == ("b", "pulse", "adversarial")
    )
    values = [expected_pulse_score(responses, 1, k) for k in range(5)]
    weights = [1, 4, 2, 4, 1] if integration == "simpson" else [1, 2, 2, 2, 1]
    assert score == pytest.approx(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))


@pytest.mark.parametrize("kind", ["clean", "adversarial", "difference"])
@pytest.mark.parametrize("normalise", ["chance", "p0", "none"])
def test_a_pulse_is_scored_like_a_layer_that_stays_at_it(kind: Any, normalise: Any) -> None:
    responses = make_responses(num_images=80)
    score = ScoreSpec(normalise=normalise, reference="retained")
    spec = replace(SPEC, score=score, kind=kind, granularity="weights")
    units = {(unit.layer, unit.pulse): unit for unit in pulse_units(responses, spec)}
    decided = {(unit.layer, unit.pulse): unit for unit in pulse_units(responses, replace(spec, leaning="ignored"))}
    leaning = 0
    for k in range(5):
        for row in (own for own in pulse_scores(responses, k, score).rows if own.kind == kind):
            assert row.filter == "pulse"
            assert units[row.layer, k].call == row.call
            assert decided[row.layer, k].call == (None if row.certainty == "leaning" else row.call)
            leaning += row.certainty == "leaning"
            if row.low is not None and row.high is not None and row.score is not None:
                assert row.low < row.score < row.high
    assert leaning > 0


def test_pulses_know_their_live_weights() -> None:
    units = pulse_units(make_responses(), replace(SPEC, granularity="weights"))
    assert [unit.num_live for unit in units[:5]] == [1, 2, 4, 3, 0]


def test_a_layers_call_is_that_of_the_deciding_score() -> None:
    responses = make_responses()
    for kind in ("clean", "adversarial", "difference"):
        for name in ("mean", "pulse"):
            spec = replace(SPEC, kind=kind, filter=name)
            expected = {
                row.layer: row.call
                for row in score_responses(responses).rows
                if row.kind == kind and row.filter == name
            }
            assert {unit.layer: unit.call for unit in layer_units(responses, spec)} == expected


def test_leaning_calls_can_be_ignored() -> None:
    responses = make_responses(num_images=60)
    deciding = [row for row in score_responses(responses).rows if row.kind == "adversarial" and row.filter == "mean"]
    assert {row.certainty for row in deciding} == {"leaning", "decided"}
    units = layer_units(responses, replace(SPEC, leaning="ignored"))
    for row, unit in zip(deciding, units, strict=True):
        assert unit.call == (row.call if row.certainty == "decided" else None)
        assert (unit.reason == "leaning calls are ignored") == (row.certainty == "leaning")


def test_choices_come_in_the_order_of_rules_and_draws() -> None:
    spec = replace(SPEC, rules=("all", "random", "least_critical"), num_draws=2)
    choices = make_choices(make_responses(), spec, {"a": 1.0, "b": 0.5})
    assert [(own.rule, own.draw) for own in choices] == [
        ("all", 0),
        ("random", 0),
        ("random", 1),
        ("least_critical", 0),
    ]
    assert choices[-1].layers == ("b",)
    unknown = make_choices(make_responses(), spec, None)
    assert [own.rule for own in unknown] == ["all", "random", "random"]
