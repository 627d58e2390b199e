"""The vLLM client where things go wrong, several servers, new weights under load, and whole episodes."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_vllm import BigramPolicy, FakeVLLM, ScriptPolicy, bigram_table
from fakes import FakeFactory, build_chat, gold_script, make_tasks, save_tokenizer

from rollout.episode import EpisodeSettings, run_episode
from rollout.errors import ConfigError, SamplerFault
from rollout.local_pool import LocalPool
from rollout.reward.checks import ChecksReward
from rollout.samplers import vllm
from rollout.samplers.vllm import VLLMSampler, VLLMSamplerSpec
from rollout.samplers.vllm_control import check_server
from rollout.samplers.vllm_gate import KEY_VARIABLE, PATH
from rollout.samplers.vllm_wire import ranked
from rollout.types import Finish, Sampling, Session, Stop, Version
from rollout.weight_files import Stamp, WeightFiles, WeightWriter
from rollout.worker import PoolSpec
from trainer.weights import to_raw

CONTEXT = (5, 6, 7)
STOP = (1,)
Start = Callable[..., FakeVLLM]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers, which end with the test."""
    running: list[FakeVLLM] = []

    def begin(policy: Any = None, **kwargs: Any) -> FakeVLLM:
        running.append(FakeVLLM(policy or BigramPolicy(), **kwargs))
        return running[-1]

    yield begin
    for server in running:
        server.stop()


def spec(*servers: FakeVLLM, **kwargs: Any) -> VLLMSamplerSpec:
    options: dict[str, Any] = {"stop_ids": STOP, "drain": 5.0, "update_timeout": 10.0, "start_timeout": 5.0}
    return VLLMSamplerSpec(tuple(server.url for server in servers), **{**options, **kwargs})


def ask(
    sampler: VLLMSampler, max_tokens: int = 4, session: str = "t0/g/0", seconds: float = 10.0, seed: int = 0
) -> Any:
    return sampler(CONTEXT, max_tokens, Session(session, seed, time.monotonic() + seconds))


def publish(root: Path, step: int, seed: int, lineage: str = "run") -> WeightFiles:
    return WeightWriter(str(root), lineage=lineage)(Version(1, step), tensors(seed))


def tensors(seed: int) -> list[tuple[str, Any]]:
    return [("table", to_raw(bigram_table(seed)))]


async def update(sampler: VLLMSampler, weights: WeightFiles) -> Version:
    return await asyncio.to_thread(sampler.update, weights.stamp.version, weights)


# ------------------------------------------------------------------------------------------------ calls and faults


