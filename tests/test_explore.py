"""What the Explore view shows of a request, and how results are forgotten: on a made-up store, without a page."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pictures
import pytest
import reference
from pictures import EPSILON, LAYERS, cut, key_of, request

from fss_core import results
from fss_core.data import load_dataset
from fss_core.explore import (
    Picture,
    find_picture,
    forget_damaged,
    portable,
    probe_images,
    result_keys,
    score_picture,
    unmeasurable_reasons,
    version_of,
    zero_gradient_share,
)
from fss_core.exports import export_zip
from fss_core.imports import delete_imported, import_zip, list_imported
from fss_core.jobs.board import Board
from fss_core.jobs.kinds import words
from fss_core.jobs.requests import MeasureRequest
from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.retraining.spec import RetrainingSpec
from fss_core.scores import KINDS, score_responses
from fss_core.specs import GLOBAL_LAYER, ScoreSpec, StaleResultError, StoreError, UnknownNameError
from fss_core.store import Store
from fss_core.summaries import join_control

SETTINGS = [
    ScoreSpec(),
    ScoreSpec(reference="retained", normalise="p0", integration="simpson", tolerance=0.2, level=0.8),
    ScoreSpec(normalise="none", tolerance=0.01, level=0.99),
]


def picture_of(store: Store, own: MeasureRequest | None = None) -> Picture:
    found = find_picture(store, own or request())
    assert found is not None
    return found


def export(store: Store, target: Path) -> Path:
    """Export what is measured here, its control with it."""
    measured = portable(picture_of(store))
    export_zip(measured, score_responses(measured.responses), target)
    return target


# Finding --------------------------------------------------------------------------------------------------


def test_a_whole_picture_is_found(known_store: Store) -> None:
    found = picture_of(known_store)
    assert found.origin == "measured"
    assert found.is_complete
    assert found.rows == (*LAYERS, GLOBAL_LAYER)
    assert found.control is not None
    assert [layer.facts.name for layer in found.control.layers] == list(LAYERS)
    assert found.whole is not None
    responses = found.responses_of("helps")
    assert responses is not None
    assert [row.filter for row in responses.rows] == ["high_pass", "low_pass", "pulse", "random", "random", "random"]
    assert [layer.facts.name for layer in responses.layers] == ["helps"]
    assert found.responses_of(GLOBAL_LAYER) is found.whole.responses
    assert zero_gradient_share(found) == 0.0


def test_nothing_is_found_where_nothing_is(empty_cache: Path) -> None:
    with Store() as store:
        assert find_picture(store, request()) is None
        assert result_keys(store, request()) == []


@pytest.mark.parametrize(
    "changes", [{"epoch": 3}, {"attack_kind": "pgd"}, {"attack_mode": "adaptive"}, {"epsilon": 0.1}]
)
def test_another_request_has_another_picture(known_store: Store, changes: dict[str, object]) -> None:
    assert find_picture(known_store, request(**changes)) is None


def test_the_same_epsilon_given_is_the_same_measurement(known_store: Store) -> None:
    found = picture_of(known_store, request(epsilon=EPSILON))
    assert found.layers.calibration is None
    assert found.is_complete


def test_too_many_images_are_refused(known_store: Store) -> None:
    with pytest.raises(ValueError, match=r"at most 120.*got 121"):
        find_picture(known_store, request(num_images=121))


def test_here_comes_before_imported_and_imported_before_published(known_store: Store, known_cache: Path) -> None:
    path = export(known_store, known_cache / "export.zip")
    import_zip(path)
    (known_cache / "published").mkdir()
    shutil.copy(path, known_cache / "published" / "study.zip")
    assert picture_of(known_store).origin == "measured"
    known_store.delete_prefix("responses/")
    found = picture_of(known_store)
    assert found.origin == "imported"
    assert [layer.facts.name for layer in found.layers.responses.layers] == list(LAYERS)
    assert found.control is not None
    assert found.whole is None
    assert not found.is_complete
    delete_imported(list_imported()[0].path.stem)
    assert picture_of(known_store).origin == "published"
    (known_cache / "published" / "study.zip").unlink()
    assert find_picture(known_store, request()) is None


def test_an_import_is_found_without_its_data_set(known_store: Store, known_cache: Path) -> None:
    path = export(known_store, known_cache / "export.zip")
    here = score_picture(picture_of(known_store), ScoreSpec())
    import_zip(path)
    pictures.lose_folder(known_cache)
    found = picture_of(known_store)
    assert found.origin == "imported"
    assert score_picture(found, ScoreSpec()).layers == here.layers
    with pytest.raises(StoreError, match="imported results carry no images"):
        probe_images(known_store, found, [0])


@pytest.mark.parametrize(
    ("part", "piece"),
    [
        ("layers", "layer/helps/pulse/1"),
        ("layers", "facts/idle/high_pass"),
        ("layers", "layer/helps/random/0"),
        ("whole", f"layer/{GLOBAL_LAYER}/pulse/0"),
    ],
)
def test_a_picture_lacks_what_is_not_measured(known_store: Store, part: str, piece: str) -> None:
    known_store.delete(f"responses/{key_of(known_store, part)}/{piece}")
    found = picture_of(known_store)
    assert not found.is_complete
    assert found.rows == (*LAYERS, GLOBAL_LAYER)
    layer = piece.split("/")[1]
    if "random" in piece:
        responses = found.responses_of(layer)
        assert responses is not None
        assert {row.filter for row in responses.rows} == {"high_pass", "low_pass", "pulse"}
    else:
        assert found.responses_of(layer) is None


def test_what_was_not_asked_for_is_not_missed(known_store: Store) -> None:
    for name in LAYERS:
        known_store.delete_prefix(f"responses/{key_of(known_store)}/layer/{name}/random")
    known_store.delete_prefix(f"responses/{key_of(known_store, 'whole')}/")
    assert not picture_of(known_store).is_complete
    only = replace(request(), whole=False, control=False)
    assert picture_of(known_store, only).is_complete
    assert picture_of(known_store, only).rows == LAYERS


def test_the_whole_network_is_shown_before_its_control_is_there(known_store: Store) -> None:
    known_store.delete_prefix(f"responses/{key_of(known_store, 'whole')}/layer/{GLOBAL_LAYER}/random")
    found = picture_of(known_store)
    assert found.whole is not None
    assert {row.filter for row in found.whole.responses.rows} == {"high_pass", "low_pass", "pulse"}
    assert found.responses_of(GLOBAL_LAYER) is found.whole.responses
    assert not found.is_complete


# Versions -------------------------------------------------------------------------------------------------


def test_whatever_is_added_or_deleted_is_another_version(known_store: Store, known_cache: Path) -> None:
    keys = [key for part in ("layers", "whole") for key in known_store.keys(f"responses/{key_of(known_store, part)}/")]
    assert len(keys) > 40
    seen = {version_of(known_store, request())}
    for number, key in enumerate(keys):
        known_store.delete(key)
        seen.add(version_of(known_store, request()))
        assert len(seen) == number + 2, key


def test_imports_make_another_version(known_store: Store, known_cache: Path) -> None:
    path = export(known_store, known_cache / "export.zip")
    before = version_of(known_store, request())
    assert version_of(known_store, request()) == before
    import_zip(path)
    after = version_of(known_store, request())
    assert after != before
    delete_imported(list_imported()[0].path.stem)
    assert version_of(known_store, request()) == before


def test_a_piece_that_grows_makes_another_version(known_store: Store) -> None:
    key = f"responses/{key_of(known_store)}/layer/helps/pulse/1"
    found = known_store.get(key)
    assert found is not None
    before = version_of(known_store, request())
    arrays = {name: np.concatenate([array, array], axis=-1) for name, array in found.arrays.items()}
    known_store.put(key, arrays, meta=found.meta)
    assert version_of(known_store, request()) != before


# Scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SETTINGS)
@pytest.mark.parametrize("simultaneous", [False, True])
@pytest.mark.parametrize("controlled", [LAYERS, LAYERS[1:3], ()])
def test_scores_are_those_of_the_joined_responses(
    known_store: Store, spec: ScoreSpec, simultaneous: bool, controlled: tuple[str, ...]
) -> None:
    for name in set(LAYERS) - set(controlled):
        known_store.delete_prefix(f"responses/{key_of(known_store)}/layer/{name}/random")
    found = picture_of(known_store)
    assert found.whole is not None
    scores = score_picture(found, spec, simultaneous=simultaneous)
    # Five filters with the mean and the control, else four; three kinds; the whole network has its control.
    family = 3 * (5 * len(controlled) + 4 * (len(LAYERS) - len(controlled)) + 5)
    level = 1 - (1 - spec.level) / family if simultaneous else spec.level
    assert [own.level_per_score for own in scores.all] == pytest.approx([level, level])
    assert scores.whole is not None
    assert len(scores.layers.rows) + len(scores.whole.rows) == family
    one_by_one = replace(spec, level=level)
    expected = {
        (row.layer, row.filter, row.kind): row
        for own in (
            found.layers.responses,
            found.whole.responses,
            *([join_control(found.layers.responses, found.control)] if found.control is not None else []),
        )
        for row in score_responses(own, **asdict(one_by_one)).rows
    }
    for row in (*scores.layers.rows, *scores.whole.rows):
        other = expected[row.layer, row.filter, row.kind]
        assert (row.score, row.call, row.certainty, row.reason) == (
            other.score,
            other.call,
            other.certainty,
            other.reason,
        )
        assert row.beyond_chance == other.beyond_chance
        if row.score is not None:
            assert (row.low, row.high) == pytest.approx((other.low, other.high))
    assert list(dict.fromkeys(row.layer for row in scores.layers.rows)) == list(LAYERS)


@pytest.mark.parametrize("spec", SETTINGS)
def test_scores_are_those_of_the_slow_reference(known_store: Store, spec: ScoreSpec) -> None:
    scores = score_picture(picture_of(known_store), spec)
    found = {(row.layer, row.kind): row for row in scores.layers.rows if row.filter == "mean"}
    how = {"reference": spec.reference, "normalise": spec.normalise, "integration": spec.integration}
    for layer in LAYERS:
        for kind in KINDS:
            if layer == "dead":
                assert found[layer, kind].certainty == "not measurable"
                continue
            expected = pictures.expected_score(layer, kind, **how)
            assert found[layer, kind].score == pytest.approx(expected, abs=1e-12)
            assert found[layer, kind].call == reference.call(expected, spec.tolerance)


def test_reasons_are_counted(known_store: Store) -> None:
    (reason,) = unmeasurable_reasons(score_picture(picture_of(known_store), ScoreSpec()).layers)
    assert reason.startswith("15 of 75 scores: this filter removes no weight")


def test_an_export_carries_the_control_only_if_all_layers_have_it(known_store: Store) -> None:
    assert "random" in portable(picture_of(known_store)).spec.response.filters
    known_store.delete_prefix(f"responses/{key_of(known_store)}/layer/dead/random")
    found = picture_of(known_store)
    assert portable(found) is found.layers


# Images ---------------------------------------------------------------------------------------------------


def test_probe_images_are_those_of_the_data_set(known_store: Store) -> None:
    chosen = [105, 3, 99, 100, 3]
    found = probe_images(known_store, picture_of(known_store), chosen)
    probe = load_dataset(pictures.DATASET).probe.images
    assert found.clean.dtype == np.uint8
    assert np.array_equal(found.clean, probe[chosen])
    assert found.adversarial is not None
    assert found.adversarial.dtype == np.float32
    pixels = probe[chosen].astype(np.float32) / 255
    np.testing.assert_allclose(found.adversarial, np.clip(pixels + EPSILON, 0, 1), atol=1e-6)
    assert found.class_names == ("a", "b", "c", "d")


def test_images_whose_adversarial_version_is_gone_say_so(known_store: Store) -> None:
    (last,) = [key for key in known_store.keys("adversarial/") if key.endswith("/1")]
    known_store.delete(last)
    found = picture_of(known_store)
    assert probe_images(known_store, found, [99]).adversarial is not None
    with pytest.raises(StoreError, match="adversarial images were deleted"):
        probe_images(known_store, found, [99, 100])


# Forgetting -----------------------------------------------------------------------------------------------


def contents(store: Store) -> dict[str, bytes]:
    return {key: store._cache().get(key) for key in store.keys()}


def test_only_what_is_damaged_is_forgotten(known_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    own = key_of(known_store)
    harmed = [f"responses/{own}/layer/helps/pulse/0", f"responses/{own}/facts/idle/random"]
    old = f"responses/{key_of(known_store, 'whole')}/unfiltered/0"
    before = contents(known_store)
    for key in harmed:
        cut(known_store, key)
    pictures.make_old(known_store, old, monkeypatch)
    with pytest.raises(StoreError):
        find_picture(known_store, request())
    assert forget_damaged(known_store, request()) == 3
    assert contents(known_store) == {key: entry for key, entry in before.items() if key not in (*harmed, old)}
    found = picture_of(known_store)
    assert found.layers.missing == ("helps",)
    assert forget_damaged(known_store, request()) == 0


def test_a_damaged_calibration_is_forgotten(known_store: Store) -> None:
    (key,) = known_store.keys("epsilon/")
    cut(known_store, key)
    with pytest.raises(StoreError):
        version_of(known_store, request())
    assert forget_damaged(known_store, request()) == 1
    assert find_picture(known_store, request()) is None
    assert known_store.count("responses/") > 0


def test_another_schema_is_named(known_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures.make_old(known_store, f"responses/{key_of(known_store)}/header", monkeypatch)
    with pytest.raises(StaleResultError, match="has schema 2, this version reads 1"):
        find_picture(known_store, request())


def test_a_forgotten_result_leaves_checkpoint_images_and_other_results(known_store: Store, known_cache: Path) -> None:
    board = Board(known_store)
    board.end(board.ask("measure", request().to_json()).key, "done")
    other = board.ask("measure", request(epoch=7).to_json())
    board.end(other.key, "done")
    known_store.put("responses/other/header", {}, meta={})
    known_store.record("other", {"measurement": asdict(request(epoch=7).spec)})
    results.forget_result(known_store, request())
    assert known_store.keys("responses/") == ["responses/other/header"]
    assert [record.key for record in known_store.list_records()] == ["other"]
    assert [run.key for run in board.runs()] == [other.key]
    assert known_store.count("adversarial/") == 2
    assert known_store.count("epsilon/") == 1
    assert list((known_cache / "checkpoints").rglob("weights.safetensors"))
    assert find_picture(known_store, request()) is None


@pytest.mark.parametrize("gone", ["folder", "checkpoints", "epsilon"])
def test_a_result_is_forgotten_although_the_way_to_it_is_gone(known_store: Store, known_cache: Path, gone: str) -> None:
    known_store.put("responses/other/header", {}, meta={})
    known_store.record("other", {"measurement": asdict(request(epoch=7).spec)})
    known_store.record("later", {"measurement": {"of": "another version"}})
    if gone == "folder":
        pictures.lose_folder(known_cache)
    else:
        results.clear(known_store, gone)
    results.forget_result(known_store, request(num_images=50))
    assert known_store.keys("responses/") == ["responses/other/header"]
    assert {record.key for record in known_store.list_records()} == {"other", "later"}


def test_a_result_is_not_forgotten_while_it_is_measured(known_store: Store) -> None:
    run = Board(known_store).ask("measure", request().to_json())
    with pytest.raises(StoreError, match="cancel it first"):
        results.forget_result(known_store, request())
    assert picture_of(known_store).is_complete
    assert [own.key for own in Board(known_store).runs()] == [run.key]


def test_a_result_is_not_forgotten_while_another_run_needs_it(known_store: Store) -> None:
    board = Board(known_store)
    retraining = RetrainRequest(spec=RetrainingSpec(measurement=request().spec, budget=1))
    others = [
        board.ask("measure", request(num_images=50).to_json()),
        board.ask("retrain", retraining.to_json()),
    ]
    board.ask("measure", request(epoch=7).to_json())  # which has results of its own
    for run in others:
        with pytest.raises(StoreError, match=re.escape(f"cancel that first: {words(run)}")):
            results.forget_result(known_store, request())
        assert picture_of(known_store).is_complete
        board.end(run.key, "done")
    results.forget_result(known_store, request())
    assert find_picture(known_store, request()) is None


# Disk -----------------------------------------------------------------------------------------------------


def files(root: Path) -> list[int]:
    return [path.stat().st_size for path in root.rglob("*") if path.is_file()]


def test_sizes_are_those_on_disk(known_store: Store, known_cache: Path) -> None:
    import_zip(export(known_store, known_cache / "export.zip"))
    known_store.put("responses/large/header", {"x": np.zeros(200_000, dtype=np.uint8)}, meta={})
    found = {own.name: own for own in results.disk_use(known_store)}
    entries = contents(known_store)
    for name in ("responses", "adversarial", "epsilon"):
        sizes = [len(entry) for key, entry in entries.items() if key.startswith(f"{name}/")]
        assert (found[name].num_bytes, found[name].num_pieces) == (sum(sizes), len(sizes))
        assert found[name].num_pieces > 0
    for name in ("imported", "checkpoints", "prepared"):
        sizes = files(known_cache / name)
        assert (found[name].num_bytes, found[name].num_pieces) == (sum(sizes), len(sizes))
        assert found[name].num_pieces > 0
    assert [name for name, own in found.items() if not own.is_clearable] == ["prepared"]
    assert all(own.loss for own in found.values() if own.is_clearable)


@pytest.mark.parametrize("name", ["responses", "adversarial", "epsilon", "imported", "checkpoints"])
def test_clearing_takes_one_kind_and_no_other(known_store: Store, known_cache: Path, name: str) -> None:
    import_zip(export(known_store, known_cache / "export.zip"))
    (known_cache / "imported" / "broken.zip").write_bytes(b"PK")
    before = {own.name: own.num_pieces for own in results.disk_use(known_store)}
    results.clear(known_store, name)
    after = {own.name: own.num_pieces for own in results.disk_use(known_store)}
    assert after == before | {name: 0}
    assert (known_store.list_records() == []) == (name == "responses")


@pytest.mark.parametrize("name", ["prepared", "nonsense", ""])
def test_what_is_no_clearable_kind_is_refused(known_store: Store, name: str) -> None:
    before = results.disk_use(known_store)
    with pytest.raises(UnknownNameError, match="no kind of results to clear"):
        results.clear(known_store, name)
    assert results.disk_use(known_store) == before


@pytest.mark.parametrize("end", [None, "running", "cancelling"])
def test_nothing_is_cleared_while_something_is_measured(known_store: Store, end: str | None) -> None:
    board = Board(known_store)
    run = board.ask("measure", request(epoch=9).to_json())
    if end is not None:
        board.begin(run.key)
    before = results.disk_use(known_store)
    if end == "cancelling":
        with known_store.claim(run.lease):
            board.cancel(run.key)
            assert board.get(run.key).state == "cancelling"
            with pytest.raises(StoreError, match="cancel it first"):
                results.clear(known_store, "responses")
    with pytest.raises(StoreError, match="cancel it first"):
        results.clear(known_store, "responses")
    assert results.disk_use(known_store) == before
    board.end(run.key, "cancelled")
    results.clear(known_store, "responses")
    assert known_store.count("responses/") == 0
