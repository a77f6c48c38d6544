"""The Learn view: steps as addresses, their one control, texts from what is shown, offers where nothing is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lectures
import pictures
import pytest
from lectures import NUM_IMAGES, NUM_THRESHOLDS, STORY, step
from streamlit.testing.v1 import AppTest

from fss_core.jobs.board import Board
from fss_core.live import Live, LiveError
from fss_core.live.requests import Request
from fss_core.numerals import signed
from fss_core.retraining.published import list_published
from fss_core.store import Store
from fss_core.stories import COMPONENTS, list_stories
from pages.common import learn_live

LIVE = {name: own for name, own in COMPONENTS.items() if own.needs == "network"}
STUDIED = {name: own for name, own in COMPONENTS.items() if own.needs != "network"}
SIZES = {"images": NUM_IMAGES, "thresholds": NUM_THRESHOLDS}


@pytest.fixture(autouse=True)
def _no_process(runners: list[Path]) -> None:
    """No test of this module starts one."""


@pytest.fixture(scope="session")
def network_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lecture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root / "cache"))
        (root / "cache").mkdir()
        lectures.make_network(root / "cache", root / "images")
    return root / "cache"


@pytest.fixture
def network_cache(network_template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with a network that is asked in this process, and a place for stories."""
    from fss_core.live.laboratory import Laboratory

    monkeypatch.setenv("FSS_CACHE_DIR", str(network_template))
    laboratory = Laboratory()

    class Here(Live):
        def start(self) -> None:
            pass

        def ask(self, request: Request, *, seconds: float = 0) -> Any:  # type: ignore[override]
            return laboratory.answer(request)

    monkeypatch.setattr(learn_live, "live_here", lambda: Here(network_template))
    (network_template / "stories").mkdir(exist_ok=True)
    yield network_template
    for path in (network_template / "stories").iterdir():
        path.unlink()


@pytest.fixture(scope="session")
def published_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        lectures.make_published(root / "target", root, patch)
    return root / "target"


