"""``fss``: every verb, every exit code, one line for every refusal and never a traceback."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bars
import pictures
import pytest
from commands import Fss, refused

from fss_core.cli import main
from fss_core.cli.arguments import epsilon as epsilon_of
from fss_core.jobs import service
from fss_core.jobs.board import Board
from fss_core.measurement import Measurement
from fss_core.specs import CalibrationError
from fss_core.store import Store

OWN = ["--network", bars.NETWORK, "--dataset", bars.DATASET, "--epoch", str(bars.EPOCH), "--thresholds", "5"]
SCORE = ["score", *OWN, "--factory", bars.FACTORY, "--images", "110", "--control"]
MORE = [*SCORE[:-2], "115", "--control"]
"""A few images more than were measured, so that there is something to do."""

SHOW = ["show", *OWN, "--control"]
BUILT_IN = ["--network", "shufflenet_v2_x1_0", "--dataset", bars.DATASET, "--epoch", "0"]
UNTRAINABLE = ["score", *BUILT_IN, "--images", "60"]
"""Refused before anything is trained: ``bars`` has fewer training images than a batch."""

NUMBER = r"[+−]\d\.\d{3}"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which 110 images were measured, with the control, at a calibrated ε."""
    root = tmp_path_factory.mktemp("bars")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root))
        bars.make_cache(root)
        assert main(SCORE) == 0
    return root


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "empty"))
    return tmp_path / "empty"


# score and show -------------------------------------------------------------------------------------------


def test_the_table_says_what_how_and_how_sure(cache: Path, fss: Fss) -> None:
    done = fss(*SHOW)
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0] == (
        "bars_net on bars (image folder), epoch 3, imported weights; local filtering, 5 thresholds, fast engine"
    )
    assert re.fullmatch(r"Attack: FGSM, frozen, ε = \d+(\.\d+)?/255 \(calibrated with PGD on 30 images\)", lines[1]), (
        lines[1]
    )
    accuracy = r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]"
    assert re.fullmatch(
        rf"Unfiltered accuracy on n = 110 probe images, with 95 % interval: clean {accuracy}, adversarial {accuracy}; "
        r"chance 0\.250",
        lines[2],
    ), lines[2]
    assert "Dead weights (they multiply padding only): 0.0% of 146 in 2 layers" in lines
    assert "Filtering scores, mean of high-pass, low-pass and pulse" in lines
    cell = rf"[FRAfra]\*? {NUMBER} \[{NUMBER}, {NUMBER}\]"
    for layer in bars.LAYERS:
        (row,) = [line for line in lines if line.startswith(f"{layer} ")]
        assert len(re.findall(cell, row)) == 3, row
    (clean,) = [line for line in lines if line.startswith("clean ")]
    assert sum(int(number) for number in re.findall(r"(\d+) (?:decided|leaning)", clean)) == 2
    text = " ".join(lines)
    assert "F fragile, R robust, A antifragile: decided" in text
    assert "f, r, a: leaning" in text
    assert "Reference: the unfiltered network." in text
    assert "Interval: 95 % over images, each score by itself; this initialisation only." in text


def test_settings_of_the_score_are_named_below_the_table(cache: Path, fss: Fss) -> None:
    done = fss(*SHOW, "--reference", "retained", "--normalise", "none", "--tolerance", "0.2", "--simultaneous")
    text = " ".join(done.out.split())
    assert "Reference: the fraction of weights kept." in text
    assert "within ±0.2" in text
    assert "accuracy points (fractions)" in text
    assert "all together (Bonferroni)" in text


@pytest.mark.parametrize(
    ("table", "titles"),
    [
        ("mean", ["mean of high-pass, low-pass and pulse"]),
        ("low_pass", ["low-pass"]),
        ("random", ["random"]),
        ("all", ["high-pass", "low-pass", "pulse", "mean of high-pass, low-pass and pulse", "random"]),
    ],
)
def test_tables_are_chosen(cache: Path, fss: Fss, table: str, titles: list[str]) -> None:
    done = fss(*SHOW, "--table", table)
    assert re.findall(r"^Filtering scores, (.*)$", done.out, re.MULTILINE) == titles


