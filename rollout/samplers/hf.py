"""A policy on this machine, CPU or GPU: any Hugging Face causal LM behind ``protocols.UpdatableSampler``.

Owns: one copy of the weights and one worker thread that batches concurrent calls. Calls that arrive while a batch
runs join it, rows that stop leave it, and a context that continues an earlier one computes only what is new.
Refuses: sampling other than by temperature, and mixing versions: weights are replaced when no row is running.

A row's randomness depends on its session's seed alone, so results do not depend on who shares the batch (as far as
floating point allows). The work itself is in ``hf_engine`` (who is in the batch), ``hf_rows`` (states and forwards)
and ``hf_prefix`` (what is kept).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rollout.errors import ConfigError, SamplerFault
from rollout.samplers import hf_attention
from rollout.samplers.hf_engine import Engine, Request
from rollout.types import Completion, Sampling, Session, Version

if TYPE_CHECKING:
    from rollout.protocols import RawTensor

LINGER = 0.002  # seconds without a new call after which an idle worker starts
DTYPES = ("bfloat16", "float32", "float16")


class HFSampler:
    """Batched sampling from ``model``, which it owns from now on (moved to ``dtype``, eval mode).

    Args:
        pad_id, stop_ids: of the chat; a stop id ends a completion and is part of it.
        sampling: default temperature; a session's overrides it. Logprobs are those of the distribution sampled from
            (temperature applied); a greedy call reports those at temperature 1.
        max_batch: rows decoded at once.
        prefix_bytes: bound on the states kept for contexts to come.
    """

    def __init__(
        self,
        model: Any,
        *,
        pad_id: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        max_batch: int = 32,
        dtype: str = "bfloat16",
        version: Version | None = None,
        prefix_bytes: int = 512 * 2**20,
    ) -> None:
        self._model = model.to(_dtype(dtype, "dtype")).eval()
        hf_attention.use(self._model)
        self._engine = Engine(self._model, pad_id=pad_id, stop_ids=stop_ids, prefix_bytes=prefix_bytes)
        self._engine.version = version or Version(0, 0)
        self._temperature = sampling.temperature
        self._max_batch = max_batch
        self._condition = threading.Condition()
        self._waiting: list[Request] = []
        self._update: Callable[[], None] | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def version(self) -> Version:
        """The version now served."""
        return self._engine.version

    async def __call__(self, context_ids: Sequence[int], max_tokens: int, session: Session) -> Completion:
        if not context_ids or max_tokens < 1:
            raise SamplerFault(f"sampler: {len(context_ids)} context ids and max_tokens {max_tokens}: need 1 of each")
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        request = Request(
            ids=tuple(context_ids),
            limit=max_tokens,
            temperature=self._temperature if session.temperature is None else session.temperature,
            seed=session.seed,
            deadline=float("inf") if session.deadline is None else session.deadline,
            resolve=_resolver(answer),
            abandoned=answer.done,
        )
        with self._condition:
            if self._closed:
                raise SamplerFault("sampler: closed")
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hf-sampler", daemon=True)
                self._thread.start()
            self._condition.notify()
        return await answer

    def update(
        self, version: Version, tensors: Mapping[str, np.ndarray | RawTensor], timeout: float = 300.0
    ) -> Version:
        """Replaces all weights once the running rows are done; blocks until then. Returns the version now served.

        Raises:
            SamplerFault: an unknown tensor or shape, a missing tensor, or no answer within ``timeout`` seconds.
                The weights are replaced as a whole or not at all.
        """
        done: Future[Version] = Future()

        def apply() -> None:
            try:
                done.set_result(self._replace_weights(version, tensors))
            except Exception as error:  # raised in the caller's thread, so that the worker goes on
                done.set_exception(error)

        with self._condition:
            if self._closed or self._update is not None:
                raise SamplerFault("sampler: closed" if self._closed else "sampler: another update is under way")
            if self._thread is None:
                apply()
            else:
                self._update = apply
                self._condition.notify()
        try:
            return done.result(timeout)
        except TimeoutError as error:
            raise SamplerFault(f"sampler: waited {timeout:.0f} s for running rows before an update") from error

    def close(self) -> None:
        """Ends the worker; calls that still wait get a fault."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join(timeout=30.0)

    def _work(self) -> None:
        """The worker thread, until closed."""
        with torch.inference_mode():
            while (admitted := self._next(self._engine.alive)) is not None:
                try:
                    if admitted:
                        self._engine.admit(admitted)
                    self._engine.step()
                except Exception as error:  # the edge of the engine: whatever it was, the callers get a fault
                    self._fail(f"{type(error).__name__}: {str(error)[:300]}", admitted)
                    self._engine.forget()
            with self._condition:
                waiting, self._waiting = self._waiting, []
            self._fail("closed", waiting)

    def _fail(self, reason: str, requests: Sequence[Request]) -> None:
        fault = SamplerFault(f"sampler: {reason}")
        self._engine.abandon(fault)
        for request in requests:
            request.resolve(fault)

    def _next(self, alive: int) -> list[Request] | None:
        """Requests to admit before the next step; None when closed. Blocks while there is nothing at all to do."""
        with self._condition:
            while not self._closed and not alive:
                if self._update is not None:
                    self._update()
                    self._update = None
                if self._waiting:
                    self._linger()
                    break
                self._condition.wait()
            if self._closed:
                return None
            # A join copies all states, so it waits for company; a pending update waits for the batch to end.
            if self._update is not None or len(self._waiting) < max(1, alive // 4):
                return []
            free = self._max_batch - alive
            admitted, self._waiting = self._waiting[:free], self._waiting[free:]
            return admitted

    def _linger(self) -> None:
        until = time.monotonic() + 10 * LINGER
        seen = 0
        while seen < len(self._waiting) < self._max_batch and time.monotonic() < until:
            seen = len(self._waiting)
            self._condition.wait(LINGER)

    def _replace_weights(self, version: Version, tensors: Mapping[str, np.ndarray | RawTensor]) -> Version:
        own = self._model.state_dict()
        new = {name: _tensor(name, value) for name, value in tensors.items()}
        for name, value in new.items():
            if name not in own or own[name].shape != value.shape:
                has = tuple(own[name].shape) if name in own else "no such tensor"
                raise SamplerFault(f"update {tuple(version)}: {name} is {tuple(value.shape)}, the model has {has}")
        given = {own[name].data_ptr() for name in new}  # tied weights come under one of their names
        missing = [name for name, value in own.items() if value.data_ptr() not in given]
        if missing:
            raise SamplerFault(f"update {tuple(version)}: {len(missing)} tensors are missing, first {missing[0]}")
        with torch.no_grad():
            for name, value in new.items():
                own[name].copy_(value)
        self._engine.forget()
        self._engine.version = version
        return version


@dataclass(frozen=True, slots=True)
class HFSamplerSpec:
    """Picklable ``SamplerFactory`` over a saved model and its tokenizer under ``path``.

    ``threads`` sets torch's threads of the whole process; with more than one process per machine use 1.
    """

    path: str
    sampling: Sampling = field(default_factory=Sampling)
    max_batch: int = 32
    dtype: str = "bfloat16"
    threads: int | None = None
    device: str = "cpu"
    version: Version = field(default_factory=lambda: Version(0, 0))

    def __call__(self) -> HFSampler:
        """Raises ``ConfigError`` where ``path`` holds no readable model or tokenizer."""
        from transformers import AutoModelForCausalLM

        from rollout.chat import load_chat

        if self.threads:
            torch.set_num_threads(self.threads)
        if not (Path(self.path) / "config.json").is_file():
            raise ConfigError(f"{self.path}: no config.json; point the path at a saved model")
        chat = load_chat(self.path)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                self.path, dtype=_dtype(self.dtype, "dtype"), local_files_only=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"{self.path}: unreadable model ({str(error).splitlines()[0]})") from error
        return HFSampler(
            model.to(self.device),
            pad_id=chat.pad_id,
            stop_ids=chat.stop_ids,
            sampling=self.sampling,
            max_batch=self.max_batch,
            dtype=self.dtype,
            version=self.version,
        )


def _resolver(answer: asyncio.Future[Completion]) -> Callable[[Completion | SamplerFault], None]:
    """Settles ``answer`` from another thread; a caller or loop that is gone is no error."""
    loop = answer.get_loop()

    def settle(value: Completion | SamplerFault) -> None:
        if answer.done():
            return
        if isinstance(value, SamplerFault):
            answer.set_exception(value)
        else:
            answer.set_result(value)

    def resolve(value: Completion | SamplerFault) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, value)

    return resolve


def _dtype(name: str, where: str) -> torch.dtype:
    short = name.removeprefix("torch.")
    if short not in DTYPES:
        raise ConfigError(f"{where} {name!r}: use one of {', '.join(DTYPES)}")
    return {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}[short]


def _tensor(name: str, value: np.ndarray | RawTensor) -> Tensor:
    """A numpy array as it is, or any buffer of raw bytes with dtype and shape (numpy has no bfloat16)."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    try:
        flat = torch.frombuffer(bytearray(value.data), dtype=_dtype(str(value.dtype), name))
        return flat.reshape(tuple(value.shape))
    except (ConfigError, ValueError, RuntimeError) as error:
        raise SamplerFault(f"update: {name}: {error}") from error
