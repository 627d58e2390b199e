"""The doctor's longer checks, each against a fake of what it asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.agents import random_actions
from launch.checks import cluster
from launch.checks.cluster import Node, ray_cluster, verdict
from launch.checks.domain import self_test
from launch.checks.finding import Problem, found
from launch.checks.judge import ping
from launch.checks.logprobs import TEMPERATURE, Mode, mode, sampler_logprobs
from launch.checks.ranks import process_group
from launch.checks.versions import outside
from rollout.errors import AgentworldError, ConfigError
from tests.fakes import FakeFactory, Faults, make_tasks, save_policy


def test_a_finding_carries_the_reason() -> None:
    def wrong() -> str:
        raise Problem("mend it")

    def refused() -> str:
        raise ConfigError("bad key")

    assert found("x", lambda: "fine").ok
    assert (found("x", wrong).ok, found("x", wrong, needed=False).needed) == (False, False)
    assert found("x", refused).detail == "bad key"
    with pytest.raises(ZeroDivisionError):
        found("x", lambda: str(1 / 0))


def test_versions_outside_their_range_are_named() -> None:
    declared = ["trl<1.17,>=1.16; extra == 'train'", "torch>=2.6,<2.14", "ray[default]>=2.60,<3", "httpx>=0.27"]
    assert outside(declared, {"trl": "1.16.0", "torch": "2.13.0+cpu", "ray": "2.60.0"}) == []
    (wrong,) = outside(declared, {"trl": "1.17.0", "torch": "2.13.0+cpu", "ray": "2.61.0rc1"})
    assert wrong == "trl 1.17.0, asked for <1.17,>=1.16"


# ---------------------------------------------------------------- logprobs

LOGITS = st.lists(st.lists(st.floats(-20, 20), min_size=5, max_size=5), min_size=1, max_size=6)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@settings(deadline=None)
@given(LOGITS, st.floats(0.2, 3.0), st.randoms())
def test_logprobs_of_the_sampled_distribution_are_recognised(
    rows: list[list[float]], temperature: float, rng: Any
) -> None:
    logits = np.array(rows)
    ids = [rng.randrange(5) for _ in rows]
    picked = (np.arange(len(rows)), ids)
    assert mode(log_softmax(logits / temperature)[picked], logits, ids, temperature)[0] is Mode.sampled


def test_logprobs_before_the_temperature_and_others_are_told_apart() -> None:
    logits = np.array([[0.0, 2.0, 5.0], [1.0, -3.0, 0.0]])
    plain = log_softmax(logits)[[0, 1], [0, 1]]
    assert mode(plain, logits, [0, 1], 0.7)[0] is Mode.plain
    assert mode(plain - 1.0, logits, [0, 1], 0.7)[0] is Mode.neither
    assert mode([0.0, float("nan")], logits, [0, 1], 0.7)[0] is Mode.neither


def test_our_sampler_reports_the_distribution_it_sampled_from(tmp_path: Path) -> None:
    assert "distribution sampled from" in sampler_logprobs(save_policy(tmp_path / "p"))
    assert TEMPERATURE != 1.0


# ---------------------------------------------------------------- a domain


def test_a_domain_passes_its_self_test() -> None:
    assert self_test(FakeFactory(), make_tasks(3)).startswith("3 tasks")


def test_a_domain_whose_world_fails_is_named() -> None:
    tasks = make_tasks(2)
    with pytest.raises(Problem, match=tasks[0].id):
        self_test(FakeFactory({tasks[0].id: Faults(raises={"verify": "box gone"})}), tasks)


@settings(deadline=None)
@given(st.integers(), st.integers(1, 5))
def test_random_actions_are_texts(seed: int, count: int) -> None:
    import random

    known = [action for task in make_tasks(count) for action in task.reference.gold]
    actions = random_actions(known, random.Random(seed), 4)
    assert len(actions) == 4 and all(isinstance(action, str) for action in actions)
    assert actions == random_actions(known, random.Random(seed), 4)


# ---------------------------------------------------------------- a judge


@pytest.fixture
def judge() -> Iterator[tuple[str, dict[str, Any]]]:
    """(URL, what it answers and was asked)."""
    talk: dict[str, Any] = {"status": 200, "body": {"choices": [{"message": {"content": "ready"}}]}}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            talk["asked"] = json.loads(self.rfile.read(int(self.headers["content-length"])))
            talk["key"] = self.headers.get("authorization")
            body = json.dumps(talk["body"]).encode()
            self.send_response(talk["status"])
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", talk
    server.shutdown()
    server.server_close()


def test_a_judge_that_answers(judge: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, talk = judge
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert ping(url, "m").startswith(f"m at {url} answers in")
    assert talk["asked"]["model"] == "m" and talk["key"] == "Bearer k"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"error": "no key"}, "status 401"),
        (200, {"choices": []}, "no chat completion"),
        (200, ["x"], "no chat completion"),
        (200, {"choices": [{"message": {"content": " "}}]}, "answers nothing"),
    ],
)
def test_a_judge_that_does_not(judge: tuple[str, dict[str, Any]], status: int, body: Any, words: str) -> None:
    url, talk = judge
    talk |= {"status": status, "body": body}
    with pytest.raises(Problem, match=words):
        ping(url, "m")
    with pytest.raises(Problem, match="does not answer"):
        ping("http://127.0.0.1:9", "m", seconds=2.0)


# ---------------------------------------------------------------- a cluster, ranks


def test_a_node_with_other_code_or_without_the_run_directory_is_named() -> None:
    good = Node("a", "f00", True)
    assert verdict([good, good], "f00") is None
    assert "b: other code" in str(verdict([good, Node("b", "bad", True)], "f00"))
    assert "c: the run directory is not visible" in str(verdict([good, Node("c", "f00", False)], "f00"))


@pytest.mark.slow
def test_processes_form_a_group_over_gloo() -> None:
    assert process_group("gloo", 2) == "gloo: 2 processes reduce a tensor"


@pytest.mark.slow
def test_a_group_that_fails_says_why() -> None:
    with pytest.raises(Problem, match="nonsense between 1 processes failed"):
        process_group("nonsense", 1)


@pytest.mark.slow
def test_ray_is_started_asked_and_ended(tmp_path: Path) -> None:
    import ray

    assert ray_cluster(None, tmp_path / "runs").startswith("1 node(s) with ")
    assert list((tmp_path / "runs").iterdir()) == [] and not ray.is_initialized()


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with pytest.raises(AgentworldError, match=r"no Ray head at 127\.0\.0\.1:9"):
        ray_cluster("127.0.0.1:9", tmp_path)
    assert list(tmp_path.iterdir()) == []
