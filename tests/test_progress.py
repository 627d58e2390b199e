"""The progress view: read from outside, from files that grow, tear and start again."""

import json
import threading
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from launch.progress import Watch, _lines, _panel, cells, watching


def add(run_dir: Path, *rows: dict, end: str = "\n") -> None:
    with (run_dir / "metrics.jsonl").open("a") as stream:
        stream.write("\n".join(map(json.dumps, rows)) + end)


def row(step: int, attempt: int = 1, **metrics: float | None) -> dict:
    return {"step": step, "attempt": attempt, "time": 100.0 + 2 * step, **metrics}


def evaluated(run_dir: Path, step: int, success: float) -> None:
    (run_dir / "eval").mkdir(exist_ok=True)
    text = json.dumps({"success": {"mean": success}})
    (run_dir / "eval" / f"real-step_{step:06d}.json").write_text(text)


def test_everything_there_is_to_say(run_dir: Path) -> None:
    watch = Watch(run_dir)
    assert not watch.look() and cells(watch.progress, 40) == [("step", "0/40")]
    batch = {"perf/generated_tok_s": 1234.5, "sample/staleness_mean": 0.5, "perf/rollout_wait_s": 2.25}
    counts = {"rollout/faults/world": 2, "rollout/faults/worker": 0, "rollout/groups/trained": 16}
    add(run_dir, row(1, reward=0.25, loss=0.01, **batch, **counts), row(2, loss=0.02), row(3, reward=None))
    evaluated(run_dir, 2, 0.125)
    assert watch.look() and not watch.look()
    assert dict(cells(watch.progress, 40)) == {
        "step": "3/40",
        "reward": "0.250",
        "loss": "0.0200",
        "real success": "12.5% at step 2",
        "sampled tokens/s": "1,234",
        "waited for rollouts": "2.2 s",
        "staleness": "0.50",
        "groups": "trained 16",
        "faults": "world 2",
        "pace": "2.0 s/step",
        "left": "1 min",
    }
    evaluated(run_dir, 4, 0.5)
    assert watch.look() and watch.progress.real == (4, 0.5)
    assert _panel(watch.progress, 40).row_count == 12 and dict(cells(watch.progress, None))["step"] == "3"


def test_a_line_is_read_when_it_is_whole(run_dir: Path) -> None:
    watch, text = Watch(run_dir), json.dumps(row(1, reward=0.5))
    (run_dir / "metrics.jsonl").write_text(text[:20])
    watch.look()
    assert watch.progress.step == 0
    (run_dir / "metrics.jsonl").write_text(text + "\n")
    watch.look()
    assert watch.progress.step == 1


def test_pace_is_of_this_attempt(run_dir: Path) -> None:
    add(
        run_dir, row(1), row(2), row(50), {**row(51, attempt=2), "time": 9000.0}, {**row(53, attempt=2), "time": 9010.0}
    )
    watch = Watch(run_dir)
    watch.look()
    assert watch.progress.seconds_per_step == 5.0


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=20), st.just(b'{"step": 3}'), st.just(b"[1]")), max_size=6))
def test_no_file_can_end_a_run(tmp_path_factory, lines: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    watch = Watch(folder)
    watch.look()
    cells(watch.progress, 10)


def test_lines_are_news_only(run_dir: Path) -> None:
    add(run_dir, row(1))
    over, said = threading.Event(), []
    thread = threading.Thread(target=_lines, args=(Watch(run_dir), 4, over, said.append, 0.0))
    thread.start()
    time.sleep(1.5)
    assert said == []
    add(run_dir, row(2, reward=0.5))
    until = time.monotonic() + 20
    while not said and time.monotonic() < until:
        time.sleep(0.1)
    over.set()
    thread.join()
    assert len(said) == 1 and said[0].startswith("step 2/4  reward 0.500")


def test_watching_ends_with_its_block(run_dir: Path, capsys) -> None:
    with watching(run_dir, 4):
        add(run_dir, row(1))
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
