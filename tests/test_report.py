"""The report: escapes what models write, loads nothing, and is a pure function of its data."""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.errors import UserError
from launch.report import build
from launch.report.data import (
    Chart,
    FamilyBars,
    Line,
    Outcome,
    Rate,
    ReportData,
    Run,
    Sample,
    Step,
    Table,
    from_json,
    read,
    to_json,
)
from launch.report.render import clean, percent, points, render, write
from rollout.evaluate import evaluate
from rollout.types import (
    Action,
    Completion,
    Finish,
    Observation,
    Prompt,
    Score,
    Stop,
    Task,
    Trajectory,
    Turn,
    Version,
)
from tests.fakes import make_tasks
from worldmodel.vetting import Ending, vet

pytestmark = pytest.mark.filterwarnings("ignore:Glyph:UserWarning")

HOSTILE = [
    "<script>alert(1)</script>",
    "</pre><img src=x onerror=alert(1)>",
    "\"' onmouseover='x",
    "\x1b]0;owned\x07\x1b[2J",
    "a\u202eb\u2066c",
    "{{ 7 * 7 }}{% raw %}",
    "$x^{$ \\frac",
    "nul\x00 bell\x07 del\x7f csi\x9b31m",
    "\ud800 lone",
    "]]>--><style>*{display:none}</style>",
]


def report(text: str) -> ReportData:
    """A report with ``text`` in every place that holds text."""
    rate = Rate(0.5, 0.4, 0.6, 200)
    runs = [Run((Step(text, text),), text, verdict) for verdict in (True, False, None)]
    return ReportData(
        title=text,
        summary=text,
        facts=((text, text),),
        outcomes=(Outcome(text, "real", rate, rate, Rate(0.15, 0.1, 0.2, 200)), Outcome(text, text, rate, rate, rate)),
        charts=(Chart(text, text, text, (Line(text, ((0, 0.1), (1, 0.4)), ((0.0, 0.2), (0.3, 0.5))),), text),),
        families=(FamilyBars(text, 0.1, 0.9, None, 0.3), FamilyBars("y" + text, None, None, held_out=True)),
        tables=(Table(text, (text, text), ((text, text),), text),),
        samples=(
            Sample(text, text, text, runs[0], runs[1], text),
            Sample(text, text, text, runs[2], Run((), text, None)),
        ),
        notes=(text,),
    )


