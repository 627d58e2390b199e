"""Fakes of the outside edges: a small text world, a policy's tokenizer and weights, scripted policies.

Everything between the edges stays real. The world knows ``set KEY VALUE``, ``get KEY``, ``list`` and ``done``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.chat import ChatSpec, TokenChat
from rollout.errors import WorldFault
from rollout.reward.checks import holds
from rollout.samplers.scripted import Replies
from rollout.types import (
    Action,
    Check,
    CheckResult,
    Message,
    Observation,
    ObservationKind,
    Predicate,
    Prompt,
    Reference,
    Task,
    Turn,
    World,
)

COMPACT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = {
    COMPACT: ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
    CHATML: ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
}


# ------------------------------------------------------------------------------------------------ tasks and worlds


def make_task(
    id: str = "t0",
    *,
    key: str = "a",
    value: str = "1",
    family: str = "set",
    split: str = "train",
    state: Mapping[str, str] | None = None,
    max_turns: int = 4,
    seed: int = 0,
) -> Task:
    """Set ``key`` to ``value``; gold does so, wrong sets something else."""
    return Task(
        id=id,
        domain="fake",
        family=family,
        split=split,
        instruction=f"Set {key} to {value}.",
        world=World(state=dict(state or {})),
        checks=(Check("value", (f"get {key}",), Predicate("equals", value)),),
        reference=Reference(gold=(f"set {key} {value}", "done"), wrong=((f"set {key} {value}x", "done"),)),
        max_turns=max_turns,
        seed=seed,
    )


def make_tasks(count: int, **kwargs: Any) -> list[Task]:
    """``count`` tasks with ids t0, t1, ... and alternating families set0 and set1."""
    return [make_task(f"t{i}", value=str(i), family=f"set{i % 2}", seed=i, **kwargs) for i in range(count)]


@dataclass(frozen=True)
class Faults:
    """What goes wrong. Keys: ``start``, ``verify``, ``close``, ``restore`` or a turn number (of ``step``).

    ``raises``: WorldFault with this text. ``errors``: a world_error observation. ``hangs``: seconds of latency.
    ``undecided``: checks without a verdict. ``times``: how often each ``raises`` entry fires.
    """

    raises: Mapping[str | int, str] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)
    hangs: Mapping[str | int, float] = field(default_factory=dict)
    undecided: tuple[str, ...] = ()
    times: int = 1_000_000


class FakeEnvironment:
    """The text world of one task. ``calls`` lists what was asked of it, in order."""

    def __init__(self, task: Task, seed: int = 0, faults: Faults | None = None, world_id: str = "fake") -> None:
        self.world_id = world_id
        self.world_version = "fake-1"
        self.controls: tuple[str, ...] = ()
        self.task = task
        self.seed = seed
        self.state = {key: str(value) for key, value in task.world.state.items()}
        self.calls: list[str] = []
        self.closed = 0
        self._faults = faults or Faults()
        self._fired: dict[str | int, int] = {}
        self._turn = 0

    async def start(self) -> Prompt:
        await self._trouble("start")
        return Prompt((Message("system", "Commands: set, get, list, done."), Message("user", self.task.instruction)))

    def parse(self, text: str) -> Action:
        words = text.strip().split()
        if not words:
            return Action(text, error="empty command")
        if words[0] not in ("set", "get", "list", "done"):
            return Action(text, error=f"{words[0]}: not a command")
        return Action(text, name=words[0], arguments={"words": words[1:]}, final=words == ["done"])

    async def step(self, action: Action) -> Observation:
        turn, self._turn = self._turn, self._turn + 1
        await self._trouble(turn)
        if turn in self._faults.errors:
            return Observation("", kind=ObservationKind.WORLD_ERROR, error=self._faults.errors[turn])
        self.calls.append(action.text)
        if action.error:
            return Observation(action.error, kind=ObservationKind.INVALID_ACTION)
        return Observation(self._answer(action), done=action.final, anchor=str(sorted(self.state.items())))

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        await self._trouble("verify")
        results = []
        for check in checks:
            replies = tuple(self._answer(self.parse(probe)) for probe in check.probes)
            passed = all(holds(check.predicate, reply) for reply in replies)
            undecided = check.name in self._faults.undecided
            results.append(CheckResult(check.name, None if undecided else passed, replies, "split" * undecided))
        return tuple(results)

    async def restore(self, turns: Sequence[Turn]) -> bool:
        await self._trouble("restore")
        for turn in turns:
            self._answer(turn.action)
            self._turn += 1
        return True

    async def close(self) -> None:
        self.closed += 1
        await self._trouble("close")

    def _answer(self, action: Action) -> str:
        words = list(action.arguments.get("words", ()))
        if action.name == "set" and len(words) == 2:
            self.state[words[0]] = words[1]
            return ""
        if action.name == "get" and len(words) == 1:
            return self.state.get(words[0], f"{words[0]}: not set")
        if action.name == "list":
            return "\n".join(sorted(self.state))
        return "" if action.final else "usage: set KEY VALUE | get KEY | list | done"

    async def _trouble(self, where: str | int) -> None:
        await asyncio.sleep(self._faults.hangs.get(where, 0.0))
        fired = self._fired.get(where, 0)
        if where in self._faults.raises and fired < self._faults.times:
            self._fired[where] = fired + 1
            raise WorldFault(self._faults.raises[where])


@dataclass(frozen=True)
class FakeFactory:
    """Picklable ``EnvFactory``. ``faults`` by task id; ``latency`` is added to each start."""

    faults: Mapping[str, Faults] = field(default_factory=dict)
    world_id: str = "fake"

    def __call__(self, task: Task, seed: int) -> FakeEnvironment:
        return FakeEnvironment(task, seed, self.faults.get(task.id), self.world_id)


# ------------------------------------------------------------------------------------------------ policies


def gold_script(tasks: Sequence[Task]) -> Replies:
    """Solves every task."""
    return Replies({task.id: task.reference.gold for task in tasks})


def wrong_script(tasks: Sequence[Task]) -> Replies:
    """Fails every task, plausibly."""
    return Replies({task.id: task.reference.wrong[0] for task in tasks})


# ------------------------------------------------------------------------------------------------ tokens and weights


def build_tokenizer(template: str = COMPACT) -> Any:
    """A byte-level tokenizer without merges (vocabulary 256 + the template's special tokens), built in memory."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = SPECIALS[template]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate((*specials, *alphabet))}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=specials[0],
        eos_token=specials[1],
        additional_special_tokens=list(specials[2:]),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


def build_chat(template: str = COMPACT) -> TokenChat:
    """The tiny tokenizer as a chat; its template is the compact one unless told."""
    return TokenChat(build_tokenizer(template))


def save_tokenizer(path: Path, template: str = COMPACT) -> ChatSpec:
    """Saves the tiny tokenizer under ``path``; returns the spec that loads it."""
    build_tokenizer(template).save_pretrained(str(path))
    return ChatSpec(str(path))


def build_model(kind: str = "qwen3", *, vocab_size: int = 261, hidden: int = 32, layers: int = 2, seed: int = 0) -> Any:
    """A tiny random causal LM: ``qwen3``, ``llama`` or the hybrid convolution model ``lfm2``. fp32, eval mode."""
    import torch
    from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    shape = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "initializer_range": 0.5,  # far-apart logits: greedy choices survive float noise
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "llama":
            model: Any = LlamaForCausalLM(LlamaConfig(**shape))
        elif kind == "lfm2":
            config = Lfm2Config(**shape, full_attn_idxs=[1], block_multiple_of=16)
            model = Lfm2ForCausalLM(config)
        else:
            model = Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=hidden // 2, tie_word_embeddings=True))
    return model.float().eval()


def save_policy(path: Path, kind: str = "qwen3", template: str = COMPACT, seed: int = 0) -> Path:
    """Tiny random weights and tokenizer, saved in HF layout under ``path``."""
    save_tokenizer(path, template)
    build_model(kind, seed=seed).save_pretrained(str(path))
    return path
