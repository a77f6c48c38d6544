"""From a checkpoint to retrained networks: every rule, each step done once, resumable, shared, and looked up."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lanes
import numpy as np
import pytest
import torch
from bars import environment

from fss_core import data
from fss_core.checkpoints import find_checkpoint
from fss_core.flow import find_measured
from fss_core.retraining import (
    JUDGED,
    RULES,
    Retraining,
    RetrainingProgress,
    RetrainingSpec,
    compare,
    find_retrained,
    retrain,
    retrain_seeds,
    verdict,
)
from fss_core.retraining import work as work_module
from fss_core.retraining.archive import Setting
from fss_core.retraining.criticality import worst_loss
from fss_core.retraining.rules import Part, Selection
from fss_core.retraining.running import refuse_overlap
from fss_core.retraining.training import Retrainer
from fss_core.specs import (
    Cancelled,
    CheckpointError,
    DataError,
    ScoreSpec,
    StoreError,
    TrainingError,
    canonical_json,
)
from fss_core.store import Store

MIXED = ScoreSpec(tolerance=0.45)
"""A tolerance at which the world's layers do not all have the same call."""

SPEC = RetrainingSpec(
    measurement=lanes.measurement(),
    budget=2,
    rules=("robust_antifragile", "all", "fragile"),
    score=MIXED,
    num_draws=2,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lanes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root))
        return lanes.make_cache(root)


def run(store: Store, spec: RetrainingSpec = SPEC, **options: Any) -> Retraining:
    return retrain(spec, store=store, factory=lanes.make_network, **options)


@contextmanager
def counted_epochs() -> Iterator[list[tuple[str, ...]]]:
    """The layers of every epoch that is trained, whoever asks for it."""
    seen: list[tuple[str, ...]] = []
    train_epoch = Retrainer.train_epoch

    def counted(self: Retrainer, on_step: Callable[[int], None]) -> tuple[float, float]:
        seen.append(tuple(self.trained.parameters))
        return train_epoch(self, on_step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retrainer, "train_epoch", counted)
        yield seen


def assert_same(found: Retraining, expected: Retraining) -> None:
    """The same to the last bit, but for wall times."""
    assert found.complete
    assert [own.choice for own in found.rules] == [own.choice for own in expected.rules]
    assert [own.start for own in found.rules] == [own.start for own in expected.rules]
    for one, other in zip(found.rules, expected.rules, strict=True):
        assert [own.loss for own in one.epochs] == [own.loss for own in other.epochs]
        for mine, theirs in zip(one.epochs, other.epochs, strict=True):
            for kind in JUDGED:
                assert np.array_equal(mine.judgement.packed[kind], theirs.judgement.packed[kind])
    assert all(np.array_equal(found.before.packed[kind], expected.before.packed[kind]) for kind in JUDGED)


# Every rule -----------------------------------------------------------------------------------------------


def test_every_rule_has_a_result(store: Store) -> None:
    spec = replace(SPEC, rules=tuple(RULES))
    found = run(store, spec)
    assert found.complete
    assert [(own.choice.rule, own.choice.draw) for own in found.rules] == [
        (rule, draw) for rule in RULES for draw in range(2 if rule == "random" else 1)
    ]
    live = {"conv1": 54, "conv2": 324, "conv3": 324, "fc": 384}
    for own in found.rules:
        if own.choice.reason:
            assert (own.start, own.epochs) == (None, ())
            continue
        assert own.start is not None
        assert own.num_live_trained == sum(live[layer] for layer in own.choice.layers)
        assert own.start.steps_per_epoch == lanes.STEPS_PER_EPOCH
        assert own.start.optimiser == "continued"
        assert len(own.epochs) == 2
        assert all(epoch.frozen_sha256 == own.start.frozen_sha256 for epoch in own.epochs)
        assert all(epoch.judgement.num_images == lanes.NUM_REPORT for epoch in own.epochs)
    layers = {own.choice.rule: own.choice.layers for own in found.rules}
    assert layers["all"] == layers["all_with_bn"] == lanes.LAYERS
    assert layers["last_layer"] == ("fc",)
    assert set(layers["robust_antifragile"]) | set(layers["complement"]) == set(lanes.LAYERS)
    assert set(layers["robust_antifragile"]) & set(layers["complement"]) == set()
    assert 0 < len(layers["robust_antifragile"]) < 4
    assert layers["fragile"] == layers["complement"]
    assert found.num_live == sum(live.values())
    budget = sum(live[layer] for layer in layers["robust_antifragile"])
    for rule in ("random", "most_critical"):
        assert all(0 < own.num_live_trained <= budget for own in found.of_rule(rule))


