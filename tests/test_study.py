"""Studies: killed and gone on with, stopped by a budget, published, and shown where nothing else is."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grids
import numpy as np
import pyarrow.parquet as pq
import pytest
from bars import environment
from pictures import ROOT, complaints, links, open_page, text_of
from streamlit.testing.v1 import AppTest

from fss_core.checkpoints import weights_sha256
from fss_core.cli import main
from fss_core.explore import find_picture, score_picture
from fss_core.imports import Entry, published
from fss_core.invariance.lookup import ComparisonSpec, find_candidates
from fss_core.jobs.plans import plan_measurement
from fss_core.jobs.rates import Machine
from fss_core.retraining import RULES, find_retrained
from fss_core.retraining import pictures as retraining_pictures
from fss_core.retraining.published import find_published, read_retraining, write_retraining
from fss_core.specs import NETWORKS, DataError, ScoreSpec, StoreError, UnknownNameError, to_json
from fss_core.store import Store
from fss_core.study import publishing, running
from fss_core.study.cells import Cell
from fss_core.study.costs import estimate, known_epsilon
from fss_core.study.manifest import StudyManifest, list_studies, read_manifest
from fss_core.study.presets import PRESETS, find_preset
from fss_core.study.publishing import cell_directory, publish, published_cell, read_cell
from fss_core.study.running import OUT_OF_TIME, run_study, spent

KILLED = "import sys, grids; grids.run_and_be_killed(sys.argv[1])"


def states(manifest: StudyManifest) -> dict[str, str]:
    return {own.name: own.state for own in manifest.cells}


def weights_in(root: Path) -> dict[str, str]:
    """The SHA-256 of every checkpoint's weights, by epoch."""
    return {path.parent.name: weights_sha256(path) for path in (root / "checkpoints").rglob("weights.safetensors")}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was stopped by its budget, killed, and then done to the end."""
    root = tmp_path_factory.mktemp("grids")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root))
        patch.delenv("FSS_DATA_DIR", raising=False)
        grids.make_cache(root)
        with Store() as store:
            with pytest.MonkeyPatch.context() as early:
                grids.stop_after(early, 2)
                stopped = run_study(store, grids.PRESET, root / "published")
            (root / "stopped.json").write_text(json.dumps(to_json(stopped)))
            weights = weights_in(root)
            assert len(weights) == 1
            killed = subprocess.run(
                [sys.executable, "-c", KILLED, str(root / "published")], env=environment(root), check=False
            )
            assert killed.returncode == -signal.SIGKILL
            assert not (root / "published" / grids.NAME).exists()
            begun = store.keys("responses/")
            assert len(begun) > 10
            seconds = spent(store, grids.CELL)
            trained: list[int] = []
            patch.setattr(running.Flow, "train", lambda _, spec, epochs, **options: trained.extend(epochs))
            manifest = run_study(store, grids.PRESET, root / "published")
            assert trained == []  # what was trained before is not trained again
            assert weights.items() < weights_in(root).items()
            assert set(begun) <= set(store.keys("responses/"))
            assert spent(store, grids.CELL)["measure"] > seconds.get("measure", 0.0) > 0
        assert states(manifest) == {
            "resnet18/cifar10": "missing",
            f"squeezenet1_1/{grids.DATASET}": "published",
            f"squeezenet1_1/{grids.DATASET}#2": "published",
        }
    return root


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be computed."""
    for name in ("carry_out", "Flow"):
        monkeypatch.setattr(running, name, lambda *_, **__: pytest.fail("nothing is left to do"))


# Going on -------------------------------------------------------------------------------------------------


def test_a_budget_stops_between_tasks_and_says_what_is_left(template: Path) -> None:
    stopped = json.loads((template / "stopped.json").read_text())
    elsewhere, own, second = stopped["cells"]
    assert "cifar10" in elsewhere["reason"]
    for cell in (own, second):
        assert (cell["state"], cell["reason"]) == ("missing", OUT_OF_TIME)
        assert cell["seconds_left"] > 0
    assert own["seconds"] > 0
    assert second["seconds"] == 0


