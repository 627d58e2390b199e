"""A sweep on real Ray Tune, its driver killed half way."""

from pathlib import Path

import pytest

from bench.sweep_resume import audit, difference, finish, kill_after, reached, start
from launch.sweep.ledger import LEDGER


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_sweep_goes_on_to_the_same_table(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(start(whole, "light", 3, 2), whole, 250.0)
    units = len(reached(whole / "sweep" / LEDGER))
    killed = kill_after(start(cut, "light", 3, 2), cut, units // 2, 250.0)
    assert 0 < killed < units
    finish(start(cut, "light", 3, 2), cut, 250.0)
    assert difference(whole, cut) <= 1e-6
    found = audit(cut)
    assert found["sessions"] == 2 and found["units_done"] == units
    assert found["done_and_handed_out_again"] == []
    assert (cut / "sweep" / "report.html").is_file()
    assert "over: budget.trials 3" in (cut / "driver.log").read_text()
