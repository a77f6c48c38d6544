"""Checkpoints: what lies on disk, that harm is noticed, and what may be imported."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
from torch import nn

from fss_core import checkpoints, data
from fss_core.checkpoints import (
    Checkpoint,
    available_epochs,
    find_checkpoint,
    import_checkpoint,
    list_broken_checkpoints,
    list_checkpoints,
    load_network,
    load_state,
    load_weights,
    prune_checkpoints,
    resolve_factory,
    save_checkpoint,
    weights_sha256,
)
from fss_core.models import build_network
from fss_core.specs import CheckpointError, TrainingError, TrainingSpec, UnknownNameError
from fss_core.training import train

NETWORK = "squeezenet1_1"
SPEC = TrainingSpec(network=NETWORK, dataset=tiny.NAME)


@pytest.fixture(autouse=True)
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> data.Dataset:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "cache"))
    return tiny.install(monkeypatch)


def save(epoch: int = 1, *, spec: TrainingSpec = SPEC, value: float = 1.0, **more: Any) -> Checkpoint:
    """Save an epoch that holds next to nothing, for tests that look at places only."""
    defaults: dict[str, Any] = {"state": {"w.step": torch.ones(())}, "origin": "trained"}
    return save_checkpoint(spec, epoch, weights={"w": torch.full((2, 2), value)}, **defaults | more)


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return weights_of(build_network(NETWORK, dataset=tiny.NAME, seed=3))


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# Places and sidecars --------------------------------------------------------------------------------------


def test_a_saved_epoch_lies_where_the_layout_says(tmp_path: Path) -> None:
    checkpoint = save(3)
    parts = checkpoint.path.relative_to(tmp_path / "cache" / "checkpoints").parts
    assert (parts[:2], parts[3]) == ((NETWORK, tiny.NAME), "epoch_003")
    assert parts[2] == "seed0-4876b9fa"  # golden: another key would orphan everybody's checkpoints
    key = f"""{{"schema":1,"spec":{{"batch_size":100,"dataset":"tiny","learning_rate":0.001,"network":"squeezenet1_1",\
"seed":0}},"train":"{"f" * 64}"}}"""
    assert hashlib.sha256(key.encode()).hexdigest()[:8] == "4876b9fa"
    assert {file.name for file in checkpoint.path.iterdir()} == {
        "weights.safetensors",
        "state.safetensors",
        "checkpoint.json",
    }
    assert checkpoint.sha256 == weights_sha256(checkpoint.path / "weights.safetensors")


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 50}, {"learning_rate": 0.01}])
def test_another_training_lies_elsewhere(change: dict[str, Any]) -> None:
    other = TrainingSpec(**{"network": NETWORK, "dataset": tiny.NAME} | change)
    assert save().path.parent != save(spec=other).path.parent


def test_other_training_images_lie_elsewhere(dataset: data.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    save()
    monkeypatch.setitem(dataset.card.fingerprints, "train", "0" * 64)
    assert find_checkpoint(SPEC, 1) is None
    assert len(list_checkpoints()) == 1


def test_finding_and_listing_give_back_what_was_saved() -> None:
    history = (checkpoints.EpochRecord(epoch=1, loss=1.5, train_accuracy=0.25, seconds=3.0),)
    first, second = save(2, history=history), save(10, kept=False)
    assert find_checkpoint(SPEC, 2) == first
    assert find_checkpoint(SPEC, 3) is None
    assert list_checkpoints() == [first, second]
    assert available_epochs(SPEC) == [2]
    assert first.has_state
    assert not save(11, state=None).has_state


def test_the_same_weights_have_the_same_hash() -> None:
    assert save(1).sha256 == save(2).sha256 != save(3, value=2.0).sha256


def test_weights_in_any_memory_format_and_tied_ones_are_saved_alike() -> None:
    weight = torch.arange(54.0).reshape(2, 3, 3, 3)
    strided = {"a": weight.to(memory_format=torch.channels_last)}
    plain = save_checkpoint(SPEC, 1, weights={"a": weight}, state=None, origin="trained")
    assert save_checkpoint(SPEC, 2, weights=strided, state=None, origin="trained").sha256 == plain.sha256
    tied = save_checkpoint(SPEC, 3, weights={"a": weight, "b": weight}, state=None, origin="trained")
    assert torch.equal(load_weights(tied)["b"], weight)


def test_an_epoch_is_never_overwritten() -> None:
    before = save()
    with pytest.raises(CheckpointError, match="exists; take another --seed or prune"):
        save(value=5.0)
    assert find_checkpoint(SPEC, 1) == before
    assert load_weights(before)["w"][0, 0] == 1


def test_nothing_appears_when_writing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    true_write = Path.write_bytes

    def fail(path: Path, content: bytes) -> int:
        if path.name == "checkpoint.json":
            raise OSError(28, "No space left on device")
        return true_write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(CheckpointError, match=r"cannot write .*No space left.*FSS_CACHE_DIR"):
        save()
    assert find_checkpoint(SPEC, 1) is None
    assert [path for path in checkpoints.checkpoints_dir().rglob("*") if "epoch" in path.name] == []


@pytest.mark.parametrize(
    ("network", "dataset_name"), [("../up", tiny.NAME), ("Net", tiny.NAME), ("", tiny.NAME), (NETWORK, "../up")]
)
def test_names_that_leave_the_cache_are_refused(
    network: str, dataset_name: str, dataset: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "dataset_card", lambda name: dataset.card)
    with pytest.raises(CheckpointError, match="cannot name a directory"):
        save(spec=TrainingSpec(network=network, dataset=dataset_name))


def edit(**changes: Any) -> Callable[[str], str]:
    def apply(text: str) -> str:
        record = json.loads(text)
        for name, value in changes.items():
            record[name] = value(record[name]) if callable(value) else value
        return json.dumps(record)

    return apply


@pytest.mark.parametrize(
    ("breaking", "reason"),
    [
        pytest.param(lambda text: text[:40], "Unterminated|Expecting", id="truncated"),
        pytest.param(lambda text: "[]", "not a sidecar of schema 1", id="a list"),
        pytest.param(lambda text: "[" * 100_000, "is broken", id="deeply nested"),
        pytest.param(edit(schema=2), "not a sidecar of schema 1", id="schema"),
        pytest.param(edit(epoch="1"), "epoch is '1'", id="type"),
        pytest.param(edit(kept=1), "kept is 1", id="bool"),
        pytest.param(edit(sha256="../x"), "sha256 is '../x'", id="hash"),
        pytest.param(edit(epoch=7), "it describes .*epoch_007", id="another epoch"),
        pytest.param(edit(spec=lambda spec: spec | {"seed": 4}), "it describes .*seed4", id="another seed"),
        pytest.param(edit(spec=lambda spec: spec | {"network": "../up"}), "cannot name a directory", id="outside"),
        pytest.param(edit(spec=lambda spec: {"network": NETWORK}), "'dataset' is missing", id="missing"),
        pytest.param(edit(origin="stolen"), "no origin 'stolen'", id="origin"),
        pytest.param(edit(history=[{"epoch": 1}]), "'loss' is missing", id="history"),
    ],
)
def test_a_broken_sidecar_is_named_and_the_others_are_listed(breaking: Callable[[str], str], reason: str) -> None:
    sound, broken = save(2), save(1)
    sidecar = broken.path / "checkpoint.json"
    sidecar.write_text(breaking(sidecar.read_text()))
    with pytest.raises(CheckpointError, match=reason) as error:
        find_checkpoint(SPEC, 1)
    assert str(sidecar) in one_line(error)
    assert f"delete {broken.path}" in one_line(error)
    assert list_checkpoints() == [sound]
    assert available_epochs(SPEC) == [2]
    assert [(found.path, found.reason) for found in list_broken_checkpoints()] == [(broken.path, str(error.value))]


def test_a_directory_without_a_sidecar_is_broken() -> None:
    checkpoint = save()
    (checkpoint.path / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        find_checkpoint(SPEC, 1)


def test_finding_listing_and_importing_need_no_torch() -> None:
    save()
    code = (
        "import sys, tiny\n"
        "class Patch: setattr = staticmethod(setattr)\n"
        "tiny.install(Patch)\n"
        "from fss_core import checkpoints as c, specs\n"
        f"spec = specs.TrainingSpec(network={NETWORK!r}, dataset={tiny.NAME!r})\n"
        "assert c.find_checkpoint(spec, 1).epoch == 1 and len(c.list_checkpoints()) == 1\n"
        "assert c.available_epochs(spec) == [1] and c.prune_checkpoints(dry_run=True)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Loading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        pytest.param(lambda file: file.write_bytes(file.read_bytes()[:-1]), "truncated or altered", id="truncated"),
        pytest.param(
            lambda file: file.write_bytes(file.read_bytes()[:-1] + b"!"), "truncated or altered", id="altered"
        ),
        pytest.param(lambda file: file.write_bytes(b""), "truncated or altered", id="empty"),
        pytest.param(lambda file: file.unlink(), "cannot be read", id="gone"),
    ],
)
def test_harmed_files_are_refused(name: str, harm: Callable[[Path], object], words: str) -> None:
    checkpoint = save()
    harm(checkpoint.path / name)
    with pytest.raises(CheckpointError, match=words) as error:
        (load_weights if name.startswith("weights") else load_state)(checkpoint)
    assert str(checkpoint.path / name) in one_line(error)
    assert f"delete {checkpoint.path}" in one_line(error)


def test_imported_weights_have_no_state(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    safetensors.torch.save_file(weights, tmp_path / "own.safetensors")
    checkpoint = import_checkpoint(tmp_path / "own.safetensors", network=NETWORK, dataset=tiny.NAME, epoch=5)
    with pytest.raises(CheckpointError, match="has no optimiser state"):
        load_state(checkpoint)


def test_a_loaded_network_is_the_one_saved(weights: dict[str, torch.Tensor], dataset: data.Dataset) -> None:
    expected = build_network(NETWORK, dataset=tiny.NAME, seed=3).eval()
    checkpoint = save_checkpoint(SPEC, 1, weights=weights, state=None, origin="trained")
    network = load_network(checkpoint)
    pixels = dataset.probe.pixels()
    with torch.no_grad():
        assert torch.equal(network(pixels), expected(pixels))
    assert not any(module.training for module in network.modules())


def test_weights_of_another_network_are_refused_on_loading() -> None:
    with pytest.raises(CheckpointError, match=r"does not fit the network: features.0.weight missing.*and \d+ more"):
        load_network(save())


# Pruning --------------------------------------------------------------------------------------------------


def test_pruning_takes_what_is_named_and_nothing_else() -> None:
    other = TrainingSpec(network="resnet18", dataset=tiny.NAME, seed=1)
    for epoch in (0, 1, 2):
        save(epoch)
    save(1, spec=other)
    would = prune_checkpoints(network=NETWORK, keep_epochs=(1,), dry_run=True)
    assert [(found.epoch, found.seed, found.num_bytes > 100) for found in would] == [(0, 0, True), (2, 0, True)]
    assert len(list_checkpoints()) == 4
    assert prune_checkpoints(network=NETWORK, keep_epochs=(1,)) == would
    assert available_epochs(SPEC) == [1]
    assert prune_checkpoints(seed=0, dataset="another") == []
    assert [found.network for found in prune_checkpoints(seed=1)] == ["resnet18"]
    assert available_epochs(SPEC) == [1]


def test_pruning_removes_broken_epochs_and_empty_directories() -> None:
    (save().path / "checkpoint.json").write_text("{")
    assert [found.epoch for found in prune_checkpoints(dataset=tiny.NAME)] == [1]
    assert list(checkpoints.checkpoints_dir().iterdir()) == []
    assert prune_checkpoints() == []


# Importing ------------------------------------------------------------------------------------------------


def as_import(file: Path, **more: Any) -> Checkpoint:
    return import_checkpoint(file, **{"network": NETWORK, "dataset": tiny.NAME, "epoch": 5} | more)


def write(content: Any, file: Path) -> Path:
    (safetensors.torch.save_file if file.suffix == ".safetensors" else torch.save)(content, file)
    return file


@pytest.mark.parametrize(
    ("suffix", "wrap"),
    [
        pytest.param(".safetensors", dict, id="safetensors"),
        pytest.param(".pt", dict, id="pt"),
        pytest.param(".pth", lambda weights: {"state_dict": weights, "epoch": 3}, id="state_dict"),
        pytest.param(".pt", lambda weights: {"model": weights}, id="model"),
        pytest.param(".pt", lambda weights: {f"module.{name}": w for name, w in weights.items()}, id="data parallel"),
        pytest.param(".pt", lambda weights: {name: w.double() for name, w in weights.items()}, id="float64"),
    ],
)
def test_imported_weights_are_the_files(
    suffix: str, wrap: Callable[[Any], Any], weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    checkpoint = as_import(write(wrap(weights), tmp_path / f"own{suffix}"), seed=2)
    assert (checkpoint.origin, checkpoint.epoch, checkpoint.spec.seed) == ("imported", 5, 2)
    assert checkpoint.kept
    assert not checkpoint.has_state
    assert find_checkpoint(TrainingSpec(network=NETWORK, dataset=tiny.NAME, seed=2), 5) == checkpoint
    loaded = load_network(checkpoint).state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    saved = load_weights(checkpoint)
    assert {name: tensor.dtype for name, tensor in saved.items()} == {name: w.dtype for name, w in weights.items()}


def test_our_normalisation_is_taken_where_the_file_has_none(
    weights: dict[str, torch.Tensor], dataset: data.Dataset, tmp_path: Path
) -> None:
    bare = {name: tensor for name, tensor in weights.items() if not name.startswith("normalise.")}
    loaded = load_weights(as_import(write(bare, tmp_path / "own.safetensors")))
    assert loaded["normalise.mean"].flatten().tolist() == pytest.approx(dataset.card.mean)
    weights["normalise.mean"] += 1
    loaded = load_weights(as_import(write(weights, tmp_path / "own.safetensors"), epoch=6))
    assert loaded["normalise.mean"].flatten().tolist() == pytest.approx([dataset.card.mean[0] + 1])


def test_names_and_shapes_that_do_not_fit_are_listed(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    del weights["features.0.bias"]
    weights["extra"] = torch.zeros(1)
    weights["classifier.1.bias"] = torch.zeros(10)
    weights["features.3.squeeze.bias"] = torch.zeros(16, dtype=torch.int64)
    with pytest.raises(CheckpointError) as error:
        as_import(write(weights, tmp_path / "own.safetensors"))
    assert "features.0.bias missing, extra unexpected" in one_line(error)
    assert "classifier.1.bias has shape (10,) instead of (4,)" in one_line(error)
    assert "features.3.squeeze.bias has type torch.int64 instead of torch.float32" in one_line(error)
    assert "more" not in one_line(error)
    assert list_checkpoints() == []


def test_a_long_list_of_what_does_not_fit_is_cut(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        as_import(write({f"w{i}": torch.zeros(1) for i in range(5)}, tmp_path / "own.pt"))
    num_missing = len(build_network(NETWORK, dataset=tiny.NAME).state_dict()) - 2
    assert one_line(error).count(" missing") == 8
    assert f"and {num_missing + 5 - 8} more" in one_line(error)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(
    value: float, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    weights["features.3.squeeze.weight"][0, 0] = value
    with pytest.raises(CheckpointError, match=r"holds NaN or infinity in 'features.3.squeeze.weight'"):
        as_import(write(weights, tmp_path / "own.safetensors"))


class Hostile:
    """Unpickled carelessly, it creates a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.proof,)