def test_what_is_judged_is_the_retrained_network(store: Store) -> None:
    found = run(store)
    chosen = found.rules[0].choice
    retrainer = Retrainer(
        lanes.checkpoint(), data.load_dataset(lanes.DATASET), chosen.selection, factory=lanes.make_network
    )
    report = data.load_dataset(lanes.DATASET).report
    for epoch in found.rules[0].epochs:
        loss, _ = retrainer.train_epoch(lambda step: None)
        assert loss == epoch.loss
        with torch.no_grad():
            right = retrainer.network(report.pixels()).argmax(1).numpy() == report.labels
        assert np.array_equal(epoch.judgement.right("clean"), right)
    assert found.rules[0].epochs[0].judgement.accuracy("clean") != found.before.accuracy("clean")


def test_the_criticality_is_measured_on_the_attacked_probe_images(store: Store) -> None:
    spec = replace(SPEC, rules=("least_critical",))
    found = run(store, spec)
    measured = find_measured(store, spec.measurement)
    assert measured is not None
    from fss_core.attacks import attack
    from fss_core.checkpoints import load_network

    network = load_network(lanes.checkpoint(), factory=lanes.make_network)
    probe = data.load_dataset(lanes.DATASET).probe
    pixels, labels = probe.pixels(0, 120), torch.from_numpy(probe.labels[:120])
    attacked = attack(network, pixels, labels, epsilon=0.04)
    losses = {layer: worst_loss(network, layer, attacked, labels) for layer in lanes.LAYERS}
    assert found.rules[0].choice.layers == (min(losses, key=lambda layer: losses[layer]),)


def test_rules_with_the_same_selection_are_one_retraining(store: Store) -> None:
    with counted_epochs() as epochs:
        found = run(store, replace(SPEC, rules=("fragile", "complement")))
    assert len(epochs) == 2
    first, second = (own.epochs for own in found.rules)
    assert [own.loss for own in first] == [own.loss for own in second]
    assert compare([found]).row("fragile").same_as == ("complement",)  # type: ignore[union-attr]


def test_choosing_nothing_is_a_result(store: Store) -> None:
    spec = replace(SPEC, score=ScoreSpec(tolerance=0.0), rules=("robust_antifragile", "random"))
    with counted_epochs() as epochs:
        found = run(store, spec)
    assert found.complete
    assert epochs == []
    reasons = [own.choice.reason for own in found.rules]
    assert reasons[0] == "nothing is called robust or antifragile"
    assert set(reasons[1:]) == {"the paper's rule chooses no weights whose number could be matched"}
    assert {line.outcome for line in verdict(compare([found])).lines} == {"not tested"}


def test_pulses_of_weights_can_be_trained(store: Store) -> None:
    spec = replace(SPEC, granularity="weights", score=ScoreSpec())
    found = run(store, spec)
    paper, everything, fragile = found.rules
    assert paper.choice.selection.num_thresholds == 5
    assert 0 < paper.num_live_trained < everything.num_live_trained
    assert paper.num_live_trained + fragile.num_live_trained <= everything.num_live_trained == 1086
    for own in found.rules:
        assert own.start is not None
        assert {epoch.frozen_sha256 for epoch in own.epochs} == {own.start.frozen_sha256}


def test_leaning_calls_and_other_scores_change_the_choice(store: Store) -> None:
    near = {"rules": ("robust_antifragile",), "score": ScoreSpec(tolerance=0.33)}
    choices = {
        name: run(store, replace(SPEC, budget=1, **near | change)).rules[0].choice.layers
        for name, change in {
            "counted": {},
            "ignored": {"leaning": "ignored"},
            "clean": {"kind": "clean"},
            "pulse": {"filter": "pulse"},
        }.items()
    }
    assert set(choices["ignored"]) < set(choices["counted"])
    assert choices["pulse"] == lanes.LAYERS
    assert len(set(choices.values())) >= 3