def test_a_published_cell_is_left_alone(store: Store, cache: Path, idle: None) -> None:
    before = {path: path.stat().st_mtime_ns for path in (cache / "published" / grids.NAME).rglob("*")}
    manifest = run_study(store, grids.PRESET, cache / "published")
    assert sorted(states(manifest).values()) == ["missing", "published", "published"]
    assert {path: path.stat().st_mtime_ns for path in (cache / "published" / grids.NAME).rglob("*")} == before


def test_a_cell_that_asks_for_something_else_is_not_published(cache: Path) -> None:
    directory = cache / "published"
    assert published_cell(directory, grids.NAME, grids.CELL) is not None
    for change in ({"num_images": 13}, {"num_train": None}, {"score": ScoreSpec(tolerance=0.1)}, {"seeds": (0, 1)}):
        assert published_cell(directory, grids.NAME, replace(grids.CELL, **change)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "cell.json").write_text("{"),
        lambda path: (path / "cell.json").unlink(),
        lambda path: (path / "seed0-epoch000" / "images.parquet").write_bytes(b"PAR1"),
    ],
    ids=["description", "no description", "a file"],
)
def test_a_damaged_cell_is_published_again_from_what_is_stored(
    store: Store, cache: Path, idle: None, damage: Callable[[Path], Any]
) -> None:
    path = cell_directory(cache / "published", grids.NAME, grids.CELL)
    damage(path)
    assert published_cell(cache / "published", grids.NAME, grids.CELL) is None
    run_study(store, grids.PRESET, cache / "published", cells=(grids.CELL,))
    assert read_cell(path).key == grids.CELL.key
    assert not list(cache.glob(".published-*"))


def test_a_cell_that_is_busy_elsewhere_is_passed_over(store: Store, cache: Path) -> None:
    with store.claim(f"study/{grids.SECOND.key}"), Store() as other:
        manifest = run_study(other, grids.PRESET, cache / "again", cells=(grids.SECOND,))
    assert [own.reason for own in manifest.cells][1:] == ["not asked for yet", "another process is busy with it"]


def test_an_interrupted_study_says_so(store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "publish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_study(store, grids.PRESET, cache / "again")
    (found,) = list_studies(cache / "again")
    assert {own.reason for own in found.cells if own.name != "resnet18/cifar10"} == {"interrupted"}


# What is published ----------------------------------------------------------------------------------------


def test_a_cell_says_what_it_is(store: Store, cache: Path) -> None:
    path = cell_directory(cache / "published", grids.NAME, grids.CELL)
    found = read_cell(path)
    assert (found.cell, found.study, found.dataset_title) == (grids.CELL, grids.NAME, "wide-bars (image folder)")
    assert set(found.checkpoints) == {"0/0", "0/1"}
    assert set(found.fingerprints) == {"train", "calibration", "probe", "report"}
    assert set(found.seconds) == {"train", "measure", "retrain"}
    assert found.epsilon == known_epsilon(store, grids.CELL)
    there = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert there == {*found.files, "cell.json"}
    assert {name.partition("/")[0] for name in found.files} == {
        *(f"seed0-epoch00{epoch}{part}" for epoch in (0, 1) for part in ("", "-whole")),
        "seed0-retraining",
    }
    names = pq.read_table(path / "seed0-epoch001" / "images.parquet").column_names
    assert "clean_right" in names
    assert "clean_class" not in names


def test_the_manifest_says_what_is_missing_and_why(template: Path, cache: Path) -> None:
    (found,) = list_studies(cache / "published")
    assert (found.study, found.title, found.notes) == (grids.NAME, "Small", ("Of no meaning.",))
    missing = found.cells[0]
    assert (missing.state, missing.name) == ("missing", "resnet18/cifar10")
    assert missing.reason == "data set 'cifar10' is not there; run `fss data fetch cifar10`"
    assert str(template) not in (cache / "published" / f"{grids.NAME}.json").read_text()
    assert (missing.seconds, missing.basis) == (0.0, "scaled")
    assert missing.seconds_left > 0
    assert all(own.num_bytes > 1000 and own.seconds > 0 and own.seconds_left == 0 for own in found.cells[1:])
    path = cache / "published" / f"{grids.NAME}.json"
    path.write_text(path.read_text().replace('"num_images": 12', '"num_images": 13'))
    with pytest.raises(StoreError, match="a cell must be what it says"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ("LARGEST_PUBLISHED_FILE", r"^squeezenet1_1/wide-bars: \S+ must have less than 2,000 bytes, it has [\d,]+; "),
        ("LARGEST_PUBLISHED", r"all that is published must have less than 2,000 bytes, with this cell it has [\d,]+; "),
    ],
)
def test_what_is_too_large_to_be_committed_is_not_written(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch, limit: str, text: str
) -> None:
    monkeypatch.setattr(publishing, limit, 2000)
    with pytest.raises(StoreError, match=text) as caught:
        publish(store, grids.CELL, cache / "again", study=grids.NAME, seconds={})
    assert "\n" not in str(caught.value)
    assert not (cache / "again").exists()
    assert not list(cache.glob(".again-*"))
    manifest = run_study(store, grids.PRESET, cache / "again")
    assert "what was measured is kept" in manifest.cells[1].reason


