"""The reference dialect: the markers and tags that Qwen-AgentWorld was trained on (its released prompts, benchmark
rows and parser), so that a served 35B model needs no adapter.

Owns: turn header, action label and fence; the observation marker in the history; last-tag extraction.
Refuses: thoughts in the history; turning an empty reply into a made-up observation.
"""

from __future__ import annotations

import json
import re

from worldmodel.dialects.wire import conversation, drop_end_tokens, drop_thoughts
from worldmodel.prompt import headed
from worldmodel.types import PredictRequest, WorldSpec

MARKER = "**Environment Observation:**"
TAG = "predicted_observation"
OUTPUT_CLAUSE = (
    f"Reply with the complete observation that the environment returns for the last action, inside exactly one "
    f"<{TAG}> ... </{TAG}> block. An action that prints nothing gets an empty block. Write nothing after the block."
)

_OPEN = re.compile(rf"<{TAG}>", re.IGNORECASE)
_CLOSE = re.compile(rf"</{TAG}>", re.IGNORECASE)


def fence(action: str) -> str:
    """The action in a code fence: indented JSON where it is JSON, verbatim in a plain fence otherwise."""
    try:
        value = json.loads(action)
    except ValueError:
        value = None
    if isinstance(value, dict | list):
        return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"
    return f"```\n{action}\n```"


class ReferenceDialect:
    """Implements ``Wire``."""

    name = "reference"

    def system(self, spec: WorldSpec) -> str:
        """The headed form. The graphical domains' own prompts ask for the tag; the text domains' do not, yet the
        parser expects it, so there the clause is appended."""
        asks = f"<{TAG}>" in headed(spec)
        return headed(spec, "" if asks else OUTPUT_CLAUSE)

    def user(self, action: str, turn: int) -> str:
        return f"### Turn {turn + 1}\n**Action:**\n{fence(action)}"

    def assistant(self, observation: str) -> str:
        return f"{MARKER}\n{observation}"

    def messages(self, request: PredictRequest) -> list[tuple[str, str]]:
        return conversation(self, request)

    def extract(self, raw: str) -> str:
        """Text of the last tag, to the end where it is unclosed; without a tag the whole cleaned reply without its
        marker. Raises ValueError where nothing is left."""
        text = drop_thoughts(drop_end_tokens(raw), TAG)
        tags = list(_OPEN.finditer(text))
        if tags:
            body = text[tags[-1].end() :]
            close = _CLOSE.search(body)
            return _without_marker(body[: close.start()] if close else body)
        if not text.strip():
            raise ValueError(f"the reply has no <{TAG}> block and no text")
        return _without_marker(text)


def _without_marker(text: str) -> str:
    text = text.strip("\n")
    if text.lstrip().startswith(MARKER):
        text = text.lstrip()[len(MARKER) :]
    return text.strip("\n")
