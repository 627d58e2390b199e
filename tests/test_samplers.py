"""The HF sampler against a plain forward of the same weights, and the scripted sampler."""

from __future__ import annotations

import asyncio
import pickle
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import FakeEnvironment, build_chat, build_model, gold_script, make_tasks, save_policy, save_tokenizer

from rollout.episode import EpisodeSettings, run_episode
from rollout.errors import ConfigError, SamplerFault
from rollout.reward.checks import ChecksReward
from rollout.samplers.hf_prefix import Prefix, PrefixStore, block_keys, common_length
from rollout.samplers.scripted import ScriptedSampler, ScriptedSamplerSpec
from rollout.types import Finish, Sampling, Session, Version

torch = pytest.importorskip("torch")

from rollout.samplers.hf import HFSampler, HFSamplerSpec  # noqa: E402

STOPS = (1, 7)
KINDS = ["qwen3", "llama", "lfm2"]
MODELS: dict[str, Any] = {}


@dataclass
class Raw:
    data: Any
    dtype: str
    shape: tuple[int, ...]


def model(kind: str = "qwen3") -> Any:
    """Shared, never changed by a test."""
    if kind not in MODELS:
        torch.set_num_threads(1)
        MODELS[kind] = build_model(kind, layers=3)
    return MODELS[kind]


@pytest.fixture
def make():
    made = []

    def build(net: Any = None, **kwargs: Any) -> HFSampler:
        options = {"pad_id": 0, "stop_ids": STOPS, "sampling": Sampling(1.0), "dtype": "float32", **kwargs}
        made.append(HFSampler(net or model(), **options))
        return made[-1]

    yield build
    for sampler in made:
        sampler.close()


def contexts(count: int, longest: int = 90, seed: int = 0) -> list[tuple[int, ...]]:
    """Contexts of many lengths that share beginnings; a few are the same."""
    draw = random.Random(seed)
    trunk = [draw.randrange(8, 261) for _ in range(longest)]
    made = []
    for _ in range(count):
        tail = [draw.randrange(8, 261) for _ in range(draw.randrange(0, 30))]
        made.append((*trunk[: draw.randrange(1, longest)], *tail))
    made[1:4] = [made[0]] * len(made[1:4])
    return made


def plain_greedy(
    net: Any, ids: tuple[int, ...], limit: int, stops: tuple[int, ...] = STOPS
) -> tuple[list[int], list[float]]:
    """One row, no cache, no padding."""
    seen, out, logprobs = list(ids), [], []
    with torch.inference_mode():
        for _ in range(limit):
            scores = net(input_ids=torch.tensor([seen])).logits[0, -1].float().log_softmax(-1)
            out.append(int(scores.argmax()))
            logprobs.append(float(scores[out[-1]]))
            seen.append(out[-1])
            if out[-1] in stops:
                break
    return out, logprobs


def scored(net: Any, ids: tuple[int, ...], completion: tuple[int, ...], temperature: float) -> list[float]:
    """Logprobs of ``completion`` from one forward over the whole row, as a trainer computes them."""
    with torch.inference_mode():
        logits = net(input_ids=torch.tensor([[*ids, *completion]])).logits[0, len(ids) - 1 : -1].float()
    return [float(row[i]) for row, i in zip((logits / temperature).log_softmax(-1), completion, strict=True)]


def session(seed: int = 0, **kwargs: Any) -> Session:
    return Session("s", seed=seed, **kwargs)


# ------------------------------------------------------------------------------------------------ what is sampled


@pytest.mark.parametrize("kind", KINDS)
async def test_batched_greedy_equals_single_rows_over_turns(kind: str, make) -> None:
    """Padding, positions, compaction, shared prefixes and states kept over three turns change nothing."""
    net, draw = model(kind), random.Random(1)
    sampler = make(net, sampling=Sampling(0.0), max_batch=8)
    open_rows = contexts(18)
    for _ in range(3):
        answers = await asyncio.gather(*(sampler(ids, 8, session()) for ids in open_rows))
        for ids, answer in zip(open_rows, answers, strict=True):
            expected, logprobs = plain_greedy(net, ids, 8)
            assert list(answer.ids) == expected
            assert np.allclose(answer.logprobs, logprobs, atol=1e-3)
            assert answer.finish is (Finish.STOP if answer.ids[-1] in STOPS else Finish.LENGTH)
        open_rows = [
            (*ids, *answer.ids, *(draw.randrange(8, 261) for _ in range(draw.randrange(1, 20))))
            for ids, answer in zip(open_rows, answers, strict=True)
        ]
    assert len({answer.ids for answer in answers}) > 5  # the model does say different things