def test_a_cell_that_cannot_be_put_in_place_leaves_the_one_before(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cell_directory(cache / "published", grids.NAME, grids.CELL)
    before = read_cell(path)
    rename = Path.rename

    def refuse(own: Path, target: Path) -> Path:
        if target == path and not own.name.endswith("-before"):
            raise OSError(28, "No space left on device")
        return rename(own, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\)"):
            publish(store, grids.CELL, cache / "published", study=grids.NAME, seconds={})
    assert read_cell(path) == before
    assert not list(cache.glob(".published-*"))


# Shown where nothing else is ------------------------------------------------------------------------------

FRESH = """
import sys
import grids
from fss_core.explore import find_picture, score_picture
from fss_core.imports import published
from fss_core.retraining import pictures
from fss_core.specs import ScoreSpec
from fss_core.store import Store

with Store() as store:
    for seed, epoch in grids.CELL.points():
        # As a person asks for it: ε calibrated, whatever it turned out to be.
        picture = find_picture(store, grids.CELL.request(seed, epoch, None))
        print(picture.origin, epoch, len(score_picture(picture, ScoreSpec()).all), picture.layers.calibrated_on)
    picture = find_picture(store, grids.SECOND.request(0, 1, None))
    print(picture.origin, picture.is_complete, len(picture.control.layers))
    request = grids.CELL.retrain_request()
    found = pictures.find_picture(store, request.spec, request.seeds)
    print(found.origin, found.complete, len(found.comparisons), found.verdict.lines[0].outcome)
print(sorted({"torch", "torchvision", "dask"} & set(sys.modules)))
"""


def test_a_fresh_cache_shows_what_is_published_without_torch_and_data(template: Path, tmp_path: Path) -> None:
    shutil.copytree(template / "published", tmp_path / "fresh" / "published")
    done = subprocess.run(
        [sys.executable, "-c", FRESH], env=environment(tmp_path / "fresh"), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "published 1 2 ",
        "published 0 2 at epoch 1 of initialisation 0",
        "published True 26",
        "published True 2 not tested",
        "[]",
    ]


def test_what_is_published_scores_as_what_was_measured(
    store: Store, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epsilon = known_epsilon(store, grids.CELL)
    requests = [grids.CELL.request(*point, epsilon) for point in grids.CELL.points()]
    here = [find_picture(store, request) for request in requests]
    shutil.copytree(cache / "published", tmp_path / "fresh" / "published")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "fresh"))
    with Store() as empty:
        for request, own in zip(requests, here, strict=True):
            found = find_picture(empty, request)
            assert found is not None
            assert own is not None
            assert (own.origin, found.origin, found.is_complete) == ("measured", "published", True)
            for mine, theirs in zip(
                score_picture(found, ScoreSpec()).all, score_picture(own, ScoreSpec()).all, strict=True
            ):
                assert mine.rows == theirs.rows
    entries = published().entries()
    assert len(entries) == 2 + 2 + 1
    assert all(isinstance(entry, Entry) for entry in entries)


