"""Collecting traces of any domain: default behaviours, spans that differ, mixtures, rows of a mixed corpus."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import build_chat
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.collect import collect
from launch.vet import slips
from launch.warm import WarmRecipe, demonstrations
from launch.world import vocabulary_texts, windows, world_rows
from rollout.errors import ConfigError
from rollout.types import Check, Predicate, Reference, Task, World
from worldmodel import mixture
from worldmodel.behaviours import MIX, CountingLedger, Session, is_error
from worldmodel.dialects.rows import session_row
from worldmodel.dialects.transcript import Transcript
from worldmodel.domains import RealWorlds, behaviours, kit
from worldmodel.episodes import read_episodes, read_manifest
from worldmodel.fidelity import FidelitySettings, measure, state_candidates, tables
from worldmodel.masking import keep_all
from worldmodel.spans import agrees, determined, differing, open_spans, unlike, word_overlap
from worldmodel.traces import _wait, collect_share, record, record_in, record_share, sessions
from worldmodel.types import Episode, Prediction, PredictRequest, Transition

texts = st.text("ab 1\n", max_size=25)


# ------------------------------------------------------------------------------------------------ sessions


def test_the_terminal_s_sessions_are_those_that_its_shipped_world_model_was_trained_on() -> None:
    """Pinned: computed with the code before any other domain could be collected."""
    digest = hashlib.sha256()
    for split, seed in (("train", 0), ("train", 7), ("heldout", 3), ("family", 1)):
        for task, session in sessions(split, seed, 0, 300):
            row = [task.id, session.behaviour, list(session.steps), list(session.probes)]
            digest.update(json.dumps(row).encode())
    assert digest.hexdigest() == "bc37dd1adc4ac0aedade6fbb1c414c7fb578d238856d6294994340b38bc90776"
    near = [slips(task, 5) for task in kit("terminal").generate("train", 200, 1)]
    found = hashlib.sha256(json.dumps(near).encode()).hexdigest()
    assert found == "18ece1b29e066d17d7905c3dc5d2b15623d0c7e0014c7ae9cfe51bfacca8650f"


def test_default_sessions_have_their_shares_and_fit_the_turn_limit() -> None:
    found = list(sessions("train", 1, 0, 400, "android"))
    counts = Counter(session.behaviour for _, session in found)
    for name, share in MIX.items():
        assert abs(counts[name] / len(found) - share) < 0.07
    domain, odd = kit("android").domain, 0
    for task, session in found:
        assert {probe for check in task.checks for probe in check.probes} <= set(session.probes)
        assert len(session.steps) <= max(task.max_turns, len(task.reference.gold))
        assert all(domain.parse(text).error is None for text in session.steps)
        known = {text for solution in (task.reference.gold, *task.reference.wrong) for text in solution}
        odd += sum(text not in known for text in session.steps)
    steps = sum(len(session.steps) for _, session in found)
    assert odd / steps > 0.15, "too little that no solution of the task contains"


def test_a_near_miss_is_no_solution_that_is_known() -> None:
    for task in kit("android").generate("train", 40, 0):
        missed = slips(task, 0)
        assert missed == slips(task, 0) != task.reference.gold
        assert all(kit("android").domain.parse(text).error is None for text in missed)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Error: there is no page at x", True), ("ValueError: bad", True), ("cat: a: No such file or directory", True),
        ("Cannot open the file", True), ('{"isError": true}', True), ("error.log  notes.txt", False),
        ("unknown", False), ("The errors of 1920", False), ('app Home | screen "Launcher"', False), ("", False),
    ],
)  # fmt: skip
def test_complaints_are_told_from_answers(text: str, wrong: bool) -> None:
    assert is_error(text) is wrong


def test_classes_by_default_are_names_and_depth_counts_what_was_done() -> None:
    ledger = CountingLedger(kit("android").domain)
    action = '{"action_type": "click", "index": 1}'
    assert ledger.classify(action, "app Home") == ("click", 0)
    ledger.note(action, failed=False)
    ledger.note(action, failed=True)
    assert ledger.classify(action, " \n") == ("silent", 1) and ledger.classify("{", "Error: no") == ("error", 1)


# ------------------------------------------------------------------------------------------------ recording


def test_recorded_android_sessions_fail_often_and_do_not_depend_on_the_share() -> None:
    share = record_share("train", 0, 0, 60, "android", twice=True)
    assert not share.lost and len(share.episodes) == 60
    assert [replace(e, meta={}) for e in share.episodes[10:20]] == collect_share("train", 0, 10, 10, "android")
    for episode in share.episodes:
        assert episode.meta == {"twice": True}, "the reference device repeats itself"
        assert episode.success in ((True,) if episode.behaviour == "gold" else (True, False))
        assert all(t.command_class for t in episode.transitions)
        said = [t.action for t in episode.transitions if t.command_class == "final"]
        assert len(said) <= 1 and any(t.probe for t in episode.transitions)
    assert sum(e.success is False for e in share.episodes) >= 24


@pytest.mark.sandbox
def test_the_terminal_s_fast_way_is_the_real_environment() -> None:
    chosen = behaviours("terminal")
    for task, session in sessions("train", 5, 0, 6):
        fast, slow = record(task, session), _wait(record_in(RealWorlds(), task, session, chosen))
        unnamed = [[replace(t, episode="") for t in e.transitions if t.action != "ls"] for e in (fast, slow)]
        assert unnamed[0] == unnamed[1] and fast.success == slow.success


class Flaky:
    """An environment of android that fails at its start, ``times`` times in all."""

    def __init__(self, times: int) -> None:
        self.left = times


def test_a_session_of_a_broken_world_is_lost_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from rollout.errors import WorldFault
    from worldmodel.domains.android.real import AndroidEnvironment

    failing = Flaky(3)

    async def start(self: AndroidEnvironment):
        failing.left -= 1
        if failing.left >= 0:
            raise WorldFault("no device")
        return kit("android").domain.prompt(self._task)

    monkeypatch.setattr(AndroidEnvironment, "start", start)
    monkeypatch.setattr("worldmodel.traces.AT_ONCE", 1)
    share = record_share("train", 0, 0, 12, "android")
    assert len(share.episodes) == 11 and len(share.lost) == 1 and share.lost[0].endswith("no device")
    failing.left = 1000
    with pytest.raises(WorldFault, match=r"android: 12 of 12 sessions were lost: .*no device"):
        record_share("train", 0, 0, 12, "android")


# ------------------------------------------------------------------------------------------------ open spans


@given(texts, texts)
@settings(max_examples=300, deadline=None)
def test_both_executions_agree_with_what_they_share(one: str, two: str) -> None:
    spans = unlike(one, two)
    assert agrees(one, spans, one) and agrees(one, spans, two)
    assert (spans == []) == (one == two)
    assert 0.0 <= determined(one, spans) <= 1.0
    assert word_overlap(one, spans, one) == 1.0 and 0.0 <= word_overlap(one, spans, two) <= 1.0


def test_words_that_differ_are_open_as_a_whole_and_the_rest_is_not() -> None:
    text = "started 10:31:05 by ada\nid 77af ok"
    spans = unlike(text, "started 10:31:09 by ada\nid 9b ok")
    assert [text[a:b].strip() for a, b in spans] == ["10:31:05", "77af"]
    assert agrees(text, spans, "started yesterday by ada\nid X ok")
    assert not agrees(text, spans, "started 10:31:05 by bob\nid 77af ok")
    assert not agrees(text, spans, "started by ada\nid ok"[:10])


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ("by ada id ok started", 1.0),  # what is open may be left out, and order is not looked at
        ("started 1 by ada\nid X ok", 1.0),
        ("started 1 by bob\nid X ok", 0.8),  # four of five known, one wrong
        ("started 1 by ada\nid X ok ok", 10 / 11),
        ("", 0.0),
    ],
)
def test_the_overlap_counts_the_words_that_are_determined(predicted: str, expected: float) -> None:
    text = "started 10:31:05 by ada\nid 77af ok"
    spans = unlike(text, "started 10:31:09 by ada\nid 9b ok")
    assert word_overlap(text, spans, predicted) == pytest.approx(expected)


def test_two_silences_overlap_wholly_and_a_silence_not_with_a_word() -> None:
    assert word_overlap("", (), "") == 1.0 and word_overlap("", (), "x") == word_overlap("x", (), "") == 0.0


def example(observation: str, name: str = "e", **more: object) -> Episode:
    steps = (
        Transition(name, 0, '{"action_type": "wait"}', observation, "wait"),
        Transition(name, 1, '{"action_type": "status", "goal_status": "complete"}', "", "final"),
        Transition(name, 2, '{"action_type": "dump", "what": "notes"}', "x", "dump", 1, probe=True),
    )
    return Episode(name, "t", "android", "f", "gold", World(), steps, True, dict(more))


def test_what_a_second_execution_says_otherwise_is_marked() -> None:
    both = differing(example("at 9 o'clock"), example("at 10 o'clock"))
    assert both.meta == {"open": {"0": [[3, 5]]}, "twice": True}
    assert open_spans(both) == {both.transitions[0]: [[3, 5]]}
    gone = replace(example("same"), transitions=example("same").transitions[:2])
    assert differing(example("same"), gone).meta["open"] == {"2": [[0, 1]]}


class Says:
    """A world model with one answer."""

    model_id = "says"

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, list[PredictRequest]()

    async def predict(self, request: PredictRequest) -> Prediction:
        from rollout.types import Finish, Usage

        self.asked.append(request)
        return Prediction(self.text, self.text, Usage(), Finish.STOP, self.model_id)

    async def close(self) -> None:
        self.asked.clear()


async def test_fidelity_reads_only_what_is_determined() -> None:
    domain = kit("android").domain
    both = differing(example("at 9 o'clock"), example("at 10 o'clock"))
    nothing = differing(example("77", "n"), example("88", "n"))
    state = replace(both, world=World(domain_state()))
    model = Says("at noon o'clock")
    found = await measure(
        [state, replace(nothing, world=state.world)], model, domain.spec, FidelitySettings(max_silent_share=1.0)
    )
    assert found.teacher_forced.by_class["wait"].n == 1, "one wait says nothing that is determined"
    assert found.teacher_forced.by_class["wait"].exact == 1.0 and found.teacher_forced.by_class["dump"].exact == 0.0
    assert found.undetermined == 1 and 0.0 < found.determined < 1.0
    assert not any("status" in request.action for request in model.asked), "final actions are not predicted"
    assert any("status" in e.action for request in model.asked for e in request.history), "but stand in the history"
    rows = tables({"android": found, "other": found})
    assert len({len(row) for row in rows}) == 1 and [row[0] for row in rows[:3]] == ["", "android", "other"]


def domain_state() -> dict[str, object]:
    return dict(kit("android").generate("train", 1, 0)[0].world.state)


def test_the_baseline_copies_entries_of_lists() -> None:
    world = World({"pages": [{"url": "http://a/b", "text": "hello\n"}, {"url": "http://c", "text": "bye"}]})
    found = state_candidates(world, '{"name": "open", "arguments": {"url": "http://a/b"}}')
    assert "hello" in found and "bye" not in found


def test_search_knows_its_candidates_only() -> None:
    from worldmodel.domains.search.behaviours import elsewhere, unknown
    from worldmodel.domains.search.grammar import call
    from worldmodel.domains.search.pages import Page, listing

    pages = [Page(f"https://atlas.example/{n}", f"Title {n}", "", "About.", f"# {n}\ntext") for n in range(3)]
    known = World({"pages": [{"url": p.url, "title": p.title, "text": p.text} for p in pages[:2]]})
    told = listing(pages)
    (span,) = unknown(known, call("web_search", query="x"), told)
    assert told[span[0] : span[1]].startswith("Title: Title 2") and agrees(told, [span], told[: span[0]] + "another")
    assert unknown(known, call("web_extractor", url=pages[2].url), pages[2].text) == [(0, len(pages[2].text))]
    assert unknown(known, call("web_extractor", url=pages[0].url), pages[0].text) == []
    assert unknown(known, call("web_extractor", url=pages[2].url), "Error: there is no page") == []
    check = Check("c", (call("answer_given"),), Predicate("equals", "a"))
    gold = Reference((call("answer", text="a"),), ((call("answer", text="b"),),))
    task = Task("t", "search", "f", "train", "?", known, (check,), gold, 12, 0)
    around = elsewhere(task, random.Random(0)).reference.gold
    assert all(kit("search").domain.parse(text).error is None for text in around)


# ------------------------------------------------------------------------------------------------ mixtures


def test_mixtures_are_read_and_shared_out() -> None:
    assert mixture.parse("terminal") == {"terminal": 1.0}
    assert set(mixture.parse("all")) >= {"android", "search", "terminal"}
    assert mixture.parse("terminal, android", "android=3") == {"terminal": 1.0, "android": 3.0}
    for domains, mix, message in (
        ("terminla", "", "did you mean terminal"), ("", "", "name at least one"),
        ("terminal", "android=1", "'android' is not among"), ("terminal", "terminal", "write terminal=2"),
        ("terminal", "terminal=0", "above 0"), ("terminal", "terminal=nan", "above 0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            mixture.parse(domains, mix)
    assert mixture.shares({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}
    assert mixture.alternating(["aaaa", "bb"]) == list("abaaba")


def test_a_mixed_task_list_alternates_and_one_domain_is_its_own() -> None:
    alone = mixture.generate({"terminal": 2.0}, "train", 40, 3)
    assert alone == kit("terminal").generate("train", 40, 3)
    both = mixture.generate({"terminal": 1.0, "android": 1.0}, "train", 20, 3)
    assert Counter(task.domain for task in both) == {"terminal": 10, "android": 10} == mixture.of(both)
    assert {task.domain for task in both[:2]} == {"terminal", "android"} and len({task.id for task in both}) == 20


@pytest.mark.parametrize("chosen", [True, False])
def test_families_are_left_out(monkeypatch: pytest.MonkeyPatch, chosen: bool) -> None:
    """Where a domain can be asked for families, and where it cannot."""
    terminal = kit("terminal")
    first, *_ = terminal.generate("train", 1, 0)
    if not chosen:
        monkeypatch.setattr(mixture, "kit", lambda name: replace(terminal, of_families=None))
    for name in (first.family, f"terminal/{first.family}"):
        found = mixture.generate({"terminal": 1.0}, "train", 30, 0, [name])
        assert len(found) == 30 and first.family not in {task.family for task in found}
    every = [task.family for task in terminal.generate("train", 80, 0)]
    assert mixture.generate({"terminal": 1.0}, "train", 30, 0, every) == []


# ------------------------------------------------------------------------------------------------ a mixed corpus


@pytest.mark.sandbox
def test_one_corpus_of_several_domains_has_one_manifest(tmp_path: Path) -> None:
    said: list[str] = []
    mix = {"terminal": 1.0, "android": 2.0}
    manifest = collect(tmp_path / "t", "train", 12, 0, 1, said.append, mix)
    parts = manifest["by_domain"]
    assert {name: part["n_episodes"] for name, part in parts.items()} == {"terminal": 4, "android": 8}
    assert sum(part["n_transitions"] for part in parts.values()) == manifest["n_transitions"]
    assert parts["android"]["by_command_class"]["dump"] and "dump" not in parts["terminal"]["by_command_class"]
    assert manifest["seed"] == 0 and manifest["versions"] and manifest["lost"] == {"terminal": 0, "android": 0}
    assert "--domain terminal,android --mix terminal=1,android=2" in manifest["command"]
    episodes = list(read_episodes(tmp_path / "t"))
    assert [e for e in episodes if e.domain == "terminal"] == collect_share("train", 0, 0, 4)
    assert read_manifest(tmp_path / "t") == manifest

    listed = list(vocabulary_texts(episodes * 10))
    assert kit("android").domain.spec(episodes[-1].world).initial_state in listed
    assert "Notes" in listed and "NOTES" not in listed, "a domain's own words"
    chat = build_chat()
    rows = world_rows(episodes, chat, 0)
    assert len(rows) == len(episodes)
    assert all(chat.decode(ids).count("five-part") == 0 and any(mask) for ids, mask in rows)
    assert [len(ids) for ids, _ in world_rows(episodes[:4], chat, 0)] == [len(ids) for ids, _ in rows[:4]]


def test_long_sessions_go_on_without_their_oldest_turns() -> None:
    chat, domain = build_chat(), kit("android").domain
    episodes = collect_share("train", 2, 0, 6, "android")
    for episode in episodes:
        row = session_row(episode, domain.spec(episode.world), Transcript(), keep_all, random.Random(0))
        assert row is not None
        limit = len(chat.prompt(row.messages[:2])) + 2500
        parts = windows(row, chat, limit)
        trained = [m.content for p in parts for m, flag in zip(p.messages, p.loss, strict=True) if flag]
        whole = [m.content for m, flag in zip(row.messages, row.loss, strict=True) if flag]
        assert trained == whole, "every reply is in the loss once, in order"
        assert all(part.messages[0] == row.messages[0] for part in parts)
        from launch.world import tokens

        assert all(len(tokens(part, chat)[0]) <= limit for part in parts)
        assert windows(row, chat, 10**6) == [row]
        assert windows(row, chat, 50) == [], "nothing fits"


def test_open_observations_leave_the_loss() -> None:
    chat = build_chat()
    world = World(domain_state())
    episode = replace(differing(example("77"), example("88")), world=world)
    ((ids, mask),) = world_rows([episode], chat, 0)
    assert chat.decode([i for i, flag in zip(ids, mask, strict=True) if flag]).replace("<|end|>", "") == "x"


def test_demonstrations_of_a_mixture_begin_with_what_their_world_shows() -> None:
    chat = build_chat()
    tasks = kit("android").generate("train", 3, 0)
    rows = demonstrations(tasks, chat, WarmRecipe(gold=1.0, max_length=8192))
    for task, (ids, mask) in zip(tasks, rows, strict=True):
        trained = chat.decode([i for i, flag in zip(ids, mask, strict=True) if flag])
        assert all(action in trained for action in task.reference.gold) and mask[-1] == 1
        assert task.instruction in chat.decode([i for i, flag in zip(ids, mask, strict=True) if not flag])


def test_a_session_may_be_empty() -> None:
    task = kit("android").generate("train", 1, 0)[0]
    episode = record(task, Session("empty", (), tuple(p for check in task.checks for p in check.probes)))
    assert episode.success is False and all(t.probe for t in episode.transitions)
