"""The result of a sweep: one row per trial, best first, and the page that shows it.

Owns: ranking, the interval over seeds, ``table.json`` (the same for the same results, to the last bit: nothing in it
is timed) and the report's charts. Refuses: leaving a trial out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.evaluate import write_json
from launch.report.data import Chart, Dot, Line, ReportData, Scatter
from launch.report.data import Table as ReportTable
from launch.sweep.config import Sweep, SweepConfig, flat, text_of
from launch.sweep.ledger import Failed, Fate, Reached, State, Trial
from launch.sweep.plan import tokens
from launch.sweep.unit import evaluation_file
from rollout.evaluate import Interval

TABLE = "table.json"
CURVES = 5  # of the best trials
_ORDER: dict[str | None, int] = {"finished": 0, "pruned": 1, None: 2, "failed": 3}
_FATE: dict[Fate | None, str] = {"finished": "finished", "pruned": "pruned", "failed": "failed", None: "under way"}
# Student's t at 97.5 % for 1 .. 10 degrees of freedom
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


@dataclass(frozen=True, slots=True)
class Row:
    """One trial after ``step`` optimiser steps. ``success`` over the seeds that got there, None without any;
    ``seeds``: value by seed; ``coverage``: the lowest; ``reason``: why it failed."""

    trial: int
    fate: str
    step: int
    success: Interval | None
    seeds: Mapping[str, float]
    coverage: float | None
    tokens: int
    values: Mapping[str, Any]
    reason: str = ""


def rows(config: SweepConfig, state: State) -> list[Row]:
    """Finished trials by their mean; then the pruned ones, by how far they came; then those under way and failed."""
    made = [_row(config, trial) for trial in state.trials]

    def order(row: Row) -> tuple[int, int, float, int]:
        fate = next(key for key, name in _FATE.items() if name == row.fate)
        return (_ORDER[fate], -row.step, -(row.success.mean if row.success else -1.0), row.trial)

    return sorted(made, key=order)


def _row(config: SweepConfig, trial: Trial) -> Row:
    step = trial.step or max((step for _, step in trial.reached), default=0)
    found: list[Reached] = [trial.reached[seed, step] for seed in config.seeds if (seed, step) in trial.reached]
    broken: list[Failed] = [trial.failed[key] for key in sorted(trial.failed)]
    return Row(
        trial=trial.number,
        fate=_FATE[trial.fate],
        step=step,
        success=over_seeds([item.value for item in found]) if found else None,
        seeds={str(item.unit.seed): item.value for item in found},
        coverage=min((item.coverage for item in found), default=None),
        tokens=tokens(trial),
        values=dict(trial.values),
        reason=f"seed {broken[0].unit.seed}: {broken[0].reason}" if broken else "",
    )


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of rates by Student's t, cut to [0, 1]. One seed alone says nothing about another: its
    interval is everything. (A bootstrap of two or three values would look far more certain than it is.)"""
    count, mean = len(values), sum(values) / len(values)
    if count == 1:
        return Interval(mean, 0.0, 1.0, 1)
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    half = student(count - 1) * error
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), count)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; beyond the table by its expansion around the normal quantile (4 digits)."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = 1.959964
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def table(config: SweepConfig, found: Sequence[Row]) -> list[tuple[str, ...]]:
    """What the page shows, header first."""
    header = ("", "fate", "step", str(config.metric), "over seeds", "by seed", "coverage", "tokens", "values")
    return [header, *(_cells(config, row) for row in found)]


def short_table(config: SweepConfig, found: Sequence[Row]) -> list[tuple[str, ...]]:
    """What the command prints."""
    return [(*row[:5], row[-1]) for row in table(config, found)]


def _cells(config: SweepConfig, row: Row) -> tuple[str, ...]:
    s = row.success
    return (
        f"trial {row.trial}",
        row.fate,
        str(row.step),
        f"{s.mean:.1%}" if s else "-",
        f"{s.low:.1%} to {s.high:.1%}" if s and s.count > 1 else "-",
        " ".join(f"{value:.1%}" for value in row.seeds.values()) or "-",
        "-" if row.coverage is None else f"{row.coverage:.1%}",
        f"{row.tokens:,}",
        row.reason or text_of(config, row.values),
    )


def write_table(sweep: Sweep, found: Sequence[Row]) -> Path:
    """``table.json``: rows in order, with the exact command-line overrides of each trial."""
    file = sweep.folder / TABLE
    write_json(
        file,
        {
            "metric": sweep.config.metric,
            "seeds": list(sweep.config.seeds),
            "rows": [{**asdict(row), "keys": flat(sweep.config, row.values)} for row in found],
        },
    )
    return file


