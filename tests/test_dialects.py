"""Wire formats: what is sent, what is read back, what is trained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.types import World
from worldmodel.dialects import dialect
from worldmodel.dialects.reference import MARKER, OUTPUT_CLAUSE
from worldmodel.dialects.rows import rows
from worldmodel.masking import keep_all
from worldmodel.types import Episode, Exchange, PredictRequest, Transition, WorldSpec

SPEC = WorldSpec("terminal", "A shell.", "One command.", "a.txt: 1")
TRANSCRIPT, REFERENCE = dialect("transcript"), dialect("reference")
texts = st.text(max_size=60)


def request(action: str = "ls", *history: tuple[str, str]) -> PredictRequest:
    return PredictRequest(SPEC, tuple(Exchange(*pair) for pair in history), action, 0, 1e9)


def test_transcript_is_the_session_itself() -> None:
    assert TRANSCRIPT.messages(request("cat a.txt", ("mkdir d", ""), ("ls", "a.txt\nd"))) == [
        ("system", "A shell.\nOne command.\na.txt: 1"),
        ("user", "mkdir d"),
        ("assistant", ""),
        ("user", "ls"),
        ("assistant", "a.txt\nd"),
        ("user", "cat a.txt"),
    ]


@given(texts.filter(lambda t: "<" not in t))
def test_transcript_extracts_what_it_was_trained_on(observation: str) -> None:
    assert TRANSCRIPT.extract(TRANSCRIPT.assistant(observation) + "<|im_end|>") == observation


@pytest.mark.parametrize(
    ("raw", "observation"),
    [
        ("", ""),
        ("  indented\n", "  indented\n"),
        ("<think>hm</think>\n\nb.txt", "b.txt"),
        ("<think>hm</think>\n\n", ""),
        ("see <think>this</think>", "see <think>this</think>"),  # file content, not a thought
        ("b.txt<|endoftext|>", "b.txt"),
    ],
)
def test_transcript_extraction(raw: str, observation: str) -> None:
    assert TRANSCRIPT.extract(raw) == observation


def test_transcript_refuses_a_reply_that_never_left_its_thoughts() -> None:
    with pytest.raises(ValueError, match="thoughts"):
        TRANSCRIPT.extract("<think>let me")


def test_reference_turns() -> None:
    messages = REFERENCE.messages(request('[{"keystrokes": "ls\\n"}]', ("cat a", "1")))
    assert messages[0][1].endswith(f"## Output format\n{OUTPUT_CLAUSE}")
    assert messages[1:] == [
        ("user", "### Turn 1\n**Action:**\n```\ncat a\n```"),
        ("assistant", f"{MARKER}\n1"),
        ("user", '### Turn 2\n**Action:**\n```json\n[\n  {\n    "keystrokes": "ls\\n"\n  }\n]\n```'),
    ]


def test_reference_does_not_ask_twice_where_the_prompt_names_the_tag() -> None:
    spec = WorldSpec("web", "A browser.", "Clicks.", "page", simulation_instruction="Use <predicted_observation>.")
    assert "Output format" not in REFERENCE.system(spec)


@pytest.mark.parametrize(
    ("raw", "observation"),
    [
        ("<predicted_observation>\na\n  b\n</predicted_observation>", "a\n  b"),
        (
            "<predicted_observation>old</predicted_observation> so <PREDICTED_OBSERVATION>new</Predicted_Observation>",
            "new",
        ),
        ("<predicted_observation>cut off", "cut off"),
        ("<predicted_observation></predicted_observation>", ""),
        ("<think>no <predicted_observation>x</predicted_observation></think>plain", "plain"),
        ("half a thought</think>\nafter", "after"),
        ("<think>one</think>two</think>three", "three"),
        ("<think>open <predicted_observation>kept</predicted_observation>", "kept"),
        (f"<think>t</think>{MARKER}\n$ ls", "$ ls"),
        (f"<predicted_observation>{MARKER}\n$ ls</predicted_observation>", "$ ls"),
        ("no tag at all<|im_end|>", "no tag at all"),
    ],
)
def test_reference_extraction(raw: str, observation: str) -> None:
    assert REFERENCE.extract(raw) == observation


@pytest.mark.parametrize("raw", ["", " \n", "<think>never closed", "<think>a</think>"])
def test_reference_never_turns_nothing_into_an_observation(raw: str) -> None:
    with pytest.raises(ValueError, match="no text"):
        REFERENCE.extract(raw)


@given(st.sampled_from([TRANSCRIPT, REFERENCE]), st.lists(st.tuples(texts, texts), max_size=4), texts)
def test_messages_are_the_single_turns_in_order(wire, history, action) -> None:
    expected = [("system", wire.system(SPEC))]
    for turn, (act, observation) in enumerate(history):
        expected += [("user", wire.user(act, turn)), ("assistant", wire.assistant(observation))]
    assert wire.messages(request(action, *history)) == [*expected, ("user", wire.user(action, len(history)))]


@given(st.sampled_from([TRANSCRIPT, REFERENCE]), st.text())
def test_extraction_gives_text_or_a_value_error(wire, raw: str) -> None:
    try:
        assert isinstance(wire.extract(raw), str)
    except ValueError as error:
        assert str(error)


# ------------------------------------------------------------------------------------------------ training rows


def episode(steps: int = 2, probes: int = 2) -> Episode:
    history = [Transition("e", i, f"do {i}", f"did {i}") for i in range(steps)]
    branches = [Transition("e", steps + i, f"probe {i}", f"saw {i}", probe=True) for i in range(probes)]
    return Episode("e", "t", "terminal", "f", "gold", World(), (*history, *branches), True)


def trained(row) -> list[str]:
    return [m.content for m, flag in zip(row.messages, row.loss, strict=True) if flag]


def test_every_probe_ends_a_row_of_its_own() -> None:
    first, second = rows(episode(), SPEC, TRANSCRIPT, keep_all)
    assert trained(first) == ["did 0", "did 1", "saw 0"]
    assert trained(second) == ["saw 1"]
    for row, other in ((first, "1"), (second, "0")):
        contents = [m.content for m in row.messages]
        assert f"probe {other}" not in contents and f"saw {other}" not in contents
        assert contents[:5] == [TRANSCRIPT.system(SPEC), "do 0", "did 0", "do 1", "did 1"]


def test_a_row_is_the_prompt_that_will_be_asked_plus_the_answer() -> None:
    row = rows(episode(2, 1), SPEC, REFERENCE, keep_all)[0]
    asked = REFERENCE.messages(request("probe 0", ("do 0", "did 0"), ("do 1", "did 1")))
    assert [(m.role, m.content) for m in row.messages] == [*asked, ("assistant", REFERENCE.assistant("saw 0"))]


def test_loss_is_on_assistant_turns_only_and_rows_without_loss_vanish() -> None:
    for row in rows(episode(3, 3), SPEC, TRANSCRIPT, keep_all):
        assert all(m.role == "assistant" for m, flag in zip(row.messages, row.loss, strict=True) if flag)
    assert rows(episode(), SPEC, TRANSCRIPT, lambda t: False) == []
    assert [trained(r) for r in rows(episode(2, 0), SPEC, TRANSCRIPT, keep_all)] == [["did 0", "did 1"]]


def test_max_probes_draws_a_stable_subset() -> None:
    drawn = rows(episode(1, 6), SPEC, TRANSCRIPT, keep_all, max_probes=2)
    assert len(drawn) == 2
    assert drawn == rows(episode(1, 6), SPEC, TRANSCRIPT, keep_all, max_probes=2)
    assert [trained(r) for r in rows(episode(1, 6), SPEC, TRANSCRIPT, keep_all, max_probes=0)] == [["did 0"]]


def test_brief_says_what_differs_between_worlds_and_nothing_else() -> None:
    spec = WorldSpec("terminal", "A shell.", "One command.", "a.txt: 1", "$ ls", "Answer.", "disk full")
    asked = PredictRequest(spec, (Exchange("ls", "a.txt"),), "cat a.txt", 0, 1e9)
    said = dialect("brief").messages(asked)
    assert said[0] == ("system", "terminal\na.txt: 1\ndisk full")
    assert said[1:] == TRANSCRIPT.messages(asked)[1:]
