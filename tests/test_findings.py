"""Findings: their numbers are those of the core on published cells, and a quoted digit that differs is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import columns
import erratas
import pictures
import pytest
import reference
from commands import Fss
from pictures import ROOT
from test_retraining_comparing import make_retraining

from fss_core.errata.records import errata_path
from fss_core.findings import quantities
from fss_core.findings.cells import PublishedCell, list_cells, neighbours
from fss_core.findings.checking import HEADING, check_quotes, read_section
from fss_core.findings.quantities import VERBS
from fss_core.findings.sentences import FINDINGS, WIDTH, Finding, address, read_findings, sentence
from fss_core.invariance import measure_invariance
from fss_core.invariance.lookup import ComparisonSpec, find_candidates
from fss_core.retraining import compare, verdict
from fss_core.retraining.published import find_published, write_retraining
from fss_core.retraining.spec import RetrainingSpec
from fss_core.specs import NETWORKS, MeasurementSpec, ResponseSpec, StoreError, TrainingSpec
from fss_core.store import Store
from fss_core.study.cells import Cell
from fss_core.study.publishing import publish, read_cell

STUDY = "made-up"
NETWORK = columns.NETWORK
OWN, ELSEWHERE, OTHER = (
    Cell(network=network, dataset=dataset, epochs=epochs, num_images=110, num_thresholds=5, whole=False)
    for network, dataset, epochs in (
        (NETWORK, columns.DATASET, (columns.EARLY, columns.EPOCH)),
        (NETWORK, columns.OTHER_DATASET, (columns.EPOCH,)),
        (columns.OTHER_NETWORK, columns.DATASET, (columns.EPOCH,)),
    )
)

TOML = f"""
[[finding]]
id = "introduction"
text = "Cells: {{all}}, of {{n.n}} images."
view = "-"
numbers.all = {{verb = "cells", study = "{STUDY}"}}
numbers.n = {{verb = "accuracy", study = "{STUDY}", cell = "{OWN.name}"}}

[[finding]]
id = "hurts"
group = "Layers"
text = "`hurts` has {{score}} on n = {{score.n}} images, {{score.certainty}} {{score.call}}."
numbers.score = {{verb = "score", study = "{STUDY}", cell = "{OWN.name}", layer = "hurts"}}

[[finding]]
id = "early"
group = "Epochs"
text = '''
Between epochs {columns.EARLY} and {columns.EPOCH} the ranking has τ = {{tau}}, against {{tau.null}} for layers permuted
within their kinds ({{tau.rows}} layers); {{share}} of calls stay.'''
numbers.tau = {{verb = "tau", study = "{STUDY}", across = "epochs", cell = "{OWN.name}"}}
numbers.share = {{verb = "calls", study = "{STUDY}", across = "epochs", cell = "{OWN.name}"}}

[[finding]]
id = "table"
group = "Epochs"
each = {{study = "{STUDY}"}}
columns = ["network", "clean accuracy"]
text = "{{own}}, epoch {{own.epoch}} | {{clean}} (n = {{clean.n}})"
numbers.own = {{verb = "title"}}
numbers.clean = {{verb = "accuracy"}}

[[finding]]
id = "retrained"
group = "Epochs"
each = {{study = "{STUDY}", retrained = true}}
columns = ["network", "FGSM"]
text = "{{own}} | {{fgsm}}"
view = "fgsm"
numbers.own = {{verb = "title"}}
numbers.fgsm = {{verb = "retraining"}}

[[finding]]
id = "rankings"
group = "Epochs"
each = {{study = "{STUDY}", epochs = 2}}
text = "{{own}}: {{tau}}."
view = "tau"
numbers.own = {{verb = "title"}}
numbers.tau = {{verb = "tau", across = "epochs", last = 2}}

