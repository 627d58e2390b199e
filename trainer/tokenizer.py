"""A small tokenizer for models trained from scratch on traces.

Owns: pre-tokenisation, training and the compact chat template. Refuses: loading (``rollout.chat`` does).

Text is cut before BPE so that a word has the same token wherever it stands: what is copied from a file tokenises as it
will be printed. ``SINGLE`` makes of everything between words (a file name with its extension is one) a piece per
character; ``RUNS`` leaves what stands between words whole, and digits in pairs: about half the tokens for JSON, screens
and trees, where numbers are copied rather than computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SINGLE = r"[A-Za-z]+(?:\.[a-z]{2,4})*|\d|\s|[^\sA-Za-z\d]"
RUNS = r"\p{L}+(?:\.[a-z]{2,4})*|\d{1,2}|[^\p{L}\d]+"
SPECIALS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, out_dir: Path, pieces: str = SINGLE
) -> PreTrainedTokenizerFast:
    """Train on ``texts``, cut by the regular expression ``pieces``, and save to ``out_dir``. Any byte sequence stays
    representable."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
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
