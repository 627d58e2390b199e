"""One small world model of all domains: rows from recorded sessions, then training on whatever machine has time.

    python -m bench.unified_world prepare TRACES... --out FOLDER [--tokenizer OTHER] [--repeat swe=2]
    python -m bench.unified_world train FOLDER --out MODEL --seconds 300 [--start MODEL | --graft MODEL]
    python -m bench.unified_world measure MODEL TRACES... [--transitions 120] [--out FILE]

``prepare`` takes folders of `agentworld collect`, refuses evaluation data, fits the tokenizer (or takes that of a
folder prepared before) and writes token rows with their loss masks (``rows.npz``), so that ``train`` needs no domain.
Rows are in the brief dialect. ``--graft`` begins with the blocks of another world model, such as the shipped one of the
terminal, and with its embeddings of the tokens that both know. ``measure`` asks for held-out transitions of each domain
in bench/results/unified_world.json; ``agentworld vet`` says what the model's verdicts are worth.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

ASKED = {"dialect": "brief", "max_tokens": 1024, "temperature": 0.3, "deadline_seconds": 300.0}
RESULTS = Path(__file__).resolve().parents[1] / "bench/results/unified_world.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def prepare(
    folders: list[Path],
    out: Path,
    vocabulary: int,
    max_length: int,
    repeat: dict[str, float],
    known: Path | None,
    seed: int,
) -> None:
    from launch.world import training_episodes, vocabulary_texts, world_rows
    from rollout.chat import load_chat
    from trainer.tokenizer import RUNS, train_tokenizer
    from worldmodel.dialects import dialect

    episodes = [episode for folder in folders for episode in training_episodes(folder)]
    random.Random(seed).shuffle(episodes)
    out.mkdir(parents=True, exist_ok=True)
    if known is None:
        train_tokenizer(vocabulary_texts(episodes), vocabulary, out, RUNS)
    else:
        for name in TOKENIZER:
            if (known / name).is_file():
                shutil.copy(known / name, out / name)
    chat = load_chat(out)
    facts: dict[str, dict[str, float]] = {}
    rows = []
    for domain in sorted({episode.domain for episode in episodes}):
        part = [episode for episode in episodes if episode.domain == domain]
        made = [row for row in world_rows(part, chat, seed, max_length, dialect("brief")) if len(row[0]) <= max_length]
        facts[domain] = {
            "sessions": len(part),
            "transitions": sum(len(episode.transitions) for episode in part),
            "rows": len(made),
            "longest": max(len(ids) for ids, _ in made),
            "repeated": repeat.get(domain, 1),
            "tokens": sum(len(ids) for ids, _ in made),
            "tokens_in_loss": sum(sum(mask) for _, mask in made),
        }
        whole, rest = divmod(repeat.get(domain, 1), 1)
        rows += made * int(whole) + made[: int(rest * len(made))]
    random.Random(seed).shuffle(rows)
    np.savez_compressed(
        out / "rows.npz",
        ids=np.concatenate([np.asarray(ids, np.uint16) for ids, _ in rows]),
        mask=np.packbits(np.concatenate([np.asarray(mask, bool) for _, mask in rows])),
        lengths=np.asarray([len(ids) for ids, _ in rows], np.int32),
    )
    (out / "prepared.json").write_text(json.dumps({"seed": seed, "max_length": max_length, "domains": facts}, indent=1))
    print(json.dumps(facts, indent=1))


def read_rows(folder: Path) -> list[tuple[list[int], list[int]]]:
    packed = np.load(folder / "rows.npz")
    ends = np.cumsum(packed["lengths"])[:-1]
    ids = np.split(packed["ids"].astype(np.int64), ends)
    mask = np.split(np.unpackbits(packed["mask"])[: len(packed["ids"])], ends)
    return [(i.tolist(), m.tolist()) for i, m in zip(ids, mask, strict=True)]


def graft(model: Any, known: Any, vocabulary: dict[str, int], other: dict[str, int]) -> int:
    """Give ``model`` the blocks of ``known``, of the same shape, and its embeddings of the tokens that both
    vocabularies have; the others keep their random ones, at the scale of the known ones. Returns how many are known."""
    import torch

    same = sorted(set(vocabulary) & set(other))
    with torch.no_grad():
        new, old = model.get_input_embeddings().weight, known.get_input_embeddings().weight
        fresh = new / new.std(0) * old.std(0)
        fresh[[vocabulary[t] for t in same]] = old[[other[t] for t in same]]
        state = {name: value for name, value in known.state_dict().items() if value.shape != old.shape}
        model.load_state_dict(state, strict=False)
        new.copy_(fresh)
    return len(same)


def train(
    folder: Path,
    out: Path,
    seconds: float,
    rate: float,
    batch: int,
    layers: str,
    start: str,
    known: str,
    compiled: bool,
    schedule: str,
    seed: int,
) -> None:
    import torch

    from rollout.chat import load_chat
    from trainer.architecture import Shape, fresh_model
    from trainer.config import SFTConfig
    from trainer.stages import load_model, sft, store_as

    begun = time.monotonic()
    rows, chat = read_rows(folder), load_chat(folder)
    facts = json.loads((folder / "prepared.json").read_text())
    cuda = torch.cuda.is_available()
    model = (
        load_model(start)
        if start
        else fresh_model(len(chat.tokenizer), Shape(layers=layers), chat.pad_id, chat.eos_id, seed)
    )
    if known:
        same = graft(model, load_model(known), chat.tokenizer.get_vocab(), load_chat(known).tokenizer.get_vocab())
        print(f"{same} of {len(chat.tokenizer)} tokens known")
    model.config.max_position_embeddings = max(model.config.max_position_embeddings, 2 * facts["max_length"])
    config = SFTConfig(
        learning_rate=rate, max_seconds=seconds, tokens_per_batch=batch, max_length=facts["max_length"],
        schedule=schedule, bf16=True, optimizer="muon", compile=compiled and not cuda, seed=seed, log_every=50,
    )  # fmt: skip
    result = sft(model, chat.tokenizer, rows, out, config)
    store_as(out, "bfloat16")
    made = {
        "device": torch.cuda.get_device_name(0) if cuda else "cpu", "learning_rate": rate, "tokens_per_batch": batch,
        "schedule": schedule, "layers": layers, "start": start, "graft": known, "threads": torch.get_num_threads(),
        "seconds": result.seconds, "steps": result.steps, "tokens": result.tokens,
        "labelled": result.labelled, "last_loss": result.loss, "parameters": model.num_parameters(),
        "corpus": facts, "seconds_in_all": time.monotonic() - begun,
    }  # fmt: skip
    (out / "world_model.json").write_text(json.dumps(ASKED) + "\n")
    (out / "made.json").write_text(json.dumps(made, indent=1) + "\n")
    for name in TOKENIZER:
        if (folder / name).is_file():
            shutil.copy(folder / name, out / name)
    print({key: value for key, value in made.items() if key != "corpus"})


def measure(model: Path, folders: list[Path], transitions: int, out: Path) -> None:
    """Teacher-forced fidelity; each domain is written as soon as it is there, those of other weights are dropped."""
    from launch.evaluate import measure_fidelity, write_json
    from launch.worlds import world_model_config

    made = json.loads((model / "made.json").read_text())
    kept = json.loads(out.read_text()) if out.exists() else {}
    if kept.get("made") != made:
        kept = {"made": made, "fidelity": {}}
    for folder in folders:
        for name, result in measure_fidelity(world_model_config(str(model)), folder, transitions, 0).items():
            forced = result.to_json()["teacher_forced"]
            forced.pop("by_turn")
            kept["fidelity"][name] = {
                "episodes": result.n_episodes, "determined": result.determined, "seconds": result.seconds, **forced,
                "command": json.loads((folder / "manifest.json").read_text())["command"],
            }  # fmt: skip
            write_json(out, kept)
            print(name, {key: round(share, 3) for key, share in forced["micro"].items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("prepare")
    one.add_argument("folders", type=Path, nargs="+")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--vocabulary", type=int, default=4096)
    one.add_argument("--max-length", type=int, default=4096)
    one.add_argument("--tokenizer", type=Path, default=None, help="of a folder prepared before")
    one.add_argument("--repeat", default="", help="rows of a domain, such as os=2,search=0.5")
    one.add_argument("--seed", type=int, default=0)
    two = verbs.add_parser("train")
    two.add_argument("folder", type=Path)
    two.add_argument("--out", type=Path, required=True)
    two.add_argument("--seconds", type=float, default=300.0)
    two.add_argument("--rate", type=float, default=2e-3)
    two.add_argument("--batch", type=int, default=32_768)
    two.add_argument("--layers", default="caaaaaa")
    two.add_argument("--start", default="", help="a model made from the same FOLDER, to go on from")
    two.add_argument("--graft", default="", help="a world model of the same shape and another vocabulary")
    two.add_argument("--schedule", choices=("linear", "constant"), default="linear")
    two.add_argument("--eager", action="store_true", help="do not compile: pays where rows are long")
    two.add_argument("--seed", type=int, default=0)
    three = verbs.add_parser("measure")
    three.add_argument("model", type=Path)
    three.add_argument("folders", type=Path, nargs="+", help="of `agentworld collect --split heldout --twice`")
    three.add_argument("--transitions", type=int, default=120, help="of each domain")
    three.add_argument("--out", type=Path, default=RESULTS)
    o = parser.parse_args()
    if o.verb == "prepare":
        repeat = {name: float(times) for name, times in (part.split("=") for part in o.repeat.split(",") if part)}
        prepare(o.folders, o.out, o.vocabulary, o.max_length, repeat, o.tokenizer, o.seed)
    elif o.verb == "measure":
        measure(o.model, o.folders, o.transitions, o.out)
    else:
        train(o.folder, o.out, o.seconds, o.rate, o.batch, o.layers, o.start, o.graft, not o.eager, o.schedule, o.seed)


if __name__ == "__main__":
    main()
