"""Stories: what a file may say, what is said of one that is wrong, and that those of the package are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from fss_core.retraining.rules import RULES
from fss_core.stories import COMPONENTS, StoryError, list_stories, parse_story, reading
from fss_core.stories.lines import find_lines, line_of

GOOD = '''title = "A story"
order = 7

[[step]]
title = "First"
text = """
It is {clean_accuracy} here,
and {epsilon} there.
"""
show = "sweep"
question = "Why {{not}}?"
answer = "[[step]]"

[[step]]
title = "Second"
text = "Of {layer}."
show = "filter"
question = "Where?"
answer = "There."
source = "METHOD"
[step.with]
layer = "conv1.0"
random = true
start = 3
'''


def test_a_good_story_says_what_it_says() -> None:
    story = parse_story(GOOD, "a-story.toml")
    assert (story.name, story.title, story.order, story.network, story.epoch) == (
        "a-story",
        "A story",
        7,
        "shufflenet_v2_x1_0",
        3,
    )
    first, second = story.steps
    assert first.text == "It is {clean_accuracy} here,\nand {epsilon} there."
    assert first.settings["control"] == "epsilon"
    assert second.component is COMPONENTS["filter"]
    expected = {"layer": "conv1.0", "random": True, "start": 3, "filter": "high_pass", "control": "threshold"}
    assert second.settings | expected == second.settings


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('title = "A story"', 'title = "A story', 1, "this is no TOML (illegal character"),
        ('title = "A story"', "titel = 3", 1, "'titel' is not known here; there are title, about"),
        ('title = "A story"', "", 1, "title is missing"),
        ("order = 7", 'order = "7"', 2, "order must be a number from 0 to 10000, got '7'"),
        ("order = 7", 'network = "vgg"', 2, "network must be one of resnet18"),
        ('show = "sweep"', 'show = "movie"', 10, "show must be one of attack, sweep"),
        ("and {epsilon} there", "and {epsilom} there", 8, "{epsilom} is no field of this step; there are network"),
        ("and {epsilon} there", "and {epsilon:.3f} there", 8, "{epsilon} is no field of this step"),
        ("Why {{not}}?", "Why {not}?", 11, "{not} is no field of this step"),
        ("Why {{not}}?", "Why {?", 11, "question has a brace too many or too few"),
        ('answer = "There."', "", 14, "answer is missing"),
        ('answer = "There."', "answer = 3", 19, "answer must be a text, got 3"),
        ('layer = "conv1.0"', 'leyer = "conv1.0"', 22, "'leyer' is not a parameter of filter; there are control"),
        ('layer = "conv1.0"', "images = 3", 22, "images must lie from 20 to 500, got 3"),
        ('layer = "conv1.0"', "images = 30.5", 22, "images must be a whole number, got 30.5"),
        ("random = true", "random = 1", 23, "random must be true or false, got 1"),
        ("start = 3", "start = 3.5", 24, "start must be a text, got 3.5"),
        ("start = 3", 'control = "wheel"', 24, "control must be one of threshold, layer, got 'wheel'"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(old: str, new: str, line: int, words: str) -> None:
    assert old in GOOD
    with pytest.raises(StoryError) as found:
        parse_story(GOOD.replace(old, new, 1), "mine.toml")
    assert str(found.value).startswith(f"mine.toml, line {line}: ")
    assert words in str(found.value)
    assert "\n" not in str(found.value)


def test_a_story_without_steps_or_with_a_name_that_no_address_can_have_is_refused() -> None:
    with pytest.raises(StoryError, match=r"mine\.toml, line 1: a story needs at least one"):
        parse_story('title = "Nothing"', "mine.toml")
    with pytest.raises(StoryError, match="small letters, digits and hyphens"):
        parse_story(GOOD, "My Story.toml")


def test_lines_are_found_past_texts_that_look_like_tables() -> None:
    text = "a = '''\n[[step]]\nb = 1\n'''\n# c = 2\n[[step]]\nb = 1\n[step.with]\n\"d\" = 4\n[[step]]\nb = 2"
    lines = find_lines(text)
    assert lines == {
        ("a",): 1,
        ("step", 0): 6,
        ("step", 0, "b"): 7,
        ("step", 0, "with"): 8,
        ("step", 0, "with", "d"): 9,
        ("step", 1): 10,
        ("step", 1, "b"): 11,
    }
    assert line_of(lines, ("step", 1, "with", "x")) == 10
    assert line_of(lines, ("nowhere",)) == 1


def test_those_of_the_package_can_be_read() -> None:
    for path in sorted(Path(reading.__file__).parent.glob("*.toml")):
        reading.read_story(path)
    stories, broken = list_stories()
    assert broken == []
    names = ["adversarial", "filters", "scores", "training", "retraining"]
    assert [own.name for own in stories] == names
    for story in stories:
        assert len(story.steps) >= 3
        for step in story.steps:
            assert "METHOD" in step.source or "Pravin" in step.source
            assert "{" in step.text  # numbers come from what is shown
    for rule in str(stories[-1].steps[0].settings["rules"]).split():
        assert rule in RULES


@pytest.mark.usefixtures("empty_cache")
def test_a_teachers_own_lie_in_the_cache_and_a_broken_one_takes_nothing_away(empty_cache: Path) -> None:
    own = empty_cache / "stories"
    own.mkdir(parents=True)
    (own / "mine.toml").write_text(GOOD, encoding="utf-8")
    (own / "broken.toml").write_text("title = ", encoding="utf-8")
    (own / "bytes.toml").write_bytes(b'title = "\n\xff"')
    (own / "scores.toml").write_text(GOOD, encoding="utf-8")
    (own / "large.toml").write_text("#" * (reading.LARGEST_FILE + 1), encoding="utf-8")
    stories, broken = list_stories()
    assert [own.name for own in stories] == ["adversarial", "filters", "scores", "training", "retraining", "mine"]
    reasons = {own.path.name: own.reason for own in broken}
    assert reasons["broken.toml"].startswith("broken.toml, line 1: this is no TOML")
    assert reasons["bytes.toml"] == "bytes.toml, line 2: it must be UTF-8"
    assert "there is a story of that name already" in reasons["scores.toml"]
    assert "at most 200,000 bytes" in reasons["large.toml"]
    (own / "broken.toml").write_text(GOOD.replace("order = 7", "order = 0"), encoding="utf-8")
    assert list_stories()[0][0].name == "broken"
