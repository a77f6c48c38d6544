"""The notebooks' procedure, switch by switch: what each does, and that none of them is the corrected method."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import erratas
import grids
import networks
import numpy as np
import pytest
import reference
import torch
from commands import Fss, refused
from torch import Tensor, nn

from fss_core import measure_responses
from fss_core.attacks import run_attack
from fss_core.errata import running, variants
from fss_core.errata.differences import AS_IN_THE_NOTEBOOKS, DIFFERENCES, NotebookProcedure
from fss_core.errata.effects import list_effects, list_rankings, list_spreads
from fss_core.errata.measuring import _Runner, measure_plainly, removed_weights
from fss_core.errata.networks import build_half_width
from fss_core.errata.records import BITS, errata_path, read_errata
from fss_core.errata.running import run_errata
from fss_core.errata.variants import CORRECTED, ErrataSpec, list_variants
from fss_core.models import build_network, filterable_modules
from fss_core.responses import Responses
from fss_core.specs import (
    GLOBAL_LAYER,
    SYNAPTIC_FILTERS,
    AttackSpec,
    Cancelled,
    StoreError,
    TrainingSpec,
    digest,
)
from fss_core.store import Store

NUM_THRESHOLDS, EPSILON = 5, 8 / 255
LAYERS = ("first", "second", "classifier")

EACH = [
    NotebookProcedure(training_mode=True),
    NotebookProcedure(unclamped=True),
    NotebookProcedure(adaptive=True),
    NotebookProcedure(last_layer_only=True),
    NotebookProcedure(gapped_pulses=True),
    AS_IN_THE_NOTEBOOKS,
]


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    return networks.make_images(130)  # more than one batch


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return networks.make_plain()


def measure(
    network: nn.Module, images: tuple[Tensor, Tensor], procedure: NotebookProcedure | None = None, **more: object
) -> Responses:
    options: dict[str, object] = {"layers": LAYERS, "num_thresholds": NUM_THRESHOLDS, "epsilon": EPSILON}
    return measure_plainly(network, *images, procedure=procedure, **(options | more))  # type: ignore[arg-type]


def same(one: Responses, other: Responses) -> bool:
    return [own.facts.name for own in one.layers] == [own.facts.name for own in other.layers] and all(
        np.array_equal(getattr(mine.predictions, kind), getattr(theirs.predictions, kind))
        for mine, theirs in zip(one.layers, other.layers, strict=True)
        for kind in ("clean", "adversarial")
    )


# No switch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["frozen", "adaptive"])
def test_without_a_switch_it_measures_what_the_fast_engine_measures(
    plain: nn.Module, images: tuple[Tensor, Tensor], mode: str
) -> None:
    pixels, labels = images
    attack = AttackSpec(epsilon=EPSILON)
    found = measure(plain, images, NotebookProcedure(adaptive=mode == "adaptive"))
    given = {"attack": attack} if mode == "adaptive" else {"adversarial": run_attack(plain, *images, attack).pixels}
    each = measure_responses(plain, pixels, labels, num_thresholds=NUM_THRESHOLDS, engine="fast", **given)  # type: ignore[arg-type]
    whole = measure_responses(
        plain,
        pixels,
        labels,
        num_thresholds=NUM_THRESHOLDS,
        engine="fast",
        scope="global",
        **given,  # type: ignore[arg-type]
    )
    expected = replace(each, layers=(*each.layers, *whole.layers))
    assert same(found, expected)
    assert len({own.predictions.adversarial.tobytes() for own in found.layers}) == len(found.layers)
    np.testing.assert_array_equal(found.unfiltered.clean, each.unfiltered.clean)
    np.testing.assert_array_equal(found.unfiltered.adversarial, each.unfiltered.adversarial)
    for mine, theirs in zip(found.layers, expected.layers, strict=True):
        for name in ("num_kept", "num_live_kept", "changes", "thresholds"):
            np.testing.assert_array_equal(getattr(mine.facts, name), getattr(theirs.facts, name))
        assert (mine.facts.kind, mine.facts.num_live) == (theirs.facts.kind, theirs.facts.num_live)
        if mode == "adaptive":
            np.testing.assert_array_equal(mine.predictions.zero_gradient, theirs.predictions.zero_gradient)


def test_the_paper_s_network_is_measured_as_the_fast_engine_measures_it() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(16, 1, 28, 28, generator=generator)
    labels = torch.arange(16) % 10
    network = networks.make_lively(build_network("shufflenet_v2_x1_0"), pixels, "fc")
    names = list(filterable_modules(network))[::28]
    found = measure(network, (pixels, labels), layers=names, num_thresholds=3, whole=False)
    attacked = run_attack(network, pixels, labels, AttackSpec(epsilon=EPSILON)).pixels
    assert same(found, measure_responses(network, pixels, labels, attacked, layers=names, num_thresholds=3))


@pytest.mark.parametrize("procedure", EACH, ids=str)
def test_the_network_handed_in_stays_as_it_was(images: tuple[Tensor, Tensor], procedure: NotebookProcedure) -> None:
    network = networks.unsettle(networks.make_plain())
    before, state = networks.snapshot(network), torch.random.get_rng_state()
    measure(network, images, procedure, layers=("second",), num_thresholds=3)
    assert networks.snapshot(network) == before
    assert torch.equal(torch.random.get_rng_state(), state)


# Each switch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("procedure", EACH, ids=str)
def test_what_a_switch_cannot_change_is_taken_from_what_is_known(
    plain: nn.Module, images: tuple[Tensor, Tensor], procedure: NotebookProcedure
) -> None:
    known = measure(plain, images)
    found = measure(plain, images, procedure)
    assert same(measure(plain, images, procedure, known=known), found)
    assert not same(found, known)


def test_in_training_mode_batches_are_normalised_by_themselves_in_an_order_of_their_own(
    plain: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    pixels, labels = images
    found = measure(plain, images, NotebookProcedure(training_mode=True))
    weight = plain.get_parameter("second.weight")
    removed = removed_weights(weight.detach(), "high_pass", 2, NUM_THRESHOLDS)
    by_hand = networks.make_plain().train()
    with torch.no_grad(), torch.random.fork_rng():
        by_hand.get_parameter("second.weight").masked_fill_(removed, 0)
        torch.manual_seed(int(digest([0, "second/high_pass/2"]), 16) % 2**63)
        order = torch.randperm(len(labels))
        expected = torch.zeros(len(labels), dtype=torch.int64)
        for batch in (order[:100], order[100:]):
            expected[batch] = by_hand(pixels[batch]).argmax(1)
    row = SYNAPTIC_FILTERS.index("high_pass")
    np.testing.assert_array_equal(found.layers[1].predictions.clean[row, 2], expected.numpy())
    assert not np.array_equal(found.unfiltered.clean, measure(plain, images).unfiltered.clean)


def test_an_attack_that_is_not_clamped_leaves_the_pixels_and_scales_with_the_channels(
    plain: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    network = networks.make_plain()
    network.normalise = nn.Module()
    network.normalise.register_buffer("std", torch.tensor([0.1, 0.2, 0.3]).reshape(-1, 1, 1))
    clamped = _Runner(network, *images, NotebookProcedure(), EPSILON, 0)._frozen
    free = _Runner(network, *images, NotebookProcedure(unclamped=True), EPSILON, 0)._frozen
    assert clamped is not None
    assert free is not None
    assert 0 <= clamped.min() <= clamped.max() <= 1
    assert free.min() < 0
    steps = (free - images[0]).abs()
    moved = steps > 0
    for channel, std in enumerate((0.1, 0.2, 0.3)):
        own = steps[:, channel][moved[:, channel]]
        torch.testing.assert_close(own, torch.full_like(own, EPSILON * std / 0.2), rtol=1e-4, atol=1e-6)
    plain_free = _Runner(plain, *images, NotebookProcedure(unclamped=True), EPSILON, 0)._frozen
    plain_clamped = _Runner(plain, *images, NotebookProcedure(), EPSILON, 0)._frozen
    assert plain_free is not None
    assert plain_clamped is not None
    torch.testing.assert_close(plain_free.clamp(0, 1), plain_clamped)


def test_pulses_with_gaps_leave_weights_that_no_pulse_removes() -> None:
    weight = torch.randn(500, generator=torch.Generator().manual_seed(0))
    low, high = float(weight.min()), float(weight.max())
    gone = [removed_weights(weight, "pulse", k, 13, gapped=True) for k in range(13)]
    for k, own in enumerate(gone):
        middle, half = low + k * (high - low) / 12, (high - low) / 26
        expected = [middle - half <= value < middle + half for value in weight.double().tolist()]
        assert own.tolist() == expected
    times = torch.stack(gone).sum(0)
    assert int(times.max()) == 1
    assert int((times == 0).sum()) > 10
    whole = torch.stack([removed_weights(weight, "pulse", k, 13) for k in range(13)]).sum(0)
    assert bool((whole == 1).all())


@pytest.mark.parametrize("filter", SYNAPTIC_FILTERS)
def test_removed_weights_equal_the_reference(filter: str) -> None:
    weight = torch.tensor([-1.0, -0.5, -0.5, 0.0, 0.25, 1.0])
    for k in range(5):
        kept = reference.keep_mask(weight, filter, k, 5)
        assert torch.equal(~removed_weights(weight, filter, k, 5), kept)  # type: ignore[arg-type]


def test_only_the_last_layer_of_the_whole_network_is_written_back(
    plain: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    known = measure(plain, images)
    found = measure(plain, images, NotebookProcedure(last_layer_only=True))
    assert same(replace(found, layers=found.layers[:-1]), replace(known, layers=known.layers[:-1]))
    whole, last = found.layers[-1], known.layers[-2]
    assert (whole.facts.name, last.facts.name) == (GLOBAL_LAYER, "classifier")
    for kind in ("clean", "adversarial"):
        own, theirs = getattr(whole.predictions, kind), getattr(last.predictions, kind)
        np.testing.assert_array_equal(own[:2], theirs[:2])
        np.testing.assert_array_equal(own[2], np.tile(getattr(found.unfiltered, kind), (NUM_THRESHOLDS, 1)))
    removed = whole.facts.num_weights - whole.facts.num_kept
    np.testing.assert_array_equal(removed[:2], (last.facts.num_weights - last.facts.num_kept)[:2])
    assert not removed[2].any()
    assert not whole.facts.changes[2].any()


def test_the_narrow_network_is_half_as_wide_and_has_the_layers_of_the_other() -> None:
    from fss_core.data import dataset_card

    wide = build_network("shufflenet_v2_x1_0")
    narrow = build_half_width(dataset_card("mnist5k"))
    assert list(filterable_modules(narrow)) == list(filterable_modules(wide))
    assert narrow.get_parameter("stage2.0.branch1.0.weight").shape[0] == 24
    assert narrow.get_parameter("stage2.0.branch1.2.weight").shape[0] * 2 + 10 == 58  # 24 channels beside 58
    assert narrow(torch.rand(2, 1, 28, 28)).shape == (2, 10)


# Numbers --------------------------------------------------------------------------------------------------


def test_there_are_eight_differences_and_each_is_compared() -> None:
    assert [own.number for own in DIFFERENCES] == list(range(1, 9))
    compared = {number for own in list_variants(ErrataSpec()) for number in own.differences}
    assert compared == set(range(1, 9))
    other = ErrataSpec(training=TrainingSpec(network="resnet18", dataset="mnist5k"))
    assert "4" not in {own.name for own in list_variants(other)}


def test_effects_are_paired_changes_of_mean_scores() -> None:
    effects = {(own.variant, own.scope, own.kind): own for own in list_effects(erratas.SPEC, erratas.measured())}
    chance, weight = 0.25, 0.5  # the middle of three thresholds counts half

    def expected(variant: str) -> float:
        """The middle threshold loses so many of ten images, of the eight that are right."""
        losses = [max(erratas.LOST[variant] - index, 0) for index in range(3)]
        scores = [-weight * loss / 10 / (0.8 - chance) for loss in losses]
        return sum(scores) / 3

    for variant in ("1", "3", "8", CORRECTED):
        own = effects[variant, "layers", "adversarial"]
        assert own.value == pytest.approx(expected(variant))
        assert own.change == pytest.approx(expected(variant) - expected(CORRECTED))
        assert own.num_layers == 3
        assert own.change_low is not None
        assert own.change_high is not None
        if variant in ("8", CORRECTED):
            assert (own.change, own.change_low, own.change_high, own.num_calls_changed) == (0, 0, 0, 0)
        else:
            assert own.change_low < own.change < own.change_high  # type: ignore[operator]
    assert effects["3", "layers", "adversarial"].num_calls_changed == 1  # the second layer loses nothing any more
    clean = effects["1", "layers", "clean"]
    assert clean.change == pytest.approx(0)
    unmeasurable = effects["2-own-epsilon", "layers", "adversarial"]
    assert unmeasurable.value is None
    assert "adversarial images are right" in unmeasurable.reason
    assert effects["6", "layers", "clean"].reason == "not measured"
    assert effects["6", "whole", "adversarial"].num_layers == 1
    # The notebooks' score: p / p0 against the fraction kept, by Simpson's rule (1 4 1) / 6.
    lost = [max(erratas.LOST[CORRECTED] - index, 0) for index in range(3)]
    kept = (0.99 + 4 * 0.5 + 0.01) / 6
    scores = [(1 + 4 * (0.8 - loss / 10) / 0.8 + 1) / 6 - kept for loss in lost]
    assert effects["7", "layers", "adversarial"].value == pytest.approx(sum(scores) / 3)


def test_rankings_and_spreads_say_how_far_variants_lie_apart() -> None:
    measured = erratas.measured()
    rankings = {(own.variant, own.kind): own for own in list_rankings(erratas.SPEC, measured)}
    own = rankings["1", "adversarial"]
    assert (own.num_layers, own.tau) == (3, pytest.approx(1.0))
    assert rankings["7", "adversarial"].low is None  # another unit
    assert {name for name, _ in rankings} == {
        "1",
        "2",
        "2-own-epsilon",
        "3",
        "4",
        "7",
        "8",
        "procedure",
        "all",
        "seed1",
    }
    spreads = {own.kind: own for own in list_spreads(erratas.SPEC, measured)}
    step = 0.5 / 10 / (0.8 - 0.25)  # one image more of ten
    found = spreads["adversarial"]
    assert found.value == pytest.approx(np.std([0, step], ddof=1))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high  # type: ignore[operator]
    assert spreads["clean"].value == pytest.approx(0)
    assert list_spreads(replace(erratas.SPEC, seeds=(0,)), measured) == ()


# The file -------------------------------------------------------------------------------------------------


def test_what_is_published_comes_back_as_it_was(tmp_path: Path) -> None:
    record = erratas.publish(tmp_path)
    found = read_errata(tmp_path)
    assert found is not None
    assert found.record == record
    for name, own in erratas.measured().items():
        assert same(found.responses[name], own)
        for mine, theirs in zip(found.responses[name].layers, own.layers, strict=True):
            np.testing.assert_array_equal(mine.facts.num_kept, theirs.facts.num_kept)
            np.testing.assert_array_equal(mine.facts.changes, theirs.facts.changes)
    assert sum(path.stat().st_size for path in (tmp_path / "errata").iterdir()) < 100_000
    assert read_errata(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda path: path.write_text("{"), "no JSON"),
        (lambda path: path.write_text(path.read_text().replace('"epoch": 3', '"epoch": "3"')), "epoch must be"),
        (lambda path: path.write_text(path.read_text().replace('"format": 1', '"format": 9')), "format must be 1"),
        (lambda path: path.with_name(BITS).write_bytes(b"PAR1"), "must have the SHA-256 of"),
        (lambda path: path.with_name(BITS).unlink(), "cannot be read"),
    ],
)
def test_a_damaged_comparison_is_refused_in_one_line(tmp_path: Path, harm: Callable[[Path], object], text: str) -> None:
    erratas.publish(tmp_path)
    harm(errata_path(tmp_path))
    with pytest.raises(StoreError, match=text) as caught:
        read_errata(tmp_path)
    assert "\n" not in str(caught.value)


# All of it ------------------------------------------------------------------------------------------------

SMALL = ErrataSpec(
    training=TrainingSpec(network="shufflenet_v2_x1_0", dataset=grids.DATASET, batch_size=20),
    epoch=1,
    num_images=24,
    num_thresholds=3,
    every=56,
    seeds=(0, 1),
)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A cache with a small data set."""
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "cache"))
    grids.make_cache(tmp_path / "cache")
    with Store() as store:
        yield store


