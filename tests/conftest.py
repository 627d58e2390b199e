"""Shared fixtures. Markers and the default deadline are set in pyproject.toml."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

HEAVY = {f"test_{name}.py" for name in ("mcp", "os", "swe", "web")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests of domains that need set-up are a group of their own: ``make test-domains``."""
    for item in items:
        if item.path.name in HEAVY and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.domain)


@pytest.fixture(autouse=True, scope="module")
def _imports_are_not_garbage() -> None:
    """Every Trainer collects garbage at its end: without this it walks all of torch and transformers each time."""
    gc.freeze()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """An empty run directory of its own."""
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def _quiet_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches a hub or a tracking server, and none inherits a key."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
