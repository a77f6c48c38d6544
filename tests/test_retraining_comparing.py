"""Rules against each other: intervals, the table, the verdict, and their text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fss_core.retraining import Judgement, Retraining, RetrainingSpec, compare, verdict
from fss_core.retraining.comparing import NO_RETRAINING, Estimate, estimate_mean
from fss_core.retraining.reports import accuracy_table, curve_table, difference_table, retraining_lines, verdict_lines
from fss_core.retraining.results import JUDGED, RetrainedEpoch, RuleResult, Start
from fss_core.retraining.rules import Choice, Part, Selection
from fss_core.retraining.verdicts import decide
from fss_core.specs import MeasurementSpec, TrainingSpec

NUM_IMAGES = 200
SPEC = RetrainingSpec(
    measurement=MeasurementSpec(training=TrainingSpec(network="resnet18", dataset="mnist5k"), epoch=3),
    budget=2,
    rules=("robust_antifragile", "all", "random"),
    num_draws=2,
)
START = Start(num_live_trained=100, frozen_sha256="f" * 64, optimiser="continued", steps_per_epoch=35)


def judged(rng: np.random.Generator, accuracy: float | Mapping[str, float], num_images: int = NUM_IMAGES) -> Judgement:
    """Images right at random, in the share that is asked for of each kind."""
    shares = accuracy if isinstance(accuracy, Mapping) else dict.fromkeys(JUDGED, accuracy)
    return Judgement.of({kind: rng.permutation(num_images) < round(shares[kind] * num_images) for kind in JUDGED})


def result(rule: str, layer: str, judgements: Sequence[Judgement], draw: int = 0, **start: Any) -> RuleResult:
    epochs = tuple(RetrainedEpoch(loss=0.1, frozen_sha256="f" * 64, judgement=own, seconds=1.0) for own in judgements)
    selection = Selection(parts=(Part(layer=layer),))
    return RuleResult(
        choice=Choice(rule=rule, draw=draw, selection=selection), start=replace(START, **start), epochs=epochs
    )


def nothing(rule: str, reason: str = "nothing is called robust or antifragile") -> RuleResult:
    return RuleResult(choice=Choice(rule=rule, draw=0, selection=Selection(parts=()), reason=reason))


def make_retraining(seed: int = 0, spec: RetrainingSpec = SPEC, **rules: Any) -> Retraining:
    """Judged at random: 0.5 before, then 0.6 and 0.7 by the paper's rule, 0.55 by ``all``, 0.5 at random."""
    rng = np.random.default_rng(seed)
    own = {
        "robust_antifragile": result("robust_antifragile", "a", [judged(rng, 0.6), judged(rng, 0.7)]),
        "all": result("all", "b", [judged(rng, 0.5), judged(rng, 0.55)], num_live_trained=1000),
        "random": [
            result("random", f"r{draw}", [judged(rng, 0.5), judged(rng, 0.5)], draw, num_live_trained=90 + draw)
            for draw in range(2)
        ],
    } | rules
    results = itertools.chain(*([value] if isinstance(value, RuleResult) else value for value in own.values()))
    training = replace(spec.measurement.training, seed=seed)
    return Retraining(
        spec=replace(spec, measurement=replace(spec.measurement, training=training)),
        epsilon=2 / 255,
        checkpoint_sha256=f"{seed}" * 64,
        origin="trained",
        dataset_title="MNIST (5,000 digits)",
        report="r" * 64,
        num_live=1000,
        before=judged(np.random.default_rng(99), 0.5),
        rules=tuple(results),
    )


# Judgements -----------------------------------------------------------------------------------------------


def test_judgements_keep_every_image_in_one_bit() -> None:
    rng = np.random.default_rng(0)
    right = {kind: rng.random(150) < 0.3 for kind in JUDGED}
    own = Judgement.of(right)
    assert all(np.array_equal(own.right(kind), right[kind]) for kind in JUDGED)
    assert own.accuracy("pgd") == right["pgd"].mean()
    assert {len(bits) for bits in own.packed.values()} == {19}