def test_show_and_score_agree_and_json_holds_everything(cache: Path, fss: Fss) -> None:
    shown, scored = fss(*SHOW, "--json"), fss(*SCORE, "--json")
    assert shown.code == scored.code == 0
    assert shown.json == scored.json
    found = shown.json
    assert len(found["scores"]) == 2 * 5 * 3
    assert {row["filter"] for row in found["scores"]} == {"high_pass", "low_pass", "pulse", "mean", "random"}
    assert found["measurement"]["num_images"] == found["num_images"] == 110
    assert found["attack"]["epsilon"] == found["calibration"]["epsilon"]
    assert found["missing_layers"] == []
    assert [layer["layer"] for layer in found["layers"]] == list(bars.LAYERS)
    for row in found["scores"]:
        assert row["num_images"] == 110
        assert row["certainty"] in ("decided", "leaning")
        assert row["low"] < row["score"] < row["high"]


def test_fewer_images_and_layers_of_a_stored_measurement(cache: Path, fss: Fss) -> None:
    found = fss(*SHOW, "--images", 60, "--layers", "fc", "--json").json
    assert found["num_images"] == 60
    assert {row["layer"] for row in found["scores"]} == {"fc"}


def test_not_measurable_is_said_and_null(cache: Path, fss: Fss) -> None:
    done = fss(*SHOW, "--images", 12)
    assert done.out.count("· not measurable") == 6
    reasons = re.findall(r"^Not measurable \((\d+) scores\): only \d+ (\w+) images are right", done.out, re.MULTILINE)
    assert sum(int(number) for number, _ in reasons) == 6
    rows = fss(*SHOW, "--images", 12, "--json").json["scores"]
    assert all(row["score"] is None and row["call"] is None and row["reason"] for row in rows)


def test_strict_fails_where_there_is_no_score(cache: Path, fss: Fss) -> None:
    line = refused(fss(*SHOW, "--images", 12, "--strict"), 1)
    assert line.startswith("fss: clean score of conv under high_pass: only ")
    assert fss(*SHOW, "--strict").code == 0


def test_an_incomplete_measurement_says_so(cache: Path, fss: Fss) -> None:
    assert fss(*SCORE, "--layers", "fc", "--epsilon", "9/255").code == 0
    done = fss(*SHOW, "--epsilon", "9/255")
    assert "Incomplete: 1 of 2 layers are measured; `fss score` goes on with the rest." in done.out
    assert "ε = 9/255 (as given)" in done.out
    assert fss(*SHOW, "--epsilon", "9/255", "--json").json["missing_layers"] == ["conv"]


@pytest.mark.parametrize(
    "options",
    [
        ["--scope", "global"],
        ["--attack-mode", "adaptive"],
        ["--attack", "PGD"],
        ["--engine", "reference"],
        ["--filters", "pulse,random"],
        ["--integration", "simpson", "--normalise", "p0"],
    ],
)
def test_score_and_show_with_other_options(cache: Path, fss: Fss, options: list[str]) -> None:
    own = [*OWN, "--epsilon", "0.05", *options]
    scored = fss("score", *own, "--images", 60, "--factory", bars.FACTORY, "--json")
    assert scored.code == 0, scored.err
    assert fss("show", *own, "--images", 60, "--json").json == scored.json
    done = fss("show", *own, "--images", 60)
    assert done.code == 0
    assert "n = 60" in done.out


def test_progress_goes_to_standard_error_and_results_do_not(cache: Path, fss: Fss) -> None:
    done = fss(*SCORE, "--json", "--refresh")
    assert done.json["missing_layers"] == []
    for stage in ("calibrate", "attack", "measure"):
        assert stage in done.err
    assert "PGD accuracy" in done.err


def test_what_is_measured_of_a_pruned_epoch_says_how_to_read_it(cache: Path, fss: Fss) -> None:
    assert fss("checkpoints", "prune", "--network", bars.NETWORK).code == 0
    assert "never trained, or pruned" in refused(fss(*SHOW), 1)


