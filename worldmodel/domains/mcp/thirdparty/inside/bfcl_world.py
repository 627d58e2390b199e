"""Runs in a box: the stateful classes of BFCL multi-turn, and its checker.

Owns: calls as BFCL writes them. Refuses: which tools a task offers (``grammar`` has seen to names and argument names
before a call comes here: BFCL evaluates texts).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

MULTI_TURN = "bfcl_eval.eval_checker.multi_turn_eval"


def written(call: dict[str, Any]) -> str:
    """``cd(folder='a')``, as BFCL's own handlers make it of a JSON call."""
    return f"{call['name']}({', '.join(f'{key}={value!r}' for key, value in call['arguments'].items())})"


class World:
    """One entry at a time."""

    def begin(self, entry: dict[str, Any]) -> None:
        self.entry = entry
        self._execute([])

    def _execute(self, calls: list[str]) -> list[str]:
        execute = import_module(f"{MULTI_TURN}.multi_turn_utils").execute_multi_turn_func_call
        entry, name = self.entry, self.entry["id"]
        results, _ = execute(
            calls, entry["initial_config"], entry["involved_classes"], "live", name, "long_context" in name
        )
        return list(results)

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        return self._execute([written({"name": name, "arguments": arguments})])[0]

    def verdict(self, entry: dict[str, Any], truth: list[list[str]], turns: list[dict[str, Any]]) -> dict[str, str]:
        """``turns``: the calls of each user turn that was ended. BFCL executes them anew, one call a step."""
        if len(turns) != len(truth):
            return {"task": f"invalid: {len(turns)} of {len(truth)} turns were ended"}
        steps = [[[written(call)] for call in turn["calls"]] for turn in turns]
        check = import_module(f"{MULTI_TURN}.multi_turn_checker").multi_turn_checker
        found = check(steps, truth, entry, entry["id"].rsplit("_", 1)[0], "verdict")
        if found["valid"]:
            return {"task": "valid"}
        return {"task": f"invalid: {found['error_type']}: {found['error_message']}"}