@pytest.mark.parametrize("kind", KINDS)
async def test_states_that_are_kept_save_work_and_change_nothing(kind: str, make, monkeypatch) -> None:
    net, read = model(kind), []
    sampler = make(net, sampling=Sampling(0.0))
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda **kw: read.append(tuple(kw["input_ids"].shape)) or forward(**kw))
    opening = tuple(range(8, 208))
    first = await asyncio.gather(*(sampler(opening, 3, session()) for _ in range(4)))
    prefills = [shape for shape in read if shape[1] > 1]
    assert prefills == [(1, 200)] and len({answer.ids for answer in first}) == 1
    read.clear()
    longer = (*opening, *first[0].ids, *range(20, 30))
    second = await sampler(longer, 3, session())
    assert max(shape[1] for shape in read) == 11  # the last sampled id and ten new ones
    assert list(second.ids) == plain_greedy(net, longer, 3)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
async def test_logprobs_are_those_of_the_distribution_that_was_sampled(kind: str, temperature: float, make) -> None:
    net = model(kind)
    sampler = make(net, sampling=Sampling(temperature), max_batch=8)
    rows = contexts(10, seed=3)
    answers = await asyncio.gather(*(sampler(ids, 10, session(i)) for i, ids in enumerate(rows)))
    for ids, answer in zip(rows, answers, strict=True):
        assert np.allclose(answer.logprobs, scored(net, ids, answer.ids, temperature), atol=1e-3)
        assert all(token not in STOPS for token in answer.ids[:-1]) and 1 <= len(answer.ids) <= 10
        assert len(answer.versions) == len(answer.logprobs) == len(answer.ids)


async def test_a_rows_draw_depends_on_its_seed_and_not_on_its_mates(make) -> None:
    sampler = make(max_batch=8)
    rows = contexts(12, seed=5)
    alone = [await sampler(ids, 8, session(i)) for i, ids in enumerate(rows)]
    order = list(range(12))
    random.Random(0).shuffle(order)
    found = dict(zip(order, await asyncio.gather(*(sampler(rows[i], 8, session(i)) for i in order)), strict=True))
    assert [found[i].ids for i in range(12)] == [answer.ids for answer in alone]
    twins = await asyncio.gather(*(sampler(rows[0], 8, session(seed)) for seed in range(8)))
    assert len({answer.ids for answer in twins}) > 1


async def test_draws_follow_the_models_distribution(make) -> None:
    net = build_model("llama", layers=1, vocab_size=16, seed=2)
    for parameter in net.parameters():
        parameter.data *= 0.5
    ids, count = (9, 10), 3000
    sampler = make(net, max_batch=256)
    answers = await asyncio.gather(*(sampler(ids, 1, session(seed)) for seed in range(count)))
    with torch.inference_mode():
        wanted = net(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1).numpy()
    found = Counter(answer.ids[0] for answer in answers)
    expected = wanted * count
    chi_square = sum((found[i] - expected[i]) ** 2 / expected[i] for i in range(16) if expected[i] > 5)
    assert (expected > 5).sum() > 3 and chi_square < 45  # 15 degrees of freedom: p < 1e-4


async def test_temperature_and_limit_are_per_call(make) -> None:
    sampler = make(sampling=Sampling(1.0))
    ids = tuple(range(8, 40))
    greedy, limits = plain_greedy(model(), ids, 6)[0], (1, 4, 6)
    answers = await asyncio.gather(
        *(sampler(ids, n, session(n, temperature=0.0)) for n in limits), sampler(ids, 6, session(1))
    )
    assert [list(answer.ids) for answer in answers[:3]] == [greedy[:n] for n in limits]
    assert np.allclose(answers[2].logprobs, scored(model(), ids, answers[2].ids, 1.0), atol=1e-3)


