"""What a report shows, as plain data that goes to JSON and back.

Owns: the nouns of a report and their file form (``report.json``). Refuses: computing any of the numbers.
All rates are fractions in [0, 1]; gains are differences of such fractions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from launch.errors import UserError, need_file, one_line

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, config=_STRICT)
class Rate:
    """A mean with its 95 % interval over ``n`` tasks."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, config=_STRICT)
class Outcome:
    """Success of one arm in one world, before and after training, with the paired gain."""

    arm: str
    world: str
    before: Rate
    after: Rate
    gain: Rate


@dataclass(frozen=True, slots=True, config=_STRICT)
class Line:
    """One curve. ``points`` are (x, y); ``band`` is empty or one (low, high) a point."""

    label: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, config=_STRICT)
class Chart:
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, config=_STRICT)
class Dot:
    """One point with its interval. ``hollow``: drawn as an outline."""

    x: float
    y: float
    low: float
    high: float
    hollow: bool = False


@dataclass(frozen=True, slots=True, config=_STRICT)
class Scatter:
    """Points over one quantity, or over named places: then x counts through ``ticks``."""

    title: str
    x_label: str
    y_label: str
    dots: tuple[Dot, ...]
    ticks: tuple[str, ...] = ()
    log_x: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, config=_STRICT)
class FamilyBars:
    """One task family: mean success before and after, real and simulated. None = not measured there."""

    family: str
    real_before: float | None
    real_after: float | None
    sim_before: float | None = None
    sim_after: float | None = None
    held_out: bool = False


@dataclass(frozen=True, slots=True, config=_STRICT)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True, config=_STRICT)
class Step:
    action: str
    observation: str


@dataclass(frozen=True, slots=True, config=_STRICT)
class Run:
    """One episode as shown: its steps, how it stopped, the verdict (None: no verdict) and its policy."""

    steps: tuple[Step, ...]
    stop: str
    success: bool | None


@dataclass(frozen=True, slots=True, config=_STRICT)
class Sample:
    """The same task in both worlds."""

    task: str
    family: str
    instruction: str
    simulated: Run
    real: Run
    note: str = ""


@dataclass(frozen=True, slots=True, config=_STRICT)
class ReportData:
    """A whole report. ``facts`` are short (name, value) pairs; ``notes`` are sentences at the end."""

    title: str
    summary: str
    facts: tuple[tuple[str, str], ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    charts: tuple[Chart, ...] = ()
    scatters: tuple[Scatter, ...] = ()
    families: tuple[FamilyBars, ...] = ()
    tables: tuple[Table, ...] = ()
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()


def to_json(data: ReportData) -> str:
    return json.dumps(dataclasses.asdict(data), indent=1, allow_nan=False)


def from_json(raw: Mapping[str, Any], source: str = "report.json") -> ReportData:
    """The inverse of ``to_json``. Raises UserError naming the source and the field."""
    try:
        return TypeAdapter(ReportData).validate_python(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "(top level)"
        raise UserError(one_line(f"{source}: {where}: {first['msg']}")) from error


def read(path: Path) -> ReportData:
    """A report.json. Raises UserError, one line."""
    need_file(path, "report data file")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {one_line(str(error))}") from error
    return from_json(raw, str(path))