class Page(HTMLParser):
    """Tags, attributes and policy of a page, as a browser's parser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def check_safe(page: str) -> None:
    parsed = Page(page)
    assert not {"script", "iframe", "object", "link", "base", "form", "svg"} & set(parsed.tags)
    assert parsed.tags.count("style") == 1
    for name, value in parsed.attributes:
        assert not name.startswith("on") and name not in ("style", "href", "action")
        assert name != "src" or (value or "").startswith("data:image/svg+xml;base64,")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    page.encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text: str) -> None:
    page = render(report(text))
    check_safe(page)
    assert "49" not in re.sub("base64,[^\"]*|sha256-[^']*", "", page) or "49" in text
    images = [base64.b64decode(m).decode() for m in re.findall(r"svg\+xml;base64,([^\"]*)", page)]
    assert len(images) == 2
    for image in images:
        assert "<script" not in image and "\x1b" not in image


@settings(max_examples=5, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_any_text_is_inert(text: str) -> None:
    check_safe(render(report(text)))


@settings(max_examples=40)
@given(st.recursive(st.text(st.characters()), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_clean_leaves_only_printable_text(value: object) -> None:
    def walk(item: object) -> None:
        if isinstance(item, str):
            item.encode("utf-8")
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", item)
        elif isinstance(item, dict):
            for inner in item.values():
                walk(inner)
        elif isinstance(item, tuple):
            for inner in item:
                walk(inner)

    walk(clean(value))


def test_policy_allows_exactly_this_style_sheet() -> None:
    page = render(report("plain"))
    policy = next(v for n, v in Page(page).attributes if n == "content" and v and "default-src" in v)
    css = page.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"style-src 'sha256-{digest}'" in policy
    assert "script-src" not in policy and "unsafe" not in policy and "http" not in policy


def test_numbers_and_verdicts_are_shown() -> None:
    page = render(report("plain"))
    for shown in ("50.0 %", "+15.0", "[+10.0, +20.0]", "passed", "failed", "no verdict", "no steps"):
        assert shown in page
    assert (percent(0.875), points(-0.125)) == ("87.5 %", "\N{MINUS SIGN}12.5")


def test_differing_steps_are_marked() -> None:
    same, other = Step("ls", "a\nb"), Step("ls", "a")
    data = dataclasses.replace(
        report("plain"),
        samples=(Sample("t", "f", "i", Run((same, same), "done", True), Run((same, other), "done", True)),),
    )
    page = render(data)
    assert page.count('<pre class="differs">') == 2 and page.count("<pre>") == 2


def test_same_data_same_bytes() -> None:
    assert render(report("plain")) == render(report("plain"))


def test_empty_report_renders() -> None:
    check_safe(render(ReportData("title", "summary")))


def test_json_round_trip_and_written_files(tmp_path) -> None:
    data = report("plain")
    page = write(data, tmp_path)
    assert page.read_text(encoding="utf-8") == render(data)
    assert read(tmp_path / "report.json") == data == from_json(json.loads(to_json(data)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "not JSON"),
        ('{"title": "t"}', "summary"),
        ('{"title": "t", "summary": "s", "colour": 1}', "colour"),
        ('{"title": "t", "summary": "s", "outcomes": [{"arm": "a"}]}', "outcomes.0"),
    ],
)
def test_malformed_report_is_one_line(tmp_path, content: str, word: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(UserError, match=word) as caught:
        read(path)
    assert "\n" not in str(caught.value) and "report.json" in str(caught.value)


# ---------------------------------------------------------------- from results


def trajectory(task: Task, reward: float | None, *actions: str) -> Trajectory:
    """An episode in which each action is answered by its own text in capitals."""
    version = Version(1, 4)
    turns = tuple(
        Turn((1,), Completion((2,), (0.0,), a, Finish.STOP, (version,)), Action(a), Observation(a.upper()))
        for a in actions
    )
    return Trajectory(task, "eval", 0, Prompt(()), turns, Stop.DONE, Score(reward))


def test_build_from_results() -> None:
    tasks = make_tasks(6)
    before = [trajectory(t, 0.0, "ls") for t in tasks]
    after = [trajectory(t, float(i % 2), "ls", "done") for i, t in enumerate(tasks)]
    found = build.outcome("arm", "real", evaluate(before), evaluate(after))
    assert (found.before.mean, found.after.mean, found.gain.mean, found.gain.n) == (0.0, 0.5, 0.5, 6)
    bars = build.families((evaluate(before), evaluate(after)), None, held_out=["set1"])
    assert [(b.family, b.real_after, b.sim_after, b.held_out) for b in bars] == [
        ("set0", 0.0, None, False),
        ("set1", 1.0, None, True),
    ]


def test_samples_show_disagreement_first_and_families_in_turn() -> None:
    tasks = make_tasks(6)
    real = [trajectory(t, 0.0, "ls") for t in tasks]
    simulated = [trajectory(t, 1.0 if t.id in ("t4", "t5") else 0.0, "ls", "done") for t in tasks[1:]]
    shown = build.samples(simulated, real, limit=3)
    assert [s.task for s in shown] == ["t4", "t5", "t1"]
    assert shown[0].simulated.success is True and shown[0].real.success is False
    assert shown[0].simulated.steps == (Step("ls", "LS"), Step("done", "DONE"))
    unknown = build.run(trajectory(tasks[0], None))
    assert unknown.success is None and unknown.steps == ()


def test_verdict_table_names_families_left_out() -> None:
    endings = [
        Ending(f"t{i}", "good", kind, kind == "gold", kind == "gold") for i in range(4) for kind in ("gold", "wrong")
    ]
    endings += [Ending(f"u{i}", "bad", kind, kind == "gold", True) for i in range(4) for kind in ("gold", "wrong")]
    table = build.verdict_table(vet(endings))
    rows = {row[0]: row for row in table.rows}
    assert rows["good"][-1] == "" and "false-positive rate 100%" in rows["bad"][-1]
    assert rows["all"][1] == "16"