# Once, and going on ---------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(SPEC, rules=("robust_antifragile", "least_critical"))
    first = run(store, spec)
    monkeypatch.setattr(data, "load_dataset", lambda name: pytest.fail("nothing is left to do"))
    monkeypatch.setattr("fss_core.retraining.running.load_dataset", lambda name: pytest.fail("nothing is left to do"))
    assert_same(run(store, spec), first)


class Stop:
    """Asks to stop at the n-th look."""

    def __init__(self, num_looks: int) -> None:
        self.left = num_looks

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_stopping_anywhere_and_going_on_equals_running_once(
    store: Store, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, rules=("robust_antifragile", "all_with_bn", "least_critical"))
    expected = run(store, spec)
    shutil.copytree(template, tmp_path / "other")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "other"))
    stops = 0
    with Store() as other, counted_epochs() as epochs:
        while True:
            try:
                found = run(other, spec, should_stop=Stop(29))
                break
            except Cancelled:
                stops += 1
                assert stops < 100
    assert stops >= 4
    assert_same(found, expected)
    assert len(epochs) >= 6


@pytest.mark.parametrize("seed", [0, lanes.IMPORTED_SEED])
def test_a_larger_budget_goes_on(
    seed: int, store: Store, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, measurement=lanes.measurement(seed), rules=("all",), budget=3)
    expected = run(store, spec)
    shutil.copytree(template, tmp_path / "other")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "other"))
    with Store() as other, counted_epochs() as epochs:
        run(other, replace(spec, budget=1))
        assert len(epochs) == 1
        assert_same(run(other, spec), expected)
        assert len(epochs) == 3
        assert run(other, replace(spec, budget=2)).complete
        assert len(epochs) == 3


def test_an_epoch_that_was_trained_and_not_judged_is_judged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(SPEC, rules=("all",))
    judge_epoch = work_module.Work._judge_epoch

    def interrupted(*arguments: Any) -> None:
        raise Cancelled("killed between training and judging")

    monkeypatch.setattr(work_module.Work, "_judge_epoch", interrupted)
    with pytest.raises(Cancelled), counted_epochs() as epochs:
        run(store, spec)
    assert len(epochs) == 1
    partial_result = find_retrained(store, spec)
    assert partial_result is not None
    assert not partial_result.complete
    assert partial_result.rules[0].epochs == ()
    monkeypatch.setattr(work_module.Work, "_judge_epoch", judge_epoch)
    with counted_epochs() as epochs:
        found = run(store, spec)
    assert len(epochs) == 1
    assert_same(run(store, spec, refresh=True), found)


def test_an_early_epoch_that_is_lost_is_made_again(store: Store) -> None:
    spec = replace(SPEC, rules=("all",), budget=3)
    expected = run(store, spec)
    [lost] = [key for key in store.keys("retraining/") if key.endswith("/epoch/1")]
    store.delete(lost)
    assert_same(run(store, spec), expected)


def test_refreshing_begins_again(store: Store) -> None:
    spec = replace(SPEC, rules=("all", "least_critical"))
    expected = run(store, spec)
    with counted_epochs() as epochs:
        assert_same(run(store, spec, refresh=True), expected)
    assert len(epochs) == 4


def test_what_is_damaged_is_said_and_refreshing_repairs_it(store: Store) -> None:
    spec = replace(SPEC, rules=("all",))
    expected = run(store, spec)
    [key] = [key for key in store.keys("retraining/") if key.endswith("/epoch/2")]
    store._cache().set(key, b"nonsense")
    with pytest.raises(StoreError, match="--refresh"):
        run(store, spec)
    assert_same(run(store, spec, refresh=True), expected)


def test_progress_never_goes_back_and_ends_at_the_end(store: Store) -> None:
    seen: list[RetrainingProgress] = []
    run(store, replace(SPEC, rules=("all", "fragile")), on_progress=seen.append)
    own = [now for now in seen if now.stage in ("retrain", "judge")]
    shares = [now.done / now.total for now in own]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.9 < shares[-1] < 1
    assert {now.detail.partition(":")[0] for now in own} == {"before retraining", "all", "fragile"}
    assert {now.stage for now in seen} >= {"measure", "attack", "retrain", "judge"}


