"""The command line's boundary: a user's mistake becomes one line and an exit status.

Owns: the wording of validation errors, the nearest valid key, terminal-safe text, exit codes.
Refuses: catching programming errors; those crash with their traceback and status 1.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from rollout.errors import AgentworldError, ConfigError

USER_ERROR = 2
# C0 and C1 controls (escape sequences start with one), and the bidirectional overrides.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class UserError(AgentworldError):
    """A command was given something it cannot use."""


def strip_controls(text: str) -> str:
    """``text`` without control characters except tab and newline, so that it cannot drive a terminal."""
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """``text`` as one printable line."""
    return " ".join(strip_controls(text.replace("\r", " ")).split())


def nearest(key: str, valid: Iterable[str]) -> str | None:
    """The valid name most like ``key``, or None when nothing is close."""
    found = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.6)
    return found[0] if found else None


def describe(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """The first problem of a pydantic error as one line: source, dotted key, what is wrong, nearest valid key."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path) or "(top level)"
    if first["type"] == "extra_forbidden":
        return f"{source}: unknown key '{key}'{_suggestion(path, model)}"
    if first["type"] == "missing":
        return f"{source}: key '{key}' is missing"
    got = "" if isinstance(first["input"], dict | list) else f" (got {first['input']!r})"
    return one_line(f"{source}: key '{key}': {first['msg'].removeprefix('Value error, ')}{got}")


def _suggestion(path: Sequence[str], model: type[BaseModel]) -> str:
    close = nearest(path[-1], _fields_at(path[:-1], model))
    if close:
        return f"; did you mean '{'.'.join([*path[:-1], close])}'?"
    elsewhere = [p for p in leaf_keys(model) if p.rsplit(".", 1)[-1] == path[-1]]
    if elsewhere:
        return f"; did you mean '{elsewhere[0]}'?"
    return f"; valid keys here: {', '.join(_fields_at(path[:-1], model))}"


def _fields_at(path: Sequence[str], model: type[BaseModel]) -> list[str]:
    for part in path:
        if part.isdigit():  # an item of a list has the fields of the list's type
            continue
        field = model.model_fields.get(part)
        inner = _model_of(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_of(annotation: object) -> type[BaseModel] | None:
    """The config class inside ``X`` or ``X | None``."""
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def leaf_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of every field a user can set."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        inner = _model_of(field.annotation)
        keys += leaf_keys(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return keys


def need_file(path: Path | str, what: str) -> Path:
    """``path`` if it is a file, else a one-line UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such {what}")
    return path


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns AgentworldError into one red line and exit status 2. Everything else propagates."""
    try:
        yield
    except AgentworldError as error:
        print(_red(f"error: {one_line(str(error))}"), file=sys.stderr)
        raise SystemExit(USER_ERROR) from error


def _red(text: str) -> str:
    return f"\x1b[31m{text}\x1b[0m" if sys.stderr.isatty() else text


__all__ = [
    "ConfigError",
    "UserError",
    "describe",
    "leaf_keys",
    "nearest",
    "need_file",
    "one_line",
    "strip_controls",
    "user_errors",
]
