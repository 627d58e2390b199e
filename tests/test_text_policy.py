"""Policies that speak text in the episode loop, which deals in ids."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout import chat_client
from rollout.chat_client import ChatFault, Endpoint, HttpChat
from rollout.episode import EpisodeSettings, run_episode
from rollout.errors import SamplerFault
from rollout.local_pool import LocalPool
from rollout.reward.checks import ChecksReward
from rollout.samplers.openai import ChatPolicySpec
from rollout.samplers.text import MAX_MESSAGES, Recited, Said, TextPolicy, TextSampler
from rollout.store import decode, encode
from rollout.types import Finish, Message, Sampling, Session, Trajectory, Usage
from rollout.worker import PoolSpec
from tests.fake_chat import FakeServer, ok
from tests.fakes import FakeFactory, make_task, make_tasks

TALK = (Message("system", "s"), Message("user", "u"))


class Listener:
    """Says the next of ``texts`` and remembers what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = list(texts), []

    async def __call__(self, messages: Sequence[Message], max_tokens: int, session: Session) -> Said:
        self.asked.append((tuple(messages), max_tokens))
        return Said(self.texts.pop(0), Finish.STOP, Usage(7, 2))


async def act(sampler: TextSampler, task) -> Trajectory:
    settings = EpisodeSettings(max_context=MAX_MESSAGES)
    options = {"group": "g", "member": 0, "seed": 0, "sampling": Sampling(0.0, 9)}
    return await run_episode(task, FakeFactory()(task, 0), sampler, sampler, ChecksReward(), settings, **options)


async def test_an_episode_shows_the_whole_conversation_and_keeps_what_was_said() -> None:
    listener = Listener("get a", "set a 1", "done")
    found = await act(TextSampler(listener), make_task())
    assert found.score.reward == 1.0 and [t.completion.text for t in found.turns] == ["get a", "set a 1", "done"]
    messages, max_tokens = listener.asked[-1]
    assert [m.role for m in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[2].content == "get a" and messages[3].content == "a: not set" and max_tokens == 9
    assert all(turn.completion.usage == Usage(7, 2) for turn in found.turns)
    assert decode(Trajectory, encode(found)) == found


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=20)), max_size=8))
def test_ids_stand_for_messages_exactly(talk) -> None:
    sampler = TextSampler(Listener())
    messages = [Message(role, text) for role, text in talk]
    ids = sampler.prompt(messages)
    assert sampler.transcript(ids) == messages and len(ids) == len(messages)
    assert sampler.decode(ids) == "".join(text for _, text in talk) and sampler.extend(messages, True) == ids


def test_sampler_and_chat_stay_one_object_where_the_spec_goes() -> None:
    tasks = make_tasks(3)
    policy = TextPolicy(Recited({t.id: t.reference.gold for t in tasks}, {t.id: "done" for t in tasks}))
    policy()
    spec = PoolSpec(1, 2, {"fake": FakeFactory()}, policy, policy, ChecksReward(), env="fake")
    there = pickle.loads(pickle.dumps(spec))
    assert there.sampler_factory() is there.chat_factory() is not policy()
    with LocalPool(there) as pool:
        assert [t.score.reward for t in pool.run_tasks(tasks)] == [1.0] * 3


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chat_client, "BACKOFF_SECONDS", 0.01)
    fake = FakeServer()
    yield fake
    fake.http.shutdown()
    fake.http.server_close()


async def say(server: FakeServer, **endpoint) -> Said:
    speaker = ChatPolicySpec(Endpoint(server.url, "policy server", **endpoint), "m", 0.5)()
    return await speaker(TALK, 8, Session("t/g/0", 2**40, time.monotonic() + 5.0))


async def test_thoughts_are_no_part_of_an_action(server: FakeServer) -> None:
    server.replies = [ok("<think>\nls?\n</think>\n\nls -l")]
    assert (await say(server)).text == "ls -l"
    server.replies = [ok("ls", reasoning_content="hm")]
    said = await say(server)
    assert (said.text, said.finish, said.usage.prompt_tokens, said.usage.completion_tokens) == (
        "ls",
        Finish.STOP,
        11,
        3,
    )
    server.replies = [ok("", "length", reasoning_content="hm")]
    said = await say(server)
    assert (said.text, said.finish) == ("", Finish.LENGTH)
    assert server.bodies[0]["temperature"] == 0.5 and server.bodies[0]["user"] == "t/g/0"


async def test_faults_of_the_server_are_typed(server: FakeServer) -> None:
    server.replies = [(503, {}, "loading"), ok("ls")]
    assert (await say(server)).usage.retries == 1
    for reply, words in (((401, {}, "bad key"), "refuses the request"), ((413, {}, "big"), "prompt is too long")):
        server.replies = [reply]
        with pytest.raises(SamplerFault, match=words):
            await say(server)
    server.replies = [(500, {}, "boom")]
    with pytest.raises(SamplerFault, match=r"policy server .* failed 2 times: status 500: boom"):
        await say(server, retries=1)


async def test_the_client_keeps_its_deadline(server: FakeServer) -> None:
    def hang(body):
        time.sleep(0.6)
        return ok("late")

    server.replies = [hang]
    client = HttpChat(Endpoint(server.url))
    with pytest.raises(ChatFault, match=r"gave no answer within 0\.\d s \(deadline\)"):
        await client(TALK, {"model": "m"}, time.monotonic() + 0.2)
    await client.close()
