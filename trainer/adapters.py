"""LoRA adapters, seen from outside: the plain model that base and adapter add up to.

Owns: which adapters can be published, the names and merged values of their layers. Nothing is merged in place: taking
a delta out of a weight again would leave its rounding there, a little more with every version.
Refuses: training them (that is TRL's and PEFT's), and adapters that are not a delta on one weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rollout.errors import ConfigError

if TYPE_CHECKING:
    import torch

BASE = ".base_layer."  # in the names of what PEFT wraps


def is_adapted(model: torch.nn.Module) -> bool:
    """Whether ``model`` carries PEFT adapters, in either of the two ways there are."""
    return hasattr(model, "peft_config")


def plain_model(model: Any) -> Any:
    """The transformers model whose parameters are walked: inside a ``PeftModel``, else ``model`` itself."""
    return model.get_base_model() if is_adapted(model) and hasattr(model, "get_base_model") else model


def lora_layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """(name in the plain model, layer) of every LoRA layer."""
    if not is_adapted(model):
        return
    from peft.tuners.lora import LoraLayer

    for name, module in plain_model(model).named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def merged_weight(layer: Any) -> torch.Tensor:
    """The weight a plain layer would have, in fp32: base plus the deltas of the active adapters."""
    weight = layer.get_base_layer().weight.detach().float()
    if layer.merged:
        return weight
    for adapter in layer.active_adapters:
        weight = weight + layer.get_delta_weight(adapter).detach().float()
    return weight


def check_adapters(model: torch.nn.Module) -> None:
    """Raises ``ConfigError`` unless ``model`` is plain or its adapters are LoRA deltas on weights of their own."""
    if not is_adapted(model):
        return
    if not hasattr(model, "get_base_model"):
        raise ConfigError("model: adapters were loaded into it; merge them, or load them with peft.PeftModel")
    for name, config in model.peft_config.items():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        extras = ("modules_to_save", "target_parameters", "trainable_token_indices", "layer_replication", "lora_bias")
        unusual = [extra for extra in extras if getattr(config, extra, None)]
        if kind != "LORA" or unusual:
            what = unusual[0] if kind == "LORA" else f"peft_type {kind}"
            raise ConfigError(
                f"model: adapter '{name}' uses {what}; published weights are merged from plain LoRA layers"
            )
    layers = dict(lora_layers(model))
    for name, layer in layers.items():
        if layer.lora_variant:
            raise ConfigError(f"model: {name} is not a plain LoRA layer (DoRA or another variant); use plain LoRA")
        if not layer.get_base_layer().weight.is_floating_point():
            raise ConfigError(f"model: {name} adapts a quantised layer; load the base model in floating point")
    plain = plain_model(model)
    ends = plain.get_input_embeddings(), plain.get_output_embeddings()
    if plain.config.get_text_config().tie_word_embeddings and any(end in layers.values() for end in ends):
        raise ConfigError(
            "model: an adapter on embeddings that are tied to the output layer cannot be merged; leave them"
        )
