"""What the vLLM client and its server promise each other, asked of the stand-in and of a real vLLM.

The stand-in always; a real server (``make test-vllm``) where AGENTWORLD_VLLM_URL names one that was started as
docs/samplers.md says, on the model folder AGENTWORLD_VLLM_MODEL, with a disk that both sides see.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fake_vllm import FakeVLLM, TinyPolicy
from fakes import build_model, save_policy

from rollout.chat import load_chat
from rollout.errors import SamplerFault
from rollout.samplers.vllm import VLLMSampler, VLLMSamplerSpec
from rollout.samplers.vllm_control import check_server
from rollout.samplers.vllm_gate import HEADER, PATH
from rollout.types import Finish, Sampling, Session, Version
from rollout.weight_files import WeightFiles, WeightWriter
from trainer.weights import named_tensors

URL = os.environ.get("AGENTWORLD_VLLM_URL", "")
SERVERS = ["fake", pytest.param("real", marks=pytest.mark.vllm)] if URL else ["fake"]


@dataclass(frozen=True)
class Side:
    """One server and the model it started from. ``close``: how near logprobs of the same ids must be."""

    url: str
    model: Any
    chat: Any
    spec: VLLMSamplerSpec
    close: float
    lineage: str

    def sampler(self) -> VLLMSampler:
        return self.spec()

    def prompt(self, text: str = "say something") -> tuple[int, ...]:
        return self.chat.encode(text)

    def logprobs(self, model: Any, context: tuple[int, ...], ids: tuple[int, ...], temperature: float) -> list[float]:
        """What training recomputes."""
        with torch.no_grad():
            logits = model(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1].float()
        values = torch.log_softmax(logits / temperature, -1)
        return [float(values[i, token]) for i, token in enumerate(ids)]


@pytest.fixture(scope="module", params=SERVERS)
def side(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    if request.param == "real":
        from transformers import AutoModelForCausalLM

        folder = os.environ["AGENTWORLD_VLLM_MODEL"]
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        yield _side(URL, model, load_chat(folder), 0.05)
        return
    folder = str(save_policy(tmp_path_factory.mktemp("policy")))
    server = FakeVLLM(TinyPolicy(build_model()))
    yield _side(server.url, build_model(), load_chat(folder), 1e-4)
    server.stop()


def _side(url: str, model: Any, chat: Any, close: float) -> Side:
    spec = VLLMSamplerSpec((url,), chat.stop_ids, Sampling(1.0, 16), drain=5.0, update_timeout=100.0)
    return Side(url, model, chat, spec, close, uuid.uuid4().hex)


def session(seed: int = 0, seconds: float = 60.0, **kwargs: Any) -> Session:
    return Session("t0/g0/0", seed, time.monotonic() + seconds, **kwargs)


def publish(side: Side, root: Path, version: Version, model: Any) -> WeightFiles:
    return WeightWriter(str(root), lineage=side.lineage)(version, named_tensors(model))


def test_the_server_is_fit_for_training(side: Side) -> None:
    assert "serves policy" in check_server(side.url, "policy", timeout=30.0)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
async def test_ids_come_with_the_logprobs_that_training_recomputes(side: Side, temperature: float) -> None:
    context = side.prompt()
    found = await side.sampler()(context, 12, session(3, temperature=temperature))
    assert 1 <= len(found.ids) == len(found.logprobs) == len(found.versions) <= 12
    assert found.logprobs == pytest.approx(side.logprobs(side.model, context, found.ids, temperature), abs=side.close)


async def test_a_greedy_call_takes_the_likeliest_ids_and_reports_them_at_temperature_one(side: Side) -> None:
    context = side.prompt("the quick")
    found = await side.sampler()(context, 4, session(temperature=0.0))
    assert found.logprobs == pytest.approx(side.logprobs(side.model, context, found.ids, 1.0), abs=side.close)
    assert math.exp(found.logprobs[0]) >= 1.0 / side.model.config.vocab_size


async def test_a_seed_decides_and_its_range_is_63_bits(side: Side) -> None:
    sampler, context = side.sampler(), side.prompt()
    same = [await sampler(context, 8, session(2**63 - 1)) for _ in range(2)]
    others = [await sampler(context, 8, session(seed)) for seed in range(4)]
    assert same[0].ids == same[1].ids
    assert len({found.ids for found in [*same, *others]}) > 1


async def test_a_stop_id_ends_a_completion_and_is_part_of_it(side: Side) -> None:
    context = side.prompt()
    free = await side.sampler()(context, 8, session(5, temperature=1.0))
    stop = free.ids[len(free.ids) // 2]
    sampler = replace(side.spec, stop_ids=(stop,))()
    found = await sampler(context, 8, session(5, temperature=1.0))
    assert found.finish is Finish.STOP and found.ids == free.ids[: free.ids.index(stop) + 1]
    cut = await replace(side.spec, stop_ids=(side.model.config.vocab_size - 1,))()(context, 3, session(5))
    assert (cut.finish, len(cut.ids)) == (Finish.LENGTH, 3)


async def test_special_tokens_of_a_prompt_stay_as_they_are(side: Side) -> None:
    context = (*side.chat.stop_ids, *side.prompt(), *side.chat.stop_ids)
    found = await side.sampler()(context, 2, session(1))
    assert found.logprobs == pytest.approx(side.logprobs(side.model, context, found.ids, 1.0), abs=side.close)


async def test_many_calls_at_once(side: Side) -> None:
    sampler = side.sampler()
    calls = [sampler(side.prompt(f"call {i}"), 6, Session(f"t{i}/g/0", i, time.monotonic() + 100.0)) for i in range(16)]
    assert len(await asyncio.gather(*calls)) == 16


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "nobody"}, 404),
        ({"prompt": [10**6]}, 400),
        ({"temperature": -1.0}, 400),
        ({"max_tokens": 0}, 400),
        ({"seed": 2**63}, 400),
        ({"logprobs": -2}, 400),
        ({"stop_token_ids": ["a"]}, 400),
    ],
)
def test_wrong_requests_are_refused_not_mended(side: Side, change: dict[str, Any], status: int) -> None:
    body = {"model": "policy", "prompt": [5, 6], "max_tokens": 2, **change}
    reply = httpx.post(f"{side.url}/v1/completions", json=body, headers=_key(), timeout=30.0)
    assert reply.status_code == status or (reply.status_code == 422 and status == 400)


def test_the_gate_speaks_of_weights(side: Side) -> None:
    reply = httpx.get(f"{side.url}{PATH}", headers=_key(), timeout=30.0)
    assert reply.status_code == 200 and set(reply.json()) == {"weights", "running"}
    assert reply.headers[HEADER] == reply.json()["weights"]
    wrong = [b"", b"[]", b"{}", b'{"weights": "a:1", "folder": "/x", "drain": 1, "timeout": 1}']
    wrong.append(b'{"weights": "a:1.1", "folder": "relative", "drain": 1, "timeout": 1}')
    wrong.append(b'{"weights": "a:1.1", "folder": "/nowhere", "drain": 1, "timeout": 1}')
    for content in wrong:
        assert httpx.post(f"{side.url}{PATH}", content=content, headers=_key(), timeout=30.0).status_code == 400
    assert httpx.put(f"{side.url}{PATH}", headers=_key(), timeout=30.0).status_code == 405


async def test_published_weights_are_served_and_stamped(side: Side, tmp_path: Path) -> None:
    """From here on the server is another one: it must have been started just before these tests."""
    sampler, context = side.sampler(), side.prompt()
    before = await sampler(context, 8, session(7))
    changed = build_changed(side.model)
    weights = publish(side, tmp_path, Version(1, 1), changed)
    assert await asyncio.to_thread(sampler.update, Version(1, 1), weights) == Version(1, 1) == sampler.version
    after = await sampler(context, 8, session(7))
    assert set(before.versions) == {Version(0, 0)} and set(after.versions) == {Version(1, 1)}
    assert after.logprobs == pytest.approx(side.logprobs(changed, context, after.ids, 1.0), abs=side.close)
    assert after.ids != before.ids
    assert await asyncio.to_thread(sampler.update, Version(1, 1), weights) == Version(1, 1), "told twice, loaded once"
    body = {"model": "policy", "prompt": [5], "max_tokens": 1}
    for wanted in (weights.stamp._replace(version=Version(1, 2)), weights.stamp._replace(lineage="other")):
        headers = _key() | {HEADER: str(wanted)}
        stale = httpx.post(f"{side.url}/v1/completions", json=body, headers=headers, timeout=30.0)
        assert stale.status_code == 409 and f"serves {weights.stamp}" in stale.text


async def test_weights_change_only_between_calls(side: Side, tmp_path: Path) -> None:
    sampler, context = side.sampler(), side.prompt()
    first = publish(side, tmp_path, Version(1, 1), build_changed(side.model))
    await asyncio.to_thread(sampler.update, Version(1, 1), first)
    long = [sampler(context, 200, Session(f"t{i}/g/0", i, time.monotonic() + 100.0)) for i in range(4)]
    running = [asyncio.ensure_future(call) for call in long]
    await asyncio.sleep(0.1)
    weights = publish(side, tmp_path, Version(1, 2), side.model)
    await asyncio.to_thread(sampler.update, Version(1, 2), weights)
    for found in await asyncio.gather(*running):
        assert len(set(found.versions)) == 1
        model = side.model if found.versions[0] == Version(1, 2) else build_changed(side.model)
        recomputed = side.logprobs(model, context, found.ids[:6], 1.0)
        assert found.logprobs[:6] == pytest.approx(recomputed, abs=side.close)
    with pytest.raises(SamplerFault, match="was given weights"):
        sampler.update(Version(1, 3), weights)


def build_changed(model: Any) -> Any:
    """The same model with its input embedding turned round: other logits for every context."""
    import copy

    changed = copy.deepcopy(model)
    with torch.no_grad():
        weight = changed.get_input_embeddings().weight
        weight.copy_(weight.roll(7, 0))
    return changed


def _key() -> dict[str, str]:
    key = os.environ.get("VLLM_API_KEY", "")
    return {"Authorization": f"Bearer {key}"} if key else {}