async def test_calls_join_a_running_batch(make, monkeypatch) -> None:
    net, shapes, rows = model(), [], contexts(10, seed=7)
    sampler = make(net, sampling=Sampling(0.0), max_batch=8, stop_ids=(1,))
    forward = net.forward
    with monkeypatch.context() as patch:
        patch.setattr(net, "forward", lambda **kw: shapes.append(tuple(kw["input_ids"].shape)) or forward(**kw))
        first = asyncio.create_task(sampler(rows[0], 200, session()))
        while len(shapes) < 5:
            await asyncio.sleep(0.001)
        answers = await asyncio.gather(*(sampler(ids, 5 + 5 * i, session()) for i, ids in enumerate(rows[1:])))
        answers = [await first, *answers]
    sizes = [rows for rows, new in shapes if new == 1]
    assert sizes[:3] == [1, 1, 1] and max(sizes) > 5  # it was running, then others came
    for ids, answer in zip(rows, answers, strict=True):
        assert list(answer.ids) == plain_greedy(net, ids, len(answer.ids), (1,))[0]
    assert [len(a.ids) for a in answers[1:] if a.finish is Finish.LENGTH] == [
        5 + 5 * i for i, a in enumerate(answers[1:]) if a.finish is Finish.LENGTH
    ]


# ------------------------------------------------------------------------------------------------ faults


async def test_deadlines_and_callers_that_leave(make, monkeypatch) -> None:
    sampler, net, steps = make(sampling=Sampling(0.0), stop_ids=()), model(), []
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda **kw: steps.append(1) or forward(**kw))
    ids = tuple(range(8, 40))
    with pytest.raises(SamplerFault, match="before a row was free"):
        await sampler(ids, 4, session(deadline=time.monotonic() - 1))
    with pytest.raises(SamplerFault, match=r"the deadline passed after \d+ of 1900"):
        await sampler(ids, 1900, session(deadline=time.monotonic() + 0.8))
    steps.clear()
    running = asyncio.create_task(sampler(ids, 1900, session()))
    while not sampler._engine.alive:
        await asyncio.sleep(0.001)
    running.cancel()
    assert len((await sampler(ids, 4, session())).ids) == 4
    while sampler._engine.alive:  # the abandoned row leaves long before its 1900 ids
        await asyncio.sleep(0.001)
    assert len(steps) < 1900
    for bad in (((), 4), (ids, 0)):
        with pytest.raises(SamplerFault, match="need 1 of each"):
            await sampler(*bad, session())


