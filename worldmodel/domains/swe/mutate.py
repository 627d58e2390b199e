"""Bugs in Python source: one token, several tokens, or a whole function body.

Owns: where a function may be changed and to what; edits as offsets. Refuses: knowing whether a test notices
(``build`` tries that).
"""

from __future__ import annotations

import ast
import io
import random
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SWAPS: dict[str, tuple[str, ...]] = {
    "<": ("<=", ">"), "<=": ("<", ">="), ">": (">=", "<"), ">=": (">", "<="), "==": ("!=",), "!=": ("==",),
    "+": ("-",), "-": ("+",), "*": ("+", "//"), "//": ("*", "%"), "/": ("*",), "%": ("//",), "+=": ("-=",),
    "-=": ("+=",), "and": ("or",), "or": ("and",), "True": ("False",), "False": ("True",), "in": ("not in",),
    "is": ("is not",), "not": ("",), "min": ("max",), "max": ("min",), "any": ("all",), "all": ("any",),
    "break": ("continue",), "continue": ("break",), "append": ("extend",), "extend": ("append",), "None": ("0",),
    "len": ("bool",), "lower": ("upper",), "upper": ("lower",), "keys": ("values",), "values": ("keys",),
    "startswith": ("endswith",), "endswith": ("startswith",), "next": ("list",), "isinstance": ("issubclass",),
    "strip": ("lstrip", "rstrip"), "lstrip": ("rstrip",), "rstrip": ("lstrip",), "yield": ("return",),
    "find": ("rfind",), "rfind": ("find",), "first": ("last",), "ljust": ("rjust",), "rjust": ("ljust",),
}  # fmt: skip
REMOVED, EMPTY = "raise NotImplementedError", "return None"


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters ``start`` to ``stop`` of the pristine text become ``new``."""

    start: int
    stop: int
    new: str


@dataclass(frozen=True, slots=True)
class Place:
    """One token that may be changed, and to what."""

    start: int
    stop: int
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """An outermost function or a method. ``lines``: first (with decorators) to last, from 1; ``body``: offsets of what
    follows the docstring."""

    name: str
    lines: tuple[int, int]
    body: tuple[int, int]
    places: tuple[Place, ...]


def apply(text: str, edits: Sequence[Edit]) -> str:
    """``text`` with all ``edits`` made; they do not overlap."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.new + text[edit.stop :]
    return text


def parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def functions(text: str) -> list[Function]:
    """Every function with a body of its own line. Raises SyntaxError."""
    starts = line_starts(text)
    tokens = list(tokenize.generate_tokens(io.StringIO(text, newline="").readline))
    found = []
    for name, node in _outermost(ast.parse(text), ""):
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        if not body or body[0].lineno <= node.lineno or node.end_lineno is None:
            continue
        top = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        first, last = body[0].lineno, node.end_lineno
        begin = starts[first - 1] + len(_indent(text[starts[first - 1] :]))
        end = starts[last] if last < len(starts) else len(text)
        arguments = tuple(argument.arg for argument in (*node.args.posonlyargs, *node.args.args))
        names = tuple(name for name in arguments if name not in ("self", "cls"))
        inside = [token for token in tokens if first <= token.start[0] and token.end[0] <= last]
        places = tuple(place for token in inside for place in _places(token, starts, names))
        found.append(Function(name, (top, last), (begin, begin + len(text[begin:end].rstrip())), places))
    return found


def line_starts(text: str) -> list[int]:
    """Offset of each line."""
    starts = [0]
    for line in io.StringIO(text, newline=""):
        starts.append(starts[-1] + len(line))
    return starts[:-1] or [0]


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _outermost(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _outermost(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _outermost(node, prefix)


def _places(token: tokenize.TokenInfo, starts: Sequence[int], names: Sequence[str]) -> Iterator[Place]:
    choices: tuple[str, ...] = ()
    if token.type in (tokenize.OP, tokenize.NAME):
        choices = SWAPS.get(token.string, ())
        if token.string in names:
            choices = tuple(name for name in names if name != token.string)[:2]
    elif token.type == tokenize.NUMBER and token.string.isdigit():
        choices = (str(int(token.string) + 1), str(max(0, int(token.string) - 1)))
    start = starts[token.start[0] - 1] + token.start[1]
    if choices := tuple(choice for choice in choices if choice != token.string):
        yield Place(start, start + len(token.string), choices)


def one_token(function: Function) -> list[tuple[Edit, ...]]:
    """Every bug of one token."""
    return [(Edit(p.start, p.stop, choice),) for p in function.places for choice in p.choices]


def several_tokens(function: Function, rng: random.Random) -> tuple[Edit, ...] | None:
    """Two or three tokens of one function, or None where it has too few."""
    if len(function.places) < 4:
        return None
    chosen = rng.sample(function.places, rng.choice((2, 2, 3)))
    return tuple(Edit(p.start, p.stop, rng.choice(p.choices)) for p in sorted(chosen, key=lambda place: place.start))


def whole_body(function: Function, new: str = REMOVED) -> tuple[Edit, ...]:
    """What follows the docstring is gone."""
    return (Edit(*function.body, new),)
