"""``agentworld eval --suite`` as a command: its options become an ``Order``, its result a table and an exit status.

Owns: reading the options and saying what was not run. Refuses: running (``run``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launch.console import say, show
from launch.errors import UserError
from launch.suite.config import load_suite
from launch.suite.policies import named
from launch.suite.result import Prices
from launch.suite.run import TABLE, Order, run_suite

RUNS = Path("runs") / "eval"


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """As given on the command line; None or '': what the suite says."""

    policy: str
    tasks: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    max_context: int | None = None
    seed: int | None = None
    workers: int = 1
    vllm: str = ""
    run_dir: Path | None = None
    policy_model: str = ""
    prices: str = ""


def evaluate_suite(suite: str, options: SuiteOptions, allow_missing: bool) -> None:
    """Runs ``suite`` and prints its table. Raises UserError, after everything that can run did, where a benchmark was
    not run and that is not allowed."""
    name, config = load_suite(suite)
    prices = read_prices(options.prices)
    urls = tuple(url.strip() for url in options.vllm.split(",") if url.strip())
    policy = named(options.policy, options.policy_model, urls)
    changed = {key: getattr(options, key) for key in ("temperature", "seed") if getattr(options, key) is not None}
    order = Order(
        name,
        config.model_copy(update=changed),
        policy,
        options.run_dir or RUNS / f"{name}-{policy.label}",
        options.tasks,
        options.max_tokens,
        options.max_context,
        options.workers,
        prices,
    )
    result = run_suite(order, say)
    show(result.rows())
    say(f"written: {order.run_dir / TABLE}")
    if result.not_run and not allow_missing:
        names = ", ".join(entry.name for entry in result.not_run)
        raise UserError(f"{len(result.not_run)} of {len(result.entries)} benchmarks not run: {names} (--allow-missing)")


def read_prices(text: str) -> Prices | None:
    """``IN,OUT`` in dollars for a million tokens; '' is None. Raises UserError."""
    if not text:
        return None
    try:
        prompt, generated = map(float, text.split(","))
    except ValueError as error:
        raise UserError(f"--prices {text}: write dollars for a million tokens as IN,OUT, e.g. 0.15,0.6") from error
    if not (0 <= prompt < float("inf") and 0 <= generated < float("inf")):
        raise UserError(f"--prices {text}: prices are finite and not negative")
    return Prices(prompt, generated)
