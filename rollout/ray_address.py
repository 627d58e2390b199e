"""Is there a Ray where one is said to be: Ray itself would try for minutes before it says no.

Owns: the address and one connection to it. Refuses: joining or starting Ray.
"""

from __future__ import annotations

import os
import socket

from rollout.errors import AgentworldError


def check_reachable(address: str | None = None, seconds: float = 10.0) -> None:
    """Raises AgentworldError unless something listens at ``HOST:PORT``, with or without a scheme. Names such as
    ``auto`` are left to Ray. None: RAY_ADDRESS, which Ray would take then."""
    address = address or os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.rpartition("://")[2].split("/")[0].rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise AgentworldError(f"Ray at {address} could not be reached within {seconds:.0f} s: {why}") from error
