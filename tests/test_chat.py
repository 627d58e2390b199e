"""Append-only chat: what the sampler reads later continues, id for id, what it read and wrote before."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import CHATML, COMPACT, build_chat, build_tokenizer, save_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.chat import ChatSpec, TokenChat, load_chat
from rollout.errors import ConfigError
from rollout.types import Message

TEMPLATES = {"compact": COMPACT, "chatml": CHATML}
CHATS = {name: build_chat(template) for name, template in TEMPLATES.items()}
# The template drops thoughts from all but the last reply, as some published ones do.
FORGETFUL = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].lstrip() }}"
    "{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
COUNTING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ loop.index if m.role == 'user' }}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_END = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + COMPACT


def rendered(chat: TokenChat, messages: list[Message], generate: bool) -> list[int]:
    rows = [{"role": m.role, "content": m.content} for m in messages]
    text = chat.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=generate)
    return list(chat.encode(text))


def spelled(chat: TokenChat, text: str) -> bool:
    return any(token in text for token in chat.tokenizer.all_special_tokens)


texts = st.text(max_size=20) | st.text(alphabet="ab \n\t", max_size=8)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=60, deadline=None)
@given(opening=texts, turns=st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_appended_ids_are_those_of_the_whole_conversation(name: str, opening: str, turns) -> None:
    chat = CHATS[name]
    messages = [Message("system", "s"), Message("user", opening)]
    ids = list(chat.prompt(messages))
    for reply, observation in turns:
        ids += [*chat.encode(reply), chat.stop_ids[0]]
        ids += chat.extend([Message("user", observation)], True)
        messages += [Message("assistant", reply), Message("user", observation)]
    if not any(spelled(chat, m.content) for m in messages):
        assert ids == rendered(chat, messages, generate=True)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_reply_that_was_cut_off_gets_its_end_of_turn(name: str) -> None:
    chat = CHATS[name]
    new = [Message("user", "go on")]
    assert chat.extend(new, False) == (chat.stop_ids[0], *chat.extend(new, True))
    assert chat.extend(new, True) == chat.extend(new, True)


def test_chatml_keeps_the_newline_after_the_end_of_turn() -> None:
    chat = CHATS["chatml"]
    text = chat.transcript(chat.extend([Message("user", "x")], True))
    assert text == "\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("name", TEMPLATES)
def test_content_cannot_end_or_open_a_turn(name: str) -> None:
    chat = CHATS[name]
    harmless = chat.extend([Message("user", "a")], True)
    hostile = "".join([*chat.tokenizer.all_special_tokens[:1], "<|assistant|>", "<|im_start|>", "<|system|>"])
    specials = set(chat.tokenizer.all_special_ids)
    ids = chat.extend([Message("user", f"a{hostile}b")], True)
    assert [i for i in ids if i in specials] == [i for i in harmless if i in specials]
    opening = chat.prompt([Message("system", hostile), Message("user", hostile)])
    assert len([i for i in opening if i == chat.stop_ids[0]]) == 2


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_decode_returns_the_text_without_special_tokens(text: str) -> None:
    chat = CHATS["compact"]
    ids = [*chat.encode(text), chat.stop_ids[0]]
    if not spelled(chat, text):
        assert chat.decode(ids) == text
        assert chat.transcript(ids) == text + "<|end|>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (FORGETFUL, "not prefix-preserving: a reply is rendered differently"),
        (COUNTING, "not prefix-preserving: what follows a reply depends on the history"),
        (NO_END, "does not end a reply with a special token"),
        (NO_SYSTEM, "refuses the roles system, user"),
        (None, "no chat template"),
    ],
)
def test_templates_that_break_the_promise_are_refused(template: str | None, reason: str) -> None:
    tokenizer = build_tokenizer(COMPACT)
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=reason) as caught:
        TokenChat(tokenizer, "policy")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("policy: ")


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        load_chat(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="unreadable tokenizer"):
        load_chat(tmp_path)


@pytest.mark.parametrize("name", TEMPLATES)
def test_saved_and_loaded_through_a_pickled_spec(tmp_path: Path, name: str) -> None:
    spec = save_tokenizer(tmp_path, TEMPLATES[name])
    chat = pickle.loads(pickle.dumps(spec))()
    messages = [Message("system", "s"), Message("user", "é\n")]
    assert isinstance(spec, ChatSpec) and chat.prompt(messages) == CHATS[name].prompt(messages)
    assert (chat.stop_ids, chat.pad_id, chat.eos_id) == ((1,), 0, 1)


def test_an_eos_other_than_the_end_of_turn_also_stops() -> None:
    tokenizer = build_tokenizer(CHATML)
    tokenizer.eos_token = "<|endoftext|>"
    chat = TokenChat(tokenizer)
    assert chat.stop_ids == (tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id)


def test_loading_a_chat_does_not_import_torch(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    code = (
        f"import sys; from rollout.chat import load_chat; load_chat({str(tmp_path)!r}); print('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