[[finding]]
id = "errata"
group = "Errata"
text = "In training mode the adversarial score moves by {{own}} ({{own.layers}} layers, n = {{own.n}})."
numbers.own = {{verb = "effect", variant = "1"}}
"""

README = "# Title\n\nText.\n\n## The method\n\nMore.\n"


@pytest.fixture(scope="module")
def published_template(columns_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cells, a retraining in one, the errata, and findings about them."""
    root = tmp_path_factory.mktemp("findings") / "published"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(columns_template))
        with Store() as store:
            for cell in (OWN, ELSEWHERE, OTHER):
                publish(store, cell, root, study=STUDY, seconds={})
    write_retraining(make_retraining(), {}, root / STUDY / OTHER.folder / "seed0-retraining")
    erratas.publish(root)
    (root / FINDINGS).write_text(TOML)
    return root


@pytest.fixture
def directory(published_template: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(published_template, tmp_path / "published"))


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(README)
    return path


def ask(directory: Path, verb: str, **parameters: object) -> object:
    return VERBS[verb](directory, study=STUDY, **parameters)


def near(text: str, value: float | None) -> bool:
    assert value is not None
    return abs(float(text.replace("−", "-")) - value) <= 0.005 + 1e-12


# Numbers --------------------------------------------------------------------------------------------------


def test_scores_counts_and_accuracies_are_those_that_are_known(directory: Path) -> None:
    own = ask(directory, "score", cell=OWN.name, layer="hurts")
    assert near(own.parts["value"], pictures.expected_score("hurts", "adversarial"))
    assert re.fullmatch(r"−\d\.\d\d \[−\d\.\d\d, −\d\.\d\d\]", own.text)
    assert (own.parts["n"], own.parts["call"], own.parts["certainty"]) == ("110", "fragile", "decided")
    assert address(own) == (
        f"/?network={NETWORK}&dataset={columns.DATASET}&epoch=2&images=110&thresholds=5"
        "&layer=hurts&kind=adversarial&filter=mean"
    )
    counted = {call: ask(directory, "count", cell=OWN.name, call=call) for call in ("fragile", "robust", "antifragile")}
    like = [columns.LIKE_OTHERS.get(name, name) for name in columns.PLACES if name != "dead"]  # which has no call
    calls = [reference.call(pictures.expected_score(name, "adversarial"), 0.05) for name in like]
    assert {call: found.text for call, found in counted.items()} == {call: str(calls.count(call)) for call in counted}
    assert counted["fragile"].parts["of"] == "6"
    assert counted["fragile"].parts["layers"] == "7"
    some = ask(directory, "count", cell=OWN.name, call="fragile", layer_kinds=["stem"])
    assert (some.text, some.parts["of"]) == ("1", "1")
    accuracy = ask(directory, "accuracy", cell=OWN.name)
    assert accuracy.text.startswith("0.80 [0.7")
    assert ask(directory, "epsilon", cell=OWN.name).text == "6/255"
    assert ask(directory, "cells").parts["cells"].count(",") == 2


@pytest.mark.parametrize(
    ("across", "which"),
    [
        ("epochs", {"cell": OWN.name}),
        ("datasets", {"cells": [OWN.name, ELSEWHERE.name]}),
        ("networks", {"cells": [OTHER.name, OWN.name]}),
    ],
)
def test_agreements_are_those_of_the_comparison(
    directory: Path, columns_store: Store, across: str, which: dict[str, object]
) -> None:
    spec = OWN.request(0, 2, None).spec
    labels = {"epochs": ("1", "2"), "datasets": (columns.DATASET, columns.OTHER_DATASET)}.get(across, ())
    comparison = ComparisonSpec(across=across, measurement=spec, labels=labels)  # type: ignore[arg-type]
    measured = {own.label: own.measured.responses for own in find_candidates(columns_store, comparison) if own.measured}
    assert len(measured) == 2
    expected = measure_invariance(measured, across=across)  # type: ignore[arg-type]
    tau = ask(directory, "tau", across=across, **which)
    pair = expected.rankings[0].tau
    assert near(tau.parts["value"], pair.value)
    assert pair.null is not None
    assert near(tau.parts["null"].split(" [")[0], pair.null.mean)
    assert tau.parts["rows"] == str(expected.rankings[0].num_rows)
    share = ask(directory, "calls", across=across, **which)
    assert near(share.parts["value"], expected.calls.share.value)
    assert near(share.parts["low"], expected.calls.share.low)
    assert tau.page == ("epochs" if across == "epochs" else "compare")
    names = ask(directory, "layers", across=across, group="open", **which)
    assert names.parts["of"] == str(len(expected.table.rows))
    agreed = {
        name: int(ask(directory, "layers", across=across, group=name, **which).parts["value"])
        for name in ("decided", "same", "agree")
    }
    assert agreed["agree"] == agreed["decided"] + agreed["same"] > 0


