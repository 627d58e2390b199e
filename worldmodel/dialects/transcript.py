"""The transcript dialect: the conversation is the terminal session itself.

Owns: system = the compact five parts, user = the action verbatim, assistant = the observation verbatim (an empty
observation is an empty assistant message). Refuses: tags, markers and every other token a small model would pay for.
"""

from __future__ import annotations

from worldmodel.dialects.wire import conversation, drop_end_tokens, drop_leading_thought
from worldmodel.prompt import compact
from worldmodel.types import PredictRequest, WorldSpec


class Transcript:
    """Implements ``Wire``."""

    name = "transcript"

    def system(self, spec: WorldSpec) -> str:
        return compact(spec)

    def user(self, action: str, turn: int) -> str:
        return action

    def assistant(self, observation: str) -> str:
        return observation

    def messages(self, request: PredictRequest) -> list[tuple[str, str]]:
        return conversation(self, request)

    def extract(self, raw: str) -> str:
        """The reply itself, without its end token and without a leading thought; '' is an observation too.
        Raises ValueError when the reply ended inside its thoughts."""
        return drop_leading_thought(drop_end_tokens(raw))