async def test_what_is_sent_leaves_nothing_to_the_server(start: Start) -> None:
    server = start()
    await ask(VLLMSampler(spec(server, sampling=Sampling(0.7))), seed=2**62)
    body, headers = server.app.seen[-1]
    assert body["prompt"] == list(CONTEXT) and body["stop_token_ids"] == [1] and body["ignore_eos"] is True
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.7, 2**62, 4)
    assert (body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
    assert (body["presence_penalty"], body["frequency_penalty"]) == (0.0, 0.0)
    assert headers["x-session-id"] == "t0/g/0"


@pytest.mark.parametrize(
    "fault",
    [
        "500",
        "503",
        "429",
        "disconnect",
        "truncated",
        "half_json",
        "abort",
        "no_logprobs",
        "null_logprob",
        "positive_logprob",
        "short_logprobs",
        "other_prompt",
        "too_many",
        "empty",
        "wrong_version",
        "wrong_lineage",
    ],
)
async def test_a_bad_answer_is_asked_for_again(start: Start, tmp_path: Path, fault: str) -> None:
    server = start()
    sampler = VLLMSampler(spec(server))
    await update(sampler, publish(tmp_path, 1, 0))
    good = await ask(sampler)
    server.faults.extend([fault, fault])
    assert await ask(sampler) == good, "the same seed, so the same completion"
    assert not server.faults


async def test_the_budget_of_tries_ends_in_a_typed_fault(start: Start) -> None:
    server = start()
    sampler = VLLMSampler(spec(server, retries=2))
    server.faults.extend(["500"] * 3)
    with pytest.raises(SamplerFault, match=r"failed 3 times: http://127.* status 500: .*injected"):
        await ask(sampler)
    assert len((await ask(sampler)).ids) == 4


@pytest.mark.parametrize(
    ("fault", "words"), [("no_version", "does not say which weights"), ("other_stop", "no stop id of the chat")]
)
async def test_wrong_settings_are_not_tried_again(start: Start, fault: str, words: str) -> None:
    server = start()
    server.faults.extend([fault, "500"])
    with pytest.raises(SamplerFault, match=words):
        await ask(VLLMSampler(spec(server)))
    assert list(server.faults) == ["500"]


async def test_a_hang_ends_at_the_deadline_and_frees_the_server(start: Start) -> None:
    server = start(token_seconds=0.05)
    sampler = VLLMSampler(spec(server))
    server.faults.append("hang")
    begun = time.monotonic()
    with pytest.raises(SamplerFault, match=r"no completion within \d+\.\d s \(deadline\)"):
        await ask(sampler, seconds=0.3)
    assert time.monotonic() - begun < 8.0
    with pytest.raises(SamplerFault, match="deadline"):
        await ask(VLLMSampler(spec(server, stop_ids=())), max_tokens=2000, seconds=0.3)
    await until(lambda: server.engine.running == 0)
    assert server.engine.aborted == 1


async def test_a_cancelled_call_is_aborted_on_the_server(start: Start) -> None:
    server = start(token_seconds=0.02)
    call = asyncio.ensure_future(ask(VLLMSampler(spec(server, stop_ids=())), max_tokens=2000))
    await until(lambda: server.engine.running == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: server.engine.running == 0)
    assert server.engine.aborted == 1


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


async def test_a_server_with_too_little_room_is_named_not_trained_on(start: Start) -> None:
    server = start(max_model_len=6)
    sampler = VLLMSampler(spec(server, stop_ids=()))
    with pytest.raises(SamplerFault, match=r"it cut at 6 ids: start it with a --max-model-len"):
        await ask(sampler, max_tokens=8)
    with pytest.raises(SamplerFault, match="maximum context length is 6"):
        await sampler((5,) * 6, 1, Session("t"))


async def test_senseless_calls_and_calls_after_the_end(start: Start) -> None:
    sampler = VLLMSampler(spec(start()))
    for context, max_tokens in (((), 4), (CONTEXT, 0)):
        with pytest.raises(SamplerFault, match="need 1 of each"):
            await sampler(context, max_tokens, Session("t"))
    sampler.close()
    with pytest.raises(SamplerFault, match="closed"):
        await ask(sampler)


def test_one_sampler_serves_several_event_loops(start: Start) -> None:
    sampler = pickle.loads(pickle.dumps(spec(start())))()
    assert asyncio.run(ask(sampler)) == asyncio.run(ask(sampler))


# ------------------------------------------------------------------------------------------------ several servers


async def test_a_session_stays_with_its_server(start: Start) -> None:
    servers = [start(), start(), start()]
    sampler = VLLMSampler(spec(*servers))
    sessions = [f"t{i}/g/0" for i in range(24)]
    for _ in range(2):
        await asyncio.gather(*(ask(sampler, 1, session) for session in sessions))
    assert sorted(s for server in servers for s in server.sessions) == sorted(sessions * 2)
    for server in servers:
        assert len(server.sessions) == 2 * len(set(server.sessions)) > 0


def test_a_server_that_goes_away_moves_only_its_own_sessions() -> None:
    servers = [f"http://h{i}" for i in range(5)]
    for i in range(200):
        first, second, *_ = ranked(servers, f"s{i}")
        left = [server for server in servers if server != first]
        assert ranked(left, f"s{i}")[0] == second
        assert ranked([s for s in servers if s != second], f"s{i}")[0] == first
    counts = [sum(ranked(servers, f"s{i}")[0] == server for i in range(1000)) for server in servers]
    assert min(counts) > 140


async def test_another_server_takes_over_and_gives_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "AVOID_SECONDS", 0.3)
    servers = [start(), start()]
    sampler = VLLMSampler(spec(*servers))
    await asyncio.gather(*(ask(sampler, 1, f"t{i}/g/0") for i in range(8)))
    mine = servers[0].sessions[0]
    servers[0].down()
    for _ in range(2):
        await ask(sampler, 1, mine)
    assert servers[1].sessions.count(mine) == 2
    servers[0].start()
    await asyncio.sleep(0.35)
    await ask(sampler, 1, mine)
    assert servers[0].sessions[-1] == mine
    servers[0].down()
    servers[1].down()
    with pytest.raises(SamplerFault, match=r"failed 4 times: .* connection refused"):
        await ask(sampler, 1, mine)