def test_retrainings_are_those_of_the_comparison_of_rules(directory: Path) -> None:
    comparison = compare([make_retraining()])
    row = comparison.row("robust_antifragile")
    assert row is not None
    for against, found in (("no retraining", row.to_before), ("all", row.to_all)):
        own = ask(directory, "retraining", cell=OTHER.name, against=against, judged="fgsm")
        assert near(own.parts["value"], found["fgsm"].value)
        assert near(own.parts["low"], found["fgsm"].low)
        line = next(line for line in verdict(comparison).lines if line.against == against)
        assert own.parts["outcome"] == line.outcome
    held = ask(directory, "outcomes", outcome="holds")
    assert (held.text, held.parts["of"], held.parts["cells"]) == ("1", "1", OTHER.name)
    with pytest.raises(StoreError, match="nothing is retrained in"):
        ask(directory, "retraining", cell=OWN.name)


PAIRS = f"""
[[finding]]
id = "datasets"
each = {{study = "{STUDY}", pairs = "datasets"}}
text = "{{first.dataset}}; {{second.dataset}}; {{tau.epoch}}; {{tau}}"
view = "tau"
numbers.first = {{verb = "title"}}
numbers.second = {{verb = "title", cell = "second"}}
numbers.tau = {{verb = "tau", across = "datasets"}}

[[finding]]
id = "networks"
each = {{study = "{STUDY}", pairs = "networks"}}
text = "{{first.network}}; {{second.network}}; {{tau}}"
view = "-"
numbers.first = {{verb = "title"}}
numbers.second = {{verb = "title", cell = "second"}}
numbers.tau = {{verb = "tau", across = "networks"}}
"""


def test_neighbours_are_compared_at_the_last_epoch_that_both_have(directory: Path) -> None:
    (directory / FINDINGS).write_text(PAIRS)
    first, second = sorted((OWN, ELSEWHERE), key=lambda own: own.dataset)
    small, large = sorted((OWN, OTHER), key=lambda own: list(NETWORKS).index(own.network))
    datasets, networks = read_findings(directory / FINDINGS)
    assert (datasets.id, networks.id) == (
        f"datasets {first.name} {second.name}",
        f"networks {small.name} {large.name}",
    )
    titles = [read_cell(directory / STUDY / own.folder).dataset_title for own in (first, second)]
    tau = ask(directory, "tau", across="datasets", cells=[first.name, second.name])
    assert sentence(datasets, directory) == f"{'; '.join(titles)}; {columns.EPOCH}; {tau.text} (`{address(tau)}`)"
    tau = ask(directory, "tau", across="networks", cells=[small.name, large.name])
    assert sentence(networks, directory) == f"{NETWORKS[small.network]}; {NETWORKS[large.network]}; {tau.text}"


def test_what_has_no_epoch_or_images_in_common_makes_no_pair(directory: Path) -> None:
    cells = list_cells(directory, STUDY)

    def changed(name: str, **change: object) -> list[PublishedCell]:
        return [
            replace(own, record=replace(own.record, cell=replace(own.record.cell, **change)))  # type: ignore[arg-type]
            if own.name == name
            else own
            for own in cells
        ]

    assert len(neighbours(cells, "datasets")) == len(neighbours(cells, "networks")) == 1
    assert neighbours(changed(OTHER.name, epochs=(0,)), "networks") == []
    assert neighbours(changed(OTHER.name, num_images=50), "networks") == []
    assert len(neighbours(changed(ELSEWHERE.name, num_images=50), "datasets")) == 1
    assert neighbours(changed(ELSEWHERE.name, round=2), "datasets") == []


