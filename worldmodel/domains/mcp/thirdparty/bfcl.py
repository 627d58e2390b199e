"""BFCL multi-turn as tasks: what the installed data files say, 200 entries in each of four categories.

Owns: ids, their order, writing reference calls as JSON. Refuses: running them (``real``), the checker (``inside``).

An entry is a conversation. Each message of the user is a turn; the policy's ``answer`` ends it. In ``miss_func`` tools
are withheld until a turn of their own, in ``miss_param`` a turn lacks what a later one says, in ``long_context`` the
replies of tools are long. Categories alternate, so that the first tasks are of all of them.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rollout.types import Check, Predicate, Reference, Task, World
from worldmodel.domains.mcp.grammar import FINAL, call, written
from worldmodel.domains.mcp.thirdparty.grammar import verdict
from worldmodel.domains.mcp.thirdparty.install import installed
from worldmodel.tasks import BENCHMARK

NAME = "bfcl"
CATEGORIES = ("base", "miss_func", "miss_param", "long_context")
MAX_TURNS = 328  # actions: the longest conversation has eight turns, each of at most MAX_CALLS calls and an answer
DOCUMENTS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "TwitterAPI": "posting_api",
    "VehicleControlAPI": "vehicle_control",
}
MORE_TOOLS = "DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC"  # what the user says when tools are added


def first(count: int) -> list[Task]:
    """At most ``count`` tasks, always the same first ones. Raises ConfigError before set-up."""
    root = installed() / "python" / "bfcl_eval"
    by_category = {name: entries(root, name) for name in CATEGORIES}
    longest = max(map(len, by_category.values()))
    order = [(name, by_category[name][i]) for i in range(longest) for name in CATEGORIES if i < len(by_category[name])]
    return [make(root, name, *entry) for name, entry in order[:count]]


def entries(root: Path, category: str) -> list[tuple[dict[str, Any], list[list[str]]]]:
    """Each entry of ``category`` with its reference calls, by turn."""
    truth = {row["id"]: row["ground_truth"] for row in _rows(root, f"possible_answer/{_file(category)}")}
    return [(row, truth[row["id"]]) for row in _rows(root, _file(category))]


def _file(category: str) -> str:
    return f"BFCL_v4_multi_turn_{category}.json"


def _rows(root: Path, file: str) -> list[dict[str, Any]]:
    with (root / "data" / file).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def truth(root: Path, entry: str) -> list[list[str]]:
    """The reference calls of one entry, as their authors wrote them."""
    category = entry.removeprefix("multi_turn_").rsplit("_", 1)[0]
    return next(calls for row, calls in entries(root, category) if row["id"] == entry)


@cache
def _documents(root: Path, name: str) -> tuple[dict[str, Any], ...]:
    return tuple(_rows(root, f"multi_turn_func_doc/{DOCUMENTS[name]}.json"))


@cache
def _more_tools(root: Path) -> str:
    """A text that their code holds, read and not executed."""
    module = ast.parse((root / "constants" / "default_prompts.py").read_text(encoding="utf-8"))
    assigned = [node for node in module.body if isinstance(node, ast.Assign)]
    found = next(node.value for node in assigned if [ast.unparse(t) for t in node.targets] == [MORE_TOOLS])
    return str(ast.literal_eval(found))


def make(root: Path, category: str, entry: Mapping[str, Any], truth: Sequence[Sequence[str]]) -> Task:
    documents = [tool for name in entry["involved_classes"] for tool in _documents(root, name)]
    withheld = {int(turn): names for turn, names in entry.get("missed_function", {}).items()}
    hidden = {name for names in withheld.values() for name in names}
    later: list[dict[str, Any]] = []
    for turn, messages in enumerate(entry["question"]):
        said = "\n\n".join(message["content"] for message in messages) or _more_tools(root)
        later.append({"says": said, "tools": [t for t in documents if t["name"] in withheld.get(turn, ())]})
    kept = ("id", "initial_config", "involved_classes")
    state = {
        "benchmark": NAME,
        "begin": {"entry": {key: entry[key] for key in kept}},
        "tools": [tool for tool in documents if tool["name"] not in hidden],
        "later": later[1:],
    }
    name = entry["id"].removeprefix("multi_turn_")
    return Task(
        id=f"{NAME}/{name}", domain="mcp", family=f"{NAME}/{category}", split=BENCHMARK,
        instruction=later[0]["says"], world=World(state),
        checks=(Check("checker", (verdict("task"),), Predicate("equals", "valid")),),
        reference=Reference(gold(truth, documents)), max_turns=MAX_TURNS, seed=0,
    )  # fmt: skip


def gold(truth: Sequence[Sequence[str]], documents: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The reference calls as actions, each turn ended by an answer."""
    parameters = {tool["name"]: list(tool["parameters"]["properties"]) for tool in documents}
    actions: list[str] = []
    for calls in truth:
        actions += [_action(text, parameters) for text in calls]
        actions.append(call(FINAL, text="done"))
    return tuple(actions)


def _action(text: str, parameters: Mapping[str, Sequence[str]]) -> str:
    found = ast.parse(text.strip(), mode="eval").body
    if not isinstance(found, ast.Call) or not isinstance(found.func, ast.Name):
        raise ValueError(f"{text!r} is no call")
    pairs = [*zip(parameters[found.func.id], found.args, strict=False), *((k.arg, k.value) for k in found.keywords)]
    return written(found.func.id, {str(key): ast.literal_eval(value) for key, value in pairs})