# Intervals against loops ----------------------------------------------------------------------------------


def loop_over_images(right: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """The paired t interval, image by image; degrees of freedom from the images that are not like most."""
    differences = [float(a) - float(b) for a, b in zip(right, other, strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((own - mean) ** 2 for own in differences) / (len(differences) - 1)
    pairs = [(float(a), float(b)) for a, b in zip(right, other, strict=True)]
    informative = min(sum(own != 0 for own in differences), len(pairs) - max(pairs.count(own) for own in set(pairs)))
    half = float(stats.t.ppf(0.975, informative - 1)) * math.sqrt(variance / len(differences))
    return mean, mean - half, mean + half


def test_one_seeds_difference_is_the_paired_t_interval_over_images() -> None:
    retraining = make_retraining()
    row = compare([retraining]).row("robust_antifragile")
    assert row is not None
    for kind in JUDGED:
        after = retraining.rules[0].epochs[1].judgement.right(kind)
        for other, found in (
            (retraining.before.right(kind), row.to_before[kind]),
            (retraining.rules[1].epochs[1].judgement.right(kind), row.to_all[kind]),
        ):
            assert (found.value, found.low, found.high) == pytest.approx(loop_over_images(after, other))
            assert found.basis == "images"
            assert found.seed_values == pytest.approx((after.mean() - other.mean(),))


def test_draws_are_averaged_image_by_image() -> None:
    retraining = make_retraining()
    row = compare([retraining]).row("random")
    assert row is not None
    first, second = (own.epochs[1].judgement.right("fgsm") for own in retraining.of_rule("random"))
    mean = [(float(a) + float(b)) / 2 for a, b in zip(first, second, strict=True)]
    found = row.to_before["fgsm"]
    assert (found.value, found.low, found.high) == pytest.approx(
        loop_over_images(mean, retraining.before.right("fgsm"))
    )
    assert row.num_live_trained == (90.5,)


def test_several_seeds_are_a_t_interval_over_their_means() -> None:
    retrainings = [make_retraining(seed) for seed in range(3)]
    retrainings[2].rules[0].epochs[1].judgement.packed["fgsm"][:4] = 0
    row = compare(retrainings).row("robust_antifragile")
    assert row is not None
    dots = [own.rules[0].epochs[1].judgement.accuracy("fgsm") - own.before.accuracy("fgsm") for own in retrainings]
    assert len(set(dots)) == 2
    mean = sum(dots) / 3
    deviation = math.sqrt(sum((own - mean) ** 2 for own in dots) / 2)
    half = float(stats.t.ppf(0.975, 2)) * deviation / math.sqrt(3)
    found = row.to_before["fgsm"]
    assert (found.value, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert found.basis == "seeds"
    assert found.seed_values == pytest.approx(dots)


def test_seeds_that_agree_exactly_do_not_make_a_point() -> None:
    same = np.array([[1.0, 0.0, 1.0, 1.0] * 20, [0.0, 1.0, 1.0, 1.0] * 20])
    found = estimate_mean(same, np.full_like(same, 0.5), 0.95)
    assert found.basis == "images"
    assert found.seed_values == (0.25, 0.25)
    assert found.low < 0.25 < found.high


@pytest.mark.parametrize("num_changed", [0, 1, 5, 9])
def test_few_changed_images_never_have_zero_width(num_changed: int) -> None:
    before = np.zeros((1, 100))
    after = before.copy()
    after[0, :num_changed] = 1
    found = estimate_mean(after, before, 0.95)
    assert found.value == num_changed / 100
    assert found.low < found.value < found.high
    assert found.high - found.low > 0.02


def test_intervals_cover_the_true_difference() -> None:
    rng = np.random.default_rng(1)
    for gain, loss in ((0.0, 0.0), (0.02, 0.0), (0.05, 0.01), (0.2, 0.1)):
        covered = 0
        for _ in range(300):
            change = rng.choice([1, -1, 0], size=200, p=[gain, loss, 1 - gain - loss])
            base = np.where(change == 1, 0.0, np.where(change == -1, 1.0, rng.random(200) < 0.5))
            found = estimate_mean((base + change)[None], base[None], 0.95)
            covered += found.low <= gain - loss <= found.high
        assert covered >= 0.92 * 300


# The table ------------------------------------------------------------------------------------------------


def test_rows_hold_what_was_judged_at_that_epoch() -> None:
    retraining = make_retraining()
    for epoch, expected in ((0, 0.5), (1, 0.6), (2, 0.7)):
        comparison = compare([retraining], epoch=epoch)
        row = comparison.row("robust_antifragile")
        assert row is not None
        assert row.accuracy["fgsm"].value == pytest.approx(expected)
        assert row.to_before["fgsm"].value == pytest.approx(expected - 0.5)
        assert comparison.row(NO_RETRAINING).accuracy["fgsm"].value == pytest.approx(0.5)  # type: ignore[union-attr]
    assert compare([retraining]).epoch == 2


def test_rows_are_sorted_by_white_box_fgsm() -> None:
    comparison = compare([make_retraining(robust_antifragile=nothing("robust_antifragile"))])
    assert [row.rule for row in comparison.sorted_rows()][::3] == ["all", "robust_antifragile"]
    assert [row.rule for row in compare([make_retraining()]).sorted_rows()][:2] == ["robust_antifragile", "all"]
    assert compare([make_retraining()]).one_checkpoint
    assert not compare([make_retraining(0), make_retraining(1)]).one_checkpoint


def test_a_seed_without_a_choice_is_left_out_and_said() -> None:
    retrainings = [make_retraining(0), make_retraining(1, robust_antifragile=nothing("robust_antifragile"))]
    row = compare(retrainings).row("robust_antifragile")
    assert row is not None
    assert row.seeds == (0,)
    assert row.reasons == {1: "nothing is called robust or antifragile"}
    assert row.accuracy["fgsm"].seed_values == pytest.approx((0.7,))
    assert row.accuracy["fgsm"].basis == "images"


def test_rules_that_are_not_that_far_are_left_out() -> None:
    retraining = make_retraining()
    short = replace(retraining.rules[0], epochs=retraining.rules[0].epochs[:1])
    unfinished = replace(retraining, rules=(short, *retraining.rules[1:]))
    assert retraining.complete
    assert not unfinished.complete
    row = compare([unfinished]).row("robust_antifragile")
    assert row is not None
    assert row.accuracy == row.to_before == {}
    assert row.reasons == {0: "not retrained that far yet"}
    assert compare([unfinished], epoch=1).row("robust_antifragile").accuracy  # type: ignore[union-attr]
    half = replace(retraining, rules=retraining.rules[:-1])  # one draw of random is missing
    assert not half.complete
    assert compare([half]).row("random").reasons == {0: "not retrained that far yet"}  # type: ignore[union-attr]


def test_rules_that_train_the_same_weights_say_so() -> None:
    same = make_retraining().rules[1]
    same = replace(same, choice=replace(same.choice, rule="robust_antifragile"))
    comparison = compare([make_retraining(robust_antifragile=same)])
    assert comparison.row("all").same_as == ("robust_antifragile",)  # type: ignore[union-attr]
    lines = verdict(comparison).lines
    assert (lines[1].outcome, lines[1].reason) == ("undecided", "both train the same weights")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([], "nothing to compare"),
        ([make_retraining(0), make_retraining(0)], "must be of different seeds, got 0, 0"),
        (
            [make_retraining(0), replace(make_retraining(1), epsilon=4 / 255)],
            "judged at one ε, got 2/255 and 4/255; give ε yourself",
        ),
        ([make_retraining(0), replace(make_retraining(1), report="s" * 64)], "must differ in their seed only"),
        ([make_retraining(0), make_retraining(1, replace(SPEC, budget=3))], "those of seeds 0 and 1 differ in more"),
    ],
)
def test_what_is_not_alike_is_not_compared(others: list[Retraining], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(others)


def test_where_epsilon_came_from_does_not_matter() -> None:
    given = replace(SPEC, measurement=replace(SPEC.measurement, epsilon=2 / 255))
    assert compare([make_retraining(0), make_retraining(1, given)]).seeds == (0, 1)


@pytest.mark.parametrize(
    ("option", "message"), [({"epoch": 3}, "at most the budget, 2, got 3"), ({"level": 1.0}, "level")]
)
def test_what_is_out_of_range_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare([make_retraining()], **option)


# The verdict ----------------------------------------------------------------------------------------------


def between(low: float, value: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, basis="images", seed_values=(value,))


GAIN, NO_LOSS = between(0.01, 0.03, 0.05), between(-0.02, 0.01, 0.04)
TINY = 1e-9


@pytest.mark.parametrize(
    ("fgsm", "pgd", "outcome"),
    [
        (GAIN, NO_LOSS, "holds"),
        (between(TINY, 0.02, 0.04), NO_LOSS, "holds"),
        (between(0.0, 0.02, 0.04), NO_LOSS, "undecided"),
        (between(-TINY, 0.02, 0.04), NO_LOSS, "undecided"),
        (GAIN, between(-0.02, 0.0, 0.02), "holds"),
        (GAIN, between(-0.02, -TINY, 0.02), "undecided"),
        (GAIN, between(-0.04, -0.02, 0.0), "undecided"),
        (GAIN, between(-0.04, -0.02, -TINY), "does not hold"),
        (between(-0.02, 0.0, 0.02), NO_LOSS, "undecided"),
        (between(-0.04, -0.02, TINY), NO_LOSS, "undecided"),
        (between(-0.04, -0.02, 0.0), NO_LOSS, "does not hold"),
        (between(-0.05, -0.03, -0.01), GAIN, "does not hold"),
        (between(-0.02, 0.0, 0.02), between(-0.05, -0.03, -0.01), "does not hold"),
    ],
)
def test_the_verdict_follows_from_two_intervals(fgsm: Estimate, pgd: Estimate, outcome: str) -> None:
    assert decide(fgsm, pgd) == outcome


def test_the_verdict_has_a_line_against_either() -> None:
    found = verdict(compare([make_retraining()]))
    assert [line.against for line in found.lines] == ["no retraining", "all"]
    assert [line.outcome for line in found.lines] == ["holds", "holds"]
    assert (found.seeds, found.num_images, found.epsilon) == ((0,), NUM_IMAGES, 2 / 255)
    assert found.lines[0].fgsm is not None
    assert found.lines[0].fgsm.value == pytest.approx(0.2)


def test_a_gain_that_pgd_does_not_show_is_no_gain() -> None:
    rng = np.random.default_rng(0)
    masked = {"clean": 0.5, "fgsm": 0.7, "pgd": 0.3, "transfer": 0.5}
    retraining = make_retraining(robust_antifragile=result("robust_antifragile", "a", [judged(rng, masked)] * 2))
    line = verdict(compare([retraining])).lines[0]
    assert line.outcome == "does not hold"
    assert line.reason == "PGD accuracy is lower: the gradient may be masked"


def test_what_cannot_be_tested_says_why() -> None:
    without = replace(SPEC, rules=("robust_antifragile", "random"))
    retraining = make_retraining(spec=without)
    retraining = replace(retraining, rules=tuple(own for own in retraining.rules if own.choice.rule != "all"))
    first, second = verdict(compare([retraining])).lines
    assert first.outcome == "holds"
    assert (second.outcome, second.reason, second.fgsm) == ("not tested", "all was not run", None)
    chose_nothing = verdict(compare([make_retraining(robust_antifragile=nothing("robust_antifragile"))]))
    assert {line.reason for line in chose_nothing.lines} == {"nothing is called robust or antifragile"}
    assert chose_nothing.seeds == ()
    itself = verdict(compare([make_retraining()]), rule="all")
    assert (itself.lines[1].outcome, itself.lines[1].reason) == ("not tested", "all is itself")
    absent = verdict(compare([make_retraining()]), rule="fragile")
    assert {line.reason for line in absent.lines} == {"fragile was not run"}


# Text -----------------------------------------------------------------------------------------------------


def test_the_text_says_what_and_on_what() -> None:
    retraining = make_retraining()
    comparison = compare([retraining])
    text = "\n".join(retraining_lines([retraining], comparison, verdict(comparison)))
    for part in (
        "ResNet-18 on MNIST (5,000 digits) from epoch 3; epochs of retraining: 2 of 35 steps each",
        "Chosen: layers, by the call of their overall adversarial score on 300 probe images; leaning calls are counted",
        "n = 200 report images, ε = 2/255; 95 % intervals over images; seed 0, this checkpoint only",
        "Adam went on from the checkpoint's moments.",
        "SHA-256 is the same before and after",
        "Against no retraining: holds; white-box FGSM accuracy +0.200 [",
    ):
        assert part in text


def test_the_text_says_what_decides() -> None:
    def heading(**change: Any) -> str:
        retraining = make_retraining(spec=replace(SPEC, **change))
        comparison = compare([retraining])
        return retraining_lines([retraining], comparison, verdict(comparison))[1]

    assert "layers, by the call of their high-pass clean score" in heading(kind="clean", filter="high_pass")
    weights = heading(granularity="weights", leaning="ignored")
    assert "pulses of weights, each by the call of its own adversarial score on 300 probe images" in weights
    assert weights.endswith("leaning calls are ignored")


def test_the_tables_show_every_rule_once() -> None:
    comparison = compare([make_retraining(robust_antifragile=nothing("robust_antifragile"))])
    for table in (accuracy_table(comparison), difference_table(comparison)):
        assert [line.split("  ")[0] for line in table] == [
            "rule",
            *(row.rule for row in comparison.sorted_rows()),
        ]
    line = next(line for line in accuracy_table(comparison) if line.startswith("all "))
    assert line.split()[:3] == ["all", "1,000", "0.550"]
    curves = [compare([make_retraining()], epoch=epoch) for epoch in range(3)]
    assert curve_table(curves)[1].split() == ["robust_antifragile", "0.500", "0.600", "0.700"]


def test_the_text_of_several_seeds_and_of_nothing() -> None:
    retrainings = [make_retraining(seed, robust_antifragile=nothing("robust_antifragile")) for seed in (0, 1)]
    comparison = compare(retrainings)
    text = "\n".join(retraining_lines(retrainings, comparison, verdict(comparison)))
    assert "95 % intervals over 2 seeds (0, 1)" in text
    assert "robust_antifragile, seed 1: nothing is called robust or antifragile." in text
    assert "Against all: not tested (nothing is called robust or antifragile)." in text
    several = "\n".join(verdict_lines(verdict(compare([make_retraining(0), make_retraining(1)]))))
    assert "(seeds 0, 1)" in several


def test_fresh_optimisers_are_said() -> None:
    start = {"optimiser": "fresh"}
    rng = np.random.default_rng(0)
    retraining = make_retraining(
        robust_antifragile=result("robust_antifragile", "a", [judged(rng, 0.5)] * 2, **start),
        all=result("all", "b", [judged(rng, 0.5)] * 2, **start),
        random=[result("random", "c", [judged(rng, 0.5)] * 2, draw, **start) for draw in range(2)],
    )
    comparison = compare([retraining])
    text = "\n".join(retraining_lines([retraining], comparison, verdict(comparison)))
    assert "no optimiser state: Adam started fresh for every rule." in text
