"""What of the trainer was run on a GPU: one card, a few minutes.

    python -m bench.gpu_check [--out bench/results/gpu.json] [--parts ...]

Each part is a process with a deadline, so that one that fails costs its own figures alone; exit 1 where one failed.

- ``cpu``, ``alone``: the same recorded trajectories without and with the card, fp32.
- ``zero``: them again under ZeRO-1, 2 and 3 through Ray Train and NCCL. ``resume``: a rank is lost while saving.
- ``large``: seconds, tokens/s and memory of an optimiser step at bf16, for a Qwen3 of a given shape, fresh weights.
- ``sharded``: the smaller one under the ZeRO-2 and ZeRO-3 settings for GPUs.
- ``sampler``: the batched Hugging Face sampler on the card: tokens/s, and its logprobs beside a forward pass in fp32.
- ``loop``: `agentworld train` with rollouts in a world model on the card, in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.cluster import ClusterSettings, Ranks, Result, connected
from launch.supervisor import supervise
from tests.distributed_case import ROOT, Case, Kill, Recorded, recorded_batches, save_model, train

SECONDS = {
    "cpu": 120,
    "alone": 120,
    "zero": 180,
    "resume": 240,
    "large": 120,
    "sharded": 200,
    "sampler": 90,
    "loop": 200,
}
ROWS, LENGTH = 32, 2048  # of one generation batch, in tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen3 of the sizes of the published one of that name."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int = 151_936


SMALL = Shape("Qwen3-0.6B", 1024, 3072, 28, 16)
LARGE = Shape("Qwen3-1.7B", 2048, 6144, 28, 16)


@dataclass(frozen=True, slots=True)
class Step:
    """One training to time."""

    shape: Shape
    rows: int  # of one forward pass
    steps: int = 5


def fresh(shape: Shape, dtype: str) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=shape.vocabulary,
                hidden_size=shape.hidden,
                intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=8,
                head_dim=128,
                tie_word_embeddings=True,
                max_position_embeddings=8192,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=None,
            )
        )
    return model.to(getattr(torch, dtype))


# ------------------------------------------------------------------------------------------------ the parts


def curve(folder: Path) -> dict[str, Any]:
    """One process, whatever it sees."""
    case = Case(save_model(folder / "model"), Recorded(recorded_batches(12)), steps=12, save_steps=12)
    result = supervise(train, case, folder / "run", ClusterSettings(), max_restarts=0)
    return {"curve": result["curve"]}


def under(stage: int) -> ClusterSettings:
    return ClusterSettings(1, str(ROOT / f"configs/deepspeed_zero{stage}.json"), start_seconds=120.0)


def zero(folder: Path) -> dict[str, Any]:
    from bench.zero2 import exported

    case = Case(save_model(folder / "model"), Recorded(recorded_batches(12)), steps=12, save_steps=12)
    found = {}
    with connected(None):
        for stage in (1, 2, 3):
            result = supervise(train, case, folder / f"run{stage}", under(stage), max_restarts=0)
            found[str(stage)] = {
                "curve": result["curve"],
                "exported_logits": exported(folder / f"run{stage}", result),
            }
    return found


def resume(folder: Path) -> dict[str, Any]:
    from bench.zero2 import largest_difference

    case = Case(save_model(folder / "model"), Recorded(recorded_batches(12)), steps=12, save_steps=4)
    found = {}
    with connected(None):
        for stage in (2, 3):
            said: list[str] = []
            whole = supervise(train, case, folder / f"whole{stage}", under(stage), max_restarts=0)
            cut = replace(case, kill=Kill(0, 8, while_saving=True))
            again = supervise(train, cut, folder / f"cut{stage}", under(stage), max_restarts=1, say=said.append)
            found[str(stage)] = {
                "largest_relative_difference": largest_difference(whole, again),
                "said": said[-1].replace(str(folder), "."),
            }
    return found


def large(folder: Path) -> dict[str, Any]:
    """In this process, without sharding."""
    return steps_of(folder, ((SMALL, 4, 0), (LARGE, 2, 0)), 5)


def sharded(folder: Path) -> dict[str, Any]:
    """Under the ZeRO settings of ``configs/gpu8_*``, on one card, through Ray Train."""
    with connected(None):
        return steps_of(folder, ((SMALL, 4, 2), (SMALL, 4, 3)), 3)


def steps_of(folder: Path, settings: tuple[tuple[Shape, int, int], ...], steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    save_model(folder / "model")  # for its tokenizer
    for shape, rows, stage in settings:
        zero = str(ROOT / f"configs/deepspeed_gpu_zero{stage}.json") if stage else None
        payload = (str(folder / "model"), Step(shape, rows, steps))
        place = ClusterSettings(1, zero, start_seconds=120.0)
        name = f"{shape.name}, ZeRO-{stage}" if stage else shape.name
        found[name] = dict(supervise(timed, payload, folder / f"{shape.name}-{stage}", place, max_restarts=0))
        (folder / "half.json").write_text(json.dumps(found))
    return found


def timed(ranks: Ranks, payload: tuple[str, Step]) -> Result:
    """Runs on the rank: recorded rows of ``LENGTH`` tokens, timed from step to step."""
    import torch
    from transformers import AutoTokenizer, TrainerCallback

    from trainer.config import TrainerConfig
    from trainer.recorded import RecordedSource
    from trainer.stages import policy_rl

    tokenizer, chosen = payload
    times = [time.monotonic()]

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            ranks.beat()
            times.append(time.monotonic())

    source = RecordedSource(long_batches(chosen.steps, chosen.shape.vocabulary))
    model = fresh(chosen.shape, "bfloat16")
    parameters = sum(p.numel() for p in model.parameters())
    options = {
        "max_steps": chosen.steps,
        "per_device_train_batch_size": chosen.rows,
        "gradient_accumulation_steps": ROWS // chosen.rows,
        "steps_per_generation": ROWS // chosen.rows,
        "num_generations": 8,
        "learning_rate": 1e-6,
        "bf16": True,
        "save_strategy": "no",
        "seed": 0,
    }
    policy_rl(
        model, AutoTokenizer.from_pretrained(tokenizer), ranks.run_dir,
        TrainerConfig(max_row_length=LENGTH, sync_dtype="bfloat16"), source, source,
        callbacks=[Clock()], deepspeed=ranks.deepspeed, **options,
    )  # fmt: skip
    seconds = [later - earlier for earlier, later in itertools.pairwise(times)]
    median = statistics.median(seconds)
    return {
        "parameters": parameters,
        "rows": ROWS,
        "tokens_per_row": LENGTH,
        "rows_per_pass": chosen.rows,
        "seconds_per_step": seconds,
        "tokens_per_second": ROWS * LENGTH / median,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def long_batches(count: int, vocabulary: int) -> Any:
    """Rows of exactly ``LENGTH`` tokens in groups of eight: a prompt, and four turns of which half is sampled."""
    from rollout.types import (
        Action,
        Batch,
        Completion,
        Finish,
        Group,
        Observation,
        Prompt,
        Score,
        Stop,
        Trajectory,
        Turn,
        Version,
    )
    from tests.fakes import make_task

    rng, version, part = random.Random(0), Version(0, 0), LENGTH // 8

    def ids() -> tuple[int, ...]:
        return tuple(rng.randrange(5, vocabulary) for _ in range(part))

    def member(group: str, number: int) -> Trajectory:
        turns = tuple(
            Turn(ids(), Completion(ids(), (-11.9,) * part, "", Finish.STOP, (version,) * part), Action(""),
                 Observation(""))
            for _ in range(4)
        )  # fmt: skip
        return Trajectory(make_task(), group, number, Prompt(()), turns, Stop.DONE, Score(float(number % 2)))

    names = [[f"s{step}g{g}" for g in range(ROWS // 8)] for step in range(count)]
    return [
        Batch(step, tuple(Group(name, "t0", tuple(member(name, m) for m in range(8))) for name in row), version)
        for step, row in enumerate(names)
    ]


def sampler(folder: Path) -> dict[str, Any]:
    """Independent prompts of 512 tokens, 128 new ones each; 0.6B in bf16 for speed, and in fp32 for its logprobs."""
    found = {}
    for dtype in ("bfloat16", "float32"):
        found[dtype] = asyncio.run(sampled(dtype))
    return found


async def sampled(dtype: str, rows: int = 64, prompt: int = 512, new: int = 128) -> dict[str, Any]:
    import torch

    from rollout.samplers.hf import HFSampler
    from rollout.types import Sampling, Session

    model = fresh(SMALL, dtype).eval()
    draw = random.Random(0)
    contexts = [tuple(draw.randrange(5, SMALL.vocabulary) for _ in range(prompt)) for _ in range(rows)]
    asked = HFSampler(model, pad_id=0, stop_ids=(1,), sampling=Sampling(0.7), max_batch=rows, dtype=dtype)
    try:
        await asyncio.gather(*(asked(ids, 4, Session(f"w{i}", seed=i)) for i, ids in enumerate(contexts)))
        torch.cuda.synchronize()
        begun = time.monotonic()
        answers = await asyncio.gather(*(asked(ids, new, Session(str(i), seed=i)) for i, ids in enumerate(contexts)))
        seconds = time.monotonic() - begun
    finally:
        asked.close()
    made = sum(len(answer.ids) for answer in answers)
    furthest = 0.0
    for ids, answer in list(zip(contexts, answers, strict=True))[:8]:
        with torch.inference_mode():
            logits = model(torch.tensor([[*ids, *answer.ids]], device="cuda")).logits[0, len(ids) - 1 : -1].float()
        own = torch.log_softmax(logits / 0.7, -1).gather(-1, torch.tensor(answer.ids, device="cuda")[:, None])[:, 0]
        furthest = max(furthest, float((own.cpu() - torch.tensor(answer.logprobs)).abs().max()))
    return {"rows": rows, "prompt": prompt, "new": made, "tokens_per_second": made / seconds,
            "largest_logprob_difference_nats": furthest}  # fmt: skip


def loop(folder: Path) -> dict[str, Any]:
    """The quickstart's settings, three generation batches, everything in one process; the shipped world model is also
    the policy: a model that speaks its tokenizer. What it earns says nothing, that it runs does."""
    weights = str(ROOT / "worldmodel/weights/terminal")
    options = [
        f"run_dir={folder / 'run'}", f"policy={weights}", f"world_model.path={weights}", "rollout.engine=local",
        "world_model.device=cuda:0", "rollout.spot_share=0", "rollout.max_filtered=0", "trainer.trl.max_steps=12",
        "trainer.trl.save_steps=12",
        "rollout.groups_per_batch=4",
        "trainer.trl.per_device_train_batch_size=8",
        "trainer.trl.bf16=true", "trainer.trl.report_to=none", "rollout.threads=8",
        "rollout.workers=1",
    ]  # fmt: skip
    command = [sys.executable, "-m", "launch.cli", "train", "configs/quickstart.yaml", *options]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS["loop"] - 5)
    if done.returncode:
        raise SystemExit(f"agentworld train ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    kept = ("step", "loss", "grad_norm", "reward", "rollout/", "perf/", "world/")
    rows = [{k: v for k, v in json.loads(line).items() if k.startswith(kept)} for line in lines]
    return {"seconds": round(time.monotonic() - begun, 1), "metrics": rows}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "cpu": curve, "alone": curve, "zero": zero, "resume": resume, "large": large, "sharded": sharded,
    "sampler": sampler, "loop": loop,
}  # fmt: skip
TOGETHER = (
    ("large",),
    ("sampler",),
    ("cpu", "alone", "zero", "resume", "loop"),
    ("sharded",),
)  # the first two are timed


# ------------------------------------------------------------------------------------------------ all of them


def begin(part: str, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment |= {"WANDB_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false"}
    if part == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    (folder / part).mkdir()
    command = [sys.executable, "-m", "bench.gpu_check", "--part", part, "--folder", str(folder / part)]
    with (folder / f"{part}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def finish(part: str, process: subprocess.Popen[bytes], until: float, folder: Path) -> dict[str, Any]:
    try:
        process.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    answer = folder / part / "answer.json"
    if answer.is_file():
        return {"ok": True, **json.loads(answer.read_text())}
    said = (folder / f"{part}.log").read_text(errors="replace")
    half = folder / part / "half.json"
    logs = [file.read_text(errors="replace")[-1500:] for file in (folder / part).rglob("rank_0.log")][-1:]
    return {"ok": False, "status": process.returncode, "said": said[-1500:].replace(str(folder), "."), "rank": logs,
            **({"half": json.loads(half.read_text())} if half.is_file() else {})}  # fmt: skip


def apart(left: list[dict[str, float]], right: list[dict[str, float]]) -> float:
    """Largest relative difference of losses and gradient norms."""
    pairs = [(a[key], b[key]) for a, b in zip(left, right, strict=True) for key in ("loss", "grad_norm")]
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)


def compare(found: dict[str, Any]) -> dict[str, float]:
    """Curves beside those of the card alone."""
    if not found.get("alone", {}).get("ok"):
        return {}
    base = found["alone"]["curve"]
    same = {"cpu": apart(base, found["cpu"]["curve"])} if found.get("cpu", {}).get("ok") else {}
    if found.get("zero", {}).get("ok"):
        same |= {f"ZeRO-{stage}": apart(base, found["zero"][stage]["curve"]) for stage in "123"}
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/gpu.json")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        answer = PARTS[options.part](options.folder)
        (options.folder / "answer.json").write_text(json.dumps(answer))
        return 0
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("gpu_check: torch sees no GPU here")
    from bench.zero2 import versions

    found: dict[str, Any] = {}
    result = {"command": "python -m bench.gpu_check", "device": torch.cuda.get_device_name(0),
              "python": sys.version.split()[0], "versions": versions(), "parts": found}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for together in TOGETHER:
            chosen = [part for part in together if part in options.parts]
            begun = time.monotonic()
            running = {part: begin(part, Path(name)) for part in chosen}
            for part, process in running.items():
                found[part] = finish(part, process, begun + SECONDS[part], Path(name))
                print(part, "ok" if found[part]["ok"] else f"FAILED: {found[part]}",
                      f"{time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
            result["largest_relative_difference_from_the_card_alone"] = compare(found)
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["largest_relative_difference_from_the_card_alone"]))
    return 0 if all(part["ok"] for part in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