def test_closed_streams_are_no_error(cache: Path, fss: Fss, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fss(*SCORE).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert fss(*SCORE, "--refresh", "--json").json["missing_layers"] == []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert fss(*SHOW).code == 0


def test_a_factory_that_leaves_python_is_one_line(
    cache: Path, fss: Fss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaver.py").write_text("raise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = ["checkpoints", "import", "x.pt", "--network", "leaver", "--dataset", bars.DATASET, "--epoch", "1"]
    assert "importing leaver failed" in refused(fss(*own, "--factory", "leaver:make"), 1)


def test_all_measurements_are_listed(cache: Path, fss: Fss) -> None:
    done = fss("show")
    header, row = done.out.splitlines()
    assert header.split()[:3] == ["network", "data", "set"]
    assert row.startswith("bars_net  bars (image folder)  3      0      110     5           local  fgsm, frozen")
    (record,) = fss("show", "--json").json
    assert record["spec"]["measurement"]["epoch"] == 3


def test_a_damaged_record_is_named_and_refresh_lists_the_measurement_again(cache: Path, fss: Fss) -> None:
    with Store() as store:
        pictures.damage_record(store)
    done = fss("show")
    assert (done.code, len(done.out.splitlines())) == (0, 1)  # the header
    assert re.fullmatch(r"fss: the record of \w{6} is damaged, .*\n", done.err)
    assert fss(*SCORE).code == 0  # the results are there
    assert fss(*SCORE, "--refresh").code == 0
    assert (fss("show").err, len(fss("show").out.splitlines())) == ("", 2)
    with Store() as store:
        store.record("0123456789", {"of": "another version"})
    assert fss("show").err == "fss: the record 01234567 is of another version\n"


def test_nothing_measured_yet(empty_cache: Path, fss: Fss) -> None:
    assert fss("show").out.startswith("Nothing is measured yet. Try: fss score --network")
    assert fss("show", "--json").json == []


def test_what_is_published_can_be_shown_by_the_command_that_is_named(empty_cache: Path, fss: Fss) -> None:
    name = "laptop/squeezenet1_1-mnist"
    shutil.copytree(pictures.ROOT / "cache" / "published" / name, empty_cache / "published" / name)
    said, published = fss("show").out.splitlines()
    assert said.startswith("Nothing is measured yet")
    number, command = re.fullmatch(r"(\d+) measurements are published .*: fss (show .*)", published).groups()  # type: ignore[union-attr]
    assert int(number) >= 4
    done = fss(*command.split())
    assert done.code == 0, done.err
    assert "SqueezeNet-v1.1 on MNIST" in done.out


def test_show_of_something_never_measured(cache: Path, fss: Fss) -> None:
    line = refused(fss(*SHOW, "--epsilon", "99/255"), 1)
    assert line.startswith("fss: nothing is measured yet of bars_net on bars, epoch 3, as asked for; run `fss score`")


def test_a_broken_result_is_one_line_and_refresh_repairs_it(cache: Path, fss: Fss) -> None:

    before = fss(*SHOW, "--json").json
    with Store() as store:
        key = f"responses/{before['key']}/layer/fc/pulse/0"
        store._cache().set(key, store._cache().get(key)[:-1])
    for command in (SHOW, SCORE):
        assert "is damaged" in refused(fss(*command), 1)
    assert "--refresh" in fss(*SHOW).err
    assert fss(*SCORE, "--refresh").code == 0
    assert fss(*SHOW, "--json").json == before


# The other verbs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "num_files"), [("csv", 4), ("parquet", 6), ("both", 9)])
def test_export(cache: Path, fss: Fss, tmp_path: Path, format: str, num_files: int) -> None:
    options = [*OWN, "--control", "--format", format]
    done = fss("export", tmp_path / "out", *options)
    assert done.code == 0
    written = [Path(line) for line in done.out.splitlines()]
    assert len(written) == num_files
    assert sorted(written) == sorted((tmp_path / "out").iterdir())
    assert fss("export", tmp_path / "out", *options, "--json").json["files"] == [str(path) for path in written]


def test_export_as_a_zip_and_import_it_elsewhere(
    cache: Path, fss: Fss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = fss("export", "--zip", tmp_path / "out.zip", *OWN)
    assert done.code == 0
    assert done.out.splitlines() == [str(tmp_path / "out.zip")]
    shown = fss("show", *OWN, "--json").json
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert fss("import", tmp_path / "out.zip", "--json").json == shown
    assert fss("import", tmp_path / "out.zip").out.startswith(bars.NETWORK)
    (tmp_path / "out.zip").write_bytes(b"other")
    assert "is not a sound export" in refused(fss("import", tmp_path / "out.zip"), 1)


@pytest.mark.parametrize("options", [[], ["out", "--zip", "out.zip"], ["--zip", "out.zip", "--format", "csv"]])
def test_an_export_goes_to_one_place(cache: Path, fss: Fss, options: list[str]) -> None:
    refused(fss("export", *options, *OWN), 2)


def test_train_list_and_score_an_untrained_network(cache: Path, fss: Fss) -> None:
    own = ["--network", "shufflenet_v2_x1_0", "--dataset", bars.DATASET, "--batch-size", "8"]
    done = fss("train", *own, "--epochs", "1,0", "--json")
    assert done.code == 0, done.err
    assert [checkpoint["epoch"] for checkpoint in done.json] == [0, 1]
    assert "train" in done.err
    assert len(done.json[1]["history"]) == 1
    table = fss("train", *own, "--epochs", "0,1").out.splitlines()
    assert table[0].split()[:5] == ["network", "data", "set", "init.", "epoch"]
    assert len(table) == 3
    assert [(own["spec"]["network"], own["epoch"]) for own in fss("checkpoints", "list", "--json").json] == [
        (bars.NETWORK, 3),
        ("shufflenet_v2_x1_0", 0),
        ("shufflenet_v2_x1_0", 1),
    ]
    measure = [*own, "--epoch", "0", "--layers", "fc", "--filters", "pulse", "--thresholds", "3", "--epsilon", "8/255"]
    scored = fss("score", *measure, "--images", "60")
    assert scored.code == 0, scored.err
    assert "ShuffleNet V2 x1.0 on bars (image folder), epoch 0, initialisation 0" in scored.out
    assert "is near chance (0.250)." in scored.out
    assert scored.out.count("· not measurable") == 3
    assert "ε = 8/255 (as given)" in scored.out


def test_data_list_verify_fetch_and_add(cache: Path, fss: Fss, make_image_folder: Any, tmp_path: Path) -> None:
    states = {own["name"]: own["state"] for own in fss("data", "list", "--json").json}
    assert states["bars"] == "ready"
    assert states["mnist"] == "missing"
    assert re.search(r"^bars +bars \(image folder\) +ready", fss("data", "list").out, re.MULTILINE)
    verified = fss("data", "verify", "bars")
    assert verified.out.startswith("bars: all 316 images of bars (image folder) are as prepared\n")
    assert fss("data", "verify", "bars", "--json").json["num_images"] == 316
    assert fss("data", "fetch", "bars").out.startswith(
        "bars: bars (image folder); 4 classes, images of 1 × 8 × 8; train"
    )
    folder = make_image_folder(tmp_path / "folder")
    added = fss("data", "add", "mine", folder, "--json")
    assert added.json["name"] == "mine"
    assert added.json["image_shape"] == [3, 5, 6]
    assert fss("data", "fetch", "mine", "--json").json == added.json


def test_train_on_a_part_of_the_images(cache: Path, fss: Fss) -> None:
    own = ["--network", "shufflenet_v2_x1_0", "--dataset", bars.DATASET, "--batch-size", "4", "--epochs", "0"]
    part = [*own, "--train-images", "12"]
    (found,) = fss("train", *part, "--json").json
    assert found["spec"]["num_train"] == 12
    assert fss("train", *own, "--json").json[0]["path"] != found["path"]
    assert [row.split()[-3] for row in fss("train", *part).out.splitlines()[1:]] == ["12"]
    assert "num_train must be at least one batch of 4, got 3" in fss("train", *own, "--train-images", "3").err
    refused = fss("train", *own, "--epochs", "1", "--train-images", "17")
    assert refused.code == 1
    assert "num_train must be at most 16, the training images of bars, got 17" in refused.err


def test_checkpoints_are_listed_with_their_origin(cache: Path, fss: Fss) -> None:
    header, row = fss("checkpoints", "list").out.splitlines()
    assert header.split()[:5] == ["network", "data", "set", "init.", "epoch"]
    assert row.split()[:5] == ["bars_net", "bars", "0", "3", "imported"]


def test_no_checkpoints_yet(empty_cache: Path, fss: Fss) -> None:
    assert fss("checkpoints", "list").out == "There are no checkpoints yet.\n"
    assert fss("checkpoints", "list", "--json").json == []


def test_a_broken_checkpoint_is_named_and_the_others_are_listed(cache: Path, fss: Fss) -> None:
    (sidecar,) = cache.glob("checkpoints/*/*/*/epoch_003/checkpoint.json")
    sidecar.write_text("{")
    done = fss("checkpoints", "list", "--json")
    assert (done.code, done.json) == (0, [])
    assert len(done.err.splitlines()) == 1
    assert "checkpoint.json is broken" in done.err
    assert "checkpoint.json is broken" in refused(fss(*SCORE), 1)


def test_prune_asks_for_a_choice(cache: Path, fss: Fss) -> None:
    for options in ([], ["--keep-epochs", "1"], ["--json"]):
        line = refused(fss("checkpoints", "prune", *options), 2)
        assert line.startswith("fss: prune would remove every checkpoint; name --network, --dataset or --seed")
    dry = fss("checkpoints", "prune", "--dry-run")
    assert "would remove 1 checkpoints" in dry.out
    assert len(fss("checkpoints", "list", "--json").json) == 1
    kept = fss("checkpoints", "prune", "--network", bars.NETWORK, "--keep-epochs", "3", "--json")
    assert kept.json == []
    removed = fss("checkpoints", "prune", "--seed", 0, "--json")
    assert [own["epoch"] for own in removed.json] == [3]
    assert fss("checkpoints", "list", "--json").json == []
    assert "removed 0 checkpoints" in fss("checkpoints", "prune", "--all").out


def test_import_and_measure(cache: Path, fss: Fss, template: Path) -> None:
    own = ["--network", bars.NETWORK, "--dataset", bars.DATASET]
    more = [*own, "--epoch", "4", "--factory", bars.FACTORY, "--json"]
    (imported,) = fss("checkpoints", "import", template / "weights.safetensors", *more).json
    assert (imported["epoch"], imported["origin"], imported["factory"]) == (4, "imported", bars.FACTORY)
    # The same weights have the same SHA-256, so that their responses are there already.
    scored = fss("score", *own, "--epoch", 4, *SCORE[len(OWN) - 1 :], "--factory", bars.FACTORY, "--control")
    assert scored.code == 0, scored.err
    assert "epoch 4, imported weights" in scored.out
    assert "measure" not in scored.err


# Refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "required: VERB"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        ([*SCORE, "--filters", "nonsense"], "no filter 'nonsense'; choose from high_pass"),
        (["score"], "required: --network, --dataset, --epoch"),
        (["score", "--nonsense"], "required: --network"),
        (["data"], "required: VERB"),
        (["checkpoints", "import", "x.pt"], "required: --network, --dataset, --epoch"),
        ([*UNTRAINABLE, "--epsilon", "x/255"], "ε must lie in (0, 1], in pixels, like 8/255 or 0.03; got 'x/255'"),
        ([*UNTRAINABLE, "--epsilon", "0"], "got '0'"),
        ([*UNTRAINABLE, "--epsilon", "8/0"], "got '8/0'"),
        ([*UNTRAINABLE, "--epsilon", "nan"], "got 'nan'"),
        ([*UNTRAINABLE, "--epsilon", "8"], "got '8'"),
        ([*UNTRAINABLE, "--epsilon=-8/255"], "got '-8/255'"),
        ([*UNTRAINABLE, "--thresholds", "1"], "num_thresholds must be at least 2 and at most 10000, got 1"),
        ([*UNTRAINABLE, "--thresholds", "many"], "invalid int value: 'many'"),
        ([*UNTRAINABLE, "--images", "0"], "num_images must be at least 1, got 0"),
        ([*UNTRAINABLE, "--images", "121"], "num_images must be at most 120"),
        ([*UNTRAINABLE, "--filters", "pulse,pulse"], "filters must differ"),
        ([*UNTRAINABLE, "--thresholds", "12", "--integration", "simpson"], "odd number of thresholds, got 12"),
        ([*UNTRAINABLE, "--tolerance", "-1"], "tolerance must be at least 0"),
        ([*UNTRAINABLE, "--tolerance", "inf"], "tolerance must be at least 0, and finite, got inf"),
        ([*UNTRAINABLE, "--thresholds", "100000000000"], "at most 10000, got 100000000000"),
        ([*UNTRAINABLE, "--seed", "99999999999999999999"], "below 2^63"),
        (["score", *BUILT_IN[:-1], "99999999999999999999"], "epoch must be at least 0 and at most 1000000"),
        ([*UNTRAINABLE, "--level", "95"], "level must lie in [0.5, 1), got 95"),
        ([*UNTRAINABLE, "--seed", "-1"], "seed must be at least 0"),
        (["score", *BUILT_IN[:-1], "-1"], "epoch must be at least 0"),
        (["train", *BUILT_IN[:-2], "--epochs", "1,x"], "epochs are whole numbers with commas"),
        (["train", *BUILT_IN[:-2], "--epochs", "-1"], "epoch must be at least 0, got -1"),
        (["show", "--network", "resnet18"], "give --network, --dataset and --epoch, or none of them"),
    ],
)
def test_wrong_usage_is_one_line_and_2(cache: Path, fss: Fss, arguments: list[str], part: str) -> None:
    assert part in refused(fss(*arguments), 2)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["score", "--network", "alexnet", *BUILT_IN[2:]], "no network 'alexnet'; choose from resnet18"),
        (["train", "--network", "alexnet", *BUILT_IN[2:-2], "--epochs", "1"], "no network 'alexnet'"),
        (
            ["score", *BUILT_IN[:2], "--dataset", "imagenet", "--epoch", "0"],
            "no data set 'imagenet'; choose from mnist5k",
        ),
        (["show", *BUILT_IN[:2], "--dataset", "imagenet", "--epoch", "0"], "no data set 'imagenet'"),
        (["score", *BUILT_IN[:2], "--dataset", "mnist", "--epoch", "0"], "or use mnist5k, which is embedded"),
        (["data", "verify", "nonsense"], "no data set 'nonsense'"),
        (["data", "add", "mine", "/nowhere"], "/nowhere is not a folder"),
        (["data", "add", "../mine", "."], "data set name '../mine' will not do"),
        (UNTRAINABLE, "fewer than one batch of 100"),
        ([*UNTRAINABLE, "--factory", "nonsense"], "--factory must read module:function"),
        ([*SCORE, "--layers", "conv,nonsense"], "called 'nonsense'; choose from conv, fc"),
        ([*SHOW, "--layers", "nonsense"], "called 'nonsense'; choose from conv, fc"),
        ([*SCORE, "--epoch", "8"], "no epoch 8 of bars_net on bars"),
        (
            ["checkpoints", "import", "nowhere.pt", *OWN[:4], "--epoch", "8", "--factory", bars.FACTORY],
            "no file nowhere.pt",
        ),
        (["export", "/dev/null/out", *OWN, "--control"], "/dev/null/out cannot be written"),
        (["export", "out", *BUILT_IN], "never trained, or pruned"),
        (["export", "out", *OWN, "--thresholds", "7"], "nothing is measured yet"),
    ],
)
def test_the_domains_no_is_one_line_and_1(cache: Path, fss: Fss, arguments: list[str], part: str) -> None:
    assert part in refused(fss(*arguments), 1)