# Looking up -----------------------------------------------------------------------------------------------


def test_before_anything_is_measured_there_is_nothing(store: Store) -> None:
    assert find_retrained(store, SPEC) is None


def test_rules_whose_choice_is_not_known_yet_are_left_out(store: Store) -> None:
    run(store, replace(SPEC, rules=("all",)))
    found = find_retrained(store, replace(SPEC, rules=("all", "least_critical", "last_layer")))
    assert found is not None
    assert [(own.choice.rule, len(own.epochs)) for own in found.rules] == [("all", 2), ("last_layer", 0)]
    assert not found.complete


LOOK_UP = """
import json, sys
from fss_core.retraining import RetrainingSpec, compare, find_retrained, verdict
from fss_core.retraining.reports import retraining_lines
from fss_core.specs import ScoreSpec
from fss_core.store import Store
import lanes
rules = ("all", "least_critical")
spec = RetrainingSpec(measurement=lanes.measurement(), budget=1, rules=rules, granularity=sys.argv[1])
found = find_retrained(Store(), spec)
comparison = compare([found])
print(json.dumps(retraining_lines([found], comparison, verdict(comparison))))
print(json.dumps([name for name in ("torch", "torchvision", "pandas", "streamlit") if name in sys.modules]))
"""


@pytest.mark.parametrize("granularity", ["layer", "weights"])
def test_results_are_read_without_torch(granularity: Any, store: Store, cache: Path) -> None:
    spec = replace(SPEC, rules=("all", "least_critical"), budget=1, score=ScoreSpec(), granularity=granularity)
    found = run(store, spec)
    done = subprocess.run(
        [sys.executable, "-c", LOOK_UP, granularity], capture_output=True, text=True, check=True, env=environment(cache)
    )
    lines, heavy = (json.loads(line) for line in done.stdout.splitlines())
    assert heavy == []
    assert any(line.startswith("all ") and f"{found.of_rule('all')[0].num_live_trained:,}" in line for line in lines)


# Initialisations ------------------------------------------------------------------------------------------


def test_imported_weights_start_adam_afresh(store: Store) -> None:
    found = run(store, replace(SPEC, measurement=lanes.measurement(lanes.IMPORTED_SEED), rules=("all", "last_layer")))
    assert found.origin == "imported"
    assert {own.start.optimiser for own in found.rules if own.start} == {"fresh"}


def test_seeds_share_one_epsilon(store: Store) -> None:
    without = replace(SPEC, rules=("all",), budget=1, measurement=replace(SPEC.measurement, epsilon=None))
    specs: list[RetrainingSpec] = []

    def noted(spec: RetrainingSpec) -> Retraining:
        specs.append(spec)
        return run(store, spec)

    first, second = retrain_seeds(without, lanes.TRAINED_SEEDS, noted)
    assert [spec.measurement.epsilon for spec in specs] == [None, first.epsilon, first.epsilon]
    assert (first.seed, second.seed) == lanes.TRAINED_SEEDS
    assert second.epsilon == first.epsilon
    assert first.checkpoint_sha256 != second.checkpoint_sha256
    comparison = compare([first, second])
    assert comparison.row("all").to_before["fgsm"].basis == "seeds"  # type: ignore[union-attr]
    given = retrain_seeds(SPEC, [0], partial(retrain, store=store, factory=lanes.make_network))
    assert given[0].epsilon == 0.04
    for seeds in ([], [0, 0]):
        with pytest.raises(ValueError, match="seeds must name at least one initialisation, each once"):
            retrain_seeds(SPEC, seeds, noted)


# Refusals -------------------------------------------------------------------------------------------------


def test_an_epoch_that_was_never_trained_is_refused(store: Store) -> None:
    spec = replace(SPEC, measurement=replace(lanes.measurement(), epoch=9))
    with pytest.raises(CheckpointError, match="no epoch 9 of lanes_net on lanes, seed 0") as caught:
        run(store, spec)
    assert "\n" not in str(caught.value)