def test_a_retraining_comes_back_as_it_was(store: Store, cache: Path, tmp_path: Path) -> None:
    request = grids.CELL.retrain_request()
    assert request is not None
    expected = find_retrained(store, request.spec)
    found = find_published(request.spec)
    assert expected is not None
    assert found is not None
    for own, other in zip(found.retraining.rules, expected.rules, strict=True):
        assert (own.choice, own.start) == (other.choice, other.start)
        for mine, theirs in zip(own.epochs, other.epochs, strict=True):
            assert (mine.loss, mine.frozen_sha256, mine.seconds) == (theirs.loss, theirs.frozen_sha256, theirs.seconds)
            for kind, bits in theirs.judgement.packed.items():
                np.testing.assert_array_equal(mine.judgement.packed[kind], bits)
    # Fewer rules, and the ε that was calibrated, are the same retraining; another budget or rule is not.
    fewer = replace(request.spec, rules=("last_layer",))
    given = replace(fewer, measurement=replace(fewer.measurement, epsilon=expected.epsilon))
    for spec in (fewer, given):
        less = find_published(spec)
        assert less is not None
        assert [own.choice.rule for own in less.retraining.rules] == ["last_layer"]
        assert less.retraining.spec == spec
    assert find_published(replace(request.spec, num_report_images=None)) is not None  # it says on how many it is judged
    assert find_published(replace(request.spec, num_report_images=31)) is None
    assert find_published(replace(request.spec, budget=2)) is None
    assert find_published(replace(request.spec, rules=tuple(RULES))) is None
    # Measured here comes first.
    picture = retraining_pictures.find_picture(store, request.spec, request.seeds)
    assert picture is not None
    assert picture.origin == "measured"
    write_retraining(expected, {"conv": 1.5}, tmp_path / "own")
    assert read_retraining(tmp_path / "own").criticality == {"conv": 1.5}
    bits = tmp_path / "own" / "judgements.parquet"
    bits.write_bytes(bits.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match=r"judgements\.parquet must have the SHA-256 of"):
        read_retraining(tmp_path / "own")


def test_published_epochs_are_compared_at_one_epsilon(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(template / "published", tmp_path / "fresh" / "published")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "fresh"))
    comparison = ComparisonSpec(across="epochs", measurement=grids.CELL.request(0, 1, None).spec)
    with Store() as store:
        found = find_candidates(store, comparison)
        assert [own.label for own in found] == ["0", "1"]
        for own in found:
            assert own.measured is not None, own.reason
            assert (own.measured.origin, own.about_epsilon) == ("published", "calibrated on epoch 1")
            assert "--train-images 120" in own.command
        # Without the last epoch nobody claims that it was calibrated on another.
        for cell in (grids.CELL, grids.SECOND):
            shutil.rmtree(cell_directory(published().root, grids.NAME, cell) / "seed0-epoch001")
        (first,) = find_candidates(store, comparison)
        assert first.about_epsilon == "at which most is measured"


# Presets and costs ----------------------------------------------------------------------------------------


def test_presets_are_what_they_promise() -> None:
    laptop = find_preset("laptop")
    first = [cell for cell in laptop.cells if cell.round == 1]
    assert len({cell.pair for cell in first}) == len(first) == 12
    assert laptop.cells[:12] == tuple(first)
    for cell in first:
        assert (cell.num_thresholds, cell.seeds, cell.device) == (13, (0,), "cpu")
        assert cell.num_images == (100 if cell.pair == "resnet50/tiny-imagenet-20" else 200)
        assert cell.num_train == 10_000
        epochs = {epoch for own in laptop.cells if own.pair == cell.pair for epoch in own.epochs}
        assert epochs == {4} if cell.pair == "resnet50/tiny-imagenet-20" else epochs >= {0, 1, 2, 4}
    only_last = {cell.pair for cell in first if not {*cell.epochs} >= {0, 1, 2, 4}}
    assert only_last == {"resnet18/tiny-imagenet-20", *(cell.pair for cell in first if cell.network == "resnet50")}
    assert all(cell.epochs == (4,) for cell in first if cell.pair in only_last)
    paper = find_preset("paper")
    assert len(paper.cells) == 12
    assert {cell.epochs for cell in paper.cells} == {tuple(range(0, 101, 10))}
    assert {cell.retraining.rules for cell in paper.cells if cell.retraining} == {tuple(RULES)}
    for name in PRESETS:
        cells = find_preset(name).cells
        assert {cell.network for cell in cells} <= NETWORKS.keys()
        assert len({cell.folder for cell in cells}) == len({cell.key for cell in cells}) == len(cells)
    with pytest.raises(UnknownNameError, match=r"no study 'big'; choose from demo, laptop, paper$"):
        find_preset("big")
    with pytest.raises(UnknownNameError, match="no cell in the study demo 'resnet18/mnist'"):
        find_preset("demo").chosen(["resnet18/mnist"])