# ------------------------------------------------------------------------------------------------ new weights


async def test_running_calls_are_finished_and_waiting_ones_get_the_new_weights(start: Start, tmp_path: Path) -> None:
    server = start(token_seconds=0.005)
    sampler = VLLMSampler(spec(server, stop_ids=()))
    early = asyncio.ensure_future(ask(sampler, 40))
    await until(lambda: server.engine.running == 1)
    changing = asyncio.ensure_future(update(sampler, publish(tmp_path, 1, 1)))
    await asyncio.sleep(0.05)
    late = asyncio.ensure_future(ask(sampler, 4))
    first, _, second = await asyncio.gather(early, changing, late)
    assert set(first.versions) == {Version(0, 0)} and len(first.ids) == 40
    assert set(second.versions) == {Version(1, 1)}
    assert (server.engine.aborted, server.engine.resets) == (0, 1)


async def test_calls_that_do_not_end_are_aborted_and_sampled_again(start: Start, tmp_path: Path) -> None:
    server = start(token_seconds=0.02)
    sampler = VLLMSampler(spec(server, stop_ids=(), drain=0.1))
    call = asyncio.ensure_future(ask(sampler, 60, seconds=20.0))
    await until(lambda: server.engine.running == 1)
    await update(sampler, publish(tmp_path, 1, 1))
    found = await call
    assert set(found.versions) == {Version(1, 1)} and len(found.ids) == 60
    assert server.engine.aborted == 1


async def test_several_clients_announce_the_same_weights_once_loaded(start: Start, tmp_path: Path) -> None:
    servers = [start(), start()]
    samplers = [VLLMSampler(spec(*servers)) for _ in range(4)]
    weights = publish(tmp_path, 1, 1)
    assert await asyncio.gather(*(update(sampler, weights) for sampler in samplers)) == [Version(1, 1)] * 4
    assert [server.engine.loads for server in servers] == [["1.1"], ["1.1"]]


async def test_later_weights_are_never_replaced_by_earlier_ones(start: Start, tmp_path: Path) -> None:
    server = start()
    early, late = (VLLMSampler(spec(server)) for _ in range(2))
    first, second = publish(tmp_path, 1, 1), publish(tmp_path, 2, 2)
    await update(late, second)
    assert await update(early, first) == Version(1, 1), "what is served is newer: good enough"
    assert server.engine.loads == ["1.2"]
    assert set((await ask(early)).versions) == {Version(1, 2)}, "the server's word counts, not the client's belief"


async def test_weights_of_another_run_are_never_taken_for_ours(start: Start, tmp_path: Path) -> None:
    """Servers outlive runs: the version alone would let an old run's (1, 9) pass as newer than our (1, 1)."""
    server = start()
    await update(VLLMSampler(spec(server)), publish(tmp_path / "old", 9, 5, "old run"))
    ours = spec(server)()
    with pytest.raises(SamplerFault, match=r"serves old run:1\.9, asked for :0\.0"):
        await ask(ours)
    await update(ours, publish(tmp_path / "new", 1, 1))
    assert set((await ask(ours)).versions) == {Version(1, 1)}
    assert server.engine.loads == ["1.9", "1.1"]