class RunsWhenUnpickled:
    """Writes a file when somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors", "weights.pkl"])
def test_a_pickle_posing_as_a_checkpoint_is_refused_and_not_run(
    cache: Path, fss: Fss, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim"
    (tmp_path / name).write_bytes(pickle.dumps({"state_dict": RunsWhenUnpickled(victim)}))
    own = ["--network", bars.NETWORK, "--dataset", bars.DATASET, "--epoch", "9", "--factory", bars.FACTORY]
    assert str(tmp_path / name) in refused(fss("checkpoints", "import", tmp_path / name, *own), 1)
    assert not victim.exists()
    assert [own["epoch"] for own in fss("checkpoints", "list", "--json").json] == [3]


def test_a_truncated_checkpoint_is_one_line(cache: Path, fss: Fss) -> None:
    (weights,) = cache.glob("checkpoints/*/*/*/epoch_003/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-10])
    line = refused(fss(*SCORE, "--epsilon", "3/255"), 1)
    assert "is truncated or altered" in line
    assert fss(*SHOW).code == 0  # what was measured before stands


def test_layers_must_name_something(cache: Path, fss: Fss) -> None:
    for names in ("", ","):
        assert "--layers" in refused(fss(*SCORE, "--layers", names), 2)


def test_an_interruption_is_130(cache: Path, fss: Fss, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Measurement, "prepare", interrupt)
    line = refused(fss(*MORE), 130)
    assert line == "fss: interrupted; what was finished is kept, run the same command to go on"


def test_a_bug_is_one_line_too_unless_asked_for(cache: Path, fss: Fss, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(Measurement, "prepare", fail)
    done = fss(*MORE)
    assert done.code == 1
    assert done.err.splitlines() == ["fss: unexpected RuntimeError: two lines (set FSS_TRACEBACK=1 to see where)"]
    monkeypatch.setenv("FSS_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="two"):
        main(MORE)


def test_an_error_of_several_lines_becomes_one(cache: Path, fss: Fss, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise CalibrationError("a\n  b")

    monkeypatch.setattr(Measurement, "prepare", fail)
    assert refused(fss(*MORE), 1) == "fss: a b"


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["data", "--help"], ["checkpoints", "--help"]])
def test_help(fss: Fss, arguments: list[str]) -> None:
    done = fss(*arguments)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: fss")


@pytest.mark.parametrize(
    ("text", "epsilon"), [("8/255", 8 / 255), ("0.03", 0.03), ("1", 1.0), ("255/255", 1.0), ("2.5/255", 2.5 / 255)]
)
def test_epsilon_is_read_as_a_number_or_as_a_fraction(text: str, epsilon: float) -> None:
    assert epsilon_of(text) == epsilon


# Runs -----------------------------------------------------------------------------------------------------


def test_there_are_no_runs_at_first(empty_cache: Path, fss: Fss) -> None:
    assert fss("runs", "list").out.startswith("Nothing was asked for yet.")
    assert fss("runs", "list", "--json").json == []
    assert fss("runs", "resume").out == "Nothing is left to do.\n"
    assert "no run with a key that starts with 'abc'" in refused(fss("runs", "log", "abc"), 1)


def test_what_score_measures_is_a_run(cache: Path, fss: Fss) -> None:
    assert fss(*MORE).code == 0
    (run,) = [own for own in fss("runs", "list", "--json").json if own["run"]["request"]["spec"]["num_images"] == 115]
    assert (run["run"]["state"], run["share"]) == ("done", 1.0)
    heading, first, *_ = fss("runs", "list").out.splitlines()
    assert heading.split()[:3] == ["key", "state", "done"]
    assert first.startswith(run["run"]["key"][:8] + "  done")
    assert "115 images, 5 thresholds" in first
    lines = fss("runs", "log", run["run"]["key"][:10]).out.splitlines()
    assert [line.rpartition("  ")[2] for line in lines] == ["asked for", "done"]


def test_a_run_can_be_cancelled_and_retried(cache: Path, fss: Fss, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Measurement, "prepare", interrupt)
        assert fss(*MORE).code == 130
    (key,) = [own["run"]["key"] for own in fss("runs", "list", "--json").json if own["run"]["state"] == "cancelled"]
    assert fss("runs", "cancel", key[:8]).out.startswith(f"{key[:8]}  cancelled")  # already: nothing happens


@pytest.fixture
def ended_runners() -> Iterator[None]:
    """End the runners that were started from this process; their parent lives on."""
    yield
    for process, _ in service._runners.values():
        process.terminate()
        process.wait(60)
    service._runners.clear()


@pytest.mark.slow
@pytest.mark.usefixtures("ended_runners")
def test_workers_measure_what_this_process_would(cache: Path, fss: Fss, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bars.environment(cache).items():
        monkeypatch.setenv(name, value)
    done = fss(*MORE, "--workers", "2", "--json")
    assert done.code == 0, done.err
    assert fss(*MORE, "--refresh", "--json").json == done.json
    run = fss("runs", "list", "--json").json[0]["run"]
    retried = fss("runs", "retry", run["key"][:8])
    assert (retried.code, retried.out.split()[1]) == (0, "done")
    assert fss("runs", "resume").out == "Nothing is left to do.\n"
    # What was asked for, and not begun when its process was killed, is done by whoever resumes it.
    request = run["request"] | {"spec": run["request"]["spec"] | {"num_images": 116}}
    with Store() as store:
        key = Board(store).ask("measure", request).key
    resumed = fss("runs", "resume")
    assert (resumed.code, resumed.out.split()[:2]) == (0, [key[:8], "done"])
    assert fss(*SHOW, "--images", "116", "--json").code == 0


@pytest.mark.parametrize(
    ("worth", "machine", "options", "by_workers"),
    [
        (0.0, 2, [], True),
        (0.0, 2, ["--workers", "0"], False),
        (0.0, 1, [], False),
        (1e9, 2, [], False),
        (1e9, 2, ["--workers", "1"], True),
    ],
)
def test_workers_do_what_is_worth_starting_them(
    worth: float,
    machine: int,
    options: list[str],
    by_workers: bool,
    cache: Path,
    fss: Fss,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Asked(Exception):
        pass

    def follow(*_: object, workers: int | None, **__: object) -> None:
        assert workers == (int(options[1]) if options else None)
        raise Asked

    monkeypatch.setattr("fss_core.cli.working._SECONDS_WORTH_WORKERS", worth)
    monkeypatch.setattr("fss_core.jobs.pool.num_cores", lambda: machine)
    monkeypatch.setattr(service, "follow", follow)
    done = fss(*MORE, *options)
    assert (done.code, "unexpected Asked" in done.err) == ((1, True) if by_workers else (0, False)), done.err


# Processes ------------------------------------------------------------------------------------------------


def python(cache: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=bars.environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_run_answers_without_torch(cache: Path) -> None:
    code = (
        "import json, sys; from fss_core.cli import main; code = main(sys.argv[1:]); "
        "print(json.dumps([code, 'torch' in sys.modules, 'streamlit' in sys.modules]))"
    )
    for command in (SCORE, SHOW, ["show"]):
        out, err = python(cache, code, *command).communicate(timeout=60)
        assert json.loads(out.splitlines()[-1]) == [0, False, False]
        assert err == ""


def test_a_reader_that_goes_away_is_no_error(cache: Path) -> None:
    process = python(cache, "import sys; from fss_core.cli import main; sys.exit(main(sys.argv[1:]))", *SHOW)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


INTERRUPTIBLE = """
import signal, sys, time
from fss_core.cli import main
from fss_core.cli.arguments import epsilon as epsilon_of
from fss_core.measuring import Measurer

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
measure = Measurer.measure

