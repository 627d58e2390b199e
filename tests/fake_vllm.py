"""A faithful stand-in for ``vllm serve``: the same endpoints, answers and refusals, over a tiny model or a script.

Real here: HTTP on loopback, our gate and loader (brought in by dotted name, as vLLM does), token-by-token generation
that a disconnect aborts, safetensors read into a torch model. Stricter than vLLM: an unknown field of a request is
refused, where vLLM ignores it. ``faults`` are injected between the network and the gate.

Also a program, with the options of ``vllm serve`` that we use: ``python fake_vllm.py serve MODEL --port 8000 ...``
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Annotated, Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rollout.samplers.vllm_gate import HEADER, WeightGate, WeightLoader
from rollout.types import Session

Logprob = tuple[int, float]


# ------------------------------------------------------------------------------------------------ policies


class Policy(Protocol):
    """What stands in for the model: ``vocab_size``, one next id, and new weights."""

    vocab_size: int

    def begin(self, ids: list[int], session: str, seed: int) -> Any:
        """State of one request."""

    def step(self, state: Any, ids: list[int], temperature: float) -> tuple[int, torch.Tensor]:
        """The next id, and the logits it was drawn from."""

    def reload_weights(self, weights_iterator: Any, is_checkpoint_format: bool) -> None: ...


class _Sampled:
    """Ids drawn from logits, and weights loaded by name."""

    def logits(self, ids: list[int]) -> torch.Tensor:
        raise NotImplementedError

    def own(self) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def begin(self, ids: list[int], session: str, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def step(self, state: torch.Generator, ids: list[int], temperature: float) -> tuple[int, torch.Tensor]:
        logits = self.logits(ids)
        if temperature == 0.0:
            return int(logits.argmax()), logits
        chances = torch.softmax(logits / temperature, 0)
        return int(torch.multinomial(chances, 1, generator=state)), logits

    @torch.no_grad()
    def reload_weights(self, weights_iterator: Any, is_checkpoint_format: bool) -> None:
        assert is_checkpoint_format
        own = self.own()
        for name, value in weights_iterator:
            if name not in own:
                raise ValueError(f"There is no module or parameter named {name!r}")
            own[name].copy_(value)


class TinyPolicy(_Sampled):
    """A Hugging Face causal LM, without a cache."""

    def __init__(self, model: Any) -> None:
        self.model = model.float().eval()
        self.vocab_size = int(model.config.vocab_size)

    def logits(self, ids: list[int]) -> torch.Tensor:
        return self.model(torch.tensor([ids])).logits[0, -1].float()

    def own(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()


class BigramPolicy(_Sampled):
    """One table: logits of the next id given the last. Cheap to make, and nothing like a transformer."""

    vocab_size = 261

    def __init__(self, seed: int = 0) -> None:
        self.table = bigram_table(seed)

    def logits(self, ids: list[int]) -> torch.Tensor:
        return self.table[ids[-1]]

    def own(self) -> dict[str, torch.Tensor]:
        return {"table": self.table}


def bigram_table(seed: int) -> torch.Tensor:
    size = BigramPolicy.vocab_size
    return 2.0 * torch.randn(size, size, generator=torch.Generator().manual_seed(seed))


class ScriptPolicy:
    """Writes ``script(context text, session)``, then the end-of-turn id; each id is likely, not certain."""

    def __init__(self, chat: Any, script: Callable[[str, Session], str]) -> None:
        self._chat, self._script = chat, script
        self.vocab_size = len(chat.tokenizer)

    def begin(self, ids: list[int], session: str, seed: int) -> deque[int]:
        reply = self._script(self._chat.transcript(ids), Session(session, seed)) if session else "a probe"
        return deque([*self._chat.encode(reply), self._chat.stop_ids[0]])

    def step(self, state: deque[int], ids: list[int], temperature: float) -> tuple[int, torch.Tensor]:
        token = state.popleft()
        logits = torch.zeros(self.vocab_size)
        logits[token] = 8.0
        return token, logits

    def reload_weights(self, weights_iterator: Any, is_checkpoint_format: bool) -> None:
        for _ in weights_iterator:
            pass


# ------------------------------------------------------------------------------------------------ requests


class CompletionRequest(BaseModel):
    """The fields of vLLM's ``CompletionRequest`` that decide a text completion, with its bounds."""

    model_config = ConfigDict(extra="forbid")

    prompt: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 16
    n: Annotated[int, Field(ge=1, le=1)] = 1
    stream: bool = False
    echo: bool = False
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    add_special_tokens: bool = True
    skip_special_tokens: bool = True
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None


