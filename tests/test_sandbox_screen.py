"""Raw bytes become at most 40 rows of clean text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.sandbox.screen import CUT, clean, render
from worldmodel.sandbox.terminal import encode


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"a\nb\n", "a\nb"),
        (b"a\n\n\nb\n\n", "a\n\n\nb"),
        (b"  lead\ttab \n", "  lead\ttab "),
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b(B", "red x"),
        (b"10%\r50%\r100%\n", "100%"),
        (b"abcdef\rxy\n", "xycdef"),
        (b"ab\bc\r\n", "ac"),
        (b"a\x00b\x07\x7fc", "abc"),
        (b"caf\xc3\xa9 \xff", "caf\u00e9 \ufffd"),
        ("x\u202ey\u2066z".encode(), "xyz"),
    ],
)
def test_text_as_a_terminal_shows_it(raw: bytes, text: str) -> None:
    screen = render(raw, 0)
    assert (screen.text, screen.cut, screen.end, screen.status) == (text, False, "ok", 0)


def test_the_last_forty_rows_stay_and_a_line_says_so() -> None:
    forty = "\n".join(map(str, range(40)))
    assert render(forty.encode(), 0).text == forty
    lines = render("\n".join(map(str, range(41))).encode(), 0).text.split("\n")
    assert lines == [CUT, *map(str, range(2, 41))]


def test_long_lines_count_as_the_rows_they_fill() -> None:
    screen = render(("x" * 80 * 39 + "\nend").encode(), 0)
    assert not screen.cut and screen.text.endswith("x\nend")
    screen = render(("first\n" + "x" * 80 * 39 + "\nend").encode(), 0)
    assert screen.text.split("\n")[0] == CUT and "first" not in screen.text
    screen = render(b"y" * 10_000, 0)
    assert screen.text == CUT + "\n" + "y" * 80 * 39


@pytest.mark.parametrize(("end", "note"), [("timeout", "[timed out]"), ("flood", "[too much output]")])
def test_a_killed_command_says_why_on_the_last_line(end: str, note: str) -> None:
    assert render(b"part", None, end).text == f"part\n{note}"  # type: ignore[arg-type]
    assert render(b"", None, end).text == note  # type: ignore[arg-type]
    assert len(render(b"y\n" * 100, None, end).text.split("\n")) == 40  # type: ignore[arg-type]


@given(st.binary(max_size=6000) | st.text(max_size=3000).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_become_a_clean_screen(raw: bytes) -> None:
    screen = render(raw, 0)
    rows = sum(max(1, -(-len(line.expandtabs()) // 80)) for line in screen.text.split("\n"))
    assert rows <= 40
    assert all(char in "\t\n" or ord(char) >= 32 for char in screen.text)
    assert not any(0x7F <= ord(char) <= 0x9F for char in screen.text)
    assert clean(screen.text) == screen.text


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=200))
def test_printable_text_is_kept_verbatim(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        ("ls\n", b"ls\r"),
        ("C-c", b"\x03"),
        ("C-d C-z", b"\x04\x1a"),
        ("C-l\n", b"\x0c"),
        ("Up Enter", b"\x1b[A\r"),
        ("echo C-c", b"echo C-c"),
        ("Escape", b"\x1b"),
        ("", b""),
        ("\n", b"\r"),
        ("é\r\n", "é\r".encode()),
    ],
)
def test_key_names_are_keys_only_when_alone(keys: str, sent: bytes) -> None:
    assert encode(keys) == sent