def write_pickle(content: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("writer", [write_pickle, torch.save])
def test_a_pickle_is_refused_and_not_run(writer: Callable[[object, Path], None], suffix: str, tmp_path: Path) -> None:
    file, proof = tmp_path / f"own{suffix}", tmp_path / "it was run"
    writer({"w": Hostile(proof)}, file)
    with pytest.raises(CheckpointError, match="safetensors") as error:
        as_import(file)
    assert not proof.exists()
    assert str(file) in one_line(error)
    assert list_checkpoints() == []
    pickle.loads(pickle.dumps(Hostile(proof)))
    assert proof.exists(), "the pickle is harmless: this test proves nothing"


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"was not run \(UnpicklingError\).*save_file"):
        as_import(write(build_network(NETWORK, dataset=tiny.NAME), tmp_path / "own.pt"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("own.pt", [torch.zeros(1)], "holds no named weights but list"),
        ("own.pt", {}, "holds no named weights"),
        ("own.pt", {"w": torch.zeros(1), "lr": 0.1}, "holds 'lr', a float and no tensor"),
        ("own.pt", {3: torch.zeros(1)}, "holds 3, a Tensor"),
        ("own.bin", {"w": torch.zeros(1)}, "must end in"),
    ],
)
def test_files_of_another_kind_are_refused(name: str, content: object, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / name)
    with pytest.raises(CheckpointError, match=words) as error:
        as_import(tmp_path / name)
    one_line(error)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(suffix: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = write(weights, tmp_path / f"own{suffix}")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=str(file)) as error:
        as_import(file)
    one_line(error)
    with pytest.raises(CheckpointError, match="no file"):
        as_import(tmp_path / "nothing.pt")


