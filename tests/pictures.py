"""A made-up measurement with known predictions, in a cache that no network was run for, and the pages that show it.

The data set is that of ``bars``; weights, attack and responses are written by hand, so that everything on screen can
be worked out from :func:`survives`.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import bars
import numpy as np
import numpy.typing as npt
import pytest
import reference
import streamlit as st
from streamlit.testing.v1 import AppTest

from fss_core.archive import Header, ResponseArchive, chunks
from fss_core.checkpoints import Checkpoint
from fss_core.checkpoints.sidecars import SIDECAR, WEIGHTS, epoch_dir, read_sidecar, sidecar_json
from fss_core.data import dataset_card, load_dataset, register_folder
from fss_core.flow import archive_of, epsilon_name
from fss_core.jobs.requests import MeasureRequest, Part
from fss_core.responses import LayerFacts, Predictions
from fss_core.specs import (
    CONTROL_FILTER,
    GLOBAL_LAYER,
    SYNAPTIC_FILTERS,
    EpsilonCalibration,
    MeasurementSpec,
    ResponseSpec,
    TrainingSpec,
    adversarial_key,
    filter_rows,
)
from fss_core.store import SCHEMA, Store, entries

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("app.py", *(f"pages/{path.name}" for path in sorted((ROOT / "pages").glob("*.py"))))
"""Every page there is, found on disk so that none escapes."""

NETWORK, DATASET, EPOCH, EPSILON = "squeezenet1_1", bars.DATASET, 2, 6 / 255
NUM_CLASSES, NUM_IMAGES, NUM_THRESHOLDS = 4, 110, 5
LAYERS = ("hurts", "idle", "helps", "slightly", "dead")
"""What filtering does to each: fragile, robust, antifragile, near the tolerance, nothing by geometry."""

NUM_WEIGHTS, NUM_LIVE = 100, 90
NUM_KEPT = {
    "high_pass": (99, 75, 50, 25, 0),
    "low_pass": (0, 25, 50, 75, 99),
    "pulse": (88, 75, 74, 75, 88),
    "random": (99, 75, 50, 25, 0),
}

Right = npt.NDArray[np.bool_]


# What is known --------------------------------------------------------------------------------------------


def unfiltered_right(kind: str) -> Right:
    """Eight of ten clean images are right without a filter, and five of ten attacked ones."""
    return np.arange(NUM_IMAGES) % 10 < (8 if kind == "clean" else 5)


def survives(layer: str, name: str, draw: int, kind: str) -> Right:
    """Say at which thresholds which images are right, (A, N)."""
    before = np.tile(unfiltered_right(kind), (NUM_THRESHOLDS, 1))
    if layer in ("idle", "dead"):
        return before
    if layer == "helps":
        return before if name == CONTROL_FILTER else np.ones_like(before)
    if layer == "slightly":
        before[2, np.arange(NUM_IMAGES) % 10 == 0] = False
        return before
    alive = {"high_pass": [0], "low_pass": [4], "pulse": [0, 1, 3, 4], "random": [0, 1 + draw % 2]}[name]
    before[[k for k in range(NUM_THRESHOLDS) if k not in alive]] = False
    return before


def expected_score(layer: str, kind: str, **how: str) -> float:
    """The overall score of a layer, by the slow reference."""
    if kind == "difference":
        return expected_score(layer, "adversarial", **how) - expected_score(layer, "clean", **how)
    return reference.mean_filter_score(
        {name: survives(layer, name, 0, kind).astype(float).tolist() for name in SYNAPTIC_FILTERS},
        unfiltered_right(kind).astype(float).tolist(),
        NUM_CLASSES,
        {name: [number / NUM_WEIGHTS for number in NUM_KEPT[name]] for name in SYNAPTIC_FILTERS},
        **how,
    )


def expected_calls(kind: str, tolerance: float = 0.05, **how: str) -> dict[str, int]:
    """How many layers have which call under the mean of the three filters; the dead layer has none."""
    calls = [reference.call(expected_score(layer, kind, **how), tolerance) for layer in LAYERS if layer != "dead"]
    return {call: calls.count(call) for call in ("fragile", "robust", "antifragile")}


# Writing it -----------------------------------------------------------------------------------------------


def request(**changes: Any) -> MeasureRequest:
    """What the made-up measurement was asked for with; changes are those of its ``MeasurementSpec``."""
    spec = MeasurementSpec(
        training=TrainingSpec(network=NETWORK, dataset=DATASET),
        epoch=EPOCH,
        num_images=NUM_IMAGES,
        response=ResponseSpec(num_thresholds=NUM_THRESHOLDS),
    )
    return MeasureRequest(spec=replace(spec, **changes), whole=True, control=True)


def view(**changes: object) -> dict[str, str]:
    """The address at which the page Explore shows the made-up measurement."""
    own = {"network": NETWORK, "dataset": DATASET, "epoch": EPOCH, "images": NUM_IMAGES, "thresholds": NUM_THRESHOLDS}
    return {name: str(int(value)) if isinstance(value, bool) else str(value) for name, value in (own | changes).items()}


def make_cache(cache: Path, images: Path) -> None:
    """Make a cache directory that holds all of it; FSS_CACHE_DIR must name it."""
    register_folder(DATASET, bars.make_folder(images))
    with Store() as store:
        write(store, make_checkpoint())


def make_checkpoint(epoch: int = EPOCH, **training: Any) -> Checkpoint:
    """Write an epoch whose weights no network could load."""
    spec = replace(request().spec.training, **training)
    card = dataset_card(spec.dataset)
    path = epoch_dir(spec, card.fingerprints["train"], epoch)
    path.mkdir(parents=True)
    weights = b"weights" if epoch == EPOCH and not training else f"weights of {spec}, epoch {epoch}".encode()
    (path / WEIGHTS).write_bytes(weights)
    checkpoint = Checkpoint(
        spec=spec,
        epoch=epoch,
        path=path,
        sha256=hashlib.sha256(weights).hexdigest(),
        state_sha256=None,
        origin="trained",
        kept=True,
        history=(),
        factory=None,
        dataset_fingerprint=card.fingerprints["train"],
        random_state={},
        hardware={},
        versions={},
    )
    (path / SIDECAR).write_text(sidecar_json(checkpoint), encoding="utf-8")
    return checkpoint


def write(
    store: Store,
    checkpoint: Checkpoint,
    *,
    right: Callable[[str], Right] = unfiltered_right,
    layers: tuple[str, ...] = LAYERS,
    epsilon: float = EPSILON,
    calibrated: bool = True,
    like: Mapping[str, str] | None = None,
    places: Mapping[str, tuple[str, float]] | None = None,
) -> None:
    """Write ε, the adversarial images and every response.

    ``right`` says which images are without a filter, ``like`` which layers do what another's name says, ``places`` of
    what kind a layer is and how deep.
    """
    name = checkpoint.spec.dataset
    card, dataset = dataset_card(name), load_dataset(name)
    own = request(training=checkpoint.spec, epoch=checkpoint.epoch, epsilon=None if calibrated else epsilon)
    calibration = EpsilonCalibration(
        epsilon=epsilon, clean_accuracy=0.8, target=0.5, grid=(epsilon,), pgd_accuracy=(0.4,), num_images=30
    )
    if calibrated:
        store.put(epsilon_name(checkpoint, card, "cpu"), {}, meta=asdict(calibration))
    attack = own.spec.attack(epsilon)
    key = adversarial_key(
        attack=attack, network=checkpoint.identity, probe=dataset.probe.fingerprint, device_type="cpu", schema=SCHEMA
    )
    labels = dataset.probe.labels[:NUM_IMAGES]

    def classes(where: Right) -> npt.NDArray[np.uint8]:
        return np.where(where, labels, (labels + 1) % NUM_CLASSES).astype(np.uint8)

    gradients = np.zeros(NUM_IMAGES, dtype=np.bool_)
    unfiltered = Predictions(
        clean=classes(right("clean")), adversarial=classes(right("adversarial")), zero_gradient=gradients
    )
    for chunk in chunks(NUM_IMAGES):
        clean = dataset.probe.images[chunk.start : chunk.stop].astype(np.float32) / 255
        store.put(f"adversarial/{key}/{chunk.index}", {"pixels": np.clip(clean + np.float32(epsilon), 0, 1)}, meta={})
    for part, spec in own.parts().items():
        names = (GLOBAL_LAYER,) if part == "whole" else layers
        archive = archive_of(store, spec, checkpoint, card, attack)
        archive.put_header(Header(costs=dict.fromkeys(names, 1.0), num_classes=NUM_CLASSES, notes=()))
        for chunk in chunks(NUM_IMAGES):
            archive.put_unfiltered(chunk, labels[chunk.start : chunk.stop], unfiltered.images(chunk.start, chunk.stop))
        for name in names:
            kind, depth = (places or {}).get(name, ("3x3", 0.0))
            _write_layer(archive, name, labels, classes, right, (like or {}).get(name, name), kind, depth)
        if part == "control":  # under the same key as the layers: the catalogue names the filters of both
            spec = replace(spec, response=replace(spec.response, filters=(*SYNAPTIC_FILTERS, CONTROL_FILTER)))
        description = {"measurement": asdict(spec), "attack": asdict(attack), "dataset_title": card.title}
        store.record(archive.key, description)


def _write_layer(
    archive: ResponseArchive,
    layer: str,
    labels: npt.NDArray[np.int64],
    classes: Callable[[Right], npt.NDArray[np.uint8]],
    right: Callable[[str], Right],
    like: str,
    layer_kind: str,
    depth: float,
) -> None:
    def rows_right(name: str, draw: int, kind: str) -> Right:
        found = survives("hurts" if layer == GLOBAL_LAYER else like, name, draw, kind)
        return found & right(kind) if right is not unfiltered_right else found

    for name in archive.spec.filters:
        facts = _facts(layer, name, archive.spec.num_draws)
        if layer != GLOBAL_LAYER:
            facts = replace(facts, kind=layer_kind, relative_depth=depth)
        archive.put_facts(name, facts)
        draws = [row.draw for row in filter_rows([name], archive.spec.num_draws)]
        clean, adversarial = (
            np.stack([classes(rows_right(name, draw, kind)) for draw in draws]) for kind in ("clean", "adversarial")
        )
        whole = Predictions(clean=clean, adversarial=adversarial)
        for chunk in chunks(NUM_IMAGES):
            own = slice(chunk.start, chunk.stop)
            archive.put_predictions(layer, name, chunk, labels[own], whole.images(chunk.start, chunk.stop))


def _facts(layer: str, name: str, num_draws: int) -> LayerFacts:
    rows = 1 if name != CONTROL_FILTER else num_draws
    kept = np.tile(np.array(NUM_KEPT[name], dtype=np.int64), (rows, 1))
    single = layer != GLOBAL_LAYER
    return LayerFacts(
        name=layer,
        kind="3x3" if single else "all",
        relative_depth=0.0,
        num_weights=NUM_WEIGHTS,
        num_live=NUM_LIVE,
        thresholds=np.linspace(-1, 1, NUM_THRESHOLDS if single else 0),
        num_kept=kept,
        num_live_kept=kept * NUM_LIVE // NUM_WEIGHTS,
        changes=np.full(kept.shape, layer != "dead"),
        histogram=np.full(50 if single else 0, 2, dtype=np.int64),
        histogram_edges=np.linspace(-1, 1, 51 if single else 0),
    )


# Harming it -----------------------------------------------------------------------------------------------


def checkpoint_of(epoch: int = EPOCH) -> Checkpoint:
    """Read the epoch that :func:`make_checkpoint` wrote."""
    return read_sidecar(epoch_dir(request().spec.training, dataset_card(DATASET).fingerprints["train"], epoch))


def key_of(store: Store, part: Part = "layers") -> str:
    """Name the stored responses of a part of the measurement."""
    own = request().parts()[part]
    return archive_of(store, own, checkpoint_of(), dataset_card(DATASET), own.attack(EPSILON)).key


def cut(store: Store, key: str) -> None:
    """Cut an entry short."""
    cache = store._cache()
    cache.set(key, cache.get(key)[:-5])


def damage_record(store: Store) -> None:
    """Make the first record of the catalogue unreadable."""
    key = store.list_records()[0].key
    with closing(sqlite3.connect(store.directory / "index.sqlite")) as connection, connection:
        connection.execute("UPDATE records SET spec = '{' WHERE key = ?", (key,))


def make_old(store: Store, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write an entry as another version would have."""
    found = store.get(key)
    assert found is not None
    with monkeypatch.context() as patch:
        patch.setattr(entries, "SCHEMA", SCHEMA + 1)
        store.put(key, found.arrays, meta=found.meta)


