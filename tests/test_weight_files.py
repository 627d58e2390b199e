"""Published weights on disk: what safetensors reads is what was written, and half a folder is no folder."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import SamplerFault
from rollout.types import Version
from rollout.weight_files import MANIFEST, Stamp, WeightFiles, WeightWriter, read_manifest, read_tensors
from rollout.worker import pack
from trainer.weights import RawTensor, to_raw

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]
FIRST = Version(1, 2)


def write(root: Path, tensors: dict[str, torch.Tensor], version: Version = FIRST, **kwargs) -> WeightFiles:
    return WeightWriter(str(root), **kwargs)(version, ((name, to_raw(value)) for name, value in tensors.items()))


def read(written: WeightFiles) -> dict[str, torch.Tensor]:
    return dict(read_tensors(written.folder, read_manifest(written.folder)))


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6),
    dtype=st.sampled_from(DTYPES),
    shard_bytes=st.sampled_from([1, 64, 2**30]),
)
def test_what_is_read_is_what_was_written(tmp_path_factory, shapes, dtype, shard_bytes):
    tensors = {f"layer.{i}.weight": (torch.randn(shape) * 9).to(dtype) for i, shape in enumerate(shapes)}
    written = write(tmp_path_factory.mktemp("w"), tensors, shard_bytes=shard_bytes)
    found = read(written)
    assert list(found) == list(tensors), "the model's order"
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    if shard_bytes == 1:
        assert len(read_manifest(written.folder).sizes) >= sum(value.numel() > 0 for value in tensors.values())


@given(st.text("0123456789abcdef", max_size=12), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_stamps_are_written_read_and_ordered_within_a_lineage(lineage, attempt, step, later):
    stamp = Stamp(lineage, Version(attempt, step))
    assert Stamp.parse(str(stamp)) == stamp
    newer = Stamp(lineage, Version(attempt, step + later))
    assert newer.serves(stamp) and stamp.serves(newer) == (later == 0)
    assert not Stamp(lineage + "x", newer.version).serves(stamp)


@pytest.mark.parametrize("text", ["", "1.2", "a:1", "a:b.c", "a:1.-2", "a:.", ":"])
def test_what_is_no_stamp(text):
    with pytest.raises(ValueError, match=r"LINEAGE:ATTEMPT\.STEP"):
        Stamp.parse(text)


def test_two_writers_are_two_lineages(tmp_path: Path):
    first, second = WeightWriter(str(tmp_path)), WeightWriter(str(tmp_path))
    assert first.lineage != second.lineage
    written = second(Version(0, 1), [("a", to_raw(torch.ones(1)))])
    assert written.stamp == Stamp(second.lineage, Version(0, 1)) == read_manifest(written.folder).stamp


def test_arrays_as_they_travel_in_memory_can_be_written_too(tmp_path: Path):
    packed = pack({"a": to_raw(torch.arange(6.0).reshape(2, 3))})
    written = WeightWriter(str(tmp_path))(Version(0, 1), packed.items())
    assert torch.equal(read(written)["a"], torch.arange(6.0).reshape(2, 3))


def test_the_last_versions_are_kept_and_nothing_half_written_stays(tmp_path: Path):
    (tmp_path / ".9-9.1").mkdir()
    for step in (1, 2, 3, 10):
        written = write(tmp_path, {"a": torch.ones(step)}, Version(2, step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2-10", "2-3"]
    assert Path(written.folder).is_absolute() and written == pickle.loads(pickle.dumps(written))
    again = write(tmp_path, {"a": torch.zeros(3)}, Version(2, 10))
    assert torch.equal(read(again)["a"], torch.zeros(3)), "published again after a resume"


@pytest.mark.parametrize("damage", ["no manifest", "no shard", "short shard", "other format", "no json", "no version"])
def test_half_a_folder_is_refused_in_one_line(tmp_path: Path, damage: str):
    folder = Path(write(tmp_path, {"a": torch.ones(100)}).folder)
    shard, manifest = folder / "model-00001.safetensors", folder / MANIFEST
    match damage:
        case "no manifest":
            manifest.unlink()
        case "no shard":
            shard.unlink()
        case "short shard":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "other format":
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": "x"}))
        case "no json":
            manifest.write_text("{")
        case "no version":
            manifest.write_text(json.dumps({"format": "agentworld-weights-1"}))
    with pytest.raises(ValueError, match=str(folder)) as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)


def test_a_dtype_without_a_name_and_a_full_disk_are_faults(tmp_path: Path):
    with pytest.raises(SamplerFault, match="a has dtype complex64"):
        WeightWriter(str(tmp_path))(Version(0, 1), [("a", RawTensor(b"12345678", "complex64", (1,)))])
    (tmp_path / "file").write_text("")
    with pytest.raises(SamplerFault, match="could not be written"):
        write(tmp_path / "file", {"a": torch.ones(1)})
