"""A small language model for worlds, from scratch: LFM2 blocks with a copying circuit planted in the first two.

Owns: the shape and the initial weights. Refuses: training, tokenizers, pretrained models (they load as any other).

Predicting a terminal is mostly copying the right text, and gradient descent alone needs billions of tokens to find
the two-layer circuit that copies (induction heads, Olsson et al. 2022, arXiv 2209.11895). Here the circuit is the
initialisation, in the spirit of mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828), and training
starts from it: the first block, a short convolution, writes the previous two tokens beside each token; the second
block, attention, looks for the place where the same two tokens stood before and copies what followed.

Residual stream (width D = 4 S): ``[content S | previous token S | the one before S | free S]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Lfm2Config, Lfm2ForCausalLM, set_seed

SCALE = 0.1  # of an embedding's entries
SHARPNESS = 1.8  # of the planted heads: their scores peak at 8 * SHARPNESS**2
LOW = 11  # rotary pairs from here on turn so slowly that content can be matched over a whole context
COPY, ECHO, LOOKUP = 4.0, 1.0, 1.0  # how strongly the planted heads write


@dataclass(frozen=True, slots=True)
class Shape:
    """``layers``: a letter per block, ``c`` short convolution, ``a`` attention; must begin with ``ca``."""

    hidden: int = 256
    layers: str = "cacaca"
    heads: int = 4
    kernel: int = 3
    intermediate: int = 640


def fresh_model(vocabulary: int, shape: Shape, pad_id: int, eos_id: int, seed: int) -> Lfm2ForCausalLM:
    """A new model in fp32. Loads again with ``AutoModelForCausalLM``."""
    if not shape.layers.startswith("ca") or shape.hidden != 64 * shape.heads or shape.heads != 4:
        raise ValueError("shape: layers must begin with 'ca', with 4 heads of 64")
    set_seed(seed)
    kinds = {"c": "conv", "a": "full_attention"}
    config = Lfm2Config(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=len(shape.layers),
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        layer_types=[kinds[letter] for letter in shape.layers],
        conv_L_cache=shape.kernel,
        conv_bias=True,
        block_auto_adjust_ff_dim=False,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e9},
        initializer_range=0.04,
        pad_token_id=pad_id,
        bos_token_id=None,
        eos_token_id=eos_id,
    )
    model = Lfm2ForCausalLM(config)
    with torch.no_grad():
        _scale_embeddings(model)
        for index, letter in enumerate(shape.layers):
            block = model.model.layers[index]
            block.feed_forward.w2.weight.mul_(0.25)
            if letter == "c":
                _open_gates(block.conv)
            else:
                block.self_attn.out_proj.weight.mul_(0.25)
        _plant_shift(model.model.layers[0].conv, shape.kernel)
        _plant_induction(model.model.layers[1].self_attn)
    return model


def _scale_embeddings(model: Lfm2ForCausalLM) -> None:
    """Content dimensions carry the token; the rest starts small, free to be used."""
    weight = model.get_input_embeddings().weight
    weight.normal_(0.0, SCALE)
    weight[:, 64:192].mul_(0.05)
    weight[:, 192:].mul_(0.3)


def _open_gates(conv: nn.Module) -> None:
    """Multiplicative gates start at one, so that the block starts as a plain convolution."""
    width = conv.out_proj.weight.shape[0]
    conv.in_proj.bias.zero_()
    conv.in_proj.bias[: 2 * width] = 1.0
    conv.in_proj.weight[: 2 * width].mul_(0.5)
    conv.conv.bias.zero_()
    conv.out_proj.bias.zero_()
    conv.out_proj.weight.mul_(0.25)


def _plant_shift(conv: nn.Module, kernel: int) -> None:
    """Channels 0..63 carry the token one back into slot 1, channels 64..127 the one two back into slot 2."""
    width = conv.out_proj.weight.shape[0]
    inner = conv.in_proj.weight
    inner[:, :].mul_(0.1)
    for slot, back in ((0, 1), (1, 2)):
        channels = slice(64 * slot, 64 * slot + 64)
        inner[2 * width + 64 * slot : 2 * width + 64 * slot + 64] = 0.0
        inner[2 * width + 64 * slot : 2 * width + 64 * slot + 64, :64] = 0.5 * torch.eye(64)
        conv.conv.weight[channels] = 0.0
        conv.conv.weight[channels, 0, kernel - 1 - back] = 1.0
        conv.out_proj.weight[:, channels] = 0.0
        conv.out_proj.weight[64 + 64 * slot : 128 + 64 * slot, channels] = SCALE * torch.eye(64)
    conv.out_proj.weight[:, 128:].mul_(0.2)


def _plant_induction(attention: nn.Module) -> None:
    """Head 0 matches the last two tokens, head 1 the last one, head 2 the one two back; all copy what stands there."""
    q, k = attention.q_proj.weight, attention.k_proj.weight
    v, out = attention.v_proj.weight, attention.out_proj.weight
    here, before, earlier = slice(0, 64), slice(64, 128), slice(128, 192)
    matches = (
        (COPY, ((here, before), (before, earlier))),
        (ECHO, ((here, before), (here, before))),
        (LOOKUP, ((earlier, earlier), (earlier, earlier))),
    )
    for head, (strength, pairs) in enumerate(matches):
        rows = slice(64 * head, 64 * head + 64)
        q[rows], k[rows] = 0.0, 0.0
        basis = _orthonormal(2 * (32 - LOW))
        for half, (query, key) in enumerate(pairs):
            lines = range(64 * head + 32 * half + LOW, 64 * head + 32 * half + 32)
            part = basis[half::2]
            for line, direction in zip(lines, part, strict=True):
                q[line, query] = direction
                k[line, key] = direction
        v[rows] = 0.0
        v[rows, here] = torch.eye(64)
        out[:, rows] = 0.0
        out[here, rows] = SCALE * strength * torch.eye(64)
    attention.q_layernorm.weight.fill_(SHARPNESS)
    attention.k_layernorm.weight.fill_(SHARPNESS)


def _orthonormal(count: int) -> Tensor:
    """``count`` orthonormal rows of length 64."""
    return torch.linalg.qr(torch.randn(64, 64)).Q[:count]
