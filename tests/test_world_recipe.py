"""From episodes to token rows, and the planted copying circuit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rollout.chat import load_chat
from rollout.types import World
from worldmodel.dialects.rows import session_row
from worldmodel.dialects.transcript import Transcript
from worldmodel.domains.terminal import TERMINAL
from worldmodel.masking import keep_all
from worldmodel.types import Episode, Exchange, PredictRequest, Transition

WORLD = World(state={"files": {"notes.txt": "amber\nfern 12\n"}, "dirs": [], "modes": {}})
STEPS = (
    Transition("e", 0, "sort notes.txt > out.txt", "", "silent"),
    Transition("e", 1, "cat nope", "cat: nope: No such file or directory", "error"),
    Transition("e", 2, "cat out.txt", "amber\nfern 12", "readback", 1, probe=True),
    Transition("e", 2, "ls", "notes.txt\nout.txt", "readback", 1, probe=True),
)
EPISODE = Episode("e", "t", "terminal", "sort_lines", "gold", WORLD, STEPS, True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from trainer.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    text = TERMINAL.spec(WORLD).initial_state + "".join(f"{s.action}\n{s.observation}\n" for s in STEPS)
    train_tokenizer([text] * 20, 400, folder)
    return folder


def test_text_tokenises_alike_wherever_it_stands(tokenizer: Path) -> None:
    chat = load_chat(tokenizer)
    body = chat.encode("amber\nfern 12")
    state = chat.encode(TERMINAL.spec(WORLD).initial_state)
    assert any(state[i : i + len(body)] == body for i in range(len(state)))
    assert chat.decode(chat.encode("zażółć\t$(x) \n\n `q`")) == "zażółć\t$(x) \n\n `q`"


def test_runs_of_signs_are_whole_and_words_still_tokenise_alike(tokenizer: Path, tmp_path: Path) -> None:
    from trainer.tokenizer import RUNS, train_tokenizer

    text = '{"name": "read_file", "arguments": {"path": "notes.txt", "lines": [1024, 17]}}'
    train_tokenizer([text, "notes.txt 1024"] * 40, 400, tmp_path, RUNS)
    chat = load_chat(tmp_path)
    assert 2 * len(chat.encode(text)) < len(load_chat(tokenizer).encode(text))
    said, shown = chat.encode(text), chat.encode("notes.txt")
    assert any(said[i : i + len(shown)] == shown for i in range(len(said)))
    for sample in (text, "zażółć\t$(x) \n\n `q`", "Ω ≤ 12345 %", ""):
        assert chat.decode(chat.encode(sample)) == sample


def test_a_graft_knows_what_both_vocabularies_have(tokenizer: Path, tmp_path: Path) -> None:
    from bench.unified_world import graft
    from trainer.architecture import Shape, fresh_model
    from trainer.tokenizer import RUNS, train_tokenizer

    train_tokenizer(["amber fern, and then some more"] * 20, 300, tmp_path, RUNS)
    old, new = load_chat(tokenizer), load_chat(tmp_path)
    first = fresh_model(len(old.tokenizer), Shape(layers="ca"), old.pad_id, old.eos_id, 1)
    second = fresh_model(len(new.tokenizer), Shape(layers="ca"), new.pad_id, new.eos_id, 2)
    shared = set(old.tokenizer.get_vocab()) & set(new.tokenizer.get_vocab())
    assert graft(second, first, new.tokenizer.get_vocab(), old.tokenizer.get_vocab()) == len(shared) > 250
    for name, value in first.state_dict().items():
        if value.shape[0] != len(old.tokenizer):
            assert value.equal(second.state_dict()[name]), name
    a, b = (model.get_input_embeddings().weight for model in (first, second))
    token = next(t for t in sorted(shared) if old.tokenizer.get_vocab()[t] != new.tokenizer.get_vocab()[t])
    assert a[old.tokenizer.get_vocab()[token]].equal(b[new.tokenizer.get_vocab()[token]])


def test_a_row_is_what_the_simulator_will_read(tokenizer: Path) -> None:
    """The ids before each reply equal the ids that the language world model builds for that request."""
    from launch.world import tokens

    chat = load_chat(tokenizer)
    spec = TERMINAL.spec(WORLD)
    row = session_row(EPISODE, spec, Transcript(), keep_all, random.Random(0))
    assert row is not None
    ids, mask = tokens(row, chat)
    assert len(ids) == len(mask)
    steps = [(row.messages[i].content, row.messages[i + 1].content) for i in range(1, len(row.messages), 2)]
    at = 0
    for turn, (action, observation) in enumerate(steps):
        history = tuple(Exchange(a, o) for a, o in steps[:turn])
        messages = Transcript().messages(PredictRequest(spec, history, action, 0, 0.0))
        from rollout.types import Message

        context = chat.prompt([Message(role, text) for role, text in messages])  # type: ignore[arg-type]
        reply = (*chat.encode(observation), chat.eos_id)
        assert tuple(ids[: len(context)]) == context
        assert tuple(ids[len(context) : len(context) + len(reply)]) == reply
        assert not any(mask[at : len(context)]) and all(mask[len(context) : len(context) + len(reply)])
        at = len(context) + len(reply)
    assert at == len(ids)


def test_a_session_row_holds_every_probe_after_the_history() -> None:
    row = session_row(EPISODE, TERMINAL.spec(WORLD), Transcript(), lambda t: t.probe, random.Random(1))
    assert row is not None
    actions = [m.content for m in row.messages if m.role == "user"]
    assert actions[:2] == [s.action for s in STEPS[:2]] and sorted(actions[2:]) == ["cat out.txt", "ls"]
    assert [f for m, f in zip(row.messages, row.loss, strict=True) if m.role == "assistant"] == [
        False,
        False,
        True,
        True,
    ]
    assert session_row(EPISODE, TERMINAL.spec(WORLD), Transcript(), lambda t: False, random.Random(1)) is None


@pytest.mark.slow
def test_the_planted_circuit_copies_before_any_training() -> None:
    import torch

    from trainer.architecture import Shape, fresh_model

    model = fresh_model(1000, Shape(layers="ca"), 0, 1, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(5, 1000, (8, 60), generator=generator)
    between = torch.randint(5, 1000, (8, 150), generator=generator)
    with torch.no_grad():
        guess = model(input_ids=torch.cat([text, between, text], 1)).logits.argmax(-1)
    assert (guess[:, -58:-1] == text[:, -57:]).float().mean() > 0.85
