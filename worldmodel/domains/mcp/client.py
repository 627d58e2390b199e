"""One connection: the official SDK's ``ClientSession`` on one side, the lines of a server in a box on the other.

Owns: the two memory streams between them, the task that holds the SDK's scopes, faults as ``SandboxError``.
Refuses: servers that ask the client for something (none here does), reconnecting (``real``).

The SDK's session must be entered and left by one task, while an episode's calls come from whichever: so each
connection has a task of its own. A request goes out and its answer comes in with one hop to a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib import import_module
from typing import Any, TypeVar

from worldmodel.sandbox import SandboxError, Service

T = TypeVar("T")


@cache
def threads() -> ThreadPoolExecutor:
    """Services block their thread until the server answers; the event loop never does."""
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="mcp")


async def in_thread(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads(), work)


class Connection:
    """A server that was started. ``open`` before ``call``; ``close`` at any time, and twice."""

    def __init__(self, service: Service, seconds: float) -> None:
        """``seconds``: how long the server may take for its first two answers together."""
        self.schemas: Mapping[str, Mapping[str, Any]] = {}  # tool to input schema, as the server lists them
        self._service = service
        self._seconds = seconds
        self._fault = ""
        self._turn = threading.Lock()
        self._over = asyncio.Event()
        self._open: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Introduce the client and read the list of tools. Raises SandboxError."""
        self._task = asyncio.create_task(self._hold())
        await asyncio.wait([self._open, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not self._open.done():
            raise SandboxError(f"mcp: {self._fault or self._failed()}")

    def _failed(self) -> str:
        error = self._task.exception() if self._task and self._task.done() and not self._task.cancelled() else None
        return f"the server was not understood: {str(error)[:200]}" if error else "the server did not begin"

    async def _hold(self) -> None:
        """The life of the session, in one task."""
        anyio, session = import_module("anyio"), import_module("mcp.client.session").ClientSession
        to_server, outgoing = anyio.create_memory_object_stream(8)
        incoming, from_server = anyio.create_memory_object_stream(64)
        pump = asyncio.create_task(self._pump(outgoing, incoming))
        try:
            async with session(from_server, to_server) as client:
                try:
                    async with asyncio.timeout(self._seconds):
                        await client.initialize()
                        listed = await client.list_tools()
                except TimeoutError:
                    self._fault = self._fault or "the server did not begin in time"
                    return
                self.schemas = {tool.name: tool.input_schema for tool in listed.tools}
                self._open.set_result(client)
                await self._over.wait()
        finally:
            pump.cancel()

    async def _pump(self, outgoing: Any, incoming: Any) -> None:
        """Carry each message to the server and everything up to its answer back. Ends, and with it what waits on the
        session, at the first fault."""
        types, wrapped = import_module("mcp.types"), import_module("mcp.shared.message").SessionMessage
        async with outgoing, incoming:
            try:
                async for item in outgoing:
                    line = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
                    for reply in await in_thread(partial(self._exchange, line)):
                        await incoming.send(wrapped(types.jsonrpc_message_adapter.validate_json(reply)))
            except (SandboxError, ValueError) as error:
                self._fault = self._fault or str(error).splitlines()[0]

    def _exchange(self, line: bytes) -> list[bytes]:
        """Send a line; where it is a request, the lines up to its answer."""
        with self._turn:
            message, replies = json.loads(line), list[bytes]()
            until = time.monotonic() + (self._service.limits.deadline if self._open.done() else self._seconds)
            self._service.send(line)
            while "method" in message and "id" in message:
                replies.append(self._service.receive(until - time.monotonic()))
                reply = json.loads(replies[-1])
                if isinstance(reply, dict) and reply.get("id") == message["id"] and "method" not in reply:
                    break
            return replies

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What the tool printed; an error reply begins with ``Error:``. Raises SandboxError where none came."""
        errors = import_module("mcp.shared.exceptions")
        try:
            result = await self._open.result().call_tool(name, dict(arguments))
        except errors.MCPError as error:
            if self._fault:
                raise SandboxError(f"mcp: {self._fault}") from error
            return marked(error.error.message)
        except (ValueError, RuntimeError) as error:
            raise SandboxError(f"mcp: the reply was not understood: {str(error)[:200]}") from error
        text = "\n".join(part.text if part.type == "text" else f"[{part.type}]" for part in result.content)
        return marked(text) if result.is_error else text

    async def close(self) -> None:
        """Ends the server and the task."""
        self._over.set()
        self._service.interrupt()
        if self._task is not None:
            with contextlib.suppress(Exception):  # whatever it ended with was told where it was waited for
                await asyncio.wait_for(self._task, 5.0)
        await in_thread(self._end)

    def _end(self) -> None:
        with self._turn:  # a call that was given up may still be reading
            self._service.kill()


def marked(text: str) -> str:
    return text if text.startswith("Error") else f"Error: {text}"
