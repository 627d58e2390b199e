"""Published weights as a folder on a (shared) disk: how they travel to samplers that are other programs.

Owns: the folder's form and the order of writing it. Refuses: deciding who loads it and when (``samplers.vllm_gate``).
Loads without torch, and without anything that a vLLM environment lacks.

A folder ``ATTEMPT-STEP`` holds safetensors shards and, written last, ``manifest.json``; it gets its name when it is
whole. The manifest lists the tensors in the trainer's order, which is the model's: layers arrive one after the other.
Versions are ordered within one life of a trainer; the writer's ``lineage`` tells the same version of another run apart.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from rollout.errors import SamplerFault
from rollout.types import Version

if TYPE_CHECKING:
    from rollout.protocols import RawTensor

MANIFEST = "manifest.json"
FORMAT = "agentworld-weights-1"
SHARD_BYTES = 2 * 2**30  # also the most that the writer holds in memory
# torch's names to those of the safetensors format
_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


class Stamp(NamedTuple):
    """Which weights. The empty lineage is that of a server's own model, version (0, 0)."""

    lineage: str = ""
    version: Version = Version(0, 0)

    def serves(self, wanted: Stamp) -> bool:
        """Whether these are the wanted weights or later ones."""
        return self.lineage == wanted.lineage and self.version >= wanted.version

    def __str__(self) -> str:
        return f"{self.lineage}:{self.version.attempt}.{self.version.step}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``LINEAGE:ATTEMPT.STEP``. Raises ValueError."""
        lineage, colon, version = text.partition(":")
        attempt, _, step = version.partition(".")
        if not (colon and attempt.isdecimal() and step.isdecimal()):
            raise ValueError(f"{text!r} names no weights: write LINEAGE:ATTEMPT.STEP")
        return cls(lineage, Version(int(attempt), int(step)))


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """A whole folder of weights, by absolute path."""

    folder: str
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class WeightWriter:
    """Picklable; writes each version under ``root`` and keeps the last ``keep`` of them: the one being served may
    still be read by a server that restarts."""

    root: str
    keep: int = 2
    shard_bytes: int = SHARD_BYTES
    lineage: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def __call__(self, version: Version, tensors: Iterable[tuple[str, RawTensor]]) -> WeightFiles:
        """Raises SamplerFault on a dtype that has no place in the format or a disk that takes no more."""
        stamp = Stamp(self.lineage, version)
        target = Path(self.root) / f"{version.attempt}-{version.step}"
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            for left_over in Path(self.root).glob(".*-*.*"):  # of a writer that was killed
                shutil.rmtree(left_over, ignore_errors=True)
            partial.mkdir(parents=True)
            _write(partial, stamp, tensors, self.shard_bytes)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            self._drop_old(target)
        except OSError as error:
            raise SamplerFault(f"weights {tuple(version)} could not be written under {self.root}: {error}") from error
        return WeightFiles(str(target.resolve()), stamp)

    def _drop_old(self, newest: Path) -> None:
        found = sorted((p for p in Path(self.root).iterdir() if (p / MANIFEST).is_file()), key=_age)
        for folder in [p for p in found if p != newest][: max(0, len(found) - self.keep)]:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Manifest:
    """``tensors``: (name, shard) in the order of the model; ``sizes``: bytes of each shard."""

    stamp: Stamp
    tensors: tuple[tuple[str, str], ...]
    sizes: dict[str, int] = field(default_factory=dict)


def read_manifest(folder: str | Path) -> Manifest:
    """Raises ValueError unless ``folder`` is whole: a readable manifest and every shard at its full size."""
    path = Path(folder) / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(f"{path}: format {raw['format']!r}, this code reads {FORMAT}")
        stamp = Stamp.parse(raw["weights"])
        found = Manifest(stamp, tuple((n, f) for n, f in raw["tensors"]), dict(raw["sizes"]))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: no whole folder of weights ({type(error).__name__}: {error})") from error
    for name, size in found.sizes.items():
        shard = path.with_name(name)
        if not shard.is_file() or shard.stat().st_size != size:
            raise ValueError(f"{shard}: missing or not {size} bytes long")
    return found


def read_tensors(folder: str | Path, manifest: Manifest, framework: str = "pt") -> Iterator[tuple[str, Any]]:
    """(name, tensor on the CPU) in the manifest's order. Needs torch for the framework ``pt``."""
    from safetensors import safe_open

    shard, reader = "", None
    for name, file in manifest.tensors:
        if file != shard:
            shard, reader = file, safe_open(str(Path(folder) / file), framework=framework)
        assert reader is not None
        yield name, reader.get_tensor(name)


def _write(folder: Path, stamp: Stamp, tensors: Iterable[tuple[str, RawTensor]], shard_bytes: int) -> None:
    order: list[tuple[str, str]] = []
    sizes: dict[str, int] = {}
    shard: list[tuple[str, RawTensor]] = []
    held = 0

    def flush() -> None:
        file = f"model-{len(sizes) + 1:05d}.safetensors"
        sizes[file] = _write_shard(folder / file, shard)
        order.extend((name, file) for name, _ in shard)
        shard.clear()

    for name, tensor in tensors:
        if shard and held + len(tensor.data) > shard_bytes:
            flush()
            held = 0
        shard.append((name, tensor))
        held += len(tensor.data)
    if shard:
        flush()
    manifest = {"format": FORMAT, "weights": str(stamp), "tensors": order, "sizes": sizes}
    _write_synced(folder / MANIFEST, [json.dumps(manifest).encode()])


def _write_shard(path: Path, tensors: list[tuple[str, RawTensor]]) -> int:
    """The safetensors format: length of the header, the header as JSON padded to 8 bytes, the bytes."""
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors:
        if tensor.dtype not in _CODES:
            raise SamplerFault(f"weights: {name} has dtype {tensor.dtype}; publish one of {', '.join(_CODES)}")
        begin, end = end, end + len(tensor.data)
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return _write_synced(path, [len(text).to_bytes(8, "little"), text, *(tensor.data for _, tensor in tensors)])


def _write_synced(path: Path, parts: Iterable[bytes]) -> int:
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _age(folder: Path) -> tuple[int, int]:
    attempt, _, step = folder.name.partition("-")
    return (int(attempt), int(step)) if attempt.isdecimal() and step.isdecimal() else (-1, -1)