def test_a_cell_measures_its_last_epoch_first_and_calibrates_once() -> None:
    cell = Cell(
        network="resnet18", dataset="mnist", epochs=(0, 2), num_images=10, num_thresholds=5, seeds=(3, 4), control=True
    )
    assert cell.points() == [(3, 2), (4, 2), (3, 0), (4, 0)]
    asked = [cell.request(*point, 0.1) for point in cell.points()]
    assert [own.spec.epsilon for own in asked] == [None, 0.1, 0.1, 0.1]
    assert [own.control for own in asked] == [True, True, False, False]
    for epochs in ((), (2, 0), (1, 1)):
        with pytest.raises(ValueError, match="epochs must name at least one"):
            replace(cell, epochs=epochs)


def test_the_cost_of_a_cell_counts_each_step_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "empty") as empty:
        missing = estimate(empty, grids.ELSEWHERE, Machine(cores=2, workers=1))
        with pytest.raises(DataError):
            plan_measurement(empty, grids.ELSEWHERE.request(0, 1, 0.1), Machine())
    assert missing.basis == "typical"
    assert missing.train == pytest.approx(50_000 / 240)
    assert missing.retrain == 0
    with Store() as store:
        done = estimate(store, grids.CELL)
        more = estimate(store, replace(grids.CELL, epochs=(0, 1, 3)))
    assert (done.seconds, done.basis) == (0.0, "measured")
    assert more.train > 0
    # Epochs 0 and 1 are measured, at the ε of epoch 1: at that of epoch 3, which is not known yet, they are not.
    assert more.measure > 0


# The verb -------------------------------------------------------------------------------------------------


@pytest.fixture
def fss(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    grids.install(monkeypatch)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["study", *arguments])
        return code, *capsys.readouterr()

    return run


Fss = Callable[..., tuple[int, str, str]]


def test_a_dry_run_says_what_is_there_and_what_the_rest_costs(cache: Path, idle: None, fss: Fss) -> None:
    code, out, _ = fss("--preset", grids.NAME, "--dry-run")
    assert code == 0
    assert out.startswith("small: Small\nOf no meaning.\n\ncell ")
    assert "Left in all: 1 cell, about " in out
    code, out, _ = fss("--preset", grids.NAME, "--dry-run", "--json", "--directory", str(cache / "again"))
    assert [own["state"] for own in json.loads(out)["cells"]] == ["missing"] * 3
    assert not (cache / "again").exists()
    code, out, _ = fss("--preset", "paper", "--dry-run")
    assert code == 0
    assert out.count("missing") >= 12


def test_a_budget_of_nothing_does_nothing(cache: Path, idle: None, fss: Fss) -> None:
    code, out, _ = fss("--preset", grids.NAME, "--budget-minutes", "0", "--cells", f"squeezenet1_1/{grids.DATASET}")
    assert code == 0
    assert "2 of 2 cells are published" in out
    again = ("--directory", str(cache / "again"))
    code, out, _ = fss("--preset", grids.NAME, "--budget-minutes", "0", *again, "--cells", grids.CELL.pair)
    assert code == 0
    assert f"{grids.CELL.name}, {grids.SECOND.name}: {OUT_OF_TIME}" in out
    assert "0 of 2 cells are published" in out
    assert "Ask for the same again to go on." in out


