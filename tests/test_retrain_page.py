"""The page Retrain: every state of a retraining in words, and numbers that are the core's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl

import lanes
import pytest
from pictures import ROOT, alts, complaints, cut, links, open_page, text_of, tiles
from streamlit.testing.v1 import AppTest

from fss_core import data, specs
from fss_core.checkpoints import save_checkpoint
from fss_core.flow import Flow
from fss_core.jobs.board import Board, Task
from fss_core.jobs.kinds import read_request
from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.retraining import Comparison, RetrainingSpec, compare, retrain, retrain_seeds, verdict
from fss_core.retraining.comparing import Estimate
from fss_core.retraining.lookup import find_retrained_seeds
from fss_core.retraining.reports import verdict_numbers, verdict_question
from fss_core.retraining.rules import RULES
from fss_core.specs import ScoreSpec
from fss_core.store import Store

CHOSEN = ("robust_antifragile", "all", "fragile")
SPEC = RetrainingSpec(
    measurement=lanes.measurement(), budget=2, rules=CHOSEN, score=ScoreSpec(tolerance=0.16), filter="pulse"
)
"""At this tolerance the pulse scores call some of seed 0's layers robust and some fragile."""

OTHER_EPOCH = 2
VIEW = {
    "network": lanes.NETWORK,
    "dataset": lanes.DATASET,
    "images": "120",
    "thresholds": "5",
    "epsilon": "0.04",
    "tolerance": "0.16",
    "by_filter": "pulse",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds 0 and 1 retrained from epoch 3, and seed 0 from another; epoch 1 is measured only."""
    root = tmp_path_factory.mktemp("lanes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root))
        lanes.make_cache(root)
        for epoch in (1, OTHER_EPOCH):
            network, state = lanes.train(SPEC.measurement.training, epoch)
            save_checkpoint(
                SPEC.measurement.training,
                epoch,
                weights=network.state_dict(),
                state=state,  # type: ignore[arg-type]
                origin="trained",
                factory=lanes.FACTORY,
            )
        with Store() as store:
            run = partial(retrain, store=store, factory=lanes.make_network)
            retrain_seeds(SPEC, lanes.TRAINED_SEEDS, run)
            run(replace(SPEC, measurement=replace(SPEC.measurement, epoch=OTHER_EPOCH)))
            Flow(store, factory=lanes.make_network).measure(replace(SPEC.measurement, epoch=1))
    return root


@pytest.fixture
def store(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runners: list[Path]) -> Iterator[Store]:
    """A store with all of it, for this test alone; no process is started."""
    shutil.copytree(template, tmp_path / "cache")
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(specs.NETWORKS, lanes.NETWORK, "Lanes")
    with Store() as store:
        yield store


def show(**changes: object) -> AppTest:
    """Open the page at an address."""
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    page.switch_page("pages/retrain.py")
    page.query_params = VIEW | {name: str(value) for name, value in changes.items()}
    page.run()
    assert not page.exception, page.exception
    return page


def request(seeds: tuple[int, ...] = (0,)) -> RetrainRequest:
    """What the page asks for at ``VIEW``."""
    return RetrainRequest(spec=SPEC, seeds=seeds)


def rows(page: AppTest) -> dict[str, list[str]]:
    """The table: rule → the text of its other cells, without mark-up."""
    [table] = [own.value for own in page.get("html") if "fss-table" in own.value]
    found = {}
    for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]:
        name, *cells = re.findall(r"<td.*?>(.*?)</td>", row)
        found[name.partition("<small>")[0]] = [
            re.sub(r"<.*?>", "", own.replace("<small>", " ")).strip() for own in cells
        ]
    return found


def rows_of_rules(page: AppTest) -> list[str]:
    """The rules in the table, if there is one."""
    tables = [own.value for own in page.get("html") if "fss-table" in own.value]
    return list(rows(page)) if tables else []


def cell(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return "–"
    return f"{estimate.value:{sign}z.3f} [{estimate.low:{sign}z.3f}, {estimate.high:{sign}z.3f}]".replace("-", "−")


def expected_rows(comparison: Comparison) -> dict[str, list[str]]:
    return {
        row.rule: [
            f"{sum(row.num_live_trained) / len(row.num_live_trained):,.0f}",
            *(cell(row.accuracy[kind]) for kind in ("clean", "fgsm", "pgd", "transfer")),
            *(cell(own.get(kind), "+") for own in (row.to_before, row.to_all) for kind in ("fgsm", "pgd")),
        ]
        for row in comparison.sorted_rows()
    }


# Complete -------------------------------------------------------------------------------------------------


def test_the_table_the_verdict_and_the_charts_say_what_the_core_says(store: Store) -> None:
    page = show()
    assert complaints(page) == []
    [retraining] = find_retrained_seeds(store, SPEC, [0])
    comparison = compare([retraining])
    shown = rows(page)
    assert shown == expected_rows(comparison)
    assert list(shown) == [row.rule for row in comparison.sorted_rows()]
    answer = verdict(comparison)
    for line in answer.lines:
        value, note = tiles(page)[f"Against {line.against}"]
        assert value == line.outcome.capitalize()
        assert verdict_numbers(answer, line)[1:] in note
    text = text_of(page)
    assert verdict_question(answer) in text
    assert "this checkpoint only" in text
    assert "What was frozen did not move" in text
    said = alts(page)
    numbers = [len(own.choice.layers) for own in retraining.rules]
    assert numbers[1] == 4 == numbers[0] + numbers[2]
    assert 0 < numbers[0] < 4
    trained = "; ".join(f"{rule} trains {number}" for rule, number in zip(CHOSEN, numbers, strict=True))
    assert f"{trained}." in said["coverage"]
    fgsm = {row.rule: row.accuracy["fgsm"].value for row in comparison.rows}
    assert f"before: {fgsm['no retraining']:.3f}" in said["retraining_curves"]
    assert f"all {fgsm['all']:.3f}" in said["retraining_curves"]
    assert page.button(key="measure").label == "Retrained"
    assert page.button(key="measure").disabled


def test_other_checkpoints_are_drawn_beside_it(store: Store) -> None:
    other = replace(SPEC, measurement=replace(SPEC.measurement, epoch=OTHER_EPOCH))
    best = max(
        (row for row in compare(find_retrained_seeds(store, other, [0])).rows if row.accuracy),
        key=lambda row: row.accuracy["fgsm"].value,
    )
    said = alts(show())["across"]
    assert f"epoch 2: {best.rule} {best.accuracy['fgsm'].value:.3f}" in said
    assert "epoch 3: " in said
    page = show(rules="all,fragile", budget=1)
    assert "across" in alts(page)  # a smaller budget, and fewer rules, are there already
    page = show(budget=3)
    assert "across" not in alts(page)
    assert "at any given epoch" in text_of(page)


def test_several_initialisations_are_dots_and_one_is_looked_into(store: Store) -> None:
    page = show(seeds=2)
    found = find_retrained_seeds(store, SPEC, [0, 1])
    assert rows(page) == expected_rows(compare(found))
    text = text_of(page)
    assert "(seeds 0, 1)" in text
    assert "2 initialisations, each a dot" in text
    assert "Not all epochs have as many initialisations yet: epoch 2: 1, epoch 3: 2." in text
    for own in found:
        page.selectbox(key="shown").set_value(own.seed).run()
        assert f"Initialisation {own.seed}." in text_of(page)
        assert f"robust_antifragile trains {len(own.rules[0].choice.layers)};" in alts(page)["coverage"]


def test_a_rule_that_chooses_nothing_is_shown_as_such(store: Store) -> None:
    run = partial(retrain, store=store, factory=lanes.make_network)
    run(replace(SPEC, score=ScoreSpec(tolerance=0.05), filter="mean"))
    page = show(tolerance=0.05, by_filter="mean")
    reason = "nothing is called robust or antifragile"
    assert rows(page)["robust_antifragile"] == [reason]
    assert tiles(page)["Against all"] == ("Not tested", f"{reason.capitalize()}.")
    assert f"<b>robust_antifragile</b> trains nothing: {reason}." in text_of(page)
    assert page.button(key="measure").label == "Retrained"


def test_pulses_of_weights_are_percentages(store: Store) -> None:
    spec = replace(SPEC, granularity="weights", score=ScoreSpec(), filter="mean")
    retrain(spec, store=store, factory=lanes.make_network)
    page = show(granularity="weights", tolerance=0.05, by_filter="mean")
    assert rows(page) == expected_rows(compare(find_retrained_seeds(store, spec, [0])))
    assert "Each pulse of a layer's weights has a call of its own." in text_of(page)


def test_the_numbers_can_be_taken_away(store: Store) -> None:
    labels = [button.label for button in show().get("download_button")]
    assert "Everything (JSON)" in labels
    assert labels.count("Save as HTML") == 2


# Not complete ---------------------------------------------------------------------------------------------


def test_what_is_not_there_yet_says_so_and_what_it_takes(store: Store) -> None:
    page = show(epoch=9)
    assert "The layers of this checkpoint are not measured yet" in text_of(page)
    assert page.button(key="measure").label == "Retrain"
    assert not page.button(key="measure").disabled
    assert re.search(r"About .*\(.*\)\.", " ".join(own.value for own in page.caption))
    assert alts(page) == {}


def test_what_is_measured_shows_what_each_rule_would_train(store: Store) -> None:
    page = show(epoch=1, rules="all,last_layer,least_critical")
    assert "Nothing is retrained yet; **Retrain** does it." in page.info[0].value
    assert list(alts(page)) == ["coverage"]
    assert "all trains 4; last_layer trains 1; least_critical: not known before" in alts(page)["coverage"]
    assert tiles(page) == {}


def test_part_of_it_is_shown_as_part(store: Store) -> None:
    page = show(budget=5, rules="all,fragile,last_layer")
    text = text_of(page)
    assert "Not complete: what there is is shown; **Retrain** does the rest." in text
    assert rows(page)["all"] == ["not retrained that far yet"]
    assert tiles(page)["Against all"][0] == "Not tested"
    page = show(seeds=3)
    assert "what there is of 2 of 3 initialisations is shown" in text_of(page)
    assert (
        tiles(page)["Against all"][0]
        == verdict(compare(find_retrained_seeds(store, SPEC, [0, 1]))).lines[1].outcome.capitalize()
    )


def test_pressing_retrain_asks_for_it(store: Store, runners: list[Path]) -> None:
    page = show(budget=5)
    page.button(key="measure").click().run()
    [run] = Board(store).runs()
    assert read_request(run) == replace(request(), spec=replace(SPEC, budget=5))
    assert store.directory in runners
    assert page.button(key="measure").label == "Retraining …"
    assert not page.exception


def start(store: Store, asked: RetrainRequest) -> Board:
    board = Board(store)
    board.ask(asked.kind, asked.to_json())
    board.begin(asked.key)
    return board


def test_while_it_runs_the_strip_says_how_far_it_is(store: Store) -> None:
    asked = replace(request(), spec=replace(SPEC, budget=4))
    board = start(store, asked)
    tasks = [Task(name=f"retrain:0/{name}", units=1, rate="", seconds=10) for name in ("all", "fragile")]
    board.put_tasks(asked.key, tasks)
    with store.claim(board.get(asked.key).lease):
        board.start_task(asked.key, tasks[0].name)
        board.move_task(asked.key, tasks[0].name, 0.5, "all: epoch 3, step 1 of 2")
        page = show(budget=4)
        [strip] = [own.proto.text for own in page.get("progress")]
        assert "retraining and judging: all\\: epoch 3, step 1 of 2" in strip
        assert "left" in strip
        assert "what there is is shown." in text_of(page)
        page.button(key="cancel").click().run()
        assert board.get(asked.key).state == "cancelling"


def test_how_it_ended_is_said(store: Store) -> None:
    asked = replace(request(), spec=replace(SPEC, budget=4))
    board = start(store, asked)
    board.end(asked.key, "failed", "the disk is *full*")
    page = show(budget=4)
    assert page.error[0].value == "Retraining failed: the disk is \\*full\\*"
    page.button(key="retry").click().run()
    assert board.get(asked.key).state == "queued"
    board.end(asked.key, "cancelled")
    assert "**Retrain** goes on from there" in show(budget=4).info[0].value


# Addresses ------------------------------------------------------------------------------------------------


def test_what_is_chosen_stands_in_the_address(store: Store) -> None:
    page = show()
    page.multiselect(key="rules").set_value(["all", "last_layer"])
    page.number_input(key="budget").set_value(1)
    page.radio(key="leaning").set_value("ignored").run()
    query = {name: value if isinstance(value, str) else value[0] for name, value in dict(page.query_params).items()}
    assert (query["rules"], query["budget"], query["leaning"]) == ("all,last_layer", "1", "ignored")
    assert "granularity" not in query
    again = show(**query)
    assert list(rows(again)) == list(rows(page))


def test_what_is_chosen_goes_along_from_view_to_view(store: Store) -> None:
    page = show(rules="all,last_layer", budget=4)
    page.number_input(key="images").set_value(110).run()
    page.switch_page("app.py").run()
    back = [own for own in page.sidebar.get("page_link") if own.label == "Retrain"][-1]  # the page's, its part's
    query = dict(parse_qsl(back.proto.query_string))
    assert (query["rules"], query["budget"], query["images"]) == ("all,last_layer", "4", "110")
    assert query["network"] == page.session_state["network"] == lanes.NETWORK
    page.switch_page("pages/retrain.py")
    page.query_params = query
    page.run()
    assert page.multiselect(key="rules").value == ["all", "last_layer"]
    assert page.number_input(key="images").value == 110
    assert not page.exception


def test_a_link_to_a_rule_that_does_not_exist_says_so(store: Store) -> None:
    page = show(rules="all,fragle")
    assert "no rule 'fragle'" in page.warning[0].value.replace("\\", "")
    assert page.multiselect(key="rules").value == list(CHOSEN)


def test_no_rule_is_refused_in_one_line(store: Store) -> None:
    page = show()
    page.multiselect(key="rules").set_value([]).run()
    assert [own.value for own in page.error] == ["rules must name at least one rule, each once, got none"]
    assert not page.exception


def test_runs_link_here_and_can_be_struck_off(store: Store) -> None:
    asked = RetrainRequest(
        spec=replace(
            SPEC,
            rules=("all", "random"),
            leaning="ignored",
            num_draws=2,
            score=ScoreSpec(tolerance=0.1),
            num_report_images=90,
        ),
        seeds=(0, 1),
    )
    board = start(store, asked)
    board.end(asked.key, "done")
    page = open_page("pages/runs.py")
    assert "Retrain Lanes on lanes, epoch 3, initialisations 0, 1" in text_of(page).replace("\\", "")
    [query] = [query for label, query in links(page) if label == "Open"]
    shown = show(**query)
    shown.button(key="measure").click().run()
    assert board.get(asked.key).state == "queued"  # the same request, asked for again
    board.end(asked.key, "done")
    page = open_page("pages/runs.py")
    page.button(key=f"strike_{asked.key}").click().run()
    assert board.runs() == []


def test_a_retraining_that_was_judged_on_fewer_images_is_shown(store: Store) -> None:
    few = replace(SPEC, rules=("all",), budget=1, num_report_images=60)
    shown = {"rules": "all", "budget": 1, "report": 60}
    assert not rows_of_rules(show(**shown))
    retrain(few, store=store, factory=lanes.make_network)
    page = show(**shown)
    [found] = find_retrained_seeds(store, few, (0,))
    assert rows(page) == expected_rows(compare([found]))
    assert "n = 60" in text_of(page)
    assert "n = 150" not in text_of(page)


def test_more_report_images_than_there_are_are_refused_in_one_line(store: Store) -> None:
    page = show(report=151)
    said = [own.value.replace("\\", "") for own in (*page.error, *page.caption)]
    assert "num_report_images must be at most 150, the report images of lanes, got 151" in said
    assert page.button(key="measure").disabled


# Broken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", ["retraining/", "responses/"])
def test_what_is_damaged_is_said_once_and_can_be_forgotten(store: Store, piece: str) -> None:
    for key in store.keys(piece):
        cut(store, key)
    page = show()
    assert page.button(key="repair").label == "Forget what is damaged and measure it again"
    assert page.error
    page.button(key="repair").click().run()
    assert not page.exception
    assert [run.kind for run in Board(store).runs()] == ["retrain"]
    again = show()
    assert not again.error
    assert "fss-table" not in text_of(again)


def test_a_data_set_that_is_gone_leaves_the_page_standing(store: Store, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache" / "prepared")
    data.register_folder(lanes.DATASET, tmp_path / "cache" / "images")
    (tmp_path / "cache" / "images").rename(tmp_path / "cache" / "moved")
    page = show()
    assert page.button(key="measure").disabled
    assert alts(page) == {}


def test_every_rule_can_be_chosen(store: Store) -> None:
    assert show().multiselect(key="rules").options == list(RULES)
