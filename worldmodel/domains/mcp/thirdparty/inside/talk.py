"""The process of one benchmark's world: a JSON object a line, ``{"do": ..., "with": {...}}``, answered by one.

Owns: the lines. What the world printed goes to the error stream. Refuses: knowing the worlds, ``bfcl_world`` and
``agentdojo_world``. A reply is ``{"value": ...}`` or, where their code raised, ``{"fault": one line}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    world = importlib.import_module(sys.argv[1]).World()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            reply = {"value": getattr(world, asked["do"])(**asked["with"])}
        except Exception as error:  # whatever their code raises is told, not hidden
            reply = {"fault": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
