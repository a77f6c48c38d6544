"""``fss retrain``, and retraining as a kind of run: planned, done piece by piece, stopped, gone on with, shared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lanes
import pytest
from bars import environment
from commands import Fss, refused

from fss_core import data
from fss_core.flow import Flow, Progress
from fss_core.jobs import here, service
from fss_core.jobs.board import Board, Task
from fss_core.jobs.kinds import KINDS, plan_request, read_request, words
from fss_core.jobs.rates import Machine
from fss_core.jobs.retraining import RetrainWork
from fss_core.jobs.retraining_plans import RetrainRequest, retrain_task_name
from fss_core.retraining import JUDGED, Retraining, RetrainingSpec, compare, retrain, verdict
from fss_core.retraining.lookup import find_retrained_seeds, of_seed, setting_of
from fss_core.retraining.reports import verdict_lines
from fss_core.retraining.training import Retrainer
from fss_core.retraining.work import Work
from fss_core.specs import Cancelled, DataError, ScoreSpec, canonical_json, from_json
from fss_core.store import LeaseHeldError, Store

RULES = ("robust_antifragile", "all", "fragile")
SPEC = RetrainingSpec(
    measurement=lanes.measurement(), budget=2, rules=RULES, score=ScoreSpec(tolerance=0.16), filter="pulse"
)
"""At this tolerance the pulse scores call some of seed 0's layers robust and some fragile, with room on both sides:
rounding, which differs from processor to processor, makes it another network."""

REQUEST = RetrainRequest(spec=SPEC, factory=lanes.FACTORY)
MACHINE = Machine(cores=2, workers=2)

pytestmark = pytest.mark.usefixtures("cache")

RETRAIN: list[object] = [
    *("retrain", "--network", lanes.NETWORK, "--dataset", lanes.DATASET, "--epoch", lanes.EPOCH, "--budget", 2),
    *("--rules", ",".join(RULES), "--factory", lanes.FACTORY, "--images", 120, "--thresholds", 5),
    *("--epsilon", 0.04, "--tolerance", 0.16, "--filter", "pulse"),
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lanes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root))
        return lanes.make_cache(root)


@pytest.fixture
def cache(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, tmp_path / "cache")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "cache"))
    data.load_dataset(lanes.DATASET)  # decoded, so that plans know its sizes
    return tmp_path / "cache"


def without(*options: str) -> list[object]:
    """The command without some options and their values."""
    return [own for index, own in enumerate(RETRAIN) if own not in options and RETRAIN[index - 1] not in options]


@contextmanager
def counted_epochs() -> Iterator[list[int]]:
    """The epochs that are trained, each by how many its retrainer had behind it."""
    seen: list[int] = []
    train_epoch = Retrainer.train_epoch

    def counted(self: Retrainer, on_step: Callable[[int], None]) -> tuple[float, float]:
        seen.append(self.epoch)
        return train_epoch(self, on_step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retrainer, "train_epoch", counted)
        yield seen


# The verb -------------------------------------------------------------------------------------------------


def test_the_verb_prints_the_tables_and_the_verdict_of_the_core(fss: Fss) -> None:
    done = fss(*RETRAIN)
    assert done.code == 0, done.err
    with Store() as store:
        [found] = find_retrained_seeds(store, SPEC, [0])
    assert found.complete
    comparison = compare([found])
    lines = done.out.splitlines()
    for row in comparison.rows:
        own = [line for line in lines if line.startswith(f"{row.rule} ")]
        fgsm = row.accuracy["fgsm"]
        assert any(f"{fgsm.value:.3f} [{fgsm.low:.3f}, {fgsm.high:.3f}]" in line for line in own)
    expected = verdict_lines(verdict(comparison))
    assert lines[-len(expected) :] == expected
    assert sum(line.startswith("Against ") for line in expected) == 2
    assert "this checkpoint only" in done.out
    assert "FGSM after epoch" in done.out


def test_asked_again_it_answers_at_once_and_without_torch(fss: Fss, cache: Path) -> None:
    first = fss(*RETRAIN)
    code = (
        "import json, sys; from fss_core.cli import main; code = main(sys.argv[1:]); "
        "print(json.dumps([code, 'torch' in sys.modules, 'streamlit' in sys.modules]))"
    )
    command = [sys.executable, "-c", code, *map(str, RETRAIN)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(cache))
    *lines, heavy = done.stdout.splitlines()
    assert json.loads(heavy) == [0, False, False]
    assert lines == first.out.splitlines()
    assert done.stderr == ""


def test_json_holds_everything(fss: Fss) -> None:
    done = fss(*RETRAIN, "--json")
    found = json.loads(done.out)
    with Store() as store:
        [own] = find_retrained_seeds(store, SPEC, [0])
    [shown] = found["retrainings"]
    assert shown["before"] == {kind: own.before.accuracy(kind) for kind in own.before.packed}
    assert [rule["rule"] for rule in shown["rules"]] == list(RULES)
    for rule, result in zip(shown["rules"], own.rules, strict=True):
        assert [epoch["accuracy"]["pgd"] for epoch in rule["epochs"]] == [
            epoch.judgement.accuracy("pgd") for epoch in result.epochs
        ]
        assert {epoch["frozen_sha256"] for epoch in rule["epochs"]} == {rule["start"]["frozen_sha256"]}
        assert [part["layer"] for part in rule["selection"]["parts"]] == list(result.choice.layers)
    assert [line["outcome"] for line in found["verdict"]["lines"]] == [
        line.outcome for line in verdict(compare([own])).lines
    ]


def test_several_seeds_share_one_calibrated_epsilon(fss: Fss) -> None:
    command = [*without("--epsilon", "--budget", "--rules"), "--budget", 1, "--rules", "all", "--seeds", 2, "--json"]
    done = fss(*command)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [own["seed"] for own in found["retrainings"]] == [0, 1]
    first, second = (own["measurement"]["epsilon"] for own in found["retrainings"])
    assert first is None
    assert second == found["comparison"]["epsilon"]
    assert found["comparison"]["seeds"] == [0, 1]


def test_a_rule_that_chooses_nothing_is_a_result(fss: Fss) -> None:
    done = fss(*without("--tolerance", "--filter"), "--tolerance", 0)
    assert done.code == 0, done.err
    assert "robust_antifragile: nothing is called robust or antifragile." in done.out
    assert "Against all: not tested (nothing is called robust or antifragile)." in done.out


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (["--budget", 0], 2, "budget must be at least 1 epoch of retraining"),
        (["--rules", "fragle"], 1, "no rule 'fragle'; choose from robust_antifragile, "),
        (["--rules", "all,all"], 2, "rules must name at least one rule, each once, got all, all"),
        (["--rules", ","], 2, "name at least one"),
        (["--epoch", 9], 1, "no epoch 9 of lanes_net on lanes, seed 0"),
        (["--seeds", 0], 2, "--seeds must be at least 1 and at most 100, got 0"),
        (["--seeds", 10**12], 2, "--seeds must be at least 1 and at most 100"),
        (["--report-images", 151], 2, "num_report_images must be at most 150, the report images of lanes, got 151"),
        (["--images", 1000], 2, "num_images must be at most 120"),
        (["--granularity", "neurons"], 2, "invalid choice: 'neurons'"),
        (["--network", "lens"], 1, "no network 'lens'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(fss: Fss, change: list[object], code: int, reason: str) -> None:
    option = str(change[0])
    command = [*without(option, *(["--factory"] if option == "--network" else [])), *change]
    assert reason in refused(fss(*command), code, after_bars=True)


def test_probe_and_report_that_overlap_are_refused_before_anything_is_measured(fss: Fss, tmp_path: Path) -> None:
    data.register_folder(lanes.DATASET, lanes.make_folder(tmp_path / "copies", copies=30))
    assert "probe and report of lanes overlap" in refused(fss(*RETRAIN), 1, after_bars=True)
    with Store() as store:
        assert store.count("responses/") == 0
        [run] = Board(store).runs()
        assert (run.state, "overlap" in run.reason) == ("failed", True)


def test_help_lists_the_verb(fss: Fss) -> None:
    assert "retrain" in fss("--help").out
    assert "--budget R" in fss("retrain", "--help").out


# The request ----------------------------------------------------------------------------------------------


def test_a_request_survives_json_and_names_the_same_work_once() -> None:
    request = RetrainRequest(
        spec=replace(SPEC, granularity="weights", num_report_images=50), seeds=(3, 4), factory=lanes.FACTORY
    )
    assert from_json(RetrainRequest, json.loads(canonical_json(request.to_json()))) == request
    assert request.spec.measurement.training.seed == 3
    other = RetrainRequest(spec=of_seed(request.spec, 9, 0.04), seeds=(3, 4), factory=lanes.FACTORY)
    assert other == request
    assert other.key == request.key
    assert replace(request, seeds=(3,)).key != request.key
    for text in (
        "epoch 3",
        "initialisations 3, 4",
        "2 epochs of retraining",
        *RULES,
        "pulses of weights",
        "on 50 report",
    ):
        assert text in request.words()


@pytest.mark.parametrize("seeds", [(), (1, 1), tuple(range(101))])
def test_seeds_that_make_no_sense_are_refused(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="seeds must name 1 to 100 initialisations, each once"):
        RetrainRequest(spec=SPEC, seeds=seeds)


# The plan -------------------------------------------------------------------------------------------------


def stages(tasks: tuple[Task, ...]) -> list[str]:
    return list(dict.fromkeys(task.name.partition("/")[0] for task in tasks))


def test_a_plan_lists_what_is_missing_and_only_the_first_seed_begins(store: Store) -> None:
    request = RetrainRequest(spec=replace(SPEC, rules=(*RULES, "least_critical")), seeds=(0, 1), factory=lanes.FACTORY)
    plan = plan_request(store, request, MACHINE)
    own = ["images:{}", "layers:{}", "criticality:{}", "judge:{}", "retrain:{}"]
    assert stages(plan.tasks) == [name.format(seed) for seed in (0, 1) for name in own]
    assert [task.name for task in plan.tasks if task.ready] == ["images:0/layers"]
    assert plan.seconds > 0
    assert plan.basis == "typical"


def test_a_plan_of_an_epoch_that_is_not_there_trains_it_and_calibrates_once(store: Store) -> None:
    measurement = replace(SPEC.measurement, epoch=9, epsilon=None)
    plan = plan_request(store, RetrainRequest(spec=replace(SPEC, measurement=measurement), seeds=(0, 1)), MACHINE)
    assert stages(plan.tasks)[:2] == ["train:0", "epsilon:0"]
    assert "train:1" in stages(plan.tasks)
    assert "epsilon:1" not in stages(plan.tasks)


def test_a_plan_before_the_data_set_is_decoded_decodes_it_once(store: Store, cache: Path) -> None:
    shutil.rmtree(cache / "prepared")
    plan = plan_request(store, replace(REQUEST, seeds=(0, 1)), MACHINE)
    assert [task.name for task in plan.tasks if task.ready] == ["data:0"]
    assert sum(task.stage == "data" for task in plan.tasks) == 1
    assert plan.seconds > 0


def test_more_report_images_than_there_are_are_refused_before_anything_is_done(store: Store) -> None:
    request = replace(REQUEST, spec=replace(SPEC, num_report_images=151))
    with pytest.raises(ValueError, match="num_report_images must be at most 150"):
        plan_request(store, request, MACHINE)


def test_a_plan_has_one_task_per_selection_and_shrinks(store: Store) -> None:
    spec = replace(SPEC, rules=(*RULES, "complement", "random"), num_draws=2)
    request = replace(REQUEST, spec=spec)
    retrain(replace(spec, rules=("all",), budget=1), store=store, factory=lanes.make_network)
    tasks = plan_request(store, request, MACHINE).tasks
    assert all(task.ready and task.wide and task.stage == "retrain" for task in tasks)
    rules = [task.name.partition("/")[2].rpartition("-")[0] for task in tasks]
    assert rules[:3] == ["robust_antifragile", "all", "fragile"]
    assert set(rules[3:]) <= {"random"}
    assert len({task.name for task in tasks}) == len(tasks)
    by_rule = dict(zip(rules, tasks, strict=True))
    assert by_rule["fragile"].units == 2 * by_rule["all"].units == 2 * (240 + 150 * 14)
    retrain(spec, store=store, factory=lanes.make_network)
    assert plan_request(store, request, MACHINE).tasks == ()


# The work -------------------------------------------------------------------------------------------------


def do_here(store: Store, request: RetrainRequest = REQUEST, **options: Any) -> None:
    run = here.carry_out(store, request, **options)
    assert run is not None
    assert run.state == "done"


def accuracies(found: Retraining) -> list[tuple[str, list[float]]]:
    assert found.complete
    return [
        (own.choice.rule, [epoch.judgement.accuracy(kind) for epoch in own.epochs for kind in JUDGED])
        for own in found.rules
    ]


def test_a_run_gives_what_the_core_gives_and_learns_how_fast_it_was(store: Store, tmp_path: Path) -> None:
    request = RetrainRequest(
        spec=replace(SPEC, rules=(*RULES, "most_critical")), seeds=lanes.TRAINED_SEEDS, factory=lanes.FACTORY
    )
    do_here(store, request)
    found = find_retrained_seeds(store, request.spec, request.seeds)
    board = Board(store)
    [run] = board.runs()
    assert read_request(run) == request
    assert words(run) == request.words()
    assert {task.state for task in board.tasks(run.key)} == {"done"}
    assert any(key.startswith("backward/lanes_net/1x8x8/cpu/") for key in board.rates())
    with Store(tmp_path / "other") as other:
        for own, seed in zip(found, request.seeds, strict=True):
            expected = retrain(of_seed(request.spec, seed, 0.04), store=other, factory=lanes.make_network)
            assert accuracies(own) == accuracies(expected)


def test_progress_of_all_selections_is_one_bar_that_never_goes_back(store: Store) -> None:
    seen: list[Progress] = []
    do_here(store, on_progress=seen.append)
    own = [now for now in seen if now.stage == "retrain"]
    shares = [now.done / now.total for now in own]
    assert shares == sorted(shares)
    assert 0.8 < shares[-1] <= 1
    assert {now.detail.partition(":")[0] for now in own} == set(RULES)
    assert [now.stage for now in seen].index("judge") < [now.stage for now in seen].index("retrain")


def test_a_cancelled_run_stops_within_three_seconds_and_goes_on_where_it_was(store: Store) -> None:
    board, begun = Board(store), []
    cancelled: list[float] = []
    train_epoch = Retrainer.train_epoch

    def endless(self: Retrainer, on_step: Callable[[int], None]) -> tuple[float, float]:
        begun.append(self.epoch)
        if len(begun) == 4:  # the second epoch of the second rule
            board.cancel(REQUEST.key)
            cancelled.append(time.monotonic())
            while True:
                time.sleep(0.05)
                on_step(0)
        return train_epoch(self, on_step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retrainer, "train_epoch", endless)
        with pytest.raises(Cancelled):
            here.carry_out(store, REQUEST)
    assert time.monotonic() - cancelled[0] < 3
    assert board.get(REQUEST.key).state == "cancelled"
    [found] = find_retrained_seeds(store, SPEC, [0])
    assert [len(own.epochs) for own in found.rules] == [2, 1, 0]
    done = [task.name for task in board.tasks(REQUEST.key) if task.state == "done"]
    assert sum(name.startswith("retrain:") for name in done) == 1
    with counted_epochs() as left:
        do_here(store)
    assert left == [1, 0, 1]


def test_a_piece_that_another_process_holds_is_left_to_it(store: Store) -> None:
    flow = Flow(store, factory=lanes.make_network)
    measured = flow.measure(SPEC.measurement)
    own = Work(SPEC, measured, data.load_dataset(lanes.DATASET), store, flow.tell, lanes.make_network, refresh=False)
    [(selection, rules), *_] = own.selections().items()
    name = retrain_task_name(0, selection, rules)
    key = setting_of(SPEC, measured).retraining_key(selection)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with Store() as other, other.claim(f"retraining/{key}"):
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(10)
        with pytest.raises(LeaseHeldError):
            own.retrain(selection, rules, wait=False)
    finally:
        release.set()
        holder.join()
    assert name in [task.name for task in plan_request(store, REQUEST, MACHINE).tasks]
    own.retrain(selection, rules, wait=False)
    assert name not in [task.name for task in plan_request(store, REQUEST, MACHINE).tasks]


def test_a_task_is_known_by_what_it_trains_not_by_the_rule_in_its_name(store: Store) -> None:
    work = RetrainWork(lambda _: Flow(store, factory=lanes.make_network))
    Flow(store, factory=lanes.make_network).measure(SPEC.measurement)

    def left() -> list[Task]:
        return [task for task in plan_request(store, REQUEST, MACHINE).tasks if task.stage == "retrain"]

    [task, *others] = left()
    stage, _, digest = task.name.rpartition("-")
    assert work.do(REQUEST, replace(task, name=f"{stage.partition('/')[0]}/most_critical-{digest}"), wait=True)[0] > 0
    assert left() == others
    assert work.do(REQUEST, replace(task, name="retrain:0/all-00000000"), wait=True)[0] == 0
    assert left() == others


def test_an_overlap_fails_the_run_before_anything_is_trained(store: Store, tmp_path: Path) -> None:
    data.register_folder(lanes.DATASET, lanes.make_folder(tmp_path / "copies", copies=30))
    with counted_epochs() as epochs, pytest.raises(DataError, match="overlap"):
        here.carry_out(store, REQUEST)
    assert epochs == []
    assert Board(store).get(REQUEST.key).state == "failed"


def test_the_kind_is_known_and_rubbish_is_not(store: Store) -> None:
    assert KINDS["retrain"].read(json.loads(canonical_json(REQUEST.to_json()))) == REQUEST
    run = Board(store).ask("retrain", {"spec": {}})
    with pytest.raises(ValueError, match="RetrainRequest cannot be read"):
        read_request(run)
    assert words(run) == "a request that this version cannot read"


@pytest.mark.slow
def test_workers_do_it_too(fss: Fss, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment(cache)["PYTHONPATH"])
    done = fss(*RETRAIN, "--workers", 1, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["verdict"]["lines"]
    with Store() as store:
        [run] = Board(store).runs()
        assert run.state == "done"
        assert any("starting the workers" in line.text for line in Board(store).log_lines(run.key))
        runner, _ = service._runners.pop(store.directory)
        runner.terminate()
        runner.wait(30)