class Refusal(Exception):
    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


# ------------------------------------------------------------------------------------------------ engine and server


class Worker(WeightLoader):
    """A GPU worker: the loader is mixed in."""

    def __init__(self, policy: Policy) -> None:
        self.model_runner = policy


@dataclass
class Engine:
    """``engine_client`` of the application. ``broken_loads``: how many of the next loads fail half way."""

    policy: Policy
    token_seconds: float = 0.0
    broken_loads: int = 0
    loads: list[str] = field(default_factory=list)
    resets: int = 0
    running: int = 0
    aborted: int = 0

    async def collective_rpc(self, method: str, timeout: float | None = None, args: Sequence[Any] = ()) -> list[Any]:
        assert self.running == 0, "weights change under a running request"
        self.loads.append(args[-1].partition(":")[2])
        result = getattr(Worker(self.policy), method)(*args)
        if self.broken_loads:
            self.broken_loads -= 1
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [result]

    async def reset_prefix_cache(self) -> bool:
        self.resets += 1
        return self.running == 0

    async def generate(self, request: CompletionRequest, session: str) -> tuple[list[int], list[torch.Tensor], str]:
        self.running += 1
        try:
            prompt, ids, logits = list(request.prompt), [], []
            state = self.policy.begin(prompt, session, request.seed or 0)
            while True:
                token, scores = self.policy.step(state, prompt + ids, request.temperature)
                ids.append(token)
                logits.append(scores)
                if token in request.stop_token_ids:
                    return ids, logits, "stop"
                if len(ids) == request.max_tokens:
                    return ids, logits, "length"
                await asyncio.sleep(self.token_seconds)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.running -= 1


class Application:
    """The ASGI application that vLLM builds, without its middleware."""

    def __init__(self, engine: Engine, *, served: str, max_model_len: int, logprobs_mode: str, api_key: str) -> None:
        self.engine = engine
        self.state = SimpleNamespace(engine_client=engine)
        self.seen: list[tuple[dict[str, Any], dict[str, str]]] = []  # (body, headers) of each completion request
        self._served, self._max_model_len, self._key = served, max_model_len, api_key
        self._processed = logprobs_mode == "processed_logprobs"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        try:
            if self._key and scope["path"].startswith("/v1") and headers.get("authorization") != f"Bearer {self._key}":
                return await reply(send, 401, {"error": "Unauthorized"})
            match scope["method"], scope["path"]:
                case "GET", "/health":
                    await reply(send, 200, None)
                case "GET", "/v1/models":
                    card = {"id": self._served, "object": "model", "max_model_len": self._max_model_len}
                    await reply(send, 200, {"object": "list", "data": [card]})
                case "POST", "/v1/completions":
                    await self._completions(headers, receive, send)
                case _:
                    await reply(send, 404, {"detail": "Not Found"})
        except Refusal as error:
            body = {"message": str(error), "type": error.kind, "param": None, "code": error.status}
            await reply(send, error.status, {"error": body})

    async def _completions(self, headers: dict[str, str], receive: Any, send: Any) -> None:
        raw = (await receive())["body"]
        request = self._validated(headers, raw)
        self.seen.append((json.loads(raw), headers))
        work = asyncio.ensure_future(self.engine.generate(request, headers.get("x-session-id", "")))
        gone = asyncio.ensure_future(receive())  # vLLM aborts a request whose client goes away
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
            return await reply(send, 200, None)
        gone.cancel()
        await reply(send, 200, self._answer(request, *work.result()))

    def _validated(self, headers: dict[str, str], raw: bytes) -> CompletionRequest:
        if headers.get("content-type", "").split(";")[0] != "application/json":
            raise Refusal(415, "Unsupported Media Type", "Only 'application/json' is allowed")
        try:
            request = CompletionRequest.model_validate_json(raw)
        except ValidationError as error:
            raise Refusal(400, "Bad Request", str(error)) from error
        if request.model not in (None, self._served):
            raise Refusal(404, "NotFoundError", f"The model `{request.model}` does not exist.")
        if max(request.prompt) >= self.engine.policy.vocab_size:
            raise Refusal(400, "BadRequestError", f"Token id {max(request.prompt)} is out of vocabulary")
        room = self._max_model_len - len(request.prompt)
        if room < 1:
            message = f"This model's maximum context length is {self._max_model_len} tokens."
            raise Refusal(400, "BadRequestError", message)
        return request.model_copy(update={"max_tokens": min(room, request.max_tokens)})

    def _answer(self, request: CompletionRequest, ids: list[int], logits: list[torch.Tensor], finish: str) -> Any:
        prompt = list(request.prompt) if request.return_token_ids else None
        choice = {
            "index": 0,
            "text": " ".join(map(str, ids)),
            "logprobs": None if request.logprobs is None else self._logprobs(request, ids, logits),
            "finish_reason": finish,
            "stop_reason": ids[-1] if finish == "stop" else None,
            "token_ids": ids if request.return_token_ids else None,
            "prompt_logprobs": None,
            "prompt_token_ids": prompt,
            "routed_experts": None,
        }
        usage = {"prompt_tokens": len(request.prompt), "completion_tokens": len(ids)}
        return {
            "id": "cmpl-0",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._served,
            "choices": [choice],
            "usage": usage | {"total_tokens": sum(usage.values()), "prompt_tokens_details": None},
            "system_fingerprint": None,
            "kv_transfer_params": None,
        }

    def _logprobs(self, request: CompletionRequest, ids: list[int], logits: list[torch.Tensor]) -> dict[str, Any]:
        name = "token_id:{}" if request.return_tokens_as_token_ids else "<{}>"
        temperature = request.temperature if self._processed and request.temperature > 0.0 else 1.0
        chosen, top = [], []
        for token, scores in zip(ids, logits, strict=True):
            values = torch.log_softmax(scores / temperature, 0)
            best = values.topk(request.logprobs or 0).indices.tolist()
            chosen.append(max(float(values[token]), -9999.0))
            top.append({name.format(i): max(float(values[i]), -9999.0) for i in dict.fromkeys([token, *best])})
        tokens = [name.format(token) for token in ids]
        return {"text_offset": [0] * len(ids), "token_logprobs": chosen, "tokens": tokens, "top_logprobs": top}