def test_more_report_images_than_there_are_are_refused(store: Store) -> None:
    spec = replace(SPEC, num_report_images=151)
    with pytest.raises(ValueError, match="num_report_images must be at most 150, the report images of lanes, got 151"):
        run(store, spec)
    some = run(store, replace(SPEC, rules=("all",), budget=1, num_report_images=40))
    assert some.before.num_images == some.rules[0].epochs[0].judgement.num_images == 40


def test_probe_and_report_that_overlap_are_refused(cache: Path, tmp_path: Path) -> None:
    folder = lanes.make_folder(tmp_path / "copies", copies=30)
    data.register_folder(lanes.DATASET, folder)
    dataset = data.load_dataset(lanes.DATASET)
    with pytest.raises(DataError, match=r"probe and report of lanes overlap: \d+ of 150 report images are") as caught:
        refuse_overlap(dataset)
    assert "\n" not in str(caught.value)
    with Store() as store, pytest.raises(DataError, match="overlap"):
        run(store)
    with pytest.raises(DataError, match="150 of 150 report images are probe"):
        refuse_overlap(replace(dataset, probe=dataset.report))


def test_data_without_copies_are_not_refused(store: Store) -> None:
    refuse_overlap(data.load_dataset(lanes.DATASET))


def test_a_network_that_moves_what_is_frozen_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from fss_core.retraining import training as training_module

    monkeypatch.setattr(training_module, "enter_training", lambda network, **_: network.train())
    with pytest.raises(TrainingError, match="frozen tensors moved"):
        run(store)
    found = find_retrained(store, SPEC)
    assert found is not None
    assert all(own.epochs == () for own in found.rules)


# Keys -----------------------------------------------------------------------------------------------------


def make_setting(**change: Any) -> Setting:
    checkpoint = find_checkpoint(lanes.measurement().training, lanes.EPOCH)
    assert checkpoint is not None
    own = {
        "checkpoint": checkpoint,
        "card": data.dataset_card(lanes.DATASET),
        "epsilon": 0.04,
        "num_report_images": 150,
        "device_type": "cpu",
    }
    return Setting(**own | change)


def test_a_key_depends_on_everything_that_changes_a_number(cache: Path) -> None:
    setting, selection = make_setting(), Selection(parts=(Part(layer="fc"),))
    checkpoint, card = setting.checkpoint, setting.card
    other_report = replace(card, fingerprints=card.fingerprints | {"report": "0"})
    other_train = replace(card, fingerprints=card.fingerprints | {"train": "0"})
    settings = [
        setting,
        make_setting(epsilon=0.05),
        make_setting(num_report_images=140),
        make_setting(device_type="cuda"),
        make_setting(card=other_report),
        make_setting(card=other_train),
        make_setting(checkpoint=replace(checkpoint, sha256="0" * 64)),
        make_setting(checkpoint=replace(checkpoint, state_sha256="0" * 64)),
        make_setting(checkpoint=replace(checkpoint, state_sha256=None)),
        make_setting(checkpoint=replace(checkpoint, epoch=4)),
        make_setting(checkpoint=replace(checkpoint, spec=replace(checkpoint.spec, seed=1))),
        make_setting(checkpoint=replace(checkpoint, spec=replace(checkpoint.spec, batch_size=50))),
        make_setting(checkpoint=replace(checkpoint, spec=replace(checkpoint.spec, learning_rate=0.01))),
    ]
    selections = [
        Selection(parts=(Part(layer="conv1"),)),
        Selection(parts=(Part(layer="fc"),), with_norms=True),
        Selection(parts=(Part(layer="fc", pulses=(0,)),), num_thresholds=5),
        Selection(parts=(Part(layer="fc", pulses=(0,)),), num_thresholds=6),
        Selection(parts=(Part(layer="fc", pulses=(1,)),), num_thresholds=5),
    ]
    keys = [own.retraining_key(selection) for own in settings] + [setting.retraining_key(own) for own in selections]
    assert len(set(keys)) == len(settings) + len(selections)
    assert make_setting().retraining_key(selection) == keys[0]
    # Before retraining, only the network and the images matter.
    assert len({own.before_key() for own in settings}) == 6
    assert (
        canonical_json(selection) == '{"num_thresholds":null,"parts":[{"layer":"fc","pulses":null}],"with_norms":false}'
    )
