"""What the latency benches share: where a figure comes from, its summary, its file.

Owns: medians and 95th percentiles, the facts of machine and command. Refuses: measuring, and bars.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def facts(command: str) -> dict[str, Any]:
    """Command and machine; called before anything is measured, for the load. Times are in milliseconds."""
    return {
        "command": " ".join([command, *sys.argv[1:]]),
        "unit": "milliseconds",
        "load_before": round(os.getloadavg()[0], 2),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def summary(values: Mapping[str, list[float]], digits: int = 2) -> dict[str, dict[str, float]]:
    return {
        name: {
            "count": len(row),
            "median": round(statistics.median(row), digits),
            "p95": round(statistics.quantiles(row, n=20)[-1] if len(row) > 1 else row[0], digits),
        }
        for name, row in sorted(values.items())
    }


def publish(result: Mapping[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