@pytest.fixture
def published_cache(published_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSS_CACHE_DIR", str(published_template))
    return published_template


def write_story(cache: Path, *steps: str) -> None:
    (cache / "stories").mkdir(parents=True, exist_ok=True)
    (cache / "stories" / "mine.toml").write_text(STORY + "\n".join(steps), encoding="utf-8")


def open_step(story: str = "mine", number: int = 1, **query: str) -> AppTest:
    page = AppTest.from_file(str(pictures.ROOT / "app.py"), default_timeout=60).run()
    page = page.switch_page("pages/learn.py")
    page.query_params = {"story": story, "step": str(number)} | query
    return page.run()


def all_fields(show: str) -> str:
    """A text that names every field that a component has."""
    return " ".join(f"{name}=<{{{name}}}>" for name in COMPONENTS[show].fields)


def said(page: AppTest) -> dict[str, str]:
    [text] = [own.value for own in page.markdown if "network=" in own.value]
    plain = re.sub(r"\\(.)", r"\1", text)
    return dict(re.findall(r"(\w+)=<(.*?)>", plain))


# Without anything -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("empty_cache")
def test_a_story_that_needs_a_network_offers_to_make_it_and_starts_nothing() -> None:
    page = open_step("adversarial", 2)
    assert page.title[0].value == "What is an adversarial image?"
    assert page.header[0].value == "The fast gradient sign"
    assert not page.get("plotly_chart")
    assert "…" not in "".join(own.value for own in page.markdown if "ε" in own.value)
    with Store() as store:
        assert Board(store).runs() == []
    page.button(key="measure").click().run()
    with Store() as store:
        [run] = Board(store).open_runs()
    assert run.request["layers"] == []
    assert not page.exception


@pytest.mark.parametrize("story", ["training", "retraining"])
@pytest.mark.usefixtures("empty_cache")
def test_a_story_of_the_study_says_which_command_brings_it(story: str) -> None:
    page = open_step(story)
    assert not page.exception
    assert not page.error
    text = pictures.text_of(page)
    assert "fss study --preset laptop" in text or "Train the network" in " ".join(own.label for own in page.button)


# Addresses ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("empty_cache")
def test_next_and_previous_walk_through_all_stories() -> None:
    page = open_step("adversarial", 1)
    assert page.button(key="learn_previous").disabled
    seen = []
    while True:
        seen.append((page.session_state["story"], page.session_state["step"]))
        assert page.header[0].value
        if page.button(key="learn_next").disabled:
            break
        page.button(key="learn_next").click().run()
        assert not page.exception
    assert seen == [(own.name, n) for own in list_stories()[0] for n in range(1, len(own.steps) + 1)]
    page.button(key="learn_previous").click().run()
    assert (page.session_state["story"], page.session_state["step"]) == seen[-2]
    page.selectbox(key="learn_story").set_value("scores").run()
    assert (page.session_state["story"], page.session_state["step"]) == ("scores", 1)
    assert page.query_params["story"] == "scores"


@pytest.mark.usefixtures("empty_cache")
def test_an_address_that_names_nothing_is_said_and_the_first_story_shown() -> None:
    page = open_step("nonsense", 1)
    assert "nonsense" in page.warning[0].value
    assert page.title[0].value == "What is an adversarial image?"
    page = open_step("scores", 99)
    assert page.session_state["step"] == 5


def test_a_locked_step_has_no_control_but_its_own(network_cache: Path) -> None:
    write_story(network_cache, step("sweep", all_fields("sweep"), images=NUM_IMAGES), step("area", "x", **SIZES))
    free, locked = open_step(), open_step(lock="1")
    assert {own.key for own in free.button} == {"learn_previous", "learn_next", "learn_answer"}
    assert len(free.get("page_link")) > 5
    assert {own.key for own in locked.button} == {"learn_answer"}
    assert not locked.get("page_link")
    assert [own.label for own in locked.selectbox] == []
    assert [own.label for own in locked.select_slider] == ["Size ε of the attack"]
    assert said(free) == said(locked)
    assert locked.query_params["lock"] == "1"


def test_a_broken_story_is_named_and_the_others_work(network_cache: Path) -> None:
    write_story(network_cache, step("sweep", "x", images=NUM_IMAGES))
    (network_cache / "stories" / "broken.toml").write_text("title = 3\n[[step]]\n", encoding="utf-8")
    page = open_step()
    assert page.title[0].value == "A lesson of one's own"
    [error] = page.error
    assert "broken.toml, line 1" in error.value.replace("\\", "")
    assert page.get("plotly_chart")


# Live steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", LIVE)
def test_every_field_of_a_live_step_has_a_value(network_cache: Path, show: str) -> None:
    known = LIVE[show].parameters
    settings = {name: own for name, own in SIZES.items() if name in known}
    write_story(network_cache, step(show, all_fields(show), **settings))
    page = open_step()
    assert not page.exception
    assert not page.error
    found = said(page)
    assert set(found) == set(LIVE[show].fields)
    assert all(found.values())
    assert found["images"] == str(NUM_IMAGES)
    assert all(pictures.alts(page).values())


def test_the_slider_moves_what_is_said_and_stands_in_the_address(network_cache: Path) -> None:
    write_story(network_cache, step("filter", all_fields("filter"), layer="conv1.0", **SIZES))
    page = open_step()
    removed = {}
    for k in range(NUM_THRESHOLDS):
        page.select_slider[0].set_value(k).run()
        found = said(page)
        removed[k] = int(found["removed"].replace(",", ""))
        assert found["position"] == f"{k / (NUM_THRESHOLDS - 1):.2f}"
        assert f"{removed[k]:,} of {found['weights']} weights removed" in pictures.alts(page)["learn_histogram"]
    assert list(removed.values()) == sorted(removed.values())
    assert found["removed"] == found["weights"]  # high-pass at the largest weight leaves nothing
    assert page.query_params["at"] == str(NUM_THRESHOLDS - 1)
    other = open_step(at="1")
    assert said(other)["removed"] == f"{removed[1]:,}"


def test_another_step_begins_as_its_story_says(network_cache: Path) -> None:
    text = all_fields("filter")
    write_story(
        network_cache,
        step("filter", text, layer="conv1.0", **SIZES),
        step("filter", text, layer="conv1.0", start=3, **SIZES),
        step("filter", text, control="layer", layer="conv1.0", **SIZES),
        step("filter", text, control="layer", layer="conv5.0", **SIZES),
    )
    page = open_step()
    page.select_slider[0].set_value(4).run()
    page.button(key="learn_next").click().run()
    assert said(page)["position"] == "0.75"
    assert "at" not in page.query_params
    page.button(key="learn_next").click().run()
    page.selectbox(key="pick-mine-3").set_value("fc").run()
    page.button(key="learn_next").click().run()
    assert said(page)["layer"] == "conv5.0"
    page.button(key="learn_previous").click().run()
    assert said(page)["layer"] == "conv1.0"


def test_pulses_remove_every_weight_once(network_cache: Path) -> None:
    write_story(network_cache, step("filter", all_fields("filter"), filter="pulse", layer="conv1.0", **SIZES))
    page = open_step()
    total = 0
    for k in range(NUM_THRESHOLDS):
        page.select_slider[0].set_value(k).run()
        total += int(said(page)["removed"].replace(",", ""))
    assert f"{total:,}" == said(page)["weights"]


def test_the_layer_that_is_chosen_is_filtered(network_cache: Path) -> None:
    write_story(network_cache, step("filter", all_fields("filter"), control="layer", layer="conv1.0", **SIZES))
    page = open_step()
    assert said(page)["layer"] == "conv1.0"
    page.selectbox(key="pick-mine-1").set_value("fc").run()
    assert said(page)["layer"] == "fc"
    assert "fc" in pictures.alts(page)["learn_curves"]
    assert said(open_step(pick="fc")) == said(page)


def test_the_answer_is_one_click_away_and_gone_on_the_next_step(network_cache: Path) -> None:
    write_story(
        network_cache,
        step("sweep", "x", images=NUM_IMAGES).replace("So.", "It is {clean_accuracy}."),
        step("sweep", "y", images=NUM_IMAGES).replace("So.", "Later."),
    )
    page = open_step()
    assert "It is" not in pictures.text_of(page)
    page.button(key="learn_answer").click().run()
    assert re.search(r"It is 0\.\d\d", pictures.text_of(page))
    page.button(key="learn_next").click().run()
    assert "Later." not in pictures.text_of(page)
    assert page.button(key="learn_answer")


def test_a_layer_that_does_not_exist_is_said(network_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Live):
        def start(self) -> None:
            pass

        def ask(self, request: Request, *, seconds: float = 0) -> Any:  # type: ignore[override]
            raise LiveError("no filterable layer called 'conv9'; choose from conv1.0")

    monkeypatch.setattr(learn_live, "live_here", lambda: Gone(network_cache))
    write_story(network_cache, step("filter", "x", layer="conv9", **SIZES))
    page = open_step()
    assert "conv9" in page.error[0].value
    assert page.button(key="learn_next")


# The study ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", STUDIED)
def test_every_field_of_a_studied_step_has_a_value(published_cache: Path, show: str) -> None:
    write_story(published_cache, step(show, all_fields(show)))
    page = open_step()
    assert not page.exception
    assert not page.error
    found = said(page)
    assert set(found) == set(STUDIED[show].fields)
    assert all(found.values())
    assert found["origin"] == "the published study"
    assert "fss study" not in pictures.text_of(page)
    assert all(pictures.alts(page).values())


def test_epochs_are_those_that_are_published(published_cache: Path) -> None:
    write_story(published_cache, step("profile", all_fields("profile")))
    page = open_step()
    assert said(page)["epoch"] == "2"
    page.select_slider[0].set_value(0).run()
    found = said(page)
    assert (found["epoch"], found["first"], found["last"], found["layers"]) == ("1", "1", "2", "7")
    assert "at epoch 1:" in pictures.alts(page)["learn_profile"]


def test_the_rule_that_is_chosen_is_compared(published_cache: Path) -> None:
    assert len(list_published()) == 1
    write_story(published_cache, step("retraining", all_fields("retraining")))
    page = open_step()
    for rule, after in lectures.AFTER.items():
        page.selectbox(key="pick-mine-1").set_value(rule).run()
        found = said(page)
        assert found["before"].startswith(f"{lectures.BEFORE['fgsm']:.3f}")
        assert found["after"].startswith(f"{after:.3f}")
        assert found["difference"].startswith(signed(after - lectures.BEFORE["fgsm"]))
        assert f"{rule} {after:.3f}" in pictures.alts(page)["learn_retraining"]


def test_verdicts_follow_what_is_judged(published_cache: Path) -> None:
    write_story(published_cache, step("verdicts", all_fields("verdicts")))
    page = open_step()
    assert (said(page)["helps"], said(page)["cells"]) == ("1", "1")
    page.selectbox(key="pick-mine-1").set_value("clean").run()
    assert (said(page)["helps"], said(page)["judged"]) == ("0", "clean")