def test_networks_with_other_images_stand_between_no_neighbours(directory: Path) -> None:
    [pair] = neighbours(list_cells(directory, STUDY), "networks")
    cell = replace(pair.first.record.cell, network="resnet50", num_images=50)
    between = replace(pair.first, record=replace(pair.first.record, cell=cell))
    networks = [own.record.cell.network for own in (pair.first, between, pair.second)]
    assert networks == [name for name in NETWORKS if name in networks]
    assert neighbours([pair.first, between, pair.second], "networks") == [pair]


def test_the_images_of_columns_are_named_each_where_they_differ() -> None:
    def table(*numbers: int) -> object:
        return SimpleNamespace(table=SimpleNamespace(columns=[SimpleNamespace(num_images=own) for own in numbers]))

    assert quantities._num_images(table(200, 200)) == "200"
    assert quantities._num_images(table(200, 100)) == "200; 100"


def test_only_data_sets_and_networks_can_be_paired(directory: Path) -> None:
    (directory / FINDINGS).write_text(PAIRS.replace('pairs = "networks"', 'pairs = "epochs"'))
    with pytest.raises(StoreError, match="finding networks must pair datasets or networks, got 'epochs'"):
        read_findings(directory / FINDINGS)


# Quoting --------------------------------------------------------------------------------------------------


def test_findings_are_written_into_readme_and_found_there_again(directory: Path, readme: Path, fss: Fss) -> None:
    given = ("--directory", directory, "--readme", readme)
    unwritten = fss("study", "--check", *given)
    assert unwritten.code == 1
    assert unwritten.out.count("is not in README.md") == 9
    assert fss("study", "--quote", *given).code == 0
    text = readme.read_text()
    assert text.index("Text.") < text.index(HEADING) < text.index("## The method")
    assert max(len(line) for line in text.splitlines() if not line.startswith("| ")) <= WIDTH
    own = next(block for block in read_section(text) if block.startswith("- `hurts`"))
    assert own == "- " + sentence(read_findings(directory / FINDINGS)[1], directory)
    done = fss("study", "--check", *given)
    assert (done.code, done.out) == (0, done.out)
    assert "9 findings in README.md" in done.out
    titles = {
        cell.name: f"| {NETWORKS[cell.network]} on {read_cell(directory / STUDY / cell.folder).dataset_title}"
        for cell in (OWN, ELSEWHERE, OTHER)
    }
    tables = [block for block in read_section(text) if block.startswith("| ")]
    assert [row.split(" | ")[0] for row in tables] == [
        *("| network", "| ---"),
        *(f"{title}, epoch {columns.EPOCH}" for _, title in sorted(titles.items())),
        *("| network", "| ---", titles[OTHER.name]),
    ]
    assert tables[2].count("n = 110") == 1
    assert "retrain?network=" in tables[-1]
    assert fss("study", "--quote", *given).code == 0
    assert readme.read_text() == text
    (directory / FINDINGS).unlink()
    assert fss("study", "--quote", *given).code == 0
    assert readme.read_text() == README


