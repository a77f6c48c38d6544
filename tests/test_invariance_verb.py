"""``fss invariance``, and what it looks up: one ε for all epochs, what is missing, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import columns
import pictures
import pytest
from commands import Fss, refused

from fss_core.explore import find_picture, portable
from fss_core.exports import export_zip
from fss_core.imports import import_zip
from fss_core.invariance import measure_invariance, tabulate_scores
from fss_core.invariance.groups import group_rows, rows_that_move
from fss_core.invariance.lookup import (
    ComparisonSpec,
    epsilon_text,
    find_candidates,
    list_known,
    same_images,
    score_command,
    shared_epsilon,
    version_of,
)
from fss_core.numerals import signed_interval
from fss_core.scores import score_responses
from fss_core.specs import ScoreSpec
from fss_core.store import Store

pytestmark = pytest.mark.usefixtures("store")

ASKED = ["--images", "110", "--thresholds", "5"]
EPOCHS = ["invariance", "epochs", "--network", columns.NETWORK, "--dataset", columns.DATASET, *ASKED]
SPEC = pictures.request().spec


@pytest.fixture
def store(columns_store: Store) -> Store:
    return columns_store


def responses(store: Store, across: Any = "epochs") -> dict[str, Any]:
    found = find_candidates(store, ComparisonSpec(across=across, measurement=SPEC))
    return {own.label: own.measured.responses for own in found if own.measured is not None}


# The verb -------------------------------------------------------------------------------------------------


def test_across_epochs_prints_what_the_core_says(store: Store, fss: Fss) -> None:
    done = fss(*EPOCHS)
    assert done.code == 0, done.err
    own = measure_invariance(responses(store), across="epochs")
    tau = own.rankings[0].tau
    assert tau.null is not None
    line = next(line for line in done.out.splitlines() if "epoch 1 and epoch 2" in line)
    assert f"6 layers: {tau.value:.2f} " in line
    assert f"null {tau.null.mean:.2f} [{tau.null.low:.2f}, {tau.null.high:.2f}]" in line
    assert f"p = {tau.null.share_as_high:.3f}" in line
    ceilings = [column.ceiling.value for column in own.table.columns]
    for epoch, ceiling in zip((1, 2), ceilings, strict=True):
        row = next(line for line in done.out.splitlines() if line.startswith(f"epoch {epoch} "))
        assert row.split() == [
            *("epoch", str(epoch), "110", "6/255", "(calibrated", "on", "epoch", "2)", "measured", "here"),
            f"{ceiling:.2f}",
        ]
    assert "Not compared: epoch 0 of squeezenet1_1 on bars, initialisation 0: measured at ε = 3/255 only" in done.out
    assert "Decided calls differ (1): hurts" in done.out
    assert "Calls differ, but no two decided ones (1): helps" in done.out
    entry = next(one for one in own.table.entries if (one.row, one.column) == ("hurts", "2"))
    assert f"F {signed_interval(entry.score, entry.low, entry.high)}" in done.out


def test_json_has_everything_and_no_nan(store: Store, fss: Fss) -> None:
    done = fss(*EPOCHS, "--json", "--kind", "clean", "--filter", "pulse", "--tolerance", "0.2").json
    own = measure_invariance(
        responses(store), across="epochs", kind="clean", filter="pulse", spec=ScoreSpec(tolerance=0.2)
    )
    assert done["invariance"]["calls"]["share"]["value"] == own.calls.share.value
    assert done["invariance"]["rankings"][0]["tau"]["value"] == own.rankings[0].tau.value
    assert done["groups"]["alone"] == ["dead"]
    by_label = {column["label"]: column for column in done["columns"]}
    assert by_label["0"]["command"].endswith("--epoch 0 --images 110 --thresholds 5 --epsilon 6/255")
    assert by_label["1"]["epsilon"] == columns.EPSILON
    assert by_label["1"]["command"] is None


def test_across_data_sets_and_networks(store: Store, fss: Fss) -> None:
    done = fss("invariance", "datasets", "--network", columns.NETWORK, "--epoch", 2, *ASKED)
    assert done.code == 0, done.err
    assert "bars (image folder) and bars2 (image folder), 6 layers" in done.out
    assert "8/255 (calibrated on epoch 2)" in done.out
    done = fss("invariance", "networks", "--dataset", columns.DATASET, "--epoch", 2, *ASKED)
    assert done.code == 0, done.err
    tau = measure_invariance(responses(store, "networks"), across="networks").rankings[0]
    assert f"ResNet-18 and SqueezeNet-v1.1, {tau.num_rows} cells: {tau.tau.value:.2f}" in done.out


def test_an_epoch_that_is_not_measured_is_named_with_the_command_that_brings_it(fss: Fss) -> None:
    line = refused(fss(*EPOCHS, "--epochs", "1,2,7"), 1)
    assert "epoch 7 of squeezenet1_1 on bars, initialisation 0: not measured" in line
    assert (
        "`fss score --network squeezenet1_1 --dataset bars --epoch 7 --images 110 --thresholds 5 --epsilon 6/255`"
        in line
    )
    line = refused(fss(*EPOCHS, "--epochs", "7,8"), 1)
    assert "1 more are missing: epoch 8" in line
    line = refused(fss(*EPOCHS[:-1], "7"), 1)
    assert "nothing is measured of squeezenet1_1 on bars with 7 thresholds" in line
    assert "fss score --network squeezenet1_1 --dataset bars --epoch E" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["epochs", "--network", "resnet18"], "needs --dataset"),
        (["datasets", "--network", "resnet18"], "needs --epoch"),
        (["networks", "--epoch", "2"], "needs --dataset"),
        (["epochs", "--network", "a", "--dataset", "b", "--epoch", "2"], "takes no --epoch; did you mean --epochs?"),
        (["networks", "--dataset", "b", "--epoch", "2", "--datasets", "c"], "takes no --datasets"),
        (["layers"], "invalid choice: 'layers'"),
        (["epochs", "--network", "a", "--dataset", "b", "--thresholds", "4", "--integration", "simpson"], "odd"),
    ],
)
def test_bad_input_is_one_line(fss: Fss, arguments: list[str], words: str) -> None:
    assert words in refused(fss("invariance", *arguments), 2)


# Looking up -----------------------------------------------------------------------------------------------


def test_one_epsilon_serves_all_epochs(store: Store) -> None:
    known = list_known(store)
    assert shared_epsilon(store, replace(SPEC, epsilon=0.1), known).value == 0.1
    own = shared_epsilon(store, replace(SPEC, epoch=0), known)
    assert (own.value, own.about) == (columns.EPSILON, "calibrated on epoch 2")
    without = [one for one in known if one.spec.epoch != 2]
    own = shared_epsilon(store, SPEC, without)
    assert (own.value, own.about) == (3 / 255, "calibrated on epoch 0")
    given = [one for one in known if one.spec.epoch == 1]
    own = shared_epsilon(store, SPEC, given)
    assert (own.value, own.about) == (columns.EPSILON, "at which most is measured")
    assert shared_epsilon(store, replace(SPEC, attack_kind="pgd"), known).value is None
    seed = replace(SPEC, training=replace(SPEC.training, seed=1))
    assert shared_epsilon(store, seed, known).value is None  # nothing of it is measured at the ε of the first


def test_another_initialisation_is_compared_at_the_epsilon_of_the_first(store: Store) -> None:
    other = pictures.make_checkpoint(seed=1)
    pictures.write(store, other, layers=tuple(columns.PLACES), calibrated=False)
    spec = replace(SPEC, training=other.spec)
    own = shared_epsilon(store, spec, list_known(store))
    assert (own.value, own.about) == (columns.EPSILON, "calibrated on epoch 2 of initialisation 0")
    [found] = find_candidates(store, ComparisonSpec(across="epochs", measurement=spec))
    assert found.measured is not None


def test_what_was_imported_is_compared_without_its_data_set(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "early.zip"
    picture = find_picture(store, pictures.request(epoch=1, epsilon=columns.EPSILON))
    assert picture is not None
    measured = portable(picture)
    export_zip(measured, score_responses(measured.responses), target)
    before = measure_invariance(responses(store), across="epochs")
    store.delete_prefix(f"responses/{measured.key}/")
    store.delete_record(measured.key)
    assert list(responses(store)) == ["2"]
    version = version_of(store, ComparisonSpec(across="epochs", measurement=SPEC), "1", list_known(store))
    import_zip(target)
    found = {own.label: own for own in find_candidates(store, ComparisonSpec(across="epochs", measurement=SPEC))}
    assert found["1"].measured is not None
    assert found["1"].measured.origin == "imported"
    after = measure_invariance(responses(store), across="epochs")
    assert after.table.entries == before.table.entries
    known = list_known(store)
    assert version_of(store, ComparisonSpec(across="epochs", measurement=SPEC), "1", known) != version


def test_an_epoch_after_the_one_that_epsilon_is_from_is_a_caution(store: Store, fss: Fss) -> None:
    assert "Caution" not in fss(*EPOCHS).out
    assert fss(*EPOCHS, "--json").json["caution"] == ""
    later = pictures.make_checkpoint(5)
    pictures.write(store, later, layers=tuple(columns.PLACES), calibrated=False)
    done = fss(*EPOCHS)
    command = "fss score --network squeezenet1_1 --dataset bars --epoch 5 --images 110 --thresholds 5"
    assert f"ε was calibrated on epoch 2, not on the last one that is compared; `{command}` calibrates" in done.out
    assert "Caution" not in fss(*EPOCHS, "--epochs", "1,2").out


def test_other_images_are_no_column(store: Store) -> None:
    found = find_candidates(store, ComparisonSpec(across="epochs", measurement=SPEC, labels=("1", "2")))
    assert found[1].measured is not None
    card = found[1].measured.card
    others = replace(card, fingerprints={**card.fingerprints, "probe": "other"})
    changed = replace(found[1], measured=replace(found[1].measured, card=others))
    kept = same_images("epochs", (found[0], changed))
    assert [own.measured is not None for own in kept] == [True, False]
    assert kept[1].reason == "measured on other images of a data set of that name"
    assert same_images("datasets", (found[0], changed)) == (found[0], changed)


def test_fewer_images_are_no_column(store: Store) -> None:
    spec = ComparisonSpec(across="epochs", measurement=replace(SPEC, num_images=115), labels=("1",))
    [found] = find_candidates(store, spec)
    assert found.reason == "measured on 110 images only, not on 115"
    assert len(responses(store)) == 2


def test_the_table_alone_is_that_of_the_comparison(store: Store) -> None:
    own = responses(store)
    spec = ScoreSpec(tolerance=0.1)
    table = tabulate_scores(own, across="epochs", spec=spec, filter="pulse", kind="difference")
    found = measure_invariance(own, across="epochs", spec=spec, filter="pulse", kind="difference")
    assert table.entries == found.table.entries
    assert table.rows == found.table.rows
    assert {column.ceiling.value for column in table.columns} == {None}


def test_rows_are_grouped_by_agreement_and_by_reach(store: Store) -> None:
    found = measure_invariance(responses(store), across="epochs")
    groups = group_rows(found)
    every = [row for name in ("decided", "same", "open", "apart", "alone") for row in getattr(groups, name)]
    assert sorted(every) == sorted(columns.PLACES)
    assert groups.decided == ("more", "last")
    assert set(groups.same) == {"idle", "slightly"}
    assert rows_that_move(found.table, 1) == ("hurts",)
    assert rows_that_move(found.table, 2) == ("hurts", "helps")


@pytest.mark.parametrize("epsilon", [2 / 255, 2**0.5 / 255, 0.1, 0.25 / 255, 8 / 255, 1.0])
def test_epsilon_is_written_so_that_it_is_read_as_the_same(epsilon: float) -> None:
    text, _, divisor = epsilon_text(epsilon).partition("/")
    assert float(text) / float(divisor or 1) == epsilon


def test_a_command_says_all_that_is_not_as_usual() -> None:
    spec = replace(
        SPEC, training=replace(SPEC.training, seed=3), attack_kind="pgd", attack_mode="adaptive", epsilon=0.1
    )
    assert score_command(spec) == (
        "fss score --network squeezenet1_1 --dataset bars --epoch 2 --seed 3 --images 110 --thresholds 5 "
        "--attack pgd --attack-mode adaptive --epsilon 25.5/255"
    )
