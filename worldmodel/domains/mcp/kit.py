"""What the folder of the tool domain offers (``worldmodel.domains``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from rollout.protocols import EnvFactory
from rollout.types import Task
from worldmodel.domains import DomainKit
from worldmodel.domains.mcp import MCP, tau2
from worldmodel.domains.mcp.grammar import FINAL, call, told
from worldmodel.tasks import Split


def _real() -> EnvFactory:
    from worldmodel.domains.mcp.real import McpFactory

    return McpFactory()


def _generate(split: Split, count: int, seed: int) -> list[Task]:
    from worldmodel.domains.mcp.tasks import generate

    return generate(split, count, seed)


def _missing() -> str:
    from worldmodel.domains.mcp.setup import missing

    return missing()


def _bfcl(count: int) -> list[Task]:
    from worldmodel.domains.mcp.thirdparty.bfcl import first

    return first(count)


def _agentdojo(count: int) -> list[Task]:
    from worldmodel.domains.mcp.thirdparty.agentdojo import first

    return first(count)


def _attacked(count: int) -> list[Task]:
    from worldmodel.domains.mcp.thirdparty.agentdojo import attacked

    return attacked(count)


def _setup(say: Callable[[str], None]) -> None:
    from worldmodel.domains.mcp.setup import setup

    setup(say)


def _held_out() -> tuple[str, ...]:
    from worldmodel.domains.mcp.families_more import HELD_OUT

    return HELD_OUT


def _tau2(domain: str, count: int) -> list[Task]:
    from worldmodel.domains.mcp.tau2.tasks import first

    return first(domain, count)


SOURCES: Mapping[str, Callable[[int], list[Task]]] = {
    **{tau2.source(name): partial(_tau2, name) for name in tau2.DOMAINS},
    "bfcl": _bfcl,
    "agentdojo": _agentdojo,
    "agentdojo-attacked": _attacked,
}
KIT = DomainKit(
    MCP, (call(FINAL, text="done"),), _real, _generate, _missing, _setup, sources=SOURCES, held_out=_held_out,
    told=told, max_tokens=512, max_context=32768,
)  # fmt: skip