def slow(self, name, *arguments, **named):
    print("measuring", name, flush=True)
    if name == "fc":
        time.sleep(60)
    return measure(self, name, *arguments, **named)

Measurer.measure = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_ctrl_c_leaves_a_resumable_state(cache: Path, fss: Fss) -> None:
    own = [*SCORE, "--epsilon", "7/255"]
    process = python(cache, INTERRUPTIBLE, *own)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "measuring fc":
            break
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "fss: interrupted; what was finished is kept, run the same command to go on"
    assert fss(*SHOW, "--epsilon", "7/255", "--json").json["missing_layers"] == ["fc"]
    finished = fss(*own, "--json")
    assert finished.code == 0
    assert finished.json["missing_layers"] == []


@pytest.mark.slow
def test_from_nothing_to_scores_on_real_digits(fss: Fss) -> None:
    own = ["--network", "shufflenet_v2_x1_0", "--dataset", "mnist5k", "--epoch", "1", "--thresholds", "3"]
    more = ["--epsilon", "2/255", "--layers", "conv1.0,stage4.0.branch2.3,fc", "--control"]
    done = fss("score", *own, *more, "--images", "60", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert [(layer["layer"], layer["kind"]) for layer in found["layers"]] == [
        ("conv1.0", "stem"),
        ("stage4.0.branch2.3", "depthwise"),
        ("fc", "classifier"),
    ]
    assert found["num_images"] == 60
    assert found["dataset"]["title"] == "MNIST (5,000 digits)"
    assert len(found["scores"]) == 3 * 5 * 3
    assert fss("show", *own, *more, "--json").json == found
    assert fss("show", *own, *more).code == 0
