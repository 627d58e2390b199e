"""The five-part prompt, compact and headed."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from worldmodel.prompt import HEADINGS, compact, headed
from worldmodel.types import WorldSpec

FULL = WorldSpec("terminal", "You are a shell.", "One command.", "$ cat a\n  1\n", "demo", "Be exact.", "answer: 7")


def test_compact_joins_parts_by_one_newline_and_adds_nothing() -> None:
    assert compact(FULL) == "You are a shell.\nOne command.\n$ cat a\n  1\ndemo\nBe exact.\nanswer: 7"


def test_empty_parts_cost_no_token() -> None:
    assert compact(WorldSpec("terminal", "", "", "state", "", "")) == "state"
    assert compact(WorldSpec("terminal", "", " \n", "state")) == "state"


def test_headed_names_present_parts_in_order_and_ends_on_the_clause() -> None:
    text = headed(FULL, "Use the tag.")
    places = [text.index(f"## {heading}\n") for heading in HEADINGS]
    assert places == sorted(places)
    assert text.endswith("## Output format\nUse the tag.")
    assert "Demonstrations" not in headed(WorldSpec("terminal", "a", "b", "c"))


@given(st.text(alphabet="ab \n\t.", max_size=40).filter(lambda t: t.strip()))
def test_state_text_is_never_altered_inside(state: str) -> None:
    for text in (compact(WorldSpec("d", "t", "a", state)), headed(WorldSpec("d", "t", "a", state))):
        assert state.strip("\n") in text


def test_a_spec_has_no_place_for_what_only_rewards_know() -> None:
    assert not {"instruction", "checks", "reference"} & {f.name for f in fields(WorldSpec)}
