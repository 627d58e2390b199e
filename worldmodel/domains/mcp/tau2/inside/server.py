"""The process of an episode inside its box: JSON lines in, JSON lines out.

Owns: what is asked (``describe``, ``begin``, ``call``, ``judge``) and that each line gets one answer. Refuses: the
benchmarks themselves (``customer``: tau2's own package; ``bank``: that of inspect-evals), which are not ours.

    {"op": "describe", "domain"}                         -> {"policy", "tools": [...], "tasks": [...]}
    {"op": "begin", "domain", "task": id}                -> {}
    {"op": "call", "name", "arguments"}                  -> {"content": text, "error": bool}
    {"op": "judge", "domain", "task", "calls", "answer"} -> {"verdicts": {part: "met" or "not met: why"}}

``calls`` are those of the episode with their replies; nothing but them is judged. A request that fails is answered by
{"fault": why}.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from typing import Any

HERE, CATALOGUE = "/opt/inside", "/opt/tau2/catalogue"


def world(domain: str) -> Any:
    """The module that plays ``domain``."""
    return importlib.import_module("bank" if domain == "banking" else "customer")


def task_of(domain: str, name: str) -> dict[str, Any]:
    """The task as ``describe`` wrote it at set-up."""
    with open(f"{CATALOGUE}/{domain}.json", encoding="utf-8") as stream:
        tasks: list[dict[str, Any]] = json.load(stream)["tasks"]
    return next(task for task in tasks if task["id"] == name)


def answer(request: dict[str, Any], running: dict[str, Any]) -> Any:
    """``running`` holds the world of the episode once it has begun."""
    operation = request["op"]
    if operation == "call":
        return running["world"].call(request["name"], request["arguments"])
    domain = request["domain"]
    if operation == "describe":
        return world(domain).describe(domain)
    task = task_of(domain, request["task"])
    if operation == "begin":
        running["world"] = world(domain).World(domain, task)
        return {}
    return {"verdicts": world(domain).judge(domain, task, request["calls"], request["answer"])}


def main() -> None:
    sys.path.insert(0, HERE)
    out, sys.stdout = sys.stdout, sys.stderr  # what a package prints is no answer
    running: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), running)
        except Exception as error:  # the outside edge of the box: whatever a package raises is an answer
            reply = {"fault": f"{type(error).__name__}: {error}"[:500]}
        out.write(json.dumps(reply) + "\n")
        out.flush()


if __name__ == "__main__":
    gc.disable()  # a data base is a million objects and no garbage: looking for some takes half of the time
    main()