@pytest.mark.slow
def test_a_comparison_that_is_stopped_goes_on_and_is_published(
    small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fss: Fss
) -> None:
    said: list[str] = []

    def stop() -> bool:
        return any("training mode" in what for what in said)

    with pytest.raises(Cancelled):
        run_errata(
            small,
            SMALL,
            tmp_path / "published",
            on_progress=lambda what, now: said.append(what),
            should_stop=stop,
        )
    assert not (tmp_path / "published").exists()
    assert len(small.keys("errata/")) == 1  # the corrected method is kept
    monkeypatch.setattr(variants, "ErrataSpec", lambda: SMALL)
    done = fss("study", "--preset", "notebook", "--directory", tmp_path / "published", "--json")
    assert done.code == 0, done.err
    assert "measuring: corrected method" not in done.err
    found = done.json["errata"]
    assert found["engine_agrees"] is True
    assert {own["name"] for own in found["measured"]} == {
        *(CORRECTED, "1", "2", "2-own-epsilon", "3", "4", "6", "8", "procedure", "seed1"),
    }
    assert str(tmp_path) not in errata_path(tmp_path / "published").read_text()
    # What is published is left alone.
    monkeypatch.setattr(running, "run_errata", lambda *_, **__: pytest.fail("nothing is left to do"))
    again = fss("study", "--preset", "notebook", "--directory", tmp_path / "published")
    assert again.code == 0
    assert "τ with corrected" in again.out
    plan = fss("study", "--preset", "notebook", "--directory", tmp_path / "published", "--dry-run")
    assert "Published" in plan.out


def test_a_budget_of_nothing_says_so_in_one_line(
    small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fss: Fss
) -> None:
    monkeypatch.setattr(variants, "ErrataSpec", lambda: SMALL)
    given = ("study", "--preset", "notebook", "--directory", tmp_path / "published")
    done = fss(*given, "--budget-minutes", 0)
    assert done.code == 1
    assert "the budget ended" in done.err.splitlines()[-1]
    assert "it is of one cell" in refused(fss(*given, "--cells", "a/b"), 2)
    plan = fss(*given, "--dry-run", "--json").json
    assert json.dumps(plan["plan"]).count("training mode") == 1