@pytest.mark.parametrize(
    ("verb", "which"),
    [
        ("score", {"cell": OWN.name, "layer": "hurts"}),
        ("count", {"cell": OWN.name, "call": "fragile"}),
        ("tau", {"across": "epochs", "cell": OWN.name}),
        ("calls", {"across": "epochs", "cell": OWN.name}),
        ("layers", {"across": "epochs", "cell": OWN.name}),
    ],
)
def test_what_is_not_measurable_is_said_in_a_row_and_never_in_a_sentence(
    directory: Path, monkeypatch: pytest.MonkeyPatch, verb: str, which: dict[str, object]
) -> None:
    numbers = {"own": {"verb": verb, "study": STUDY, **which}}
    row = Finding(
        id="it", group="", text="{own} | {own.n} | {own.value}", numbers=numbers, view="-", columns=("", "n", "")
    )
    shown = sentence(row, directory)
    assert re.fullmatch(r"\S.* \| 110 \| [−+]?[\d.]+", shown)
    monkeypatch.setattr("fss_core.scores.is_above_chance", lambda *_: False)
    assert sentence(row, directory) == "not measurable | 110 | –"
    with pytest.raises(
        StoreError, match=r"finding it, \{own\}: not measurable: .*adversarial accuracy without a filter"
    ):
        sentence(replace(row, columns=()), directory)


def test_a_part_that_is_not_there_is_a_dash_in_a_row_and_refused_in_a_sentence(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fss_core.invariance.comparing.Comparison._null", lambda *_: None)
    numbers = {"own": {"verb": "tau", "study": STUDY, "across": "epochs", "cell": OWN.name}}
    row = Finding(id="it", group="", text="{own.value} | {own.null}", numbers=numbers, view="-", columns=("", "null"))
    assert re.fullmatch(r"[−\d.]+ \| –", sentence(row, directory))
    with pytest.raises(StoreError, match=r"finding it, \{own.null\}: there is none"):
        sentence(replace(row, columns=()), directory)


def change_digit(text: str) -> str:
    """Raise the last digit of the first interval of a section by one."""
    head, own = text.split(HEADING)
    match = re.search(r"\[[−+]?\d\.\d\d", own)
    assert match is not None
    last = match.end() - 1
    return f"{head}{HEADING}{own[:last]}{(int(own[last]) + 1) % 10}{own[last + 1 :]}"


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (change_digit, "finding hurts: README.md says “"),
        (lambda text: text.replace("on n = 110", "on n = 111"), "recomputed “on n = 110 images,”"),
        (lambda text: re.sub(r"- `hurts`.*?\n\n", "", text, flags=re.DOTALL), "finding hurts is not in README.md"),
        (lambda text: text.replace("### Layers", "### Layers\n\n- All 57 are fragile."), "says what is no finding"),
        (lambda text: text.replace("### Layers", "### Other"), "under other headings"),
    ],
)
def test_a_changed_digit_is_caught_and_named(
    directory: Path, readme: Path, fss: Fss, harm: Callable[[str], str], text: str
) -> None:
    given = ("--directory", directory, "--readme", readme)
    fss("study", "--quote", *given)
    before = readme.read_text()
    readme.write_text(harm(before))
    assert readme.read_text() != before
    done = fss("study", "--check", *given)
    assert done.code == 1
    assert text in done.out
    assert done.out.count("differs: ") == 1
    assert len(fss("study", "--check", *given, "--json").json["differences"]) == 1


