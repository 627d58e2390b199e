"""Turn-level masking: classes, ratios, stability."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.masking import KEEP_RATIOS, TurnMasking, keep_all, statistics, turn_class
from worldmodel.types import Transition


@pytest.mark.parametrize(
    ("action", "observation", "expected"),
    [
        ("cat notes.txt", "apples and pears\nplums are cheap", "retrieval"),
        ("echo hello world", "hello world echo", "echo"),
        ("rm a b c d", "rm a b", "boilerplate"),
        ("sort -u numbers.txt", "", "transform"),
        ("grep apple list", "apple grep list one two three four", "expansion"),
        ("python3 compute_everything.py", "42", "action"),
        ("wc", "---", "other"),
    ],
)
def test_classes(action: str, observation: str, expected: str) -> None:
    assert turn_class(action, observation) == expected


def test_statistics_are_over_lower_cased_sets_and_characters() -> None:
    s = statistics("Cat cat DOG", "dog bird bird fish")
    assert (s.overlap, s.novelty) == (1 / 2, 2 / 3)
    assert s.length_ratio == pytest.approx(18 / 11)


@given(st.text(), st.text())
def test_any_text_has_a_class(action: str, observation: str) -> None:
    assert turn_class(action, observation) in KEEP_RATIOS


def test_kept_shares_match_the_ratios_and_do_not_depend_on_order() -> None:
    turns = [Transition(f"e{i}", 0, "sort -u numbers.txt", "") for i in range(2000)]
    mask = TurnMasking(seed=1)
    kept = [mask(t) for t in turns]
    assert 0.45 < sum(kept) / len(kept) < 0.55
    assert kept[::-1] == [TurnMasking(seed=1)(t) for t in turns[::-1]]
    assert kept != [TurnMasking(seed=2)(t) for t in turns]
    assert sum(TurnMasking()(Transition(f"e{i}", 0, "echo a b", "echo a b")) for i in range(1000)) < 90


def test_probes_and_informative_turns_are_always_kept() -> None:
    assert all(TurnMasking()(Transition(f"e{i}", 0, "echo a b", "echo a b", probe=True)) for i in range(50))
    assert all(TurnMasking()(Transition(f"e{i}", 0, "cat x", "many new words here")) for i in range(50))
    assert keep_all(Transition("e", 0, "echo a b", "echo a b"))
