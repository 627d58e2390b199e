"""What commands do with vLLM servers: ``eval --vllm``, ``doctor --vllm`` and the dry run; the server is the faithful
local one of ``fake_vllm``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_vllm import FakeVLLM, TinyPolicy
from fakes import build_model, save_policy

from launch.config import load
from launch.doctor import Subject, _of_subject
from launch.errors import UserError
from launch.evaluate import Evaluand, evaluate_policy, load_tasks
from launch.preview import Place, preview
from rollout.errors import SamplerFault

MINIMAL = "run_dir: r\npolicy: p\nworld: real\nprocesses: 4\ndeepspeed: {zero}\nrollout: {{engine: ray, workers: 2}}\n"
ZERO = Path(__file__).resolve().parent.parent / "configs/deepspeed_gpu_zero2.json"


@pytest.fixture
def server() -> Iterator[FakeVLLM]:
    running = FakeVLLM(TinyPolicy(build_model()))
    yield running
    running.stop()


@pytest.mark.sandbox
def test_a_served_policy_is_evaluated_as_a_local_one(server: FakeVLLM, tmp_path: Path) -> None:
    save_policy(tmp_path / "p")
    tasks = load_tasks(None, "heldout", 4, 0)
    local, served = (
        evaluate_policy(Evaluand(str(tmp_path / "p"), vllm=urls), tasks, ("real",)) for urls in ("", server.url)
    )
    assert served.to_json() == local.to_json()
    assert served.worlds["real"].coverage == 1.0


@pytest.mark.sandbox
def test_wrong_servers_are_one_line(tmp_path: Path) -> None:
    save_policy(tmp_path / "p")
    tasks = load_tasks(None, "heldout", 1, 0)
    with pytest.raises(UserError, match="--vllm: 'localhost:1'"):
        evaluate_policy(Evaluand(str(tmp_path / "p"), vllm="localhost:1"), tasks, ("real",))
    with pytest.raises(UserError, match="--policy is gold"):
        evaluate_policy(Evaluand("gold", vllm="http://127.0.0.1:1"), tasks, ("real",))


@pytest.mark.sandbox
def test_a_server_that_is_away_ends_the_evaluation(tmp_path: Path) -> None:
    save_policy(tmp_path / "p")
    with pytest.raises(SamplerFault, match="does not answer"):
        what = Evaluand(str(tmp_path / "p"), vllm="http://127.0.0.1:1")
        evaluate_policy(what, load_tasks(None, "heldout", 1, 0), ("real",))


def test_the_doctor_asks_a_server(server: FakeVLLM, tmp_path: Path) -> None:
    (good,) = _of_subject(Subject(tmp_path, vllm=server.url))
    assert good.ok and "logprobs after temperature" in good.detail
    for url, words in (("http://127.0.0.1:1", "does not answer"), ("127.0.0.1:1", "does not start with http")):
        (bad,) = _of_subject(Subject(tmp_path, vllm=url))
        assert not bad.ok and words in bad.detail


def test_a_dry_run_says_where_the_policy_is_served(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(MINIMAL.format(zero=ZERO))
    eight = Place(1, 64, 8, here=False)

    def told(*options: str) -> str:
        return "\n".join(preview(load(tmp_path / "c.yaml", [f"trainer.trl.{item}" for item in options]), eight))

    assert "a copy in each rollout worker" in told()
    started = told("use_vllm=true", "vllm_tensor_parallel_size=2")
    assert "2 vLLM engine(s), Ray actors in a placement group of 2 x {GPU: 2}" in started and "note" not in started
    assert "need 4 GPU(s) more than there are" in told("use_vllm=true", "vllm_tensor_parallel_size=4")
    named = told("use_vllm=true", "vllm_server_base_url='http://a:1,http://b:2'")
    assert "served by vLLM at http://a:1, http://b:2" in named and "4 GPU(s) hold no trainer rank" in named
