"""What job scripts ask of a node: ``python -m launch.submit.nodes address | reach | wait``.

Owns: the address other nodes reach this one at, and waiting for Ray's head and for a complete cluster, each with a
deadline. Refuses: starting or ending anything. Both waits read ``RAY_ADDRESS``.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import time
from collections.abc import Iterable

from launch.errors import UserError, user_errors
from rollout.errors import AgentworldError

POLL_SECONDS = 1.0


def main() -> None:
    """Entry point; a failure is one line and status 2."""
    parser = argparse.ArgumentParser(prog="python -m launch.submit.nodes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("address", help="print this node's address")
    reach = commands.add_parser("reach", help="until RAY_ADDRESS accepts connections; this node needs no Ray")
    waiting = commands.add_parser("wait", help="until the cluster at RAY_ADDRESS, which this node is in, is complete")
    waiting.add_argument("--count", type=int, required=True, help="nodes")
    for command in (reach, waiting):
        command.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    where = os.environ.get("RAY_ADDRESS", "")
    with user_errors():
        if given.command == "address":
            print(address())
        elif given.command == "reach":
            wait_for_head(where, given.seconds)
        else:
            wait_for_nodes(where, given.count, given.seconds)


def address() -> str:
    """The IPv4 address that this host's name resolves to; where that is loopback (Debian's 127.0.1.1), the one that
    its default route leaves from. Raises UserError where there is neither."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    except OSError:
        found = set()
    chosen = first_reachable(sorted(found)) or first_reachable([_outgoing()])
    if chosen is None:
        raise UserError("this node has no IPv4 address that other nodes could reach")
    return chosen


def first_reachable(addresses: Iterable[str]) -> str | None:
    """The first that means more than this machine alone."""
    for text in addresses:
        try:
            parsed = ipaddress.ip_address(text)
        except ValueError:
            continue
        if not (parsed.is_loopback or parsed.is_unspecified or parsed.is_link_local):
            return text
    return None


def _outgoing() -> str:
    """A datagram socket that is connected but not used knows the address it would send from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation; no packet leaves
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def wait_for_head(ray_address: str, seconds: float) -> None:
    """Return once ``host:port`` accepts a connection. Raises AgentworldError after ``seconds``."""
    host, _, port = ray_address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"Ray's address (RAY_ADDRESS) is {ray_address!r}: host:port is needed")
    deadline = time.monotonic() + seconds
    reason = "not tried"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, int(port)), timeout=min(5.0, left)):
                return
        except OSError as error:
            reason = str(error)
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
    raise AgentworldError(f"no Ray head at {ray_address} within {seconds:.0f} s: {reason}")


def wait_for_nodes(ray_address: str, count: int, seconds: float) -> None:
    """Return once ``count`` nodes of the cluster are alive. Raises AgentworldError after ``seconds``: how many came,
    or why Ray was not to be had (a wrong token, a head that died)."""
    deadline = time.monotonic() + seconds
    wait_for_head(ray_address, seconds)
    state = "none joined"
    while time.monotonic() < deadline:
        try:
            alive = _wait_connected(ray_address, count, deadline)
        except AgentworldError as error:  # a head that is still starting refuses, too
            state = str(error)
            time.sleep(POLL_SECONDS)
            continue
        if alive >= count:
            return
        state = f"{alive} joined"
    raise AgentworldError(f"{count} nodes were awaited at {ray_address} for {seconds:.0f} s: {state}")


def _wait_connected(ray_address: str, count: int, deadline: float) -> int:
    """Nodes alive: ``count`` or, at the deadline, fewer."""
    import ray

    from launch.cluster import connected

    with connected(ray_address):
        while True:
            alive = sum(1 for node in ray.nodes() if node["Alive"])
            if alive >= count or time.monotonic() > deadline:
                return alive
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