def test_a_number_of_the_errata_that_differs_is_caught_and_named(directory: Path, readme: Path, fss: Fss) -> None:
    given = ("--directory", directory, "--readme", readme)
    fss("study", "--quote", *given)
    path = errata_path(directory)
    text = path.read_text()
    match = re.search(
        r'"variant": "3",\s+"scope": "layers",\s+"kind": "adversarial".*?"change": (-?\d\.\d\d)', text, re.S
    )
    assert match is not None
    end = match.end()
    path.write_text(text[: end - 1] + str((int(text[end - 1]) + 1) % 10) + text[end:])
    done = fss("study", "--check", *given)
    assert done.code == 1
    assert "errata, effect of 3 layers adversarial, change: the page says" in done.out
    path.with_name("notebook.parquet").write_bytes(b"?")
    assert "must have the SHA-256 of" in fss("study", "--check", *given).out


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("hurts", "gone"), r"finding hurts, {score}: no layer in"),
        (('"score", study', '"scores", study'), "no verb of a finding 'scores'"),
        ((OWN.name, "resnet50/cifar10"), "no published cell of the study made-up 'resnet50/cifar10'"),
        (("{score.n}", "{score.width}"), "no part of score 'width'"),
        (("{score}", "{other}"), "no number in the finding hurts 'other'"),
        (('layer = "hurts"', 'layer = "hurts", colour = "red"'), "unexpected keyword argument 'colour'"),
    ],
)
def test_a_finding_that_cannot_be_computed_is_named_in_one_line(
    directory: Path, readme: Path, fss: Fss, change: tuple[str, str], text: str
) -> None:
    given = ("--directory", directory, "--readme", readme)
    fss("study", "--quote", *given)
    own = directory / FINDINGS
    parts = own.read_text().split("[[finding]]")
    parts[2] = parts[2].replace(f'"{change[0]}"' if change[0] == "hurts" else change[0], change[1])
    if change == ("hurts", "gone"):
        parts[2] = TOML.split("[[finding]]")[2].replace('layer = "hurts"', 'layer = "gone"')
    own.write_text("[[finding]]".join(parts))
    done = fss("study", "--check", *given)
    assert done.code == 1
    assert text.replace("{score}", "{score}") in done.out
    for line in done.out.splitlines():
        assert len(line) < 1000


def test_a_file_of_findings_that_is_none_is_refused(directory: Path, readme: Path, fss: Fss) -> None:
    given = ("--directory", directory, "--readme", readme)
    (directory / FINDINGS).write_text("[[finding]\n")
    done = fss("study", "--check", *given)
    assert done.code == 1
    assert "findings.toml cannot be read" in done.err
    (directory / FINDINGS).write_text('[[finding]]\nid = "a"\n')
    assert "must have id and text" in fss("study", "--check", *given).err


def test_one_of_three_things_is_asked_for(fss: Fss) -> None:
    assert fss("study").code == 2
    assert fss("study", "--check", "--preset", "demo").code == 2


# What this version quotes ---------------------------------------------------------------------------------


def test_what_this_version_quotes_is_what_it_publishes() -> None:
    report = check_quotes(ROOT / "cache" / "published", ROOT / "README.md")
    assert report.differences == ()


def test_links_of_findings_about_retraining_show_what_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    from pages.common import retrain_choices

    monkeypatch.setenv("FSS_CACHE_DIR", str(ROOT / "cache"))
    queries = re.findall(r"`retrain\?([^`]+)`", " ".join(read_section((ROOT / "README.md").read_text())))
    assert len(queries) > 1
    for query in queries:
        own = {"budget": retrain_choices.PARAMS["budget"].default} | dict(pair.split("=") for pair in query.split("&"))
        spec = RetrainingSpec(
            measurement=MeasurementSpec(
                training=TrainingSpec(
                    network=own["network"], dataset=own["dataset"], num_train=int(own["train"]), seed=0
                ),
                epoch=int(own["epoch"]),
                num_images=int(own["images"]),
                response=ResponseSpec(num_thresholds=int(own["thresholds"])),
            ),
            rules=tuple(retrain_choices.PARAMS["rules"].default),
            budget=int(own["budget"]),
        )
        assert find_published(spec) is not None, query


def test_links_of_findings_can_be_opened() -> None:
    from pages.common import choices, compare, epochs, errata, explore, retrain_choices

    params = {
        "/": choices.PARAMS | explore.PARAMS,
        "epochs": choices.PARAMS | epochs.PARAMS,
        "compare": choices.PARAMS | compare.PARAMS,
        "retrain": choices.PARAMS | retrain_choices.PARAMS,
        "errata": errata.PARAMS,
    }
    for block in read_section((ROOT / "README.md").read_text()):
        for page, query in re.findall(r"`([a-z/]+)\?([^`]+)`", block):
            for pair in query.split("&"):
                key, _, value = pair.partition("=")
                assert key in params[page], (page, key)
                params[page][key].parse(value)
