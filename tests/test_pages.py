"""Every page there is, on every kind of store; and what a page's process must never load."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bars
import pictures
import pytest
from pictures import PAGES, ROOT, cut, damage_record, key_of, open_page, text_of

from fss_core.explore import find_picture, portable
from fss_core.exports import export_zip
from fss_core.scores import score_responses
from fss_core.store import Store

WITHOUT_RESULTS = ("pages/errata.py",)
"""Pages that show nothing of the user's own results, and so work without."""

HEAVY = ("torch", "torchvision", "torchattacks", "dask", "distributed", "mlxtend")


@pytest.fixture(autouse=True)
def _no_process(runners: list[Path]) -> None:
    """No test of this module starts one."""


def test_the_scan_sees_the_pages() -> None:
    assert {"app.py", "pages/compare.py", "pages/epochs.py", "pages/runs.py"} <= set(PAGES)
    assert not any(path.startswith("pages/_") for path in PAGES)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_of_an_empty_cache_has_something_to_say(empty_cache: Path, path: str) -> None:
    page = open_page(path)
    assert not page.exception, page.exception
    assert page.title[0].value
    assert not page.error
    assert not page.warning
    assert len(page.get("page_link")) >= len(PAGES)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_of_a_known_store_has_no_error(known_cache: Path, path: str) -> None:
    page = open_page(path, **pictures.view())
    assert not page.exception, page.exception
    assert page.title[0].value
    assert not page.error


@pytest.mark.parametrize("path", PAGES)
def test_a_damaged_record_stops_no_page(known_store: Store, path: str) -> None:
    damage_record(known_store)
    page = open_page(path, **pictures.view())
    assert not page.exception, page.exception
    assert not page.error
    assert [own.value for own in page.warning if "record of" in own.value] == (
        [record.damage for record in known_store.list_records() if record.damage] if path == "app.py" else []
    )


def file_in_its_place(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(cache / "results")
    (cache / "results").write_text("a file stands where the store should be")


def mount_read_only(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom permissions do not bind."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and not Path(path).is_relative_to(cache))


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("harm", [file_in_its_place, mount_read_only])
def test_a_store_that_cannot_be_written_leaves_what_is_published(
    known_store: Store,
    known_cache: Path,
    path: str,
    runners: list[Path],
    harm: Callable[[Path, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = find_picture(known_store, pictures.request())
    assert picture is not None
    (known_cache / "published").mkdir()
    with (known_cache / "published" / "study.zip").open("wb") as file:
        measured = portable(picture)
        export_zip(measured, score_responses(measured.responses), file)
    known_store.close()
    harm(known_cache, monkeypatch)
    page = open_page(path, **pictures.view())
    assert not page.exception, page.exception
    assert page.title[0].value
    [warning] = [own.value for own in page.warning if re.match("The store at .* cannot be (used|written)", own.value)]
    assert "Meanwhile what is published or imported can be looked at." in warning
    if path == "app.py":
        assert "Published with this version." in text_of(page)
        assert page.button(key="measure").disabled
        assert not page.error
    assert runners == []


def rubbish_index(store: Store) -> None:
    store.close()
    (store.directory / "index.sqlite").write_bytes(b"rubbish" * 1000)


def rubbish_results(store: Store) -> None:
    store.close()
    (store.directory / "cache.db").write_bytes(b"rubbish" * 1000)


def cut_entry(store: Store) -> None:
    cut(store, f"responses/{key_of(store)}/header")


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    ("harm", "remedy"),
    [
        (rubbish_index, "delete it, the results beside it stay"),
        (rubbish_results, "move the directory aside"),
        (cut_entry, "Forget what is damaged and measure it again"),
    ],
)
def test_a_page_of_a_damaged_store_says_what_to_do(
    known_store: Store, path: str, harm: Callable[[Store], None], remedy: str
) -> None:
    harm(known_store)
    page = open_page(path, **pictures.view())
    assert not page.exception, page.exception
    assert page.title[0].value
    if harm is cut_entry and path != "app.py":
        return  # an entry is looked at by those who show it
    if harm is rubbish_results and path in WITHOUT_RESULTS:
        assert not page.error
        return
    assert page.error
    assert remedy in text_of(page) + "".join(button.label for button in page.button)
    for error in page.error:
        assert "\n" not in error.value


CHILD = f"""
import json, sys
from streamlit.testing.v1 import AppTest
from fss_core.jobs import service

started = []
service.ensure_runner = lambda store, **options: started.append(1)
view, pages = json.loads(sys.argv[1]), json.loads(sys.argv[2])

def open_page(path, **more):
    page = AppTest.from_file("app.py", default_timeout=60)
    page.query_params = view | more
    page.run()
    return page if path == "app.py" else page.switch_page(path).run()

scored = open_page("app.py")
for key, value in (("reference", "retained"), ("normalise", "p0"), ("integration", "simpson"), ("level", 0.8)):
    scored.selectbox(key=key).set_value(value)
scored.slider(key="tolerance").set_value(0.1)
scored.toggle(key="together").set_value(True)
scored.selectbox(key="filter").set_value("pulse")
scored.slider(key="k").set_value(2)
scored.run()
asked = open_page("app.py", epoch="9").button(key="measure").click().run()
by_path = {{path: open_page(path) for path in pages}}
found = [scored, asked, open_page("app.py", map="weights"), *by_path.values()]
print(json.dumps({{
    "wrong": [str(own.value) for page in found for own in (*page.exception, *page.error)],
    "charts": sorted(chart.key for chart in scored.get("plotly_chart")),
    "compared": [
        key for path in ("pages/epochs.py", "pages/compare.py") for key in
        sorted(chart.key for chart in by_path[path].get("plotly_chart")) if "heatmap" in key or key == "tau_matrix"
    ],
    "asked": bool(started),
    "heavy": [name for name in {HEAVY} if name in sys.modules],
}}))
"""


def test_the_process_of_a_page_never_loads_what_computes(known_cache: Path) -> None:
    environment = bars.environment(known_cache)
    command = [sys.executable, "-c", CHILD, json.dumps(pictures.view()), json.dumps(PAGES)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "wrong": [],
        "charts": ["changed_images", "curves", "heatmap", "histogram"],
        "compared": ["epochs_heatmap", "tau_matrix", "compare_heatmap", "tau_matrix"],
        "asked": True,
        "heavy": [],
    }
