"""The five-part system prompt of a simulator, in a compact and in a headed form.

Owns: turning a ``WorldSpec`` into one text, and reading a domain's constant parts from its ``simulator.txt``.
Refuses: chat roles, wire formats, anything a reward knows.

The five parts and their order (task description, action space, initial state, demonstrations, simulation
instruction) follow arXiv 2606.24597, Fig. 3. ``spec.secret`` belongs to the simulation instruction: it is what
only the simulator may know.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from worldmodel.types import WorldSpec

HEADINGS = ("Task description", "Action space", "Initial state", "Demonstrations", "Simulation instruction")


def parts(spec: WorldSpec) -> tuple[str, str, str, str, str]:
    """The five parts as texts without surrounding newlines; an absent part is ''. Inner text is untouched, so
    that state which will be printed later reads (and tokenises) here exactly as it will be printed."""
    instruction = "\n".join(text for text in (spec.simulation_instruction.strip("\n"), spec.secret.strip("\n")) if text)
    return (
        spec.task_description.strip("\n"),
        spec.action_space.strip("\n"),
        spec.initial_state.strip("\n"),
        spec.demonstrations.strip("\n"),
        instruction,
    )


def compact(spec: WorldSpec) -> str:
    """Parts separated by one newline, empty parts left out, nothing else: every token is paid on every call."""
    return "\n".join(part for part in parts(spec) if part.strip())


def headed(spec: WorldSpec, output_clause: str = "") -> str:
    """Parts under headings, with ``output_clause`` appended as a last section where one is given."""
    sections = [f"## {heading}\n{part}" for heading, part in zip(HEADINGS, parts(spec), strict=True) if part.strip()]
    if output_clause:
        sections.append(f"## Output format\n{output_clause}")
    return "\n\n".join(sections)


@cache
def static_parts(package: str) -> dict[str, str]:
    """The constant parts of a domain's prompt, by the names in brackets in the ``simulator.txt`` of its ``package``."""
    text = resources.files(package).joinpath("simulator.txt").read_text(encoding="utf-8")
    pieces = re.split(r"^\[(\w+)\]\n", text, flags=re.MULTILINE)[1:]
    return {name: body.rstrip("\n") for name, body in zip(pieces[::2], pieces[1::2], strict=True)}
