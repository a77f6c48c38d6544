"""Names and keys: what is refused, and what a key depends on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from fss_core import specs
from fss_core.jobs.requests import MeasureRequest
from fss_core.specs import (
    AttackSpec,
    FssError,
    MeasurementSpec,
    NetworkIdentity,
    ResponseSpec,
    ScoreSpec,
    TrainingSpec,
    adversarial_key,
    canonical_json,
    choose,
    digest,
    epsilon_key,
    filter_rows,
    from_json,
    response_key,
    to_json,
)

TRAINING = TrainingSpec(network="resnet18", dataset="mnist5k")
ATTACK = AttackSpec(epsilon=8 / 255)
NETWORK = NetworkIdentity(network="resnet18", factory=None, weights_sha256="c" * 64)
PLACE = {"network": NETWORK, "device_type": "cpu", "schema": 1}
PROBED = {**PLACE, "probe": "p" * 64}
CALIBRATED = {**PLACE, "calibration": "q" * 64}

OTHER_TRAINING = {
    "network": "resnet50",
    "dataset": "mnist",
    "seed": 1,
    "batch_size": 50,
    "learning_rate": 1e-2,
    "num_train": 10_000,
}
OTHER_ATTACK = {"epsilon": 9 / 255, "kind": "pgd", "mode": "adaptive", "steps": 11, "step_size": 0.01, "seed": 1}
OTHER_RESPONSE = {
    "num_thresholds": 13,
    "scope": "global",
    "engine": "reference",
    "seed": 1,
    "num_draws": 4,
    "arithmetic": "bf16",
}
OTHER_NETWORK = {"network": "resnet50", "factory": "own:make", "weights_sha256": "d" * 64}
OTHER_PLACE = {"network": replace(NETWORK, **OTHER_NETWORK), "device_type": "cuda", "schema": 2}


# Canonical JSON -------------------------------------------------------------------------------------------


def test_canonical_json_has_one_form() -> None:
    value = {"b": [1, 2.5], "a": (None, True), "ä": "ε"}
    assert canonical_json(value) == '{"a":[null,true],"b":[1,2.5],"ä":"ε"}'
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)
    assert json.loads(canonical_json(ATTACK)) == asdict(ATTACK)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_canonical_json_has_no_nan(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": number})


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", AttackSpec, Path("here")])
def test_canonical_json_refuses_what_has_no_form(value: object) -> None:
    with pytest.raises(TypeError, match="no place in a key"):
        canonical_json(value)


def test_a_field_that_was_added_later_is_written_only_where_it_says_something() -> None:
    assert to_json(TRAINING) == {name: own for name, own in asdict(TRAINING).items() if name != "num_train"}
    part = replace(TRAINING, num_train=200)
    assert to_json(part) == asdict(part)
    for spec in (TRAINING, part):
        measurement = MeasurementSpec(training=spec, epoch=3)
        for written in (to_json(measurement), asdict(measurement)):
            assert from_json(MeasurementSpec, json.loads(json.dumps(written))) == measurement
    # A request's key is that of what it writes.
    assert "num_train" not in canonical_json(MeasureRequest(spec=MeasurementSpec(training=TRAINING, epoch=3)).to_json())


def test_a_part_of_the_training_images_is_named() -> None:
    with pytest.raises(ValueError, match="num_train must be at least one batch of 100, got 99"):
        replace(TRAINING, num_train=99)
    assert (TRAINING.subset, replace(TRAINING, num_train=10_000).subset) == ("", "10,000 training images")
    request = MeasureRequest(spec=MeasurementSpec(training=replace(TRAINING, num_train=10_000), epoch=3))
    assert "initialisation 0; 10,000 training images; FGSM" in request.words()


def test_a_float_and_an_integer_are_told_apart() -> None:
    assert digest({"a": 1}) != digest({"a": 1.0})


# Golden keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "golden"),
    [
        (digest(TRAINING), "ad440b3ba76d1e2948993a1da744f5fb083ac90327933bc96a9fa731cccc28ac"),
        (
            response_key(response=ResponseSpec(), attack=ATTACK, **PROBED),
            "9829f8bae20a97dc14cd4eacc53d0a2786390666895eda7bd169ca9ff5ab3efd",
        ),
        (adversarial_key(attack=ATTACK, **PROBED), "7c935fbcdaa9a44368a00fad408fd1f2f51fa260692c5f8ffa78bbfb0c43b40a"),
        (epsilon_key(**CALIBRATED), "306c1656cf84fca8f259d2f6aab64d14387ede726a7909a7d1715616205d51f5"),
    ],
    ids=["training", "response", "adversarial", "epsilon"],
)
def test_golden_keys(key: str, golden: str) -> None:
    """A changed default, field or word makes every stored result unreachable: raise the schema when you mean it."""
    assert key == golden


def test_keys_of_different_things_differ() -> None:
    keys = [
        response_key(response=ResponseSpec(), attack=ATTACK, **PROBED),
        adversarial_key(attack=ATTACK, **PROBED),
        epsilon_key(**CALIBRATED),
        epsilon_key(**PLACE, calibration=PROBED["probe"]),
    ]
    assert len(set(keys)) == len(keys)


def test_every_field_has_another_value_to_try() -> None:
    assert {field.name for field in fields(TrainingSpec)} == set(OTHER_TRAINING)
    assert {field.name for field in fields(AttackSpec)} == set(OTHER_ATTACK)
    assert {field.name for field in fields(ResponseSpec)} == {*OTHER_RESPONSE, "filters"}


@pytest.mark.parametrize("field", OTHER_TRAINING)
def test_a_trajectory_depends_on_every_field(field: str) -> None:
    assert digest(replace(TRAINING, **{field: OTHER_TRAINING[field]})) != digest(TRAINING)


@pytest.mark.parametrize("field", OTHER_RESPONSE)
def test_a_response_depends_on_every_field_but_filters(field: str) -> None:
    def key(response: ResponseSpec) -> str:
        return response_key(response=response, attack=ATTACK, **PROBED)

    assert key(replace(ResponseSpec(), **{field: OTHER_RESPONSE[field]})) != key(ResponseSpec())


@pytest.mark.parametrize("filters", [("pulse",), ("random", "low_pass", "high_pass", "pulse")])
def test_filters_are_stored_apart_and_so_not_in_the_key(filters: tuple[specs.Filter, ...]) -> None:
    keys = {
        response_key(response=ResponseSpec(filters=chosen), attack=ATTACK, **PROBED)
        for chosen in (filters, specs.SYNAPTIC_FILTERS)
    }
    assert len(keys) == 1


@pytest.mark.parametrize("field", OTHER_ATTACK)
def test_adversarial_images_depend_on_all_of_the_attack_but_its_mode(field: str) -> None:
    changed = replace(ATTACK, **{field: OTHER_ATTACK[field]})
    same = adversarial_key(attack=changed, **PROBED) == adversarial_key(attack=ATTACK, **PROBED)
    assert same == (field == "mode")
    assert response_key(response=ResponseSpec(), attack=changed, **PROBED) != response_key(
        response=ResponseSpec(), attack=ATTACK, **PROBED
    )


def _response(**where: Any) -> str:
    return response_key(response=ResponseSpec(), attack=ATTACK, **where)


def _adversarial(**where: Any) -> str:
    return adversarial_key(attack=ATTACK, **where)


@pytest.mark.parametrize(
    ("make_key", "where", "field"),
    [
        (make_key, where, field)
        for make_key, where in ((_response, PROBED), (_adversarial, PROBED), (epsilon_key, CALIBRATED))
        for field in where
    ],
)
def test_every_key_depends_on_weights_images_device_and_schema(
    make_key: Callable[..., str], where: dict[str, Any], field: str
) -> None:
    other = OTHER_PLACE.get(field, "r" * 64)
    assert make_key(**{**where, field: other}) != make_key(**where)


@pytest.mark.parametrize("field", OTHER_NETWORK)
def test_every_key_depends_on_all_of_the_network(field: str) -> None:
    other = replace(NETWORK, **{field: OTHER_NETWORK[field]})
    for make_key, where in ((_response, PROBED), (_adversarial, PROBED), (epsilon_key, CALIBRATED)):
        assert make_key(**{**where, "network": other}) != make_key(**where)


def test_the_number_of_images_is_in_no_key() -> None:
    small, large = (MeasurementSpec(training=TRAINING, epoch=1, num_images=number) for number in (100, 300))
    assert small.response == large.response
    assert small.attack(0.1) == large.attack(0.1)


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name", "received"),
    [
        (lambda: replace(TRAINING, seed=-1), "seed", "-1"),
        (lambda: replace(TRAINING, batch_size=1), "batch_size", "1"),
        (lambda: replace(TRAINING, learning_rate=0.0), "learning_rate", "0.0"),
        (lambda: replace(TRAINING, learning_rate=float("nan")), "learning_rate", "nan"),
        (lambda: AttackSpec(epsilon=0.0), "epsilon", "0.0"),
        (lambda: AttackSpec(epsilon=-8 / 255), "epsilon", "-0.03"),
        (lambda: AttackSpec(epsilon=8.0), "epsilon", "8.0"),
        (lambda: AttackSpec(epsilon=float("nan")), "epsilon", "nan"),
        (lambda: AttackSpec(epsilon=0.1, mode="both"), "mode", "'both'"),  # type: ignore[arg-type]
        (lambda: AttackSpec(epsilon=0.1, steps=0), "steps", "0"),
        (lambda: AttackSpec(epsilon=0.1, step_size=0.0), "step_size", "0.0"),
        (lambda: ResponseSpec(num_thresholds=1), "num_thresholds", "1"),
        (lambda: ResponseSpec(filters=()), "filters", "none"),
        (lambda: ResponseSpec(filters=("pulse", "pulse")), "filters", "pulse, pulse"),
        (lambda: ResponseSpec(scope="all"), "scope", "'all'"),  # type: ignore[arg-type]
        (lambda: ResponseSpec(engine="slow"), "engine", "'slow'"),  # type: ignore[arg-type]
        (lambda: ResponseSpec(num_draws=2), "num_draws", "2"),
        (lambda: ScoreSpec(reference="half"), "reference", "'half'"),  # type: ignore[arg-type]
        (lambda: ScoreSpec(normalise="z"), "normalise", "'z'"),  # type: ignore[arg-type]
        (lambda: ScoreSpec(integration="sum"), "integration", "'sum'"),  # type: ignore[arg-type]
        (lambda: ScoreSpec(tolerance=-0.1), "tolerance", "-0.1"),
        (lambda: ScoreSpec(level=1.0), "level", "1.0"),
        (lambda: MeasurementSpec(training=TRAINING, epoch=-1), "epoch", "-1"),
        (lambda: MeasurementSpec(training=TRAINING, epoch=1, num_images=0), "num_images", "0"),
        (lambda: MeasurementSpec(training=TRAINING, epoch=1, epsilon=0.0), "epsilon", "0.0"),
        (lambda: MeasurementSpec(training=TRAINING, epoch=1, attack_steps=0), "steps", "0"),
    ],
)
def test_refusals_name_the_field_the_rule_and_the_value(make: Callable[[], object], name: str, received: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must .*got {received}[^\n]*$"):
        make()


def test_an_unknown_filter_is_a_domain_error_that_lists_the_choices() -> None:
    choices = "high_pass, low_pass, pulse, random"
    with pytest.raises(specs.UnknownNameError, match=rf"^no filter 'band'; choose from {choices}$"):
        ResponseSpec(filters=("band",))  # type: ignore[arg-type]


def test_choosing_lists_twelve_names_at_most() -> None:
    names = [f"layer{index}" for index in range(20)]
    assert choose("layer19", names, what="layer") == "layer19"
    with pytest.raises(specs.UnknownLayerError) as caught:
        choose("x", names, what="layer", error=specs.UnknownLayerError)
    assert str(caught.value) == f"no layer 'x'; choose from {', '.join(names[:12])}, …"


def test_every_error_of_the_domain_is_an_fss_error() -> None:
    errors = [item for item in vars(specs).values() if isinstance(item, type) and issubclass(item, Exception)]
    assert len(errors) > 10
    assert all(issubclass(error, FssError) for error in errors)


def test_specs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ATTACK.epsilon = 0.5  # type: ignore[misc]


# What they mean -------------------------------------------------------------------------------------------


def test_the_default_step_is_two_and_a_half_epsilon_over_the_steps() -> None:
    assert AttackSpec(epsilon=0.1, steps=10).resolved_step_size == pytest.approx(0.025)
    assert AttackSpec(epsilon=0.1, steps=5).resolved_step_size == pytest.approx(0.05)
    assert AttackSpec(epsilon=0.1, step_size=0.01).resolved_step_size == 0.01


def test_only_the_control_has_draws() -> None:
    rows = filter_rows(("high_pass", "random", "pulse"), 3)
    assert [(row.filter, row.draw) for row in rows] == [
        ("high_pass", 0),
        ("random", 0),
        ("random", 1),
        ("random", 2),
        ("pulse", 0),
    ]


def test_a_measurement_makes_its_attack() -> None:
    spec = MeasurementSpec(training=TRAINING, epoch=1, attack_kind="PGD", attack_mode="adaptive", attack_steps=7)
    assert spec.attack(0.25) == AttackSpec(epsilon=0.25, kind="pgd", mode="adaptive", steps=7)
    assert replace(spec, device="cuda:1").device_type == "cuda"


def test_a_calibration_stands_for_its_epsilon() -> None:
    calibration = specs.EpsilonCalibration(
        epsilon=0.25, clean_accuracy=0.9, target=0.5, grid=(0.25,), pgd_accuracy=(0.4,), num_images=10
    )
    assert float(calibration) == 0.25


def test_directories_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "own"))
    assert specs.cache_dir() == tmp_path / "own"
    assert specs.data_dir() == tmp_path / "own" / "data"
    monkeypatch.setenv("FSS_DATA_DIR", str(tmp_path / "data"))
    assert specs.data_dir() == tmp_path / "data"
    monkeypatch.delenv("FSS_CACHE_DIR")
    assert specs.cache_dir() == Path(specs.__file__).resolve().parents[1] / "cache"


def test_the_published_study_is_found_beside_another_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FSS_PUBLISHED_DIR")
    here = Path(specs.__file__).resolve().parents[1] / "cache" / "published"
    assert specs.published_dir() == here
    (tmp_path / "published").mkdir()
    assert specs.published_dir() == tmp_path / "published"
    monkeypatch.setenv("FSS_PUBLISHED_DIR", "mine")
    assert specs.published_dir() == tmp_path / "mine"
    monkeypatch.setenv("FSS_PUBLISHED_DIR", str(here))
    assert specs.published_dir() == here


def test_importing_the_package_and_its_words_imports_nothing_heavy() -> None:
    code = "import sys, fss_core, fss_core.specs; print([n for n in ('torch', 'pandas', 'numpy') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert result.stdout.strip() == "[]"
