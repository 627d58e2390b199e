"""The program in the box: one Chromium, any number of sessions, JSON lines in and out.

Owns: starting Chromium, the requests (``open``, ``act``, ``end``), answering each. Refuses: what a session does.
A request is answered by one line: {"screen": ...}, what ``end`` found, or {"fault": reason}: the browser failed, and
nothing that it holds can be trusted any more.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from worldmodel.domains.web.inside.session import Session

# Chromium's own sandbox needs what the box refuses (namespaces, ptrace); the box takes its place.
FLAGS = (
    "--no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-crash-reporter --no-proxy-server"
).split()
LAUNCH_MS = 120_000.0


def main(executable: str, sync_playwright: Any, failure: type[Exception]) -> None:
    """Answer requests until the input ends. Playwright comes from the caller: it is installed in the box alone."""
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=executable, headless=True, args=FLAGS, timeout=LAUNCH_MS)
        sessions: dict[str, Session] = {}
        _say({"ready": browser.version})
        for line in sys.stdin:
            try:
                _say(_answer(browser, sessions, json.loads(line), (failure,)))
            except failure as error:
                _say({"fault": (str(error).splitlines() or ["browser failed"])[0]})
        browser.close()


def _answer(browser: Any, sessions: dict[str, Session], request: dict[str, Any], failures: Any) -> dict[str, Any]:
    name = request["id"]
    match request["op"]:
        case "open":
            session = sessions[name] = Session(browser, request["site"], request["state"], failures)
            return {"screen": session.screen(), "goal": session.goal}
        case "act":
            return {"screen": sessions[name].act(request["name"], request["arguments"])}
        case "end":
            return sessions.pop(name).end()
    return {"fault": f"unknown request {request['op']}"}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