def test_an_epoch_is_imported_once(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = write(weights, tmp_path / "own.safetensors")
    as_import(file)
    with pytest.raises(CheckpointError, match="epoch 5 of squeezenet1_1 on tiny, seed 0, exists; take another --seed"):
        as_import(file)
    as_import(file, epoch=6)
    assert available_epochs(SPEC) == [5, 6]


def test_trained_and_imported_epochs_do_not_mix(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = write(weights, tmp_path / "own.safetensors")
    save()
    with pytest.raises(CheckpointError, match="was trained here; import under another --seed"):
        as_import(file)
    other = TrainingSpec(network=NETWORK, dataset=tiny.NAME, seed=1)
    imported = as_import(file, seed=1)
    with pytest.raises(TrainingError, match=r"is imported \(epoch 5\) and cannot be trained"):
        train(other, [5, 6])
    assert train(other, [5]) == [imported]


def test_unknown_networks_and_data_sets_are_refused(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = write(weights, tmp_path / "own.safetensors")
    with pytest.raises(UnknownNameError, match="no network 'alexnet'"):
        as_import(file, network="alexnet")
    with pytest.raises(UnknownNameError, match="no data set 'imagenet'"):
        as_import(file, dataset="imagenet")


# Networks of one's own ------------------------------------------------------------------------------------

OWN_MODULE = """
from torch import nn

def make(num_classes, num_channels):
    return nn.Sequential(nn.Conv2d(num_channels, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 26 * 26, num_classes))

def other(num_classes, num_channels):
    return make(num_classes, num_channels)

def nothing(num_classes, num_channels):
    return "a network"

def failing(num_classes, num_channels):
    raise RuntimeError("no such\\nmemory")

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with ``own_networks.py`` in it, which is the working directory, and weights that fit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_networks.py").write_text(OWN_MODULE)
    (tmp_path / "broken_networks.py").write_text("import nowhere_to_be_found")
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    network = resolve_factory("own_networks:make")(num_classes=4, num_channels=1)
    return write(weights_of(network), tmp_path / "own.safetensors")


def test_a_network_of_ones_own_is_imported_and_loaded(own: Path, dataset: data.Dataset) -> None:
    checkpoint = as_import(own, network="my_net", factory="own_networks:make")
    assert checkpoint.factory == "own_networks:make"
    assert find_checkpoint(TrainingSpec(network="my_net", dataset=tiny.NAME), 5) == checkpoint
    network = load_network(checkpoint, factory=resolve_factory("own_networks:make"))
    expected = resolve_factory("own_networks:make")(num_classes=4, num_channels=1)
    expected.load_state_dict(safetensors.torch.load_file(own))
    pixels = dataset.probe.pixels()
    assert torch.equal(network(pixels), expected(pixels))
    assert not network.training


def test_a_factory_is_never_taken_from_the_sidecar(own: Path) -> None:
    checkpoint = as_import(own, network="my_net", factory="own_networks:make")
    with pytest.raises(CheckpointError, match="got none; give --factory own_networks:make again"):
        load_network(checkpoint)
    with pytest.raises(CheckpointError, match="got own_networks:other; give --factory own_networks:make"):
        load_network(checkpoint, factory="own_networks:other")
    with pytest.raises(CheckpointError, match="got own_networks:other"):
        as_import(own, network="my_net", epoch=6, factory="own_networks:other")
    with pytest.raises(CheckpointError, match="was made without --factory"):
        load_network(save(), factory="own_networks:make")


@pytest.mark.parametrize("name", ["My-Net", "", "../x", "a" * 41, "resnet18"])
def test_names_of_ones_own_networks_follow_a_rule(name: str, own: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must match|one of the paper's"):
        as_import(own, network=name, factory="own_networks:make")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("own_networks", "must read module:function"),
        ("own_networks:make()", "must read module:function"),
        ("own_networks:missing", "has no function 'missing'"),
        ("own_networks:number", "has no function 'number'"),
        ("missing_module:make", "importing missing_module failed"),
        ("broken_networks:make", "nowhere_to_be_found"),
        ("own_networks:nothing", "must return a torch.nn.Module, got str"),
        ("own_networks:failing", "failed .RuntimeError: no such memory"),
    ],
)
def test_factories_that_give_no_network_are_refused(text: str, words: str, own: Path) -> None:
    with pytest.raises(CheckpointError, match=words) as error:
        as_import(own, network="my_net", factory=text)
    one_line(error)
