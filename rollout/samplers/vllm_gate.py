"""What runs inside ``vllm serve``: a gate that knows which weights are served, and the loader behind it.

Owns: the version of a server's weights, stamped on every answer; draining, loading and confirming new ones; refusing
to answer from any others. Refuses: sampling, reading configs, importing vLLM or the rest of agentworld.

Two stock options of vLLM bring it in: ``--middleware rollout.samplers.vllm_gate.WeightGate`` (the API process) and
``--worker-extension-cls rollout.samplers.vllm_gate.WeightLoader`` (each GPU worker). Development mode stays off.

An update closes the gate: new calls wait in front of it, calls that run are finished. Those that run longer than
``drain`` seconds are aborted and answered with status 503, so that the client samples them again under the new
weights. No answer therefore mixes versions. If loading fails half way nothing is served until a load succeeds.

    GET  /agentworld/weights                                    {"weights": "3f9c:1.7" or null, "running": 3}
    POST /agentworld/weights {"weights": "3f9c:1.8", "folder": "/...", "drain": 30.0, "timeout": 100.0}
    header of an answer      x-agentworld-weights: 3f9c:1.8     (lineage, attempt, step: see ``weight_files.Stamp``)
    header of a request      x-agentworld-weights: 3f9c:1.8     answered 409 by older ones and those of another run
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rollout.weight_files import Stamp, read_manifest, read_tensors

PATH = "/agentworld/weights"
HEADER = "x-agentworld-weights"
KEY_VARIABLE = "VLLM_API_KEY"  # the variable in which vLLM itself looks for its key
ABORTED, BROKEN, STALE = "aborted_for_new_weights", "no_weights", "stale_weights"
LOCAL = ("127.0.0.1", "::1")
MAX_BODY = 65_536  # bytes of an update request

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Refused(Exception):
    """An answer other than 200: status, kind, text."""

    def __init__(self, status: int, kind: str, text: str) -> None:
        super().__init__(text)
        self.status, self.kind = status, kind


class WeightGate:
    """ASGI middleware around vLLM's application. A fresh server serves ``Stamp()``: what it was started with."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._served: Stamp | None = Stamp()  # None: loading, or a load failed half way
        self._running: set[asyncio.Event] = set()  # one per call; set: the call is to be aborted
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Event()
        self._loading = asyncio.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH:
            await self._weights(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST":
            await self._pass(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    # -- calls

    async def _pass(self, scope: Message, receive: Receive, send: Send) -> None:
        while not self._open.is_set():
            await self._open.wait()
        try:
            served = self._fitting(scope)
        except Refused as refused:
            await self._refuse(send, refused)
            return
        abort, started = asyncio.Event(), False

        async def listen() -> Message:
            return await _first(receive, abort)

        async def answer(message: Message) -> None:
            nonlocal started
            if abort.is_set() and not started:
                return  # whatever vLLM says of a call that was taken from it
            if message["type"] == "http.response.start":
                started = True
                stamp = (HEADER.encode(), str(served).encode())
                message = {**message, "headers": [*message.get("headers", ()), stamp]}
            await send(message)

        self._running.add(abort)
        try:
            await self._app(scope, listen, answer)
        finally:
            self._running.discard(abort)
            if not self._running:
                self._idle.set()
        if abort.is_set() and not started:
            await self._refuse(send, Refused(503, ABORTED, "aborted for new weights: sample again"))

    def _fitting(self, scope: Message) -> Stamp:
        """What is served, if that is what the call asks for."""
        if self._served is None:
            raise Refused(503, BROKEN, "the last update failed half way: publish weights again")
        wanted = _header(scope, HEADER)
        if wanted and not self._served.serves(_stamp(wanted)):
            raise Refused(409, STALE, f"serves {self._served}, asked for {wanted} or later")
        return self._served

    # -- weights

    async def _weights(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            _authorise(scope)
            if scope["method"] == "POST":
                await self._update(scope, await _body(receive))
            elif scope["method"] != "GET":
                raise Refused(405, "method", f"{scope['method']} {PATH}: use GET or POST")
        except Refused as refused:
            await self._refuse(send, refused)
        else:
            weights = None if self._served is None else str(self._served)
            await _reply(send, 200, {"weights": weights, "running": len(self._running)}, self._stamped())

    async def _update(self, scope: Message, body: dict[str, Any]) -> None:
        folder, wanted, drain, timeout = _update_request(body)
        try:
            found = await asyncio.to_thread(read_manifest, folder)
        except ValueError as error:
            raise Refused(400, "folder", str(error)) from error
        if found.stamp != wanted:
            raise Refused(400, "folder", f"{folder} holds {found.stamp}, not {wanted}")
        async with self._loading:  # several clients may announce the same weights: one load serves all
            if self._served is not None and self._served.serves(wanted):
                return
            self._open.clear()
            try:
                await self._drain(drain, wanted)
                await self._load(scope["app"].state.engine_client, folder, wanted, timeout)
            finally:
                self._open.set()

    async def _drain(self, seconds: float, wanted: Stamp) -> None:
        """Returns when nothing runs. Raises Refused if aborted calls do not end either."""
        for grace in (seconds, 10.0):
            self._idle.clear()
            if not self._running:
                return
            try:
                await asyncio.wait_for(self._idle.wait(), grace)
                return
            except TimeoutError:
                for abort in self._running:
                    abort.set()
        raise Refused(503, "drain", f"{len(self._running)} calls did not end before weights {wanted}")

    async def _load(self, engine: Any, folder: str, wanted: Stamp, timeout: float) -> None:
        await _forget_prefixes(engine)
        self._served = None
        try:
            rpc = engine.collective_rpc("agentworld_load", timeout=timeout, args=(folder, str(wanted)))
            answers = await asyncio.wait_for(rpc, timeout)
        except Exception as error:  # the edge of vLLM: whatever it was, these weights are not served
            raise Refused(500, "load", f"loading {folder}: {type(error).__name__}: {str(error)[:300]}") from error
        if not answers or any(str(answer) != str(wanted) for answer in answers):
            raise Refused(500, "load", f"loading {folder}: workers answered {answers!r}, not {wanted}")
        self._served = wanted

    def _stamped(self) -> list[tuple[bytes, bytes]]:
        return [] if self._served is None else [(HEADER.encode(), str(self._served).encode())]

    async def _refuse(self, send: Send, refused: Refused) -> None:
        body = {"error": {"message": str(refused), "type": refused.kind, "param": None, "code": refused.status}}
        await _reply(send, refused.status, body, self._stamped())


class WeightLoader:
    """Mixed into vLLM's GPU worker, whose ``model_runner`` it uses."""

    model_runner: Any

    def agentworld_load(self, folder: str, weights: str) -> str:
        """Load every tensor of ``folder`` by vLLM's own reload; returns ``weights``. Raises ValueError."""
        manifest = read_manifest(folder)
        if str(manifest.stamp) != weights:
            raise ValueError(f"{folder} holds {manifest.stamp}, not {weights}")
        seen = 0

        def counted() -> Any:
            nonlocal seen
            for item in read_tensors(folder, manifest):
                seen += 1
                yield item

        self.model_runner.reload_weights(weights_iterator=counted(), is_checkpoint_format=True)
        if seen != len(manifest.tensors):
            raise ValueError(f"{folder}: {seen} of {len(manifest.tensors)} tensors were read")
        return weights


async def _forget_prefixes(engine: Any) -> None:
    """Old keys and values must not meet new weights. Aborted calls free their blocks a step later: hence the tries."""
    for _ in range(100):
        if await engine.reset_prefix_cache() is not False:
            return
        await asyncio.sleep(0.05)
    raise Refused(503, "cache", "the prefix cache could not be reset within 5 s")


async def _first(receive: Receive, abort: asyncio.Event) -> Message:
    """The next message, or a disconnect as soon as ``abort`` is set: the way in which servers abort a call."""
    message, aborted = asyncio.ensure_future(receive()), asyncio.ensure_future(abort.wait())
    try:
        await asyncio.wait({message, aborted}, return_when=asyncio.FIRST_COMPLETED)
        return {"type": "http.disconnect"} if abort.is_set() else message.result()
    finally:
        message.cancel()
        aborted.cancel()


async def _body(receive: Receive) -> dict[str, Any]:
    data, more = b"", True
    while more:
        message = await receive()
        data += message.get("body", b"")
        more = message["type"] == "http.request" and bool(message.get("more_body"))
        if len(data) > MAX_BODY:
            raise Refused(413, "body", f"more than {MAX_BODY} bytes")
    try:
        body = json.loads(data)
    except ValueError as error:
        raise Refused(400, "body", f"not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, "body", "a JSON object is needed")
    return body


def _update_request(body: dict[str, Any]) -> tuple[str, Stamp, float, float]:
    try:
        folder = body["folder"]
        if not isinstance(folder, str) or not os.path.isabs(folder):
            raise ValueError(f"folder {folder!r} is no absolute path")
        return folder, Stamp.parse(str(body["weights"])), float(body["drain"]), float(body["timeout"])
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(400, "body", f"weights, folder, drain and timeout are needed ({error})") from error


def _authorise(scope: Message) -> None:
    """With a key in ``VLLM_API_KEY``: that key. Without one: callers on this machine only."""
    key = os.environ.get(KEY_VARIABLE, "")
    if key:
        if not hmac.compare_digest(_header(scope, "authorization").encode(), f"Bearer {key}".encode()):
            raise Refused(401, "key", "wrong or missing API key")
    elif scope.get("client") and scope["client"][0] not in LOCAL:
        raise Refused(403, "key", f"{PATH} serves other machines only with {KEY_VARIABLE} set")


def _header(scope: Message, name: str) -> str:
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted), "")


def _stamp(text: str) -> Stamp:
    try:
        return Stamp.parse(text)
    except ValueError as error:
        raise Refused(400, "weights", str(error)) from error


async def _reply(send: Send, status: int, body: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> None:
    data = json.dumps(body).encode()
    length = (b"content-length", str(len(data)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), length, *headers],
        }
    )
    await send({"type": "http.response.body", "body": data})