def test_a_missing_data_set_is_named_and_the_others_go_on(cache: Path, fss: Fss) -> None:
    shutil.rmtree(cache / "published")
    code, out, err = fss("--preset", grids.NAME)
    assert code == 1
    assert "resnet18/cifar10: " in out
    assert "2 of 3 cells are published" in out
    assert f"{grids.CELL.name}: published" in err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--preset", "big"), 1, "no study 'big'; choose from demo, laptop, paper, small, notebook"),
        (("--preset", grids.NAME, "--cells", "a/b"), 1, "no cell in the study small 'a/b'"),
        (("--preset", grids.NAME, "--budget-minutes", "-1"), 2, "must be at least 0, got -1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    cache: Path, fss: Fss, arguments: tuple[str, ...], code: int, text: str
) -> None:
    found, out, err = fss(*arguments)
    assert (found, out) == (code, "")
    assert text in err
    assert err.count("\n") == 1


# In the dashboard -----------------------------------------------------------------------------------------


def test_a_link_names_the_part_of_the_training_images() -> None:
    from pages.common.known import link_params, words

    spec = grids.CELL.request(0, 1, None).spec
    assert link_params(spec)["train"] == "120"
    assert "train" not in link_params(replace(spec, training=replace(spec.training, num_train=None)))
    assert words(spec, {}).startswith("SqueezeNet-v1.1 on wide-bars, epoch 1, 120 training images · FGSM")


def test_show_prints_what_is_published_without_its_data_set(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(template / "published", tmp_path / "fresh" / "published")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "fresh"))
    asked = ("--network", "squeezenet1_1", "--dataset", grids.DATASET, "--train-images", "120", "--thresholds", "2")
    assert main(["show", *asked, "--epoch", "1", "--images", "12"]) == 0
    out, err = capsys.readouterr()
    assert err == "Nothing of this is measured here; this is published:\n"
    assert out.startswith("SqueezeNet-v1.1 on wide-bars (image folder), epoch 1, initialisation 0, 120 training images")
    assert main(["show", *asked, "--epoch", "7"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "wide-bars" in err


def test_epochs_of_one_network_are_one_link_to_the_last(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runners: list[Path]
) -> None:
    shutil.copytree(template / "published", tmp_path / "fresh" / "published")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "fresh"))
    page = open_page(network="resnet18", dataset="mnist5k")
    links = [own.proto.label for own in page.get("page_link") if "published" in own.proto.label]
    assert len(links) == 2  # that of the cell, and its second look
    assert [", epoch 1, " in label for label in links] == [True, True]
    assert [label.endswith("also epochs 0") for label in links].count(True) == 1


def test_the_pages_show_a_published_cell_where_nothing_else_is(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runners: list[Path]
) -> None:
    shutil.copytree(template / "published", tmp_path / "fresh" / "published")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "fresh"))
    page = open_page(network="squeezenet1_1", dataset=grids.DATASET)
    assert not page.exception
    [offered] = [query for label, query in links(page) if label.endswith("published · also epochs 0")]
    assert (offered["epoch"], offered["whole"], offered["control"]) == ("1", "1", "0")
    for epoch in ("0", "1"):
        page = open_page(**offered | {"epoch": epoch})
        assert not page.exception
        title = f"SqueezeNet-v1.1 on wide-bars (image folder), epoch {epoch}, 120 training images"
        assert [own.value for own in page.title] == [title]
        assert "Published with this version." in text_of(page)
        assert all(own.startswith("Caution: ") for own in complaints(page))  # it is hardly trained

    page = open_page("pages/retrain.py", network="squeezenet1_1", dataset=grids.DATASET)
    ((label, address),) = [own for own in links(page) if " of retraining, " in own[0]]
    assert "120 training images" in label
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    page.switch_page("pages/retrain.py")
    page.query_params = address
    page.run()
    assert not page.exception
    assert any("Published with this version" in own.value for own in page.caption)
    assert complaints(page) == []
    assert "n = 30 report images" in text_of(page) + "".join(own.value for own in page.get("html"))
    assert runners == []