def report(sweep: Sweep, state: State, found: Sequence[Row], reason: str) -> ReportData:
    """The page: the table, how the best came about, what the best did over time, and each parameter."""
    config = sweep.config
    fates = [row.fate for row in found]
    best = next((row for row in found if row.fate == "finished" and row.success), None)
    header, *lines = table(config, found)
    summary = "No trial was trained to its end."
    if best is not None and best.success is not None:
        interval = f" (95 % over {best.success.count} seeds: {best.success.low:.1%} to {best.success.high:.1%})"
        summary = (
            f"Best: trial {best.trial}, {best.success.mean:.1%} real held-out {config.metric}"
            f"{interval if best.success.count > 1 else ''}: {text_of(config, best.values)}."
        )
    counts = [(name, str(fates.count(name))) for name in _FATE.values() if name in fates]
    facts = (("trials", str(len(found))), *counts, ("seeds", ", ".join(map(str, config.seeds))))
    return ReportData(
        title=f"Sweep {sweep.folder.name}",
        summary=summary,
        facts=(*facts, ("hours", f"{state.seconds / 3600:.2f}"), ("ended by", reason or "not over")),
        charts=(_progress(config, state), *_curves(sweep, found)),
        scatters=tuple(_scatter(config, name, found) for name in config.parameters),
        tables=(ReportTable("Trials", header, tuple(lines), "Intervals: Student's t over seeds, 95 %."),),
        notes=(
            "The best of many means is biased upwards: evaluate its model on tasks that the sweep never saw.",
            "Failed trials are never ranked; pruned ones stand at the step at which they were stopped.",
        ),
    )


def _progress(config: SweepConfig, state: State) -> Chart:
    best: list[tuple[float, float]] = []
    own: list[tuple[float, float]] = []
    for row in (_row(config, trial) for trial in state.trials if trial.fate == "finished"):
        assert row.success is not None
        own.append((float(row.trial), row.success.mean))
        best.append((float(row.trial), max(row.success.mean, best[-1][1] if best else 0.0)))
    lines = (Line("this trial", tuple(own)), Line("best so far", tuple(best))) if own else ()
    return Chart("Finished trials", "trial", f"real {config.metric}", lines)


def _curves(sweep: Sweep, found: Sequence[Row]) -> tuple[Chart, ...]:
    lines = []
    for row in [row for row in found if row.fate == "finished"][:CURVES]:
        points = tuple((float(s), v) for s in _steps(sweep) if (v := _mean_of_files(sweep, row.trial, s)) is not None)
        if points:
            lines.append(Line(f"trial {row.trial}", points))
    note = "Mean over seeds of the greedy policy in the real world; step 0 is before training."
    return (Chart(f"The best {len(lines)} over time", "optimiser step", "real success", tuple(lines), note),)


def _steps(sweep: Sweep) -> range:
    return range(0, sweep.rungs[-1] + 1, sweep.base.eval_every)


def _mean_of_files(sweep: Sweep, trial: int, step: int) -> float | None:
    files = [evaluation_file(sweep.run_dir(trial, seed), step) for seed in sweep.config.seeds]
    if not all(file.is_file() for file in files):
        return None
    values = [json.loads(file.read_text(encoding="utf-8"))["success"]["mean"] for file in files]
    return float(sum(values) / len(values))


def _scatter(config: SweepConfig, name: str, found: Sequence[Row]) -> Scatter:
    parameter, dots = config.parameters[name], []
    options = parameter.choice or ()
    texts = [json.dumps(option, sort_keys=True) for option in options]
    ticks = tuple(text_of(config, {name: option}) if parameter.joint else str(option) for option in options)
    for row in found:
        if row.success is None or row.fate not in ("finished", "pruned"):
            continue
        x = float(texts.index(json.dumps(row.values[name], sort_keys=True)) if ticks else row.values[name])
        band = (row.success.low, row.success.high) if row.success.count > 1 else (row.success.mean,) * 2
        dots.append(Dot(x, row.success.mean, *band, hollow=row.fate == "pruned"))
    note = "Bars: 95 % over seeds. Hollow: pruned, at the step where it was stopped."
    return Scatter(name, name, f"real {config.metric}", tuple(dots), ticks, parameter.loguniform is not None, note)
