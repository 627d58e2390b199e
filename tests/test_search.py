"""The search domain: grammar, scores, memory, the corpus and its cache, tasks in the real world."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import ConfigError, TaskError, WorldFault
from rollout.spot import replay_actions, success
from rollout.types import Check, Completion, Finish, ObservationKind, Predicate, Reference, Task, Turn, World
from worldmodel.domains.search import SEARCH, SYSTEM, corpus, facts, pages, transcript
from worldmodel.domains.search.corpus import Corpus
from worldmodel.domains.search.families import FAMILIES, HELD_OUT, TRAIN
from worldmodel.domains.search.grammar import MAX_QUERIES, PROBE, call, parse
from worldmodel.domains.search.kit import KIT
from worldmodel.domains.search.pages import Page
from worldmodel.domains.search.real import MAX_STORED, SearchEnvironment, SearchFactory, State, act, remember
from worldmodel.domains.search.scores import NO_ANSWER, answered, item_f1, items, normal, row_f1
from worldmodel.domains.search.tasks import MAX_TURNS, generate, make
from worldmodel.prompt import compact

TEXTS = st.text(max_size=40)
SAID = call(PROBE)
TASK = Task(
    id="t", domain="search", family="f", split="train", instruction="Which?", world=World(),
    checks=(Check("answer", (SAID,), Predicate("equals", "oslo")),), reference=Reference(), max_turns=5, seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def atlas() -> Corpus:
    """The corpus of the installed packages; skips where they are not."""
    if lacking := facts.missing():
        pytest.skip(f"search: missing {lacking}")
    return corpus.load()


def some_pages(count: int = 30) -> list[Page]:
    urls = [f"{pages.SITE}/thing/{number}" for number in range(count)]
    return [
        Page(url, f"Thing {i}", "", "A thing.", f"# Thing {i}\nSource: {url}\nword{i}") for i, url in enumerate(urls)
    ]


def memory(action: str, **arguments: str) -> str:
    return call("dict_memory", action=action, **arguments)


# The grammar


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        (call("web_search", query="a"), "web_search", {"query": "a"}),
        (" \n" + call("web_search", queries=["a", "b"]), "web_search", {"queries": ["a", "b"]}),
        (call("web_extractor", url=" https://a.example/b "), "web_extractor", {"url": "https://a.example/b"}),
        (memory("add", key="k", value="v"), "dict_memory", {"action": "add", "key": "k", "value": "v"}),
        (memory("remove_all"), "dict_memory", {"action": "remove_all"}),
        (call("answer", text="x"), "answer", {"text": "x"}),
        (call("answer", rows=[{"a": 1, "b": "x"}]), "answer", {"rows": [{"a": 1, "b": "x"}]}),
        (SAID, PROBE, {}),
        ('{"name": "answer_given"}', PROBE, {}),
    ],
)
def test_calls_that_are_understood(text: str, name: str, arguments: dict) -> None:
    action = parse(text)
    assert (action.name, action.arguments, action.error, action.text) == (name, arguments, None, text)
    assert action.final == (name == "answer")
    assert parse(SEARCH.show(action)).arguments == arguments


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "JSON object"),
        ("[1]", "JSON object"),
        ("[" * 9000, "JSON object"),
        ("x" * 20_000, "at most 16384"),
        ('{"name": "web_search", "arguments": {"query": "a"}, "id": 1}', "JSON object"),
        (call("fly"), "use answer, dict_memory, web_extractor, web_search"),
        ('{"name": ["web_search"]}', "use answer"),
        ('{"name": "web_search", "arguments": []}', "must be an object"),
        (call("web_search"), "query, or queries"),
        (call("web_search", query="a", queries=["b"]), "query, or queries"),
        (call("web_search", query="a", page=2), "query, or queries"),
        (call("web_search", query=3), "1 to 400"),
        (call("web_search", query=" "), "1 to 400"),
        (call("web_search", query="x" * 401), "1 to 400"),
        (call("web_search", queries=[]), "1 to 5"),
        (call("web_search", queries=["a"] * 6), "1 to 5"),
        (call("web_search", queries=["a", None]), "1 to 400"),
        ('{"name": "web_search", "arguments": {"query": "\\ud800"}}', "surrogate"),
        ('{"name": "web_search", "arguments": {"query": "a\\u0000"}}', "NUL"),
        (call("web_extractor", url="file:///etc/passwd"), "https://"),
        (call("web_extractor", url="javascript:alert(1)"), "https://"),
        (call("web_extractor", url="https://a b"), "https://"),
        (call("web_extractor", uri="https://a"), "give url"),
        (memory("forget", key="k"), "action is one of"),
        (memory("add", key="k"), "give action and key and value"),
        (memory("retrieve_all", key="k"), "give action, nothing else"),
        (memory("add", key="a\nb", value="v"), "one line"),
        (memory("add", key="k" * 101, value="v"), "1 to 100"),
        (call("answer"), "text, or rows"),
        (call("answer", text="a", rows=[]), "text, or rows"),
        (call("answer", rows=[]), "1 to 50"),
        (call("answer", rows=[{}]), "1 to 10"),
        (call("answer", rows=[{"a": None}]), "value in a row"),
        (call("answer", rows=[{"a": True}]), "value in a row"),
        (call("answer", rows=[{"a": float("nan")}]), "finite"),
        (call("answer", rows=[{"a": 10**400}]), "finite"),
        (call(PROBE, x=1), "no arguments"),
    ],
)
def test_calls_that_are_refused(text: str, reason: str) -> None:
    action = parse(text)
    assert not action.name and not action.final and action.text == text
    assert action.error and reason in action.error and "\n" not in action.error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(
    name=st.sampled_from(["web_search", "web_extractor", "dict_memory", "answer", PROBE, "x"]) | JSON,
    keys=st.lists(st.sampled_from(["query", "queries", "url", "action", "key", "value", "text", "rows"]), unique=True),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_any_object_is_read_or_refused_and_what_is_read_can_be_acted_on(name, keys, data) -> None:
    text = json.dumps({"name": name, "arguments": {key: data.draw(JSON) for key in keys}})
    action = parse(text)
    assert action.text == text and (action.error is None) == bool(action.name)
    if action.error is None:
        again = parse(SEARCH.show(action))
        assert (again.name, again.arguments) == (action.name, action.arguments)
        answered(action.arguments if action.final else None).encode()


# Normal forms and scores


def test_normal_forms() -> None:
    assert normal("  São   TOMÉ. ") == normal("são tomé") and normal('"Oslo"') == "oslo"
    assert (
        normal("67,000,123") == "67000123" and normal("12.0") == "12" and normal(12) == "12" and normal("1,5") == "1,5"
    )
    assert items("- Spain\n- Andorra; Spain, Italy") == ("andorra", "italy", "spain")
    assert answered(None) == answered({"text": " ; "}) == NO_ANSWER
    assert answered({"text": "67,000; B"}) == "67000\nb"
    assert answered({"rows": [{"b": 2, "A": "X"}, {"a": "x", "B": "2.0"}, {"a": "w"}]}) == "a=w\na=x; b=2"


@given(given_=st.lists(TEXTS, max_size=6), wanted=st.lists(TEXTS, max_size=6))
def test_item_f1(given_: list[str], wanted: list[str]) -> None:
    score, swapped = item_f1(given_, wanted), item_f1(wanted, given_)
    assert 0 <= score.f1 <= 1 and score.f1 == pytest.approx(swapped.f1)
    assert (score.precision, score.recall) == (swapped.recall, swapped.precision)
    assert item_f1(wanted, [text.upper() for text in reversed(wanted)]).f1 == 1 or any(
        normal(text.upper()) != normal(text) for text in wanted
    )
    assert (score.f1 == 1) == ({normal(text) for text in given_} == {normal(text) for text in wanted})
    assert (score.f1 == 0) == (
        bool(given_ or wanted) and not {normal(text) for text in given_} & {normal(text) for text in wanted}
    )


@given(rows=st.lists(st.dictionaries(TEXTS, st.integers() | TEXTS, min_size=1, max_size=3), max_size=5), data=st.data())
def test_row_f1(rows: list[dict], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    assert row_f1(shuffled, rows).f1 == 1
    assert answered({"rows": shuffled}) == answered({"rows": rows})
    other = [{**row, "one more": 1} for row in rows]
    assert row_f1(other, rows).f1 == (0 if rows else 1)


def test_f1_by_hand() -> None:
    score = item_f1(["a", "b", "c", "d"], ["A", "B"])
    assert (score.precision, score.recall) == (0.5, 1.0) and score.f1 == pytest.approx(2 / 3)
    assert row_f1([{"a": 1}], []).f1 == 0 == row_f1([], [{"a": 1}]).f1
    assert row_f1([{"a": 1, "b": 2}, {"a": 3, "b": 9}], [{"b": 2, "a": 1}, {"a": 3, "b": 4}]).f1 == 0.5


# What the simulator and the policy read


def test_state_is_shown_as_it_will_be_printed() -> None:
    found = some_pages(3)
    text = transcript({"pages": [{name: getattr(page, name) for name in Page.__slots__} for page in found]})
    assert pages.listing(found) in text and all(page.text in text for page in found)
    assert transcript({}) == pages.NO_RESULTS
    assert pages.entry(2, found[0]).splitlines()[3] == "   Date: N/A"


def test_a_secret_goes_to_the_simulator_alone() -> None:
    task = Task(**{**{name: getattr(TASK, name) for name in Task.__slots__}, "world": World({}, secret="kingfisher")})
    assert "kingfisher" in compact(SEARCH.spec(task.world)) and "For you alone" in compact(SEARCH.spec(task.world))
    assert "kingfisher" not in "".join(message.content for message in SEARCH.prompt(task).messages)
    assert not SEARCH.spec(World()).secret
    assert PROBE not in SYSTEM and KIT.domain is SEARCH


# Memory


def test_memory_semantics() -> None:
    held: dict[str, str] = {}
    steps = [
        (("retrieve_all",), "Memory is empty."),
        (("add", "a", "1"), "Stored 'a'."),
        (("add", "a", "2"), "Error: 'a' is stored already; use update"),
        (("retrieve", "a"), "1"),
        (("update", "a", "2"), "Updated 'a'."),
        (("update", "b", "2"), "Error: nothing is stored under 'b'"),
        (("add", "b", "x\ny"), "Stored 'b'."),
        (("retrieve_all",), "a: 2\nb: x\ny"),
        (("remove", "a"), "Removed 'a'."),
        (("retrieve", "a"), "Error: nothing is stored under 'a'"),
        (("remove_all",), "Removed 1 entries."),
        (("retrieve_all",), "Memory is empty."),
    ]
    for arguments, wanted in steps:
        text, held = remember(held, dict(zip(("action", "key", "value"), arguments, strict=False)))
        assert text == wanted
    full = {str(number): "v" for number in range(MAX_STORED)}
    assert remember(full, {"action": "add", "key": "k", "value": "v"}) == ("Error: memory is full (100 entries)", full)


# The corpus and its cache


def toy(folder: Path, calls: list[int], fail: bool = False) -> bool:
    def made() -> tuple[str, list[Page]]:
        calls.append(1)
        if fail:
            raise RuntimeError("killed")
        return '{"countries": [], "cities": [], "elements": []}', some_pages()

    return corpus.ensure(folder, made)


@pytest.fixture
def folder(tmp_path: Path, atlas: Corpus) -> Path:
    return tmp_path / "cache" / "toy"


def test_a_build_is_whole_or_not_at_all(folder: Path) -> None:
    calls: list[int] = []
    with pytest.raises(RuntimeError):
        toy(folder, calls, fail=True)
    assert list(folder.parent.iterdir()) == []
    assert toy(folder, calls) and not toy(folder, calls) and len(calls) == 2
    assert [path.name for path in folder.parent.iterdir()] == ["toy"] and corpus.intact(folder)


def test_a_build_that_was_killed_between_is_made_again(folder: Path) -> None:
    calls: list[int] = []
    left = folder.parent / ".building-left"
    left.mkdir(parents=True)
    (left / "pages.jsonl").write_text("half")
    folder.mkdir()
    (folder / "pages.jsonl").write_text("half")  # no manifest yet
    assert toy(folder, calls) and corpus.intact(folder)
    assert left.exists()  # another process may still be at it
    old = time.time() - 2 * corpus.STALE
    os.utime(left, (old, old))
    (folder / corpus.MANIFEST).unlink()
    assert toy(folder, calls) and not left.exists() and corpus.intact(folder)


@pytest.mark.parametrize("name", ["facts.json", "pages.jsonl", "manifest.json", "index/data.csc.index.npy"])
def test_a_checksum_that_does_not_match_is_rebuilt(folder: Path, name: str) -> None:
    calls: list[int] = []
    toy(folder, calls)
    (folder / name).write_bytes(b"{}")
    assert not corpus.intact(folder) and toy(folder, calls) and corpus.intact(folder) and len(calls) == 2
    (folder / name).unlink()
    assert toy(folder, calls) and len(calls) == 3


def test_the_first_of_two_builders_is_kept(folder: Path) -> None:
    def slow() -> tuple[str, list[Page]]:
        toy(folder, [])
        (folder / "mark").touch()
        return '{"countries": []}', some_pages(2)

    assert corpus.ensure(folder, slow) and (folder / "mark").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_facts_survive_the_cache(atlas: Corpus) -> None:
    assert facts.from_json(facts.to_json(atlas.facts)) == atlas.facts
    assert len(atlas.pages) == len(atlas.urls) == len({page.title for page in atlas.pages}) > 3000
    assert pages.make(atlas.facts) == list(atlas.pages)


def test_pages_are_found_by_their_titles(atlas: Corpus) -> None:
    drawn = random.Random(3).sample(atlas.pages, 400)
    found = [[page.url for page in atlas.search(page.title)] for page in drawn]
    assert all(page.url in urls for page, urls in zip(drawn, found, strict=True))
    assert statistics.mean(page.url == urls[0] for page, urls in zip(drawn, found, strict=True)) > 0.9
    assert atlas.search("") == atlas.search("the of") == atlas.search("qqqqzzzz") == []
    assert len(atlas.search("city")) == pages.RESULTS and atlas.search("city") == atlas.search("CITY!")


def test_without_the_packages_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    monkeypatch.setattr(facts, "PACKAGES", ("bm25s", "no_such_package_here"))
    assert "no_such_package_here: pip install 'agentworld-trainer[search]'" in KIT.missing()
    with pytest.raises(ConfigError, match=r"no_such_package_here.*pip install"):
        KIT.generate("train", 1, 0)


# Tasks


def test_unknown_families_and_splits(atlas: Corpus) -> None:
    with pytest.raises(TaskError, match="unknown search family 'x'"):
        make("x", "train", 0, 0)
    with pytest.raises(TaskError, match="unknown split 'x'"):
        make("bigger_city", "x", 0, 0)  # type: ignore[arg-type]


def test_there_are_many_tasks_and_no_question_on_both_sides(atlas: Corpus) -> None:
    assert len(TRAIN) >= 12 and len(HELD_OUT) >= 3 and not set(TRAIN) & set(HELD_OUT)
    train, heldout, family = generate("train", 1400, 0), generate("heldout", 1000, 0), generate("family", 400, 0)
    asked = [{task.instruction for task in tasks} for tasks in (train, heldout, family)]
    assert len(asked[0]) >= 1000 and len(asked[1]) >= 500 and len(asked[2]) >= 300
    assert not asked[0] & asked[1] and not {task.instruction for task in train[:1000]} & asked[1]
    assert {task.family for task in train} == {made.__name__ for made in TRAIN} == {task.family for task in heldout}
    assert {task.family for task in family} == {made.__name__ for made in HELD_OUT}
    assert max(len(task.reference.gold) for task in (*train, *heldout, *family)) <= MAX_TURNS


def gold_entries(atlas: Corpus, task: Task) -> list[Page]:
    actions = [parse(text) for text in task.reference.gold]
    queries = [
        q for a in actions if a.name == "web_search" for q in a.arguments.get("queries", [a.arguments.get("query")])
    ]
    return [page for query in queries for page in atlas.search(query)]


def test_snippets_do_not_give_the_answer(atlas: Corpus) -> None:
    """No snippet holds an answer, whatever the question; the share of questions whose answer is the name of a page
    among the results (as 'which of A and B' needs) is bounded by those that ask for a name."""
    tasks = generate("train", 280, 4) + generate("family", 40, 4)
    told, named = 0, 0
    for task in tasks:
        wanted = [part.split("=")[-1] for part in task.checks[0].predicate.value.replace("; ", "\n").split("\n")]
        found = gold_entries(atlas, task)
        told += any(f" {value} " in f" {normal(page.description)} " for value in wanted for page in found)
        named += all(any(value in normal(page.title) for page in found) for value in wanted)
    print(f"answer in a snippet: {told / len(tasks):.1%}; in titles: {named / len(tasks):.1%}")
    assert told == 0 and named / len(tasks) < 0.5


def test_worlds_hold_the_pages_of_the_answer_and_others(atlas: Corpus) -> None:
    for task in generate("train", 42, 1) + generate("family", 12, 1):
        urls = [page["url"] for page in task.world.state["pages"]]
        opened = {a.arguments["url"] for a in map(parse, task.reference.gold) if a.name == "web_extractor"}
        assert opened < set(urls) and 6 <= len(urls) <= 10 and urls == sorted(urls)
        assert json.loads(json.dumps(task.world.state)) == task.world.state and not task.world.secret
        assert all(Page(**page) == atlas.urls[page["url"]] for page in task.world.state["pages"])


async def outcome(task: Task, texts: tuple[str, ...]) -> bool | None:
    results, _ = await replay_actions(SearchFactory()(task, 0), task, texts, time.monotonic() + 60)
    return success(results)


@pytest.mark.parametrize("family", sorted(FAMILIES))
async def test_gold_passes_and_wrong_and_empty_fail(atlas: Corpus, family: str) -> None:
    split = "family" if family in {made.__name__ for made in HELD_OUT} else "train"
    for seed in range(3):
        for task in generate(split, 4, seed, [family]):
            assert await outcome(task, task.reference.gold) is True, task.id
            assert task.reference.wrong and await outcome(task, KIT.empty) is False
            assert await outcome(task, task.reference.gold[:-1]) is False
            for wrong in task.reference.wrong:
                assert await outcome(task, wrong) is False, (task.id, wrong[-1])
            answer = parse(task.reference.gold[-1]).arguments.get("text", "")
            assert (
                not answer
                or any(answer.split("; ")[0] in page["text"] for page in task.world.state["pages"])
                or (family in ("element_difference", "element_sum", "capital_gap"))
            )


# The real world


async def play(environment: SearchEnvironment, *texts: str) -> list[str]:
    await environment.start()
    return [(await environment.step(environment.parse(text))).text for text in texts]


async def test_an_episode(atlas: Corpus) -> None:
    found, twice, page, none, held, end = await play(
        environment := SearchEnvironment(TASK),
        call("web_search", query="Norway country"),
        call("web_search", queries=["Norway country", "Sweden country"]),
        call("web_extractor", url=f"{pages.SITE}/country/norway"),
        call("web_extractor", url="https://other.example/norway"),
        memory("add", key="k", value="v"),
        call("answer", text="Oslo."),
    )
    assert "Title: Norway\n   URL: https://atlas.example/country/norway\n   Snippet: " in found
    assert twice.startswith(found) and "\n11. Title: " in twice and "\n20. Title: " in twice
    assert page.startswith("# Norway\n") and "- Capital: Oslo" in page
    assert none == "Error: there is no page at https://other.example/norway"
    assert held == "Stored 'k'." and end == ""
    assert [result.passed for result in await environment.verify(TASK.checks)] == [True]
    assert environment.world_version == atlas.version


async def test_probes_change_nothing_and_odd_checks_have_no_verdict(atlas: Corpus) -> None:
    environment = SearchEnvironment(TASK)
    await play(environment, memory("add", key="k", value="v"))
    before = environment._state
    checks = (
        Check("changes", (memory("remove_all"), memory("retrieve", key="k")), Predicate("contains", "")),
        Check("kept", (memory("retrieve", key="k"),), Predicate("equals", "v")),
        Check("ends", (call("answer", text="x"),), Predicate("equals", "")),
        Check("none", ("what?",), Predicate("equals", "")),
        Check("regex", (SAID,), Predicate("regex", "(")),
        Check("empty", (), Predicate("equals", "")),
    )
    assert [result.passed for result in await environment.verify(checks)] == [True, True, None, None, None, False]
    assert environment._state == before


async def test_invalid_actions_are_answered(atlas: Corpus) -> None:
    environment = SearchEnvironment(TASK)
    seen = await environment.step(environment.parse("what?"))
    assert seen.kind is ObservationKind.INVALID_ACTION and not seen.done and seen.anchor == State().digest


async def test_restored_equals_uninterrupted(atlas: Corpus) -> None:
    rng, done = random.Random(5), Completion((1,), (0.0,), "", Finish.STOP, ())
    for _ in range(20):
        texts = [
            rng.choice([memory("add", key=k, value="v"), memory("update", key=k, value="w"), memory("remove", key=k),
                        call("web_search", query="Oslo"), "junk", memory("retrieve_all")])
            for k in rng.choices("abc", k=8)
        ] + [call("answer", text="Oslo")]  # fmt: skip
        whole, turns = SearchEnvironment(TASK), []
        for text in texts:
            action = whole.parse(text)
            turns.append(Turn((1,), done, action, await whole.step(action)))
        cut = rng.randrange(len(texts) + 1)
        other = SearchEnvironment(TASK)
        assert await other.restore(turns[:cut])
        rest = [await other.step(other.parse(text)) for text in texts[cut:]]
        assert rest == [turn.observation for turn in turns[cut:]]
        assert await other.verify(TASK.checks) == await whole.verify(TASK.checks)
        assert other._state == whole._state


async def test_a_cache_that_cannot_be_written_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atlas: Corpus
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path / "file"))
    with pytest.raises(WorldFault, match="cannot be used"):
        await SearchEnvironment(TASK).start()
    with pytest.raises(ConfigError, match="set AGENTWORLD_CACHE"):
        generate("train", 1, 0)


async def test_steps_are_quick(atlas: Corpus) -> None:
    """Loose: a warm step takes well under a millisecond on an idle machine."""
    environment, spent = SearchEnvironment(TASK), []
    await environment.start()
    action = environment.parse(call("web_search", queries=["capital of Norway"] * MAX_QUERIES))
    for _ in range(50):
        begun = time.perf_counter()
        await environment.step(action)
        spent.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    await SearchEnvironment(TASK).start()
    spent_on_start = time.perf_counter() - begun
    assert statistics.median(spent) < 0.05 and spent_on_start < 0.5


def test_many_episodes_share_one_corpus(atlas: Corpus) -> None:
    async def all_at_once() -> list[SearchEnvironment]:
        made = [SearchEnvironment(TASK) for _ in range(16)]
        await asyncio.gather(*(environment.start() for environment in made))
        return made

    assert Counter(id(environment._corpus) for environment in asyncio.run(all_at_once())) == {id(corpus.load()): 16}
    assert act(atlas, State(), parse(SAID)) == (NO_ANSWER, State())