async def test_a_restarted_server_gets_its_weights_back_before_it_answers(start: Start, tmp_path: Path) -> None:
    server = start()
    sampler = VLLMSampler(spec(server))
    await update(sampler, publish(tmp_path, 3, 1))
    good = await ask(sampler)
    server.restart_with()
    server.engine.policy.reload_weights([("table", bigram_table(0))], True)
    found = await asyncio.gather(*(ask(sampler) for _ in range(3)))
    assert found == [good] * 3 and set(good.versions) == {Version(1, 3)}
    assert server.engine.loads == ["1.3", "1.3"]


async def test_a_load_that_fails_half_way_serves_nothing_until_one_succeeds(start: Start, tmp_path: Path) -> None:
    server = start()
    sampler = VLLMSampler(spec(server))
    await update(sampler, publish(tmp_path, 1, 0))
    server.engine.broken_loads = 1
    second = publish(tmp_path, 2, 1)
    with pytest.raises(SamplerFault, match=r"did not load weights .* illegal memory access"):
        await update(sampler, second)
    assert httpx.get(server.url + PATH).json()["weights"] is None
    assert "weights None" in check_server(server.url, "policy", timeout=5.0), "a new run may mend it by publishing"
    found = await ask(sampler)
    assert set(found.versions) == {Version(1, 1)}, "mended with what this client knows to be published"
    assert await update(sampler, second) == Version(1, 2)


async def test_an_update_waits_for_a_server_that_is_starting(start: Start, tmp_path: Path) -> None:
    server = start()
    sampler = VLLMSampler(spec(server, update_timeout=5.0))
    server.down()
    timer = threading.Timer(0.4, server.start)
    timer.start()
    assert await update(sampler, publish(tmp_path, 1, 1)) == Version(1, 1)
    timer.join()
    server.down()
    gone = VLLMSampler(spec(server, update_timeout=0.5))
    with pytest.raises(SamplerFault, match=r"did not confirm weights run:1\.2 within 0\.5 s: connection refused"):
        await update(gone, publish(tmp_path, 2, 1))
    server.start()


async def test_folders_that_are_not_whole_change_nothing(start: Start, tmp_path: Path) -> None:
    server = start()
    sampler = VLLMSampler(spec(server))
    weights = publish(tmp_path, 1, 1)
    wrong = replace(weights, stamp=Stamp("run", Version(1, 9)))
    with pytest.raises(SamplerFault, match=r"holds run:1\.1, not run:1\.9"):
        await update(sampler, wrong)
    (Path(weights.folder) / "model-00001.safetensors").unlink()
    with pytest.raises(SamplerFault, match="missing or not"):
        await update(sampler, weights)
    assert set((await ask(sampler)).versions) == {Version(0, 0)} and server.engine.loads == []


async def test_weights_of_another_model_are_refused(start: Start, tmp_path: Path) -> None:
    server = start()
    weights = WeightWriter(str(tmp_path))(Version(1, 1), [("model.norm.weight", to_raw(bigram_table(0)))])
    with pytest.raises(SamplerFault, match="no module or parameter named"):
        await update(VLLMSampler(spec(server)), weights)


# ------------------------------------------------------------------------------------------------ start-up


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"logprobs_mode": "raw_logprobs"}, "--logprobs-mode processed_logprobs"),
        ({"served": "other"}, "serves other: start it with --served-model-name policy"),
        ({"gate": None}, "no weight gate"),
        ({"api_key": "k"}, "wrong or missing API key"),
    ],
)
def test_a_server_with_unfit_settings_is_refused_in_one_line(start: Start, options: dict, words: str) -> None:
    server = start(**options)
    with pytest.raises(ConfigError, match=words) as caught:
        spec(server)()
    assert server.url in str(caught.value) and "\n" not in str(caught.value)


def test_no_server_and_no_answer(start: Start) -> None:
    with pytest.raises(ConfigError, match="no vLLM servers"):
        VLLMSamplerSpec((), STOP)()
    server = start()
    server.down()
    with pytest.raises(SamplerFault, match=r"does not answer as vLLM does .connection refused"):
        spec(server)()
    server.start()


