"""A language model as a world model: context, retries, deadline, and a saved model from its picklable spec."""

from __future__ import annotations

import asyncio
import pickle
import time
from dataclasses import dataclass, field

import pytest

from rollout.errors import ConfigError, SamplerFault, WorldFault
from rollout.samplers.scripted import ScriptedSampler
from rollout.types import Completion, Finish
from tests.fakes import build_chat, save_policy
from worldmodel.dialects import dialect
from worldmodel.language import LanguageSettings, LanguageWorldModel, LocalModelSpec, drop_oldest, read_max_context
from worldmodel.types import Exchange, PredictRequest, WorldSpec

SPEC = WorldSpec("fake", "A store.", "set, get, done", "a=1")


def ask(action: str = "ls", history: int = 0, seconds: float = 5.0, **kwargs) -> PredictRequest:
    past = tuple(Exchange(f"do {i}", f"did {i}") for i in range(history))
    return PredictRequest(SPEC, past, action, 7, time.monotonic() + seconds, "s", **kwargs)


def language(script, **settings) -> LanguageWorldModel:
    chat = build_chat()
    sampler = script if not callable(script) or isinstance(script, Flaky) else ScriptedSampler(chat, script)
    return LanguageWorldModel(sampler, chat, dialect("transcript"), LanguageSettings(**settings), "lm")


@dataclass
class Flaky:
    """A sampler that fails ``faults`` times, then answers 'ok'."""

    faults: int
    sessions: list = field(default_factory=list)

    async def __call__(self, context_ids, max_tokens, session) -> Completion:
        self.sessions.append(session)
        if len(self.sessions) <= self.faults:
            raise SamplerFault("engine lost")
        return await ScriptedSampler(build_chat(), lambda text, s: "ok")(context_ids, max_tokens, session)


async def test_the_model_reads_the_session_and_its_reply_is_the_observation() -> None:
    seen = []

    def script(text: str, session) -> str:
        seen.append((text, session))
        return "a.txt"

    prediction = await language(script).predict(ask(history=1, temperature=0.0))
    text, session = seen[0]
    assert text == (
        "<|system|>A store.\nset, get, done\na=1<|end|><|user|>do 0<|end|><|assistant|>did 0<|end|>"
        "<|user|>ls<|end|><|assistant|>"
    )
    assert (session.id, session.seed, session.temperature) == ("s", 7, 0.0)
    assert (prediction.observation, prediction.finish, prediction.truncated) == ("a.txt", Finish.STOP, False)
    assert (prediction.usage.prompt_tokens, prediction.usage.completion_tokens) == (47, 6)


async def test_a_silent_command_is_an_empty_observation() -> None:
    assert (await language(lambda t, s: "").predict(ask())).observation == ""


async def test_answers_cut_at_max_tokens_are_flagged() -> None:
    prediction = await language(lambda t, s: "abcdefgh", max_tokens=4).predict(ask())
    assert (prediction.observation, prediction.finish, prediction.truncated) == ("abcd", Finish.LENGTH, True)


async def test_long_contexts_lose_their_oldest_exchanges_and_say_so() -> None:
    seen: list[str] = []
    model = language(lambda t, s: seen.append(t) or "ok", max_tokens=10, max_context=150)
    prediction = await model.predict(ask(history=20))
    assert prediction.truncated and prediction.observation == "ok"
    assert seen[0].startswith("<|system|>A store.") and "did 19" in seen[0] and "did 0<" not in seen[0]
    assert prediction.usage.prompt_tokens <= 140
    assert not (await model.predict(ask(history=1))).truncated


async def test_a_world_that_does_not_fit_is_a_clear_fault() -> None:
    with pytest.raises(WorldFault, match=r"take \d+ tokens, more than the 20 that max_context \(30\)"):
        await language(lambda t, s: "ok", max_tokens=10, max_context=30).predict(ask())


def test_drop_oldest_drops_as_little_as_possible() -> None:
    request = ask(history=37)
    for limit in range(38):
        kept = drop_oldest(request, lambda r, limit=limit: len(r.history) <= limit)
        assert kept is not None and kept.history == request.history[37 - limit :]
    assert drop_oldest(request, lambda r: False) is None


async def test_sampler_faults_are_retried_with_new_seeds_within_the_budget() -> None:
    flaky = Flaky(faults=2)
    prediction = await language(flaky, retries=2).predict(ask())
    assert prediction.observation == "ok" and prediction.usage.retries == 2
    assert len({s.seed for s in flaky.sessions}) == 3
    with pytest.raises(WorldFault, match="no observation in 3 attempts: engine lost"):
        await language(Flaky(faults=3), retries=2).predict(ask())


async def test_unreadable_replies_are_retried_then_a_fault() -> None:
    replies = iter(["<think>endless", "b.txt"])
    assert (await language(lambda t, s: next(replies)).predict(ask())).observation == "b.txt"
    with pytest.raises(WorldFault, match="thoughts"):
        await language(lambda t, s: "<think>endless", retries=1).predict(ask())


async def test_the_deadline_ends_the_wait() -> None:
    chat = build_chat()
    slow = ScriptedSampler(chat, lambda t, s: "late", latency=5.0)
    model = LanguageWorldModel(slow, chat, dialect("transcript"), LanguageSettings(), "lm")
    with pytest.raises(WorldFault, match=r"world model lm: no observation after 0\.\d s \(deadline\)"):
        await model.predict(ask(seconds=0.2))


@pytest.mark.slow
async def test_a_saved_model_predicts_from_its_picklable_spec(tmp_path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("rollout.samplers.hf")
    path = str(save_policy(tmp_path / "wm"))
    spec = pickle.loads(pickle.dumps(LocalModelSpec(path, max_tokens=8, dtype="float32", max_batch=4)))
    assert read_max_context(path) == 2048
    model = spec()
    greedy = [ask(history=2, seconds=60.0, temperature=0.0) for _ in range(3)]
    predictions = await asyncio.gather(*(model.predict(r) for r in greedy))
    assert len({p.observation for p in predictions}) == 1 and predictions[0].usage.completion_tokens >= 1
    assert predictions[0].model_id == "wm"
    await model.close()


def test_a_folder_without_a_model_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: no readable model config .* world_model\.path"):
        read_max_context(str(tmp_path))