def lose_folder(cache: Path) -> None:
    """Let the folder of the data set be gone."""
    path = cache / "datasets.json"
    path.write_text(json.dumps({"folders": {DATASET: str(cache / "gone")}}), encoding="utf-8")


# Pages ----------------------------------------------------------------------------------------------------


def forget_pages() -> None:
    """Clear what Streamlit keeps for all viewers, beyond one AppTest."""
    st.cache_data.clear()
    st.cache_resource.clear()


def open_page(path: str = "app.py", **query: str) -> AppTest:
    """Open a page; its address is that of Explore, from which one goes to the other pages."""
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    page.query_params = dict(query)
    page.run()
    return page if path == "app.py" else page.switch_page(path).run()


def links(page: AppTest) -> list[tuple[str, dict[str, str]]]:
    """The views that a page offers: what it calls them, and their addresses."""
    found = [(own.label, dict(parse_qsl(own.proto.query_string))) for own in page.main.get("page_link")]
    return [(label, query) for label, query in found if query]


def tiles(page: AppTest) -> dict[str, tuple[str, str]]:
    """What stands in the tiles: name → value and note."""
    pattern = r'<div class="name">(.*?)</div><div class="value">(.*?)</div><div class="note">(.*?)</div>'
    html = "".join(element.value for element in page.get("html"))
    return {name: (value, note) for name, value, note in re.findall(pattern, html)}


def calls(page: AppTest, kind: str) -> dict[str, int]:
    """How many layers have which call, decided or leaning, by the tile."""
    value, note = tiles(page)[f"Layers, {kind}"]
    return {
        call: sum(int(number) for number in re.findall(rf"(\d+) {call[0]}\b", f"{value} {note}", re.IGNORECASE))
        for call in ("fragile", "robust", "antifragile")
    }


def alts(page: AppTest) -> dict[str, str]:
    """What is said of each chart, by its key."""
    return {element.key: element.proto.alt for element in page.get("plotly_chart")}


def complaints(page: AppTest) -> list[str]:
    """Warnings and errors."""
    return [element.value for kind in ("warning", "error") for element in page.get(kind)]


def is_offered(page: AppTest) -> bool:
    """Whether Measure can be pressed."""
    return not page.button(key="measure").disabled


def text_of(page: AppTest) -> str:
    """Everything that a page says, as it was given to Streamlit."""
    kinds = ("title", "header", "markdown", "html", "caption", "text", "info", "success", "warning", "error")
    return "\n".join(str(element.value) for kind in kinds for element in page.get(kind))
