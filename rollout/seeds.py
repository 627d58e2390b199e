"""Seeds as a function of names.

Owns: one stable mapping from named parts to a seed, equal on every machine, process and Python version.
Refuses: global random state.
"""

from __future__ import annotations

import hashlib


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from ``parts``; ``1`` and ``"1"`` differ, and so do ``("a", "b")`` and ``("ab",)``."""
    digest = hashlib.sha256()
    for part in parts:
        data = str(part).encode()
        digest.update(f"{type(part).__name__}:{len(data)}:".encode())
        digest.update(data)
    return int.from_bytes(digest.digest()[:8], "big") >> 1
