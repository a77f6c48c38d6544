"""Exported files: readable by pandas, agreeing with each other, and vouched for by the manifest."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import bars
import numpy as np
import pandas as pd
import pytest

from fss_core import exports
from fss_core.exports import export_measured, export_zip, to_csv
from fss_core.flow import Flow, Measured
from fss_core.scores import Scores, score_responses
from fss_core.specs import MeasurementSpec, ResponseSpec, Scope, StoreError, TrainingSpec
from fss_core.store import SCHEMA, Store

NUM_IMAGES, NUM_THRESHOLDS = 107, 4


def measure(scope: Scope = "local", layers: Sequence[str] | None = None) -> Measured:
    spec = MeasurementSpec(
        training=TrainingSpec(network=bars.NETWORK, dataset=bars.DATASET),
        epoch=bars.EPOCH,
        num_images=NUM_IMAGES,
        response=ResponseSpec(
            filters=("high_pass", "low_pass", "pulse", "random"), num_thresholds=NUM_THRESHOLDS, scope=scope
        ),
    )
    with Store() as store:
        return Flow(store, factory=bars.make_network).measure(spec, layers=layers)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    root = tmp_path_factory.mktemp("bars")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root))
        bars.make_cache(root)
        return measure()


@pytest.fixture(scope="module")
def scored(measured: Measured) -> Scores:
    return score_responses(measured.responses, reference="retained", tolerance=0.1)


@pytest.fixture(scope="module")
def directory(measured: Measured, scored: Scores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exports") / "not" / "yet"
    written = export_measured(measured, scored, directory)
    assert sorted(path.name for path in written) == sorted(path.name for path in directory.iterdir())
    assert written[-1] == directory / "manifest.json"
    return directory


@pytest.fixture(scope="module")
def manifest(directory: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found: dict[str, Any] = json.loads((directory / "manifest.json").read_text("utf-8"), parse_constant=refuse)
    return found


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("name", ["responses", "scores"])
def test_tables_come_back_as_they_were(
    directory: Path, measured: Measured, scored: Scores, name: str, kind: str
) -> None:
    table = measured.responses.to_dataframe() if name == "responses" else scored.to_dataframe()
    path = directory / f"{name}.{kind}"
    found = pd.read_parquet(path) if kind == "parquet" else pd.read_csv(path)
    assert found.columns.tolist() == table.columns.tolist()
    assert len(found) == len(table)
    for column in table:
        if pd.api.types.is_numeric_dtype(table[column]):
            # A column of CSV that is empty has no type.
            own, expected = (frame[column].astype("Float64").to_numpy(float, na_value=-9) for frame in (found, table))
            np.testing.assert_allclose(own, expected, rtol=1e-12, err_msg=str(column))
        else:
            own, expected = (frame[column].astype("string").fillna("").tolist() for frame in (found, table))
            assert own == expected


def test_no_text_of_a_table_is_a_formula() -> None:
    names = ["=HYPERLINK(1)", "+1", "-x", "@SUM(A1)", "\tx", "conv1", "a=b"]
    frame = pd.DataFrame({"layer": names, "score": [-0.5, 0.5, -1.0, 0.0, 1.0, 2.0, 3.0]})
    found = pd.read_csv(io.BytesIO(to_csv(frame)))
    assert found["layer"].tolist() == ["'=HYPERLINK(1)", "'+1", "'-x", "'@SUM(A1)", "'\tx", "conv1", "a=b"]
    assert found["score"].tolist() == frame["score"].tolist()
    assert frame["layer"].tolist() == names


def test_bits_classes_and_accuracies_agree(directory: Path, measured: Measured) -> None:
    images, responses = (pd.read_parquet(directory / f"{name}.parquet") for name in ("images", "responses"))
    assert len(images) == len(bars.LAYERS) * (3 + 3) * NUM_THRESHOLDS
    labels = measured.responses.labels
    for kind in ("clean", "adversarial"):
        right = [
            np.unpackbits(np.frombuffer(bits, np.uint8), count=number).astype(bool)
            for bits, number in zip(images[f"{kind}_right"], images["num_images"], strict=True)
        ]
        predicted = [np.frombuffer(classes, np.uint8) for classes in images[f"{kind}_class"]]
        for own, other in zip(right, predicted, strict=True):
            np.testing.assert_array_equal(own, other == labels)
        images[f"{kind}_accuracy"] = [own.mean() for own in right]
    keys = ["layer", "filter", "threshold_index"]
    columns = ["clean_accuracy", "adversarial_accuracy"]
    averaged = images.groupby(keys)[columns].mean()
    stated = responses.set_index(keys)[columns].sort_index()
    assert averaged.index.tolist() == stated.index.tolist()
    np.testing.assert_allclose(averaged, stated, atol=1e-12)
    assert averaged["clean_accuracy"].nunique() > 4
    assert images.groupby("filter")["draw"].nunique().to_dict() == {
        "high_pass": 1,
        "low_pass": 1,
        "pulse": 1,
        "random": 3,
    }


def test_layers_have_their_histograms(directory: Path, measured: Measured) -> None:
    layers = pd.read_parquet(directory / "layers.parquet").set_index("layer")
    assert layers.index.tolist() == list(bars.LAYERS)
    network = bars.make_network(num_classes=4, num_channels=1)
    for name, row in layers.iterrows():
        weight = network.get_parameter(f"{name}.weight").detach()
        assert row["num_weights"] == weight.numel() == sum(json.loads(row["histogram"]))
        edges, thresholds = (json.loads(row[part]) for part in ("histogram_edges", "thresholds"))
        assert [edges[0], edges[-1]] == [weight.min().item(), weight.max().item()]
        assert len(edges) == len(json.loads(row["histogram"])) + 1
        assert thresholds == np.linspace(edges[0], edges[-1], NUM_THRESHOLDS).tolist()


def test_what_filters_keep_stands_beside_what_the_networks_predict(directory: Path, measured: Measured) -> None:
    images = pd.read_parquet(directory / "images.parquet")
    for part in ("num_kept", "num_live_kept", "changes"):
        expected = np.concatenate([getattr(layer.facts, part).ravel() for layer in measured.responses.layers])
        np.testing.assert_array_equal(images[part], expected)
    assert images["changes"].nunique() == 2


def test_the_unfiltered_network_has_a_line_an_image(directory: Path, measured: Measured) -> None:
    table, responses = pd.read_parquet(directory / "unfiltered.parquet"), measured.responses
    np.testing.assert_array_equal(table["label"], responses.labels)
    for kind in ("clean", "adversarial"):
        np.testing.assert_array_equal(table[f"{kind}_class"], getattr(responses.unfiltered, kind))
    np.testing.assert_array_equal(table["zero_gradient"], responses.unfiltered.zero_gradient)


def test_the_manifest_vouches_for_every_file(directory: Path, manifest: dict[str, Any]) -> None:
    others = {path.name for path in directory.iterdir()} - {"manifest.json"}
    assert manifest["files"].keys() == others
    assert others == {
        *(f"{name}.{kind}" for name in ("responses", "scores", "layers") for kind in ("parquet", "csv")),
        "images.parquet",
        "unfiltered.parquet",
    }
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == sha256


def test_the_manifest_says_where_every_number_comes_from(manifest: dict[str, Any], measured: Measured) -> None:
    assert manifest["measurement"]["training"]["network"] == bars.NETWORK
    assert manifest["measurement"]["epoch"] == bars.EPOCH
    assert manifest["measurement"]["num_images"] == manifest["num_images"] == NUM_IMAGES
    assert manifest["measurement"]["response"]["filters"] == ["high_pass", "low_pass", "pulse", "random"]
    assert manifest["measurement"]["response"]["num_thresholds"] == NUM_THRESHOLDS
    assert measured.calibration is not None
    assert manifest["attack"]["epsilon"] == manifest["calibration"]["epsilon"] == measured.calibration.epsilon
    assert manifest["score"] == {
        "reference": "retained",
        "normalise": "chance",
        "integration": "trapezoid",
        "tolerance": 0.1,
        "level": 0.95,
    }
    sidecar = json.loads((measured.checkpoint.path / "checkpoint.json").read_text("utf-8"))
    assert manifest["checkpoint"] | {"schema": sidecar["schema"]} == sidecar
    assert {"sha256", "origin", "epoch", "history", "versions", "hardware"} <= manifest["checkpoint"].keys()
    assert manifest["network"] == {
        "network": bars.NETWORK,
        "factory": bars.FACTORY,
        "weights_sha256": measured.checkpoint.sha256,
    }
    assert manifest["key"] == measured.key
    assert manifest["num_classes"] == 4
    assert manifest["dataset"]["class_names"] == list("abcd")
    assert manifest["layers"] == list(bars.LAYERS)
    assert manifest["dataset"]["fingerprints"] == measured.card.fingerprints
    assert manifest["dataset"]["fingerprints"].keys() == {"train", "calibration", "probe", "report"}
    assert manifest["schema"] == SCHEMA
    assert {"filtering-score-studio", "python", "torch", "torchvision", "torchattacks", "numpy"} <= manifest[
        "versions"
    ].keys()
    assert manifest["missing_layers"] == []
    assert {"machine", "processor", "cores"} <= manifest["hardware"].keys()


def test_one_format_only(measured: Measured, scored: Scores, tmp_path: Path) -> None:
    export_measured(measured, scored, tmp_path, formats=("csv",))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["layers.csv", "manifest.json", "responses.csv", "scores.csv"]


def test_files_are_replaced_whole_and_nothing_is_left_over(measured: Measured, scored: Scores, tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("old")
    (tmp_path / "mine.txt").write_text("kept")
    export_measured(measured, scored, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert (tmp_path / "scores.csv").read_text().startswith("layer,filter,kind,score,low,high,")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_zip_has_the_same_files_in_order_and_out_of_time(measured: Measured, scored: Scores, tmp_path: Path) -> None:
    export_measured(measured, scored, tmp_path, formats=("parquet",))
    buffer = io.BytesIO()
    export_zip(measured, scored, buffer)
    with zipfile.ZipFile(buffer) as archive:
        members = archive.infolist()
        assert [member.filename for member in members] == [
            "manifest.json",
            "responses.parquet",
            "scores.parquet",
            "layers.parquet",
            "images.parquet",
            "unfiltered.parquet",
        ]
        assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
        for name in archive.namelist()[1:]:
            assert archive.read(name) == (tmp_path / name).read_bytes()
        assert json.loads(archive.read("manifest.json"))["files"].keys() == set(archive.namelist()[1:])


def test_the_same_measurement_gives_the_same_zip(
    measured: Measured, scored: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Noon:
            return cls(2026, 1, 1, 12, tzinfo=tz)

    monkeypatch.setattr(exports, "datetime", Noon)
    buffer = io.BytesIO()
    export_zip(measured, scored, buffer)
    (tmp_path / "out.zip").write_text("old")
    export_zip(measured, scored, tmp_path / "out.zip")
    assert (tmp_path / "out.zip").read_bytes() == buffer.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["out.zip"]


def test_a_zip_too_large_to_be_read_again_is_not_written(
    measured: Measured, scored: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "LARGEST_FILE", 1000)
    with pytest.raises(StoreError, match=r"at most 1,000 bytes, this one has \d+,\d+; export a directory"):
        export_zip(measured, scored, tmp_path / "out.zip")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_zip_is_one_line(measured: Measured, scored: Scores, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be written .*; choose another file"):
        export_zip(measured, scored, tmp_path / "nowhere" / "out.zip")


def test_nothing_complete_is_nothing_to_export(measured: Measured, scored: Scores, tmp_path: Path) -> None:
    empty = replace(measured, responses=replace(measured.responses, layers=()), missing=bars.LAYERS)
    with pytest.raises(StoreError, match=r"at least one complete layer, this measurement has none; run `fss score`"):
        export_measured(empty, scored, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_a_package_is_missing_its_version_is(
    measured: Measured, scored: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = metadata.version

    def without_torch(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_torch)
    export_measured(measured, scored, tmp_path)
    versions = json.loads((tmp_path / "manifest.json").read_text("utf-8"))["versions"]
    assert "torch" not in versions
    assert versions["numpy"] == version("numpy")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_unwritable_directory_is_one_line(measured: Measured, scored: Scores, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot be written .*; choose another directory") as caught:
        export_measured(measured, scored, tmp_path / place)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / place) in str(caught.value)


@pytest.mark.parametrize(("scope", "layers"), [("global", None), ("local", ["fc"])])
def test_the_whole_network_and_a_part_of_it(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: Scope, layers: list[str] | None
) -> None:
    monkeypatch.setenv("FSS_CACHE_DIR", str(measured.checkpoint.path.parents[4]))
    other = measure(scope, layers)
    export_measured(other, score_responses(other.responses), tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "layers.parquet")
    assert table["layer"].tolist() == (["(all layers)"] if scope == "global" else ["fc"])