async def test_a_key_opens_completions_and_weights(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "s3cret")  # the gate reads it in the server's process, the client in its own
    server = start(api_key="s3cret")
    sampler = spec(server)()
    assert await update(sampler, publish(tmp_path, 1, 1)) == Version(1, 1)
    with pytest.raises(SamplerFault, match="401"):
        await update(VLLMSampler(spec(server, api_key="wrong")), publish(tmp_path, 2, 1))
    assert "s3cret" not in repr(spec(server, api_key="s3cret"))


def test_without_a_key_only_this_machine_may_change_weights(start: Start) -> None:
    from rollout.samplers.vllm_gate import Refused, _authorise

    scope = {"headers": [], "client": ("10.0.0.7", 1)}
    with pytest.raises(Refused, match="serves other machines only with VLLM_API_KEY"):
        _authorise(scope)
    _authorise(scope | {"client": ("127.0.0.1", 1)})


# ------------------------------------------------------------------------------------------------ whole episodes


async def test_an_episode_with_a_policy_behind_a_server(start: Start) -> None:
    chat, tasks = build_chat(), make_tasks(2)
    server = start(ScriptPolicy(chat, gold_script(tasks)))
    sampler = spec(server, stop_ids=chat.stop_ids)()
    for member, task in enumerate(tasks):
        found = await run_episode(
            task,
            FakeFactory()(task, 0),
            sampler,
            chat,
            ChecksReward(),
            EpisodeSettings(),
            group="g",
            member=member,
            seed=1,
            sampling=Sampling(1.0, 64),
        )
        assert (found.stop, found.score.reward, len(found.turns)) == (Stop.DONE, 1.0, 2)
        assert all(turn.completion.finish is Finish.STOP for turn in found.turns)
    assert server.sessions == ["t0/g/0"] * 2 + ["t1/g/1"] * 2
    first, second = (body["prompt"] for body, _ in server.app.seen[-2:])
    assert second[: len(first)] == first, "the second turn's prompt continues the first: its prefix is cached"


async def test_faults_of_the_server_end_an_episode_as_data(start: Start) -> None:
    chat, (task, *_) = build_chat(), make_tasks(1)
    server = start(ScriptPolicy(chat, gold_script([task])))
    sampler = VLLMSampler(spec(server, stop_ids=chat.stop_ids, retries=0))
    server.faults.extend(["500", "500"])
    settings = EpisodeSettings(sampler_retries=1)
    found = await run_episode(
        task,
        FakeFactory()(task, 0),
        sampler,
        chat,
        ChecksReward(),
        settings,
        group="g",
        member=0,
        seed=1,
        sampling=Sampling(1.0, 64),
    )
    assert (found.stop, found.score.reward) == (Stop.SAMPLER_ERROR, None) and "status 500" in str(found.error)


def test_a_pool_publishes_files_and_its_tokens_carry_the_server_s_version(start: Start, tmp_path: Path) -> None:
    chat = save_tokenizer(tmp_path / "policy")
    servers = [start(), start()]
    pool_spec = PoolSpec(
        num_workers=2,
        slots=4,
        env_factories={"sim": FakeFactory()},
        sampler_factory=spec(*servers, stop_ids=chat().stop_ids),
        chat_factory=chat,
        reward=ChecksReward(),
        sampling=Sampling(1.0, 8),
        pack=WeightWriter(str(tmp_path / "weights")),
    )
    tasks = make_tasks(4)
    with LocalPool(pool_spec) as pool:
        assert versions(pool.run_tasks(tasks)) == {Version(0, 0)}
        for step in (0, 1):
            assert pool.publish(Version(1, step), tensors(step)) == Version(1, step)
            assert versions(pool.run_tasks(tasks)) == {Version(1, step)}
    assert [server.engine.loads for server in servers] == [["1.0", "1.1"]] * 2
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == ["1-0", "1-1"]


def versions(found: Sequence[Any]) -> set[Version]:
    assert all(trajectory.turns for trajectory in found)
    return {v for trajectory in found for turn in trajectory.turns for v in turn.completion.versions}
