"""A small tokenizer for models trained from scratch on traces.

Owns: pre-tokenisation, training and the compact chat template. Refuses: loading (``rollout.chat`` does).

Text is cut into words (a file name with its extension is one), single digits, single whitespace characters and single
other characters before BPE, so a word has the same token wherever it stands: what is copied from a file tokenises as
it will be printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int, out_dir: Path) -> PreTrainedTokenizerFast:
    """Train on ``texts`` and save to ``out_dir``. Any byte sequence stays representable."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[A-Za-z]+(?:\.[a-z]{2,4})*|\d|\s|[^\sA-Za-z\d]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    fast.add_special_tokens({"additional_special_tokens": list(SPECIALS[2:])})
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(out_dir))
    return fast
