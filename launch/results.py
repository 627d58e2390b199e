"""The end of a quickstart: the table on the screen, ``result.json`` and ``report.html``.

Owns: how the figures are put together. Refuses: measuring anything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.evaluate import write_json
from launch.report.build import families, outcome, samples
from launch.report.data import Chart, Line, ReportData, Table
from launch.report.render import render
from rollout.evaluate import Evaluation, Interval, paired_gain
from rollout.store import read_trajectories

if TYPE_CHECKING:
    from launch.loop import Run, Trained, Worlds

ARM_NAMES = {"rl": "RL in the simulator", "more_sft": "more SFT, equal time", "permuted": "RL, rewards permuted"}

SHORT = {"rl": "RL", "more_sft": "more SFT", "permuted": "permuted RL"}


def finish(
    run: Run,
    fidelity: dict[str, Any],
    verdicts: dict[str, Any],
    before: Worlds,
    after: dict[str, Worlds],
    trained: dict[str, Trained],
    minutes: float,
    command: str,
) -> None:
    """Print, and write ``result.json`` and ``report.html`` into the run directory."""
    from launch.console import show

    table = rows(before, after)
    result = summary(fidelity, verdicts, before, after, minutes, command) | {
        "chosen_step": {arm: found.step for arm, found in trained.items()},
        "validation": {arm: dict(found.validation) for arm, found in trained.items()},
        "n_validation_tasks": run.plan.validation_tasks,
        "seconds": run.stages.seconds,
        "sizes": json.loads(json.dumps(run.plan, default=vars_of)),
        "seed": run.seed,
    }
    write_json(run.run_dir / "result.json", result)
    page = run.run_dir / "report.html"
    page.write_text(render(report(run, fidelity, verdicts, before, after, result)), encoding="utf-8")
    show(quality_rows(result))
    show(table)
    for arm, found in trained.items():
        run.say(f"{SHORT[arm]}: {choice(found, run.plan.validation_tasks)}")
    run.say(f"report: {page}")


def choice(found: Trained, tasks: int) -> str:
    """Which checkpoint an arm ended with, and why."""
    seen = ", ".join(f"step {step} {success:.1%}" for step, success in sorted(found.validation.items()))
    return f"checkpoint of step {found.step}, chosen on {tasks} validation tasks in the real world ({seen})"


def vars_of(value: Any) -> Any:
    return {name: getattr(value, name) for name in value.__slots__}


def summary(
    fidelity: dict[str, Any],
    verdicts: dict[str, Any],
    before: Worlds,
    after: dict[str, Worlds],
    minutes: float,
    command: str,
) -> dict[str, Any]:
    """The figures by name. A control that did not run is null."""
    forced = fidelity["result"]["teacher_forced"]
    free = fidelity["result"]["free_running"]
    gain = paired_gain(before.real, after["rl"].real)
    return {
        "command": command,
        "n_tasks": before.real.success.count,
        "real_before": before.real.success.mean,
        "real_after": after["rl"].real.success.mean,
        "gain_ci_low": gain.low,
        "gain_ci_high": gain.high,
        "sim_before": before.sim.success.mean,
        "sim_after": after["rl"].sim.success.mean,
        "more_sft_gain": _gain(before, after.get("more_sft")),
        "permuted_gain": _gain(before, after.get("permuted")),
        "permuted_ci": _interval(before, after.get("permuted")),
        "more_sft_ci": _interval(before, after.get("more_sft")),
        "family_before": before.family.success.mean,
        "family_after": after["rl"].family.success.mean,
        "greedy_before": before.greedy.success.mean,
        "greedy_after": after["rl"].greedy.success.mean,
        "n_family_tasks": before.family.success.count,
        "fidelity_exact": forced["macro"]["exact"],
        "fidelity_normalised": forced["macro"]["normalised"],
        "fidelity_copy": forced["by_class"].get("copy", {}).get("exact"),
        "fidelity_copy_baseline": forced["macro"]["baseline"],
        "fidelity_free_running": free["macro"]["exact"],
        "fidelity_by_class": {name: match["exact"] for name, match in forced["by_class"].items()},
        "fidelity_on_policy": verdicts["fidelity_on_policy"]["macro"]["exact"],
        "n_transitions": forced["macro"]["n"],
        "verdict_false_positive": verdicts["overall"]["false_positive_rate"],
        "verdict_balanced_accuracy": verdicts["overall"]["balanced_accuracy"],
        "verdict_coverage": verdicts["overall"]["coverage"],
        "n_endings": verdicts["overall"]["n"],
        "families_left_out": verdicts["left_out"],
        "minutes": round(minutes, 2),
    }


def _gain(before: Worlds, after: Worlds | None) -> float | None:
    return None if after is None else paired_gain(before.real, after.real).mean


def _interval(before: Worlds, after: Worlds | None) -> tuple[float, float] | None:
    if after is None:
        return None
    gain = paired_gain(before.real, after.real)
    return gain.low, gain.high


def rows(before: Worlds, after: dict[str, Worlds]) -> list[tuple[str, ...]]:
    """The final table, header first."""
    table: list[tuple[str, ...]] = [("success, % [95 %]", "tasks", "before", "after", "gain")]
    for arm, worlds in after.items():
        parts = [("real", before.real, worlds.real), ("simulated", before.sim, worlds.sim)]
        if arm == "rl":
            parts.append(("real, new families", before.family, worlds.family))
            parts.append(("real, greedy", before.greedy, worlds.greedy))
        table += [(f"{SHORT[arm]}: {world}", *_cells(old, new)) for world, old, new in parts]
    return table


def _cells(old: Evaluation, new: Evaluation) -> tuple[str, ...]:
    gain = paired_gain(old, new)
    return str(old.success.count), _rate(old.success), _rate(new.success), _signed(gain)


def _rate(value: Interval) -> str:
    return f"{100 * value.mean:.1f} [{100 * value.low:.0f}, {100 * value.high:.0f}]"


def _signed(value: Interval) -> str:
    return f"{100 * value.mean:+.1f} [{100 * value.low:+.0f}, {100 * value.high:+.0f}]"


def quality_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """What the simulator is worth, header first."""

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    return [
        ("the simulator", "measured on", ""),
        ("exact observations, macro", f"{result['n_transitions']} transitions", cell(result["fidelity_exact"])),
        ("  copying the state instead", "the same", cell(result["fidelity_copy_baseline"])),
        ("  on its own history", "free-running", cell(result["fidelity_free_running"])),
        ("  on what the warm policy does", "its own traces", cell(result["fidelity_on_policy"])),
        ("exact, copying commands", "", cell(result["fidelity_copy"])),
        ("verdicts, balanced accuracy", f"{result['n_endings']} endings", cell(result["verdict_balanced_accuracy"])),
        ("verdicts, false positives", "the same", cell(result["verdict_false_positive"])),
        ("simulated - real success, after", "same tasks", f"{result['sim_after'] - result['real_after']:+.1%}"),
    ]


def report(
    run: Run,
    fidelity: dict[str, Any],
    verdicts: dict[str, Any],
    before: Worlds,
    after: dict[str, Worlds],
    result: dict[str, Any],
) -> ReportData:
    """The page's data."""
    trained = after["rl"]
    outcomes = [
        outcome(ARM_NAMES[arm], world, getattr(before, part), getattr(worlds, part))
        for arm, worlds in after.items()
        for world, part in (("real", "real"), ("simulated", "sim"))
    ]
    outcomes.append(outcome(ARM_NAMES["rl"], "real, families never seen", before.family, trained.family))
    outcomes.append(outcome(ARM_NAMES["rl"], "real, greedy", before.greedy, trained.greedy))
    real = (merged(before.real, before.family), merged(trained.real, trained.family))
    gain = paired_gain(before.real, trained.real)
    pairs = samples(list(read_trajectories(trained.sim_file)), list(read_trajectories(trained.real_file)))
    return ReportData(
        title="agentworld quickstart",
        summary=(
            f"Practice in the simulator alone moved real success on {result['n_tasks']} held-out tasks from "
            f"{result['real_before']:.1%} to {result['real_after']:.1%} (gain in points {_signed(gain)})."
        ),
        facts=(
            ("seed", str(run.seed)),
            ("exact observations", f"{result['fidelity_exact']:.1%}"),
            ("verdict false positives", f"{result['verdict_false_positive'] or 0.0:.1%}"),
            ("minutes", f"{result['minutes']:.1f}"),
        ),
        outcomes=tuple(outcomes),
        charts=tuple(curves(run.run_dir, [arm for arm in after if arm != "more_sft"])),
        families=families(real, (before.sim, trained.sim), sorted(before.family.families)),
        tables=(table(fidelity["table"]), table(verdicts["table"])),
        samples=pairs,
    )


def merged(one: Evaluation, two: Evaluation) -> Evaluation:
    """One evaluation's families beside another's, for a chart."""
    from dataclasses import replace

    return replace(one, families={**one.families, **two.families})


def table(data: dict[str, Any]) -> Table:
    """A table from its JSON form."""
    return Table(data["title"], tuple(data["columns"]), tuple(tuple(row) for row in data["rows"]), data["note"])


def curves(run_dir: Path, arms: list[str]) -> list[Chart]:
    """Reward in the simulator and entropy over optimiser steps, a line an arm."""
    charts = []
    for key, title in (("reward", "Success in the simulator while training"), ("entropy", "Entropy of the policy")):
        lines = [Line(ARM_NAMES[arm], points) for arm in arms if (points := _points(run_dir / arm, key))]
        if lines:
            charts.append(Chart(title, "optimiser step", key, tuple(lines)))
    return charts


def _points(folder: Path, key: str) -> tuple[tuple[float, float], ...]:
    """(step, value) of a metric; a later attempt overwrites the steps that it repeats."""
    found: dict[float, float] = {}
    file = folder / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        entry = json.loads(line)
        if key in entry and "step" in entry:
            found[float(entry["step"])] = float(entry[key])
    return tuple(sorted(found.items()))