async def test_an_error_of_the_engine_reaches_the_callers_and_the_next_call_works(make, monkeypatch) -> None:
    sampler, net = make(sampling=Sampling(0.0)), model()
    ids = tuple(range(8, 40))

    def broken(**kwargs: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(net, "forward", broken)
        results = await asyncio.gather(*(sampler(ids, 4, session()) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(r, SamplerFault) and "RuntimeError: out of memory" in str(r) for r in results)
    assert list((await sampler(ids, 4, session())).ids) == plain_greedy(net, ids, 4)[0]


async def test_logits_that_are_not_finite_are_a_fault(make) -> None:
    net = build_model("llama", layers=1)
    sampler = make(net)
    net.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(SamplerFault, match="not finite"):
        await sampler((9, 10), 4, session())


async def test_a_closed_sampler_says_so(make) -> None:
    sampler = make(stop_ids=())
    running = asyncio.create_task(sampler((9, 10), 1900, session()))
    await asyncio.sleep(0.05)
    sampler.close()
    with pytest.raises(SamplerFault, match="closed"):
        await running
    with pytest.raises(SamplerFault, match="closed"):
        await sampler((9, 10), 4, session())


def test_models_that_keep_other_states_are_refused() -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8, "vocab_size": 32}
    config = Qwen3Config(
        **shape,
        num_hidden_layers=2,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
    )
    with pytest.raises(ConfigError, match="model type qwen3: layer 1 keeps DynamicSlidingWindowLayer"):
        HFSampler(Qwen3ForCausalLM(config), pad_id=0, stop_ids=(1,), sampling=Sampling())
    with pytest.raises(ConfigError, match="dtype 'int8': use one of"):
        HFSampler(model(), pad_id=0, stop_ids=(1,), sampling=Sampling(), dtype="int8")


# ------------------------------------------------------------------------------------------------ weights


async def test_new_weights_are_used_and_old_states_forgotten(make) -> None:
    sampler = make(build_model(layers=2, seed=0), sampling=Sampling(0.0), version=Version(0, 0))
    other = build_model(layers=2, seed=1)
    ids = tuple(range(8, 60))
    before = await sampler(ids, 6, session())
    arrays = {name: value.numpy() for name, value in other.state_dict().items() if name != "lm_head.weight"}
    assert await asyncio.to_thread(sampler.update, Version(0, 1), arrays) == Version(0, 1)
    after = await sampler(ids, 6, session())
    assert list(after.ids) == plain_greedy(other, ids, 6)[0] != list(before.ids)
    assert set(before.versions) == {(0, 0)} and set(after.versions) == {(0, 1)} and sampler.version == (0, 1)


async def test_raw_bfloat16_bytes_are_weights_too(make) -> None:
    sampler = make(build_model(layers=1, seed=0), dtype="bfloat16")
    other = build_model(layers=1, seed=1).bfloat16().state_dict()
    raw = {
        name: Raw(value.contiguous().view(torch.uint8).numpy().tobytes(), "bfloat16", tuple(value.shape))
        for name, value in other.items()
    }
    name = "model.norm.weight"
    raw[name] = Raw(np.frombuffer(raw[name].data, np.uint8), "torch.bfloat16", raw[name].shape)  # any buffer will do
    sampler.update(Version(1, 3), raw)
    assert all(torch.equal(value, other[name]) for name, value in sampler._model.state_dict().items())


async def test_an_update_waits_for_the_rows_that_run_and_no_answer_mixes_versions(make) -> None:
    sampler = make(build_model(layers=1), stop_ids=(), max_batch=4)
    arrays = {name: value.numpy() for name, value in build_model(layers=1, seed=1).state_dict().items()}
    calls = [asyncio.create_task(sampler((9, 10, 11), 200, session(i))) for i in range(12)]
    while not sampler._engine.alive:
        await asyncio.sleep(0.001)
    await asyncio.to_thread(sampler.update, Version(0, 1), arrays)
    answers = await asyncio.gather(*calls)
    assert all(len(set(answer.versions)) == 1 for answer in answers)
    assert {answer.versions[0] for answer in answers} == {(0, 0), (0, 1)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("model.norm.weight"), "1 tensors are missing, first model.norm.weight"),
        (lambda w: w.update(extra=np.zeros(3, np.float32)), r"extra is \(3,\), the model has no such tensor"),
        (lambda w: w.update({"model.norm.weight": np.zeros(3, np.float32)}), r"is \(3,\), the model has \(32,\)"),
        (lambda w: w.update({"model.norm.weight": Raw(b"123", "float32", (32,))}), "model.norm.weight"),
        (lambda w: w.update({"model.norm.weight": Raw(b"1234", "int9", (1,))}), "int9"),
    ],
)
async def test_weights_are_replaced_as_a_whole_or_not_at_all(change, words: str, make) -> None:
    sampler = make(build_model(layers=1, seed=0))
    before = {name: value.clone() for name, value in sampler._model.state_dict().items()}
    weights: dict[str, Any] = {name: v.numpy() for name, v in build_model(layers=1, seed=1).state_dict().items()}
    change(weights)
    with pytest.raises(SamplerFault, match=words):
        sampler.update(Version(0, 1), weights)
    assert all(torch.equal(value, before[name]) for name, value in sampler._model.state_dict().items())
    assert sampler.version == (0, 0)


# ------------------------------------------------------------------------------------------------ specs, episodes


