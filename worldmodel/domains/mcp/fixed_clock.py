"""Starts the time server with a clock that stands still, so that equal calls print equal times on every day.

Owns: the instant, 2025-01-01 12:00 UTC, the one that ``date`` prints in every box. Refuses: everything else of the
server, which runs as it was installed. Runs inside a box.
"""

from __future__ import annotations

import datetime
from importlib import import_module

NOW = datetime.datetime(2025, 1, 1, 12, 0, tzinfo=datetime.UTC)


class Still(datetime.datetime):
    """``datetime`` whose ``now`` is always ``NOW``."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return NOW.astimezone(tz) if tz else NOW.replace(tzinfo=None)


if __name__ == "__main__":
    server = import_module("mcp_server_time.server")
    server.datetime = Still  # type: ignore[attr-defined]
    import_module("mcp_server_time").main()
