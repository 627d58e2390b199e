"""LoRA and a frozen reference, with credit and correction on: published and exported as the plain model they equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trainer_toys import ToySink, ToySource, make_trainer, random_batch, tiny_model, tiny_tokenizer, trl_options

from rollout.errors import ConfigError
from rollout.types import Batch, Version
from trainer.adapters import check_adapters, lora_layers
from trainer.config import TrainerConfig, build_lora_config
from trainer.stages import load_model, policy_rl
from trainer.weights import load_tensors, named_tensors, to_torch

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
IDS = torch.arange(12).reshape(2, 6)
LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0}


def adapted(seed: int = 0, dtype: Any = torch.float32, **options: Any) -> Any:
    """A tiny model with a trained-looking adapter on every linear layer."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(tiny_model().to(dtype), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def logits(model: Any) -> Any:
    model.eval()
    with torch.no_grad():
        return model(IDS).logits


def logps(model: Any, data: dict[str, Any]) -> Any:
    """Log-probabilities of the completion's tokens, without TRL."""
    model.eval()
    with torch.no_grad():
        ids = torch.cat([data["prompt_ids"], data["completion_ids"]], dim=1)
        mask = torch.cat([data["prompt_mask"], data["completion_mask"]], dim=1)
        out = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    width = data["completion_ids"].shape[1]
    return out.gather(2, ids[:, 1:, None])[:, -width:, 0]


def differ(left: Any, right: Any, data: dict[str, Any]) -> float:
    """Largest difference on real tokens."""
    return float(((left - right) * data["completion_mask"]).abs().max())


# ---------------------------------------------------------------- names and values


def test_published_tensors_are_those_of_the_merged_model() -> None:
    model = adapted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    items = dict(named_tensors(model))
    merged = deepcopy(model).merge_and_unload()
    assert items.keys() == dict(named_tensors(tiny_model())).keys()
    for name, parameter in merged.named_parameters():
        assert torch.equal(to_torch(items[name]), parameter), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # untouched
    plain = tiny_model(5)
    load_tensors(plain, items)
    assert torch.allclose(logits(plain), logits(model), atol=1e-5)
    assert not torch.allclose(logits(plain), logits(tiny_model()), atol=1e-2)


def test_sums_are_rounded_once() -> None:
    model = adapted(dtype=torch.bfloat16)
    (name, layer), *_ = lora_layers(model)
    exact = layer.get_base_layer().weight.float() + layer.get_delta_weight("default").float()
    key = f"{name}.weight"
    assert torch.equal(to_torch(dict(named_tensors(model, dtype="float32"))[key]), exact)
    assert torch.equal(to_torch(dict(named_tensors(model))[key]), exact.bfloat16())


def test_every_rank_enters_every_gather_in_the_same_order_with_all_it_needs() -> None:
    model = adapted()
    entered: dict[bool, list[list[int]]] = {True: [], False: []}
    for sender in (True, False):

        @contextmanager
        def gather(parameters: list[Any], sender: bool = sender) -> Iterator[None]:
            entered[sender].append([id(p) for p in parameters])
            yield

        items = list(named_tensors(model, gather=gather, sender=sender))
        assert bool(items) == sender
    assert entered[True] == entered[False]
    assert {p for group in entered[True] for p in group} == {id(p) for p in model.parameters()}
    for _, layer in lora_layers(model):
        assert [id(p) for p in layer.parameters()] in entered[True]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: adapted(use_dora=True), "not a plain LoRA layer"),
        (lambda: adapted(modules_to_save=["norm"]), "modules_to_save"),
        (lambda: adapted(lora_bias=True), "lora_bias"),
        (
            lambda: peft.get_peft_model(tiny_model(), peft.LoraConfig(target_modules=["embed_tokens", "q_proj"])),
            "tied to the output",
        ),
        (
            lambda: peft.get_peft_model(
                tiny_model(), peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
            ),
            "peft_type IA3",
        ),
    ],
    ids=["dora", "modules_to_save", "bias", "tied embeddings", "ia3"],
)
def test_adapters_that_cannot_be_merged_are_refused_in_one_line(build: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check_adapters(build())
    assert "\n" not in str(caught.value)
    check_adapters(tiny_model())


# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: a frozen reference is loaded from where the policy came from."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(folder)
    return folder


def anchored(batch: Batch) -> Batch:
    """World states by turn, so that step credit has peers."""

    def named(member: Any) -> Any:
        seen = [replace(turn.observation, anchor=f"turn {k}") for k, turn in enumerate(member.turns)]
        turns = [replace(turn, observation=o) for turn, o in zip(member.turns, seen, strict=True)]
        return replace(member, turns=tuple(turns))

    return replace(batch, groups=tuple(replace(g, members=tuple(named(m) for m in g.members)) for g in batch.groups))


def stale(steps: int) -> dict[int, Batch]:
    """Two steps old from the third on."""
    return {s: anchored(random_batch(s, version=Version(0, max(0, s - 2)), logprob=-3.0)) for s in range(steps)}


def run(
    out: Path, model: Any, steps: int, *, trl: Any = None, resume_from: Path | None = None, **settings: Any
) -> tuple[Path, ToySink, Any]:
    """(final folder, sink, trainer) of a run with everything on: stale tokens, GiGPO, KL to a frozen reference."""
    options = trl_options(max_steps=steps, learning_rate=1e-2, **{"beta": 0.1, **(trl or {})})
    config = TrainerConfig(max_row_length=64, credit="step", **settings, trl=options)
    sink, seen = ToySink(), list[Any]()
    final = policy_rl(
        model,
        tiny_tokenizer(),
        out,
        config,
        ToySource(stale(steps)),
        sink,
        resume_from=resume_from,
        on_ready=seen.append,
    )
    return final, sink, seen[0]


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
@pytest.mark.parametrize("correction", ["decoupled", "sequence_mask", "coupled"])
def test_lora_trains_publishes_and_exports(tmp_path: Path, base: Path, correction: str, loss_type: str) -> None:
    start = logits(load_model(base))
    final, sink, trainer = run(
        tmp_path, base, 4, trl={**LORA, "loss_type": loss_type}, correction=correction, weight_cap=[0.01, 5.0]
    )
    first, last = (dict(sink.published[i][1]) for i in (0, -1))
    plain = tiny_model(3)
    load_tensors(plain, first)
    assert torch.equal(logits(plain), start)  # a new adapter adds nothing
    load_tensors(plain, last)
    assert not torch.allclose(logits(plain), start, atol=1e-3)
    assert torch.allclose(logits(plain), logits(trainer.model), atol=1e-5)
    exported = load_model(final)
    assert type(exported).__name__ == "Qwen3ForCausalLM" and torch.equal(logits(exported), logits(plain))
    again = peft.PeftModel.from_pretrained(load_model(base), final / "adapter")
    assert torch.allclose(logits(again), logits(plain), atol=1e-5)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)


