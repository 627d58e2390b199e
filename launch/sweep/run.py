"""``agentworld sweep``: from a sweep file to a table. Reads top to bottom.

Owns: the order of things, and what counts as done. Refuses: the parts themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from launch.config import ExperimentConfig
from launch.report.render import write
from launch.sweep.config import Sweep
from launch.sweep.control import Control
from launch.sweep.ledger import Ledger
from launch.sweep.plan import too_many_failed
from launch.sweep.proposals import need_optuna
from launch.sweep.table import Row, report, rows, write_table
from launch.sweep.unit import TrainFn
from launch.train import check_parts
from launch.train import run as train_run
from rollout.errors import BudgetSpent
from trainer.attempts import AUTO, NEVER
from trainer.checkpoint import latest


def train_until(config: ExperimentConfig, say: Callable[[str], None], until: int) -> Any:
    """The unit of a sweep; one that was lost before its first checkpoint starts from the beginning."""
    return train_run(config, say, AUTO if latest(config.run_dir) else NEVER, until)


def run_sweep(
    sweep: Sweep,
    say: Callable[[str], None] = print,
    train: TrainFn = train_until,
    check: Callable[[ExperimentConfig], None] = check_parts,
    address: str | None = None,
) -> list[Row]:
    """Do what is left of the sweep, write ``table.json`` and ``report.html``, and return the table's rows.

    ``train`` is called on Ray workers, so it must be importable there; ``check`` sees the base experiment before
    anything is written. The files are written even where the sweep then raises: BudgetSpent, where too many trials
    failed or none was trained to its end.
    """
    need_optuna()
    check(sweep.base)
    from launch.sweep.tune import run_units

    with Ledger(sweep.folder) as ledger:
        control = Control(sweep, ledger, say)
        try:
            run_units(control, train, address)
        finally:
            found = rows(sweep.config, control.state)
            write_table(sweep, found)
            write(report(sweep, control.state, found, control.reason()), sweep.folder)
        say(f"over: {control.reason()}; {sweep.folder / 'report.html'}")
    check_done(sweep, control, found)
    return found


def check_done(sweep: Sweep, control: Control, found: Sequence[Row]) -> None:
    """Raises BudgetSpent unless the budget's work was done."""
    failed = [row for row in found if row.fate == "failed"]
    first = f"; first: trial {failed[0].trial}, {failed[0].reason}" if failed else ""
    if too_many_failed(sweep.config, control.state.trials):
        limit = f"max_failed {sweep.config.max_failed}"
        raise BudgetSpent(f"sweep: {len(failed)} of {len(found)} trials failed ({limit}){first}")
    if not any(row.fate == "finished" for row in found):
        raise BudgetSpent(f"sweep: none of {len(found)} trials was trained to its end{first}")


def plan_text(sweep: Sweep) -> list[str]:
    """What ``--dry-run`` prints."""
    config = sweep.config
    budget = ", ".join(f"{value:g} {name}" for name, value in config.budget.model_dump().items() if value is not None)
    held = ", ".join(f"{value:g} {name}" for name, value in config.resources.model_dump().items())
    lines = [
        f"sweep in {sweep.folder}, base {sweep.file}",
        f"budget {budget}; {len(config.seeds)} seeds each ({', '.join(map(str, config.seeds))})",
        f"compared at steps {', '.join(map(str, sweep.rungs))}" + ("" if config.asha else " (no pruning)"),
        f"{config.parallel} trials under way at once; a run holds {held}",
    ]
    for name, parameter in config.parameters.items():
        kind, value = next(iter(parameter.model_dump(exclude_none=True, by_alias=True).items()))
        lines.append(f"  {name}: {kind} {list(value)}")
    return lines
