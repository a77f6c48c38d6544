"""How responses lie in the store: what goes in comes out, and half of it is not taken for the whole."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from fss_core.archive import Chunk, Header, ResponseArchive, chunks
from fss_core.responses import LayerFacts, Predictions
from fss_core.specs import AttackSpec, Filter, ResponseSpec, StaleResultError, StoreError
from fss_core.store import Store

ATTACK = AttackSpec(epsilon=0.1)
LAYERS = ("conv", "fc")
NUM_THRESHOLDS = 3
LABELS = np.random.default_rng(1).integers(0, 10, 250)


@pytest.fixture
def archive(tmp_path: Path) -> ResponseArchive:
    spec = ResponseSpec(filters=("pulse", "random"), num_thresholds=NUM_THRESHOLDS)
    return ResponseArchive(Store(tmp_path / "results"), "0" * 64, spec)


def make_facts(layer: str, num_rows: int) -> LayerFacts:
    rng = np.random.default_rng(len(layer))
    return LayerFacts(
        name=layer,
        kind="3x3",
        relative_depth=0.5,
        num_weights=100,
        num_live=90,
        thresholds=np.linspace(-1, 1, NUM_THRESHOLDS),
        num_kept=rng.integers(0, 100, (num_rows, NUM_THRESHOLDS)),
        num_live_kept=rng.integers(0, 90, (num_rows, NUM_THRESHOLDS)),
        changes=rng.random((num_rows, NUM_THRESHOLDS)) < 0.5,
        histogram=rng.integers(0, 9, 200),
        histogram_edges=np.linspace(-1, 1, 201),
    )


def make_predictions(num_rows: int, num_images: int, *, seed: int = 0, adaptive: bool = False) -> Predictions:
    """Predictions of the first images: more images begin with the same ones."""
    rng = np.random.default_rng(seed)
    shape = (250, num_rows, NUM_THRESHOLDS)
    clean, adversarial = (rng.integers(0, 10, shape).astype(np.uint8) for _ in range(2))
    gradient = rng.random(shape) < 0.3 if adaptive else None
    first = [None if part is None else np.moveaxis(part[:num_images], 0, -1) for part in (clean, adversarial, gradient)]
    return Predictions(clean=first[0], adversarial=first[1], zero_gradient=first[2])  # type: ignore[arg-type]


def chunk_of(predictions: Predictions, chunk: Chunk) -> Predictions:
    return predictions.images(chunk.start, chunk.stop)


def fill(archive: ResponseArchive, num_images: int, *, adaptive: bool = False) -> dict[tuple[str, Filter], Predictions]:
    """Store everything of two layers; returns what was stored."""
    archive.put_header(Header(costs={"conv": 1.0, "fc": 0.25}, num_classes=10, notes=("a note",)))
    unfiltered = make_predictions(1, 250, seed=99)
    for chunk in chunks(num_images):
        own = chunk_of(unfiltered, chunk)
        flat = Predictions(clean=own.clean[0, 0], adversarial=own.adversarial[0, 0])
        archive.put_unfiltered(chunk, LABELS[chunk.start : chunk.stop], flat)
    stored: dict[tuple[str, Filter], Predictions] = {}
    for seed, layer in enumerate(LAYERS):
        for name, num_rows in (("pulse", 1), ("random", 3)):
            stored[layer, name] = make_predictions(num_rows, num_images, seed=10 * seed + num_rows, adaptive=adaptive)
            archive.put_facts(name, make_facts(layer, num_rows))
            for chunk in chunks(num_images):
                labels = LABELS[chunk.start : chunk.stop]
                archive.put_predictions(layer, name, chunk, labels, chunk_of(stored[layer, name], chunk))
    return stored


@pytest.mark.parametrize("num_images", [1, 99, 100, 101, 250])
def test_chunks_cover_every_image_once_and_keep_their_places(num_images: int) -> None:
    found = chunks(num_images)
    assert [image for chunk in found for image in range(chunk.start, chunk.stop)] == list(range(num_images))
    assert [chunk.index for chunk in found] == [chunk.start // 100 for chunk in found]
    assert all(chunk.start % 100 == 0 and chunk.num_images <= 100 for chunk in found)
    # The whole chunks of fewer images are those of more.
    assert found[:-1] == chunks(250)[: len(found) - 1]


@pytest.mark.parametrize("adaptive", [False, True])
def test_what_goes_in_comes_out(archive: ResponseArchive, adaptive: bool) -> None:
    stored = fill(archive, 250, adaptive=adaptive)
    found = archive.load(250, attack=ATTACK)
    assert found is not None
    responses, missing = found
    assert missing == ()
    assert (responses.num_classes, responses.notes, responses.attack) == (10, ("a note",), ATTACK)
    assert [row.filter for row in responses.rows] == ["pulse", "random", "random", "random"]
    np.testing.assert_array_equal(responses.labels, LABELS)
    np.testing.assert_array_equal(responses.unfiltered.clean, make_predictions(1, 250, seed=99).clean[0, 0])
    for layer in responses.layers:
        parts = [stored[layer.facts.name, name] for name in ("pulse", "random")]
        for part in ("clean", "adversarial", "zero_gradient"):
            found_part = getattr(layer.predictions, part)
            if part == "zero_gradient" and not adaptive:
                assert found_part is None
                continue
            expected = np.concatenate([getattr(own, part) for own in parts])
            assert found_part.dtype == expected.dtype
            np.testing.assert_array_equal(found_part, expected)


def test_facts_of_filters_are_put_together(archive: ResponseArchive) -> None:
    fill(archive, 100)
    single, triple = make_facts("conv", 1), make_facts("conv", 3)
    found = archive.facts("conv")
    assert found is not None
    for field in fields(LayerFacts):
        expected = getattr(single, field.name)
        if field.name in ("num_kept", "num_live_kept", "changes"):
            expected = np.concatenate([expected, getattr(triple, field.name)])
        np.testing.assert_array_equal(getattr(found, field.name), expected)
    assert archive.has_facts("conv", "pulse")
    assert not archive.has_facts("conv", "low_pass")


@pytest.mark.parametrize("num_images", [1, 99, 100, 180])
def test_fewer_images_are_the_first_of_more(archive: ResponseArchive, num_images: int) -> None:
    stored = fill(archive, 250)
    found = archive.load(num_images, attack=ATTACK)
    assert found is not None
    assert found[1] == ()
    assert found[0].num_images == num_images
    np.testing.assert_array_equal(
        found[0].layers[1].predictions.clean[:1], stored["fc", "pulse"].clean[..., :num_images]
    )


def test_nothing_is_found_where_nothing_was_measured(archive: ResponseArchive) -> None:
    assert archive.header() is None
    assert archive.num_images() == 0
    assert archive.load(100, attack=ATTACK) is None


def test_a_header_alone_is_no_measurement(archive: ResponseArchive) -> None:
    archive.put_header(Header(costs={"conv": 1.0}, num_classes=10, notes=()))
    assert archive.load(100, attack=ATTACK) is None
    assert archive.load(archive.num_images(), attack=ATTACK) is None


def test_more_images_than_the_unfiltered_network_saw_are_not_there(archive: ResponseArchive) -> None:
    fill(archive, 150)
    assert archive.num_images() == 150
    assert archive.load(151, attack=ATTACK) is None
    assert archive.load(250, attack=ATTACK) is None


def test_a_gap_ends_the_count(archive: ResponseArchive) -> None:
    fill(archive, 250)
    archive.store.delete(f"responses/{archive.key}/unfiltered/1")
    assert archive.num_images() == 100


@pytest.mark.parametrize("lost", ["facts/fc/random", "layer/fc/random/1", "layer/fc/pulse/0"])
def test_a_layer_that_lacks_a_piece_is_missing(archive: ResponseArchive, lost: str) -> None:
    fill(archive, 150)
    assert archive.store.delete(f"responses/{archive.key}/{lost}")
    found = archive.load(150, attack=ATTACK)
    assert found is not None
    assert [layer.facts.name for layer in found[0].layers] == ["conv"]
    assert found[1] == ("fc",)


def test_a_short_chunk_is_not_the_whole(archive: ResponseArchive) -> None:
    stored = fill(archive, 150)
    chunk = Chunk(index=1, start=100, stop=130)
    archive.store.delete(f"responses/{archive.key}/layer/conv/pulse/1")
    archive.put_predictions("conv", "pulse", chunk, LABELS[100:130], chunk_of(stored["conv", "pulse"], chunk))
    found = archive.load(150, attack=ATTACK)
    assert found is not None
    assert found[1] == ("conv",)
    fewer = archive.load(130, attack=ATTACK)
    assert fewer is not None
    assert fewer[1] == ()


def test_some_layers_in_the_networks_order(archive: ResponseArchive) -> None:
    fill(archive, 100)
    for layers, expected in ((["fc"], ["fc"]), (["fc", "conv"], ["conv", "fc"])):
        found = archive.load(100, attack=ATTACK, layers=layers)
        assert found is not None
        assert [layer.facts.name for layer in found[0].layers] == expected


def test_other_filters_of_the_same_measurement(archive: ResponseArchive) -> None:
    fill(archive, 100)
    fewer = ResponseArchive(archive.store, archive.key, replace(archive.spec, filters=("random",)))
    found = fewer.load(100, attack=ATTACK)
    assert found is not None
    assert found[0].layers[0].predictions.clean.shape == (3, NUM_THRESHOLDS, 100)
    more = ResponseArchive(archive.store, archive.key, replace(archive.spec, filters=("pulse", "low_pass")))
    found = more.load(100, attack=ATTACK)
    assert found is not None
    assert found[1] == LAYERS


def test_the_stored_bits_say_which_images_are_right(archive: ResponseArchive) -> None:
    stored = fill(archive, 150)
    piece = archive.store.get(f"responses/{archive.key}/layer/fc/random/1")
    assert piece is not None
    bits = np.unpackbits(piece.arrays["clean_right"], axis=-1, count=50).astype(bool)
    np.testing.assert_array_equal(bits, stored["fc", "random"].clean[..., 100:] == LABELS[100:150])
    assert piece.arrays["clean"].dtype == np.uint8


def test_delete_forgets_this_measurement_only(archive: ResponseArchive) -> None:
    fill(archive, 100)
    other = ResponseArchive(archive.store, "1" * 64, archive.spec)
    fill(other, 100)
    archive.delete()
    assert archive.load(100, attack=ATTACK) is None
    found = other.load(100, attack=ATTACK)
    assert found is not None
    assert found[1] == ()


@pytest.mark.parametrize("piece", ["header", "facts/conv/pulse", "unfiltered/0", "layer/conv/random/0"])
def test_a_damaged_piece_is_named(archive: ResponseArchive, piece: str) -> None:
    fill(archive, 100)
    key = f"responses/{archive.key}/{piece}"
    entry = bytearray(archive.store._cache().get(key))
    entry[-1] ^= 1
    archive.store._cache().set(key, bytes(entry))
    with pytest.raises(StoreError, match=rf"^result responses/000000/{piece} is damaged .* run again with --refresh$"):
        archive.load(100, attack=ATTACK)


def test_a_piece_of_another_schema_is_stale(archive: ResponseArchive) -> None:
    fill(archive, 100)
    key = f"responses/{archive.key}/unfiltered/0"
    entry = bytearray(archive.store._cache().get(key))
    entry[4] ^= 0x7F
    archive.store._cache().set(key, bytes(entry))
    with pytest.raises(StaleResultError, match="--refresh"):
        archive.load(100, attack=ATTACK)


def test_clean_and_adversarial_must_have_one_shape(archive: ResponseArchive) -> None:
    fill(archive, 100)
    key = f"responses/{archive.key}/layer/fc/pulse/0"
    piece = archive.store.get(key)
    assert piece is not None
    archive.store.put(key, piece.arrays | {"adversarial": piece.arrays["adversarial"][:, 1:]}, meta={})
    with pytest.raises(StoreError, match=r"clean and .* adversarial predictions; use --refresh"):
        archive.load(100, attack=ATTACK)


def test_delete_of_some_layers_keeps_the_others(archive: ResponseArchive) -> None:
    fill(archive, 100)
    first, *others = [key.split("/")[3] for key in archive.store.keys() if "/layer/" in key]
    archive.delete([first])
    left = {key.split("/")[3] for key in archive.store.keys() if "/layer/" in key}
    assert first not in left
    assert left == set(others) - {first}
    assert archive.header() is not None


def test_a_chunk_is_never_shortened(archive: ResponseArchive) -> None:
    stored = fill(archive, 150)
    late = Chunk(index=1, start=100, stop=130)
    archive.put_predictions("conv", "pulse", late, LABELS[100:130], chunk_of(stored["conv", "pulse"], late))
    found = archive.load(150, attack=ATTACK)
    assert found is not None
    assert found[1] == ()
