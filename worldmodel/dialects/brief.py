"""The brief dialect: the transcript with nothing in its prompt that every world of the domain shares.

Owns: system = the domain's name, the initial state and the secret; turns as in ``Transcript``. Refuses: models that
were not trained on it: what it leaves out (action space, demonstrations, instructions) they would have to know.

A small model trained on recorded sessions learns a domain from them. Of the transcript's prompts 20 to 70 % of the
tokens are the same in each session of a domain, and are paid in every row and on every call.
"""

from __future__ import annotations

from worldmodel.dialects.transcript import Transcript
from worldmodel.prompt import parts
from worldmodel.types import WorldSpec


class Brief(Transcript):
    """Implements ``Wire``."""

    name = "brief"

    def system(self, spec: WorldSpec) -> str:
        texts = (spec.domain, parts(spec)[2], spec.secret.strip("\n"))
        return "\n".join(text for text in texts if text.strip())
