"""From the replies to a check's probes to its result.

Owns: what a probe without a reply means. Refuses: asking probes (``real``), predicates (rollout.reward).
"""

from __future__ import annotations

from collections.abc import Sequence

from rollout.errors import TaskError
from rollout.reward.checks import holds
from rollout.types import Check, CheckResult


def judge(check: Check, replies: Sequence[str | None]) -> CheckResult:
    """Passed iff there are probes and every reply satisfies the predicate; no verdict where a probe is none."""
    texts = tuple(reply or "" for reply in replies)
    if None in replies:
        return CheckResult(check.name, None, texts, "a probe is no tool call")
    try:
        return CheckResult(check.name, bool(texts) and all(holds(check.predicate, text) for text in texts), texts)
    except TaskError as error:
        return CheckResult(check.name, None, texts, str(error))