class Dropped(Exception):
    """The connection is cut."""


class Faulty:
    """Injects the next of ``faults`` into each completion request: see ``_spoilt`` for their names."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.faults: deque[str] = deque()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/v1/completions" or not self.faults:
            return await self._app(scope, receive, send)
        fault = self.faults.popleft()
        if fault == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
            return None
        if fault == "disconnect":
            raise Dropped
        if fault in ("500", "503", "429"):
            return await reply(send, int(fault), {"error": {"message": "injected", "type": "x", "code": int(fault)}})
        parts: list[Any] = []

        async def keep(message: Any) -> None:
            parts.append(message)

        await self._app(scope, receive, keep)
        await self._spoilt(fault, parts[0], parts[1]["body"], send)
        return None

    async def _spoilt(self, fault: str, start: Any, body: bytes, send: Any) -> None:
        if fault == "truncated":  # the length of the whole, half of the bytes, the end
            await send(start)
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            raise Dropped
        headers = [(k, v) for k, v in start["headers"] if k != b"content-length"]
        name = HEADER.encode()
        if fault in ("wrong_version", "wrong_lineage"):
            wrong = (lambda v: v.replace(b"1.1", b"1.0")) if fault == "wrong_version" else (lambda v: b"x" + v)
            headers = [(k, wrong(v) if k == name else v) for k, v in headers]
        elif fault == "no_version":
            headers = [(k, v) for k, v in headers if k != name]
        elif fault == "half_json":
            body = body[: len(body) // 2]
        else:
            body = json.dumps(spoil(json.loads(body), fault)).encode()
        await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})


def spoil(answer: Any, fault: str) -> Any:
    choice = answer["choices"][0]
    match fault:
        case "abort":
            choice["finish_reason"] = "abort"
        case "no_logprobs":
            choice["logprobs"] = None
        case "null_logprob":
            choice["logprobs"]["token_logprobs"][0] = None
        case "positive_logprob":
            choice["logprobs"]["token_logprobs"][0] = 0.5
        case "short_logprobs":
            choice["logprobs"]["token_logprobs"].pop()
        case "other_prompt":
            choice["prompt_token_ids"] = choice["prompt_token_ids"][1:]
        case "too_many":
            choice["token_ids"] *= 50
            choice["logprobs"]["token_logprobs"] *= 50
        case "empty":
            choice["token_ids"], choice["logprobs"]["token_logprobs"] = [], []
        case "other_stop":
            choice["token_ids"][-1], choice["finish_reason"] = 7, "stop"
        case _:
            raise AssertionError(fault)
    return answer


async def reply(send: Any, status: int, body: Any) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


# ------------------------------------------------------------------------------------------------ HTTP


class Host:
    """HTTP/1.1 for one ASGI application: what uvicorn is to vLLM. One request at a time per connection."""

    def __init__(self, app: Any, scope_app: Any) -> None:
        self._app, self._scope_app = app, scope_app

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._request(head, reader, writer)
        except (Dropped, asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # an injected fault, or one side is done
        finally:
            writer.close()

    async def _request(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = [tuple(part.strip().encode() for part in line.split(":", 1)) for line in lines if line]
        headers = [(key.lower(), value) for key, value in headers]
        length = next((int(value) for key, value in headers if key == b"content-length"), 0)
        body: bytes | None = await reader.readexactly(length)
        client = writer.get_extra_info("peername")
        scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": client}

        async def receive() -> dict[str, Any]:
            nonlocal body
            if body is not None:
                data, body = body, None
                return {"type": "http.request", "body": data, "more_body": False}
            while await reader.read(1):
                pass
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                lines = [
                    f"HTTP/1.1 {message['status']} X",
                    *(f"{k.decode()}: {v.decode()}" for k, v in message["headers"]),
                ]
                writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            else:
                writer.write(message["body"])
            await writer.drain()

        await self._app({**scope, "app": self._scope_app}, receive, send)
        for _ in range(3):  # whoever still listens for a disconnect was cancelled, and lets go of the reader
            await asyncio.sleep(0)


class FakeVLLM:
    """A server in a thread of its own, from ``start`` to ``stop``. ``gate`` None: started without our options."""

    def __init__(
        self,
        policy: Policy,
        *,
        served: str = "policy",
        max_model_len: int = 2048,
        logprobs_mode: str = "processed_logprobs",
        api_key: str = "",
        token_seconds: float = 0.0,
        gate: Any = WeightGate,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.engine = Engine(policy, token_seconds)
        self.app = Application(
            self.engine, served=served, max_model_len=max_model_len, logprobs_mode=logprobs_mode, api_key=api_key
        )
        self._faulty = Faulty(gate(self.app) if gate else self.app)
        self.faults = self._faulty.faults
        self._address = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-vllm", daemon=True)
        self._thread.start()
        self.start()

    @property
    def sessions(self) -> list[str]:
        """Of the completion requests so far, probes left out."""
        return [headers["x-session-id"] for _, headers in self.app.seen if "x-session-id" in headers]

    def start(self) -> None:
        host = Host(self._faulty, self.app)
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(host.connection, *self._address), self._loop)
        self._server = starting.result(10)
        self._address = self._server.sockets[0].getsockname()[:2]
        self.url = "http://{}:{}".format(*self._address)

    def restart_with(self, gate: Any = WeightGate) -> None:
        """As a new process would be: it has forgotten which weights it was given."""
        self._faulty._app = gate(self.app)

    def down(self) -> None:
        """Stops listening; a later ``start`` takes the same port."""
        asyncio.run_coroutine_threadsafe(close_all(self._server, self._loop), self._loop).result(10)

    def stop(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


async def close_all(server: asyncio.Server, loop: asyncio.AbstractEventLoop) -> None:
    """Stop listening and end every open connection (``Server.close_clients`` is newer than Python 3.11)."""
    server.close()
    others = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


# ------------------------------------------------------------------------------------------------ as a program


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", default="policy")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.9)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float16", "float32"], default="auto")
    parser.add_argument("--generation-config", default="auto")
    parser.add_argument("--logprobs-mode", default="raw_logprobs")
    parser.add_argument("--middleware")
    parser.add_argument("--worker-extension-cls")
    args = parser.parse_args()

    gate, loader = (dotted(name) for name in (args.middleware, args.worker_extension_cls))
    assert loader is WeightLoader
    server = FakeVLLM(
        BigramPolicy(),
        served=args.served_model_name,
        max_model_len=args.max_model_len,
        logprobs_mode=args.logprobs_mode,
        api_key=os.environ.get("VLLM_API_KEY", ""),
        gate=gate,
        host=args.host,
        port=args.port,
    )
    print(f"Application startup complete at {server.url}", flush=True)
    threading.Event().wait()


def dotted(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    main()