def test_the_reference_of_an_adapter_is_the_base_model_and_stays(tmp_path: Path, base: Path) -> None:
    _, _, trainer = run(tmp_path, base, 3, trl=LORA)
    trainer.source = ToySource({3: stale(4)[3]})
    trainer.model.train()
    data = trainer._generate_and_score_completions([{"prompt": ""}] * 8)
    original = logps(load_model(base), data)
    assert differ(data["ref_per_token_logps"], original, data) < 1e-5
    assert differ(data["old_per_token_logps"], original, data) > 1e-2
    assert data["advantages"].ndim == 2 and "old_per_token_logps" in data
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-5


def test_the_reference_of_full_weights_is_where_they_started(tmp_path: Path, base: Path) -> None:
    _, _, trainer = run(tmp_path, base, 3)
    trainer.source = ToySource({3: stale(4)[3]})
    trainer.model.train()
    data = trainer._generate_and_score_completions([{"prompt": ""}] * 8)
    original = logps(load_model(base), data)
    assert differ(data["ref_per_token_logps"], original, data) < 1e-5
    assert differ(data["old_per_token_logps"], original, data) > 1e-2
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-5


def test_an_adapter_that_exists_is_trained_against_a_copy_of_itself(tmp_path: Path) -> None:
    model = adapted()
    start = logits(model)
    final, sink, trainer = run(tmp_path, model, 3)
    plain = tiny_model(3)
    load_tensors(plain, dict(sink.published[0][1]))
    assert torch.allclose(logits(plain), start, atol=1e-5)
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-5
    assert torch.allclose(logits(load_model(final)), logits(trainer.model), atol=1e-5)
    assert not torch.allclose(logits(load_model(final)), start, atol=1e-3)


def test_a_run_with_an_adapter_resumes_to_the_same_weights(tmp_path: Path, base: Path) -> None:
    options = {**LORA, "save_strategy": "steps", "save_steps": 2}
    whole, _, _ = run(tmp_path / "a", base, 4, trl=options)
    resumed, _, _ = run(tmp_path / "b", base, 4, trl=options, resume_from=tmp_path / "a" / "checkpoint-2")
    # weights that were loaded lie elsewhere in memory, and a CPU kernel may round otherwise there: one ulp of the loss
    assert torch.allclose(logits(load_model(whole)), logits(load_model(resumed)), atol=1e-5)


def test_the_seed_decides_a_new_adapter(tmp_path: Path) -> None:
    def drawn(seed: int) -> Any:
        torch.manual_seed(99 + len(list(tmp_path.iterdir())))
        trainer = make_trainer(tmp_path / str(seed), ToySource({}), seed=seed, **LORA)
        return torch.cat([p.detach().flatten() for n, p in trainer.model.named_parameters() if "lora_A" in n])

    first = drawn(3)
    assert torch.equal(first, drawn(3)) and not torch.equal(first, drawn(4))


# ---------------------------------------------------------------- options


def test_lora_options_become_a_lora_config() -> None:
    assert build_lora_config(TrainerConfig()) is None
    chosen = {**LORA, "lora_target_modules": ["q_proj", "v_proj"], "use_rslora": True}
    made = build_lora_config(TrainerConfig(trl=chosen))
    assert made is not None
    assert (made.r, made.lora_alpha, made.use_rslora, set(made.target_modules)) == (4, 8, True, {"q_proj", "v_proj"})
    whole = build_lora_config(TrainerConfig(trl={"use_peft": True}))
    assert whole is not None and whole.target_modules == "all-linear"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora_r": 8}, "trainer.trl.lora_r does nothing without trainer.trl.use_peft"),
        ({**LORA, "lora_target_modules": ["nothing_like_it"]}, "trainer: .*nothing_like_it"),
        ({**LORA, "lora_target_modules": ["lm_head"]}, "trainer: .*lm_head"),
        ({**LORA, "beta": 0.1, "sync_ref_model": True}, "sync_ref_model needs full weights"),
    ],
)
def test_lora_mistakes_are_one_line(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_trainer(tmp_path, ToySource({}), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["use_dora", "lora_modules_to_save", "load_in_4bit"])
def test_adapters_we_could_not_publish_are_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigError, match=f"trainer.trl.{name} is refused: published weights"):
        TrainerConfig(trl={name: True})
