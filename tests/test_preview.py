"""What a dry run says: processes, placement group, actors, and memory that follows from the parameters alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from launch.config import ExperimentConfig, load
from launch.preview import Place, model_state, num_parameters, preview, this_machine
from tests.fakes import build_model, save_policy

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
EIGHT = Place(nodes=1, cpus=64, gpus=8, here=False)


def told(config: ExperimentConfig, place: Place) -> str:
    return "\n".join(preview(config, place))


def test_one_process_is_the_driver(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("run_dir: r\npolicy: p\nworld: real\neval_every: 5\n")
    text = told(load(tmp_path / "c.yaml"), Place(1, 2, 0))
    assert "1 process, the driver itself; no placement group" in text
    assert "the real terminal" in text and "200 held-out tasks" in text and "not estimated" in text


def test_ranks_are_one_placement_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load(CONFIGS / "gpu8_zero2.yaml")
    text = told(config, EIGHT)
    assert "8 process(es) under DeepSpeed ZeRO-2, started by Ray Train" in text
    assert "8 x {GPU: 1}, strategy PACK" in text and "nccl" in text
    assert "8 Ray actor(s)" in text and "world-model at http://world-model:8000" in text
    assert "32 groups x 8 = 256 episodes" in text and "500 batches" in text
    few = told(config, Place(1, 64, 4, here=False))
    assert "8 x {CPU: 1}" in few and "4 GPU(s) for 8 processes are too few" in few
    assert "8 GPU(s) hold no trainer rank" in told(config, Place(2, 64, 8, here=False))
    assert "note" not in text


@pytest.mark.slow
def test_the_placement_group_is_the_one_ray_train_asks_for() -> None:
    from ray.train import ScalingConfig

    for gpu, unit in ((True, "GPU"), (False, "CPU")):
        scaling = ScalingConfig(num_workers=2, use_gpu=gpu)
        assert scaling._resources_per_worker_not_none == {unit: 1} and scaling.placement_strategy == "PACK"


def test_a_cluster_is_named_and_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "RAY_ADDRESS=10.0.0.1:6379" in told(load(CONFIGS / "quickstart.yaml"), this_machine())


def test_parameters_are_counted_from_headers(tmp_path: Path) -> None:
    save_policy(tmp_path / "p")
    model = build_model()
    assert num_parameters(str(tmp_path / "p")) == sum(p.numel() for p in model.parameters())
    assert num_parameters(str(tmp_path / "absent")) is None
    (tmp_path / "p" / "model.safetensors").write_bytes(b"\xff" * 64)
    assert num_parameters(str(tmp_path / "p")) is None


def test_memory_is_stated_for_a_policy_that_is_here(tmp_path: Path) -> None:
    save_policy(tmp_path / "p")
    (tmp_path / "c.yaml").write_text(f"run_dir: r\npolicy: {tmp_path}/p\nworld_model: {{path: {tmp_path}/p}}\n")
    text = told(load(tmp_path / "c.yaml"), Place(1, 2, 0))
    assert "a trainer rank holds at least" in text and "a rollout worker holds at least" in text


def zero(stage: int, **more: object) -> dict[str, object]:
    return {"zero_optimization": {"stage": stage, **more}, "bf16": {"enabled": "auto"}}


CPU = {"device": "cpu"}


@pytest.mark.parametrize(
    ("deepspeed", "bf16", "device", "host"),
    [
        (None, False, 16, 0),
        (None, True, 16, 0),
        (zero(1), True, 2 + 2 + 12 / 8, 0),
        (zero(2), True, 2 + 14 / 8, 0),
        (zero(3), True, 16 / 8, 0),
        (zero(2), False, 4 + 16 / 8, 0),
        (zero(2, offload_optimizer=CPU), True, 2 + 2 / 8, 12 / 8),
        (zero(3, offload_optimizer=CPU, offload_param=CPU), True, 2 / 8, 14 / 8),
    ],
)
def test_bytes_a_parameter(deepspeed: dict[str, object] | None, bf16: bool, device: float, host: float) -> None:
    """Of the paper's 16 bytes, by stage, on 8 ranks."""
    state = model_state(1000, 8, deepspeed, bf16)
    assert (state.device, state.host) == (pytest.approx(1000 * device), pytest.approx(1000 * host))


# ---------------------------------------------------------------- DeepSpeed files

DEEPSPEED = sorted(CONFIGS.glob("*.json"))
GPU = sorted(CONFIGS.glob("gpu*.yaml"))


@pytest.mark.parametrize("path", GPU, ids=lambda p: p.name)
def test_gpu_experiments_say_that_they_have_not_run(path: Path) -> None:
    assert "Not run on GPUs" in path.read_text().split("run_dir:")[0]
    config = load(path)
    assert config.processes % 8 == 0 and config.trainer.trl["bf16"] is True
    rows = config.rollout.groups_per_batch * config.rollout.group_size
    trl = config.trainer.trl
    per_step = config.processes * trl["per_device_train_batch_size"] * trl["gradient_accumulation_steps"]
    assert rows == per_step, "one optimiser step a generation batch"
    written = yaml.safe_load(path.read_text())
    assert set(written["rollout"]) >= {"max_staleness", "call_timeout", "spot_share"}


def test_gpu_experiments_cover_stages_offload_and_several_nodes() -> None:
    configs = {path.stem: load(path) for path in GPU}
    used = {Path(str(config.deepspeed)).name for config in configs.values()}
    assert used == {path.name for path in DEEPSPEED if "gpu" in path.name}
    assert {config.processes for config in configs.values()} == {8, 32}
    offloaded = json.loads((CONFIGS / "deepspeed_gpu_zero3_offload.json").read_text())["zero_optimization"]
    assert offloaded["offload_optimizer"]["device"] == offloaded["offload_param"]["device"] == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda p: p.name)
def test_deepspeed_accepts_its_sections(path: Path) -> None:
    """Its config classes refuse unknown keys; ``auto`` is what the HF Trainer fills in."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    whole = json.loads(path.read_text())
    section = {key: value for key, value in whole["zero_optimization"].items() if value != "auto"}
    assert DeepSpeedZeroConfig.model_validate(section).stage == section["stage"]
    if section["stage"] == 3:
        assert section["stage3_gather_16bit_weights_on_model_save"], "checkpoints would hold no model.safetensors"
    assert whole["bf16"] == {"enabled": "auto"}, "one switch: trainer.trl.bf16"