async def test_a_policy_plays_episodes_from_its_pickled_spec(tmp_path: Path) -> None:
    spec = HFSamplerSpec(str(save_policy(tmp_path)), Sampling(1.0), 8, "float32", 1)
    sampler, chat = pickle.loads(pickle.dumps(spec))(), build_chat()
    limits = EpisodeSettings(max_tokens_per_turn=8)
    net = build_model()

    async def play(task, member):
        environment = FakeEnvironment(task)
        names = {"group": "g", "member": member, "seed": 0, "sampling": Sampling(1.0)}
        return await run_episode(task, environment, sampler, chat, ChecksReward(), limits, **names)

    played = await asyncio.gather(*(play(task, member) for task in make_tasks(4) for member in range(3)))
    for trajectory in played:
        assert not trajectory.stop.failed and trajectory.score.reward == 0.0
        ids: tuple[int, ...] = ()
        for turn in trajectory.turns:
            ids += turn.context_ids
            assert np.allclose(turn.completion.logprobs, scored(net, ids, turn.completion.ids, 1.0), atol=1e-3)
            ids += turn.completion.ids
    sampler.close()


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        HFSamplerSpec(str(tmp_path))()
    save_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(ConfigError, match="unreadable model"):
        HFSamplerSpec(str(tmp_path))()


async def test_a_scripted_sampler_speaks_tokens(tmp_path: Path) -> None:
    tasks = make_tasks(2)
    spec = ScriptedSamplerSpec(save_tokenizer(tmp_path), gold_script(tasks), logprob=-0.5)
    sampler, chat = pickle.loads(pickle.dumps(spec))(), build_chat()
    context = chat.encode("<|user|>go<|end|><|assistant|>")
    answer = await sampler(context, 64, Session("t1/g/0"))
    assert answer.ids == (*chat.encode("set a 1"), 1) and set(answer.logprobs) == {-0.5}
    assert (answer.finish, answer.text) == (Finish.STOP, "set a 1")
    cut = await sampler(context, 3, Session("t1/g/0"))
    assert (cut.finish, cut.ids) == (Finish.LENGTH, answer.ids[:3])
    person = ScriptedSampler(chat, lambda text, s: time.sleep(0.01) or text[-13:], blocking=True)
    assert (await person(context, 64, Session("t1/g/0"))).text == "<|assistant|>"


# ------------------------------------------------------------------------------------------------ kept prefixes


def kept(ids: tuple[int, ...], logits: bool = False) -> Prefix:
    size = SimpleNamespace(numel=lambda: len(ids), element_size=lambda: 1)
    empty = SimpleNamespace(numel=lambda: 0, element_size=lambda: 1)
    return Prefix(ids, block_keys(ids), size, (), empty if logits else None)


def test_the_longest_kept_prefix_is_found_and_the_oldest_goes_first() -> None:
    store = PrefixStore(budget_bytes=200, divisible=True)
    trunk = tuple(range(60))
    store.put(kept(trunk))
    store.put(kept((*trunk[:40], *range(100, 140))))
    assert store.find((*trunk, 7), block_keys((*trunk, 7)))[1] == 60
    assert store.find(trunk, block_keys(trunk))[1] == 59  # one id is left to compute
    branch = (*trunk[:40], *range(100, 110), 7, 7)
    assert store.find(branch, block_keys(branch))[1] == 50
    assert store.find(tuple(range(500, 600)), block_keys(range(500, 600))) == (None, 0)
    store.put(kept(tuple(range(300, 400))))  # 240 bytes: the least recently used one goes
    assert store.find((*trunk, 7), block_keys((*trunk, 7)))[1] == 40
    store.clear()
    assert store.find(trunk, block_keys(trunk)) == (None, 0)


def test_whole_prefixes_only_where_states_cannot_be_divided() -> None:
    store = PrefixStore(budget_bytes=1000, divisible=False)
    trunk = tuple(range(40))
    store.put(kept(trunk, logits=True))
    store.put(kept((*trunk, *range(100, 120))))
    assert store.find(trunk, block_keys(trunk))[1] == 40
    assert store.find((*trunk, 5), block_keys((*trunk, 5)))[1] == 40
    for other in (trunk[:39], (*trunk[:35], 9, 9, 9, 9, 9, 9)):
        assert store.find(other, block_keys(other)) == (None, 0)


def test_common_length() -> None:
    assert common_length((), (1,)) == 0 and common_length((1, 2), (1, 2, 3)) == 2
    assert common_length(tuple(range(900)), (*range(700), 0)) == 700
