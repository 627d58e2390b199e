"""One episode in the shared browser: a context of its own on a server of its own.

Owns: the open tabs, what each of the browser functions does, the observation after it, ids of elements.
Refuses: starting browsers and speaking to the host (``driver``).

An address is shown as ``http://NAME.test/``, whatever port the site has; nothing but the site can be opened.
An id stands for one element of one document, numbered in the order in which elements are first seen.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from worldmodel.domains.web.inside import tree
from worldmodel.domains.web.inside.server import Files, Site

SECONDS, LOAD_SECONDS = 10.0, 20.0  # for one action to become possible; for a page to load or settle
MINIWOB = "miniwob"
_READY = "() => window.WOB_TASK_READY === true || window.WOB_TASK_READY === undefined"
# The clock and the score beside a task change by themselves, and are none of it.
_BEGIN = """seed => { core.EPISODE_MAX_TIME = 3600000; Math.seedrandom(seed); core.startEpisodeReal();
for (const id of ["reward-display", "sync-task-cover", "click-canvas"]) {
  const found = document.getElementById(id); if (found) found.style.display = "none"; } }"""
# Icons without a text are named by their class, and what reacts to a click looks so.
_LABEL = """() => { const root = document.getElementById("wrap") || document.body;
for (const e of root.querySelectorAll("span, div, a, i, button, li, p")) {
  const words = typeof e.className === "string" ? e.className.trim() : "";
  if (!e.children.length && !e.textContent.trim() && words && !e.hasAttribute("aria-label")) {
    e.setAttribute("aria-label", words);
    if (e.tagName !== "BUTTON" && !e.hasAttribute("role")) e.setAttribute("role", "img"); }
  const events = window.jQuery && jQuery._data(e, "events");
  if (e.onclick || e.__onclick || (events && events.click)) e.style.cursor = "pointer"; } }"""
_GOAL = "() => { const found = core.getUtterance(); return String(found.utterance || found); }"
# Where a process of the browser hangs, no page is drawn any more, and every click waits for that.
_DRAWS = (
    """() => new Promise(done => { requestAnimationFrame(() => done(true)); setTimeout(() => done(false), 5000) })"""
)
_REWARD = "() => window.WOB_DONE_GLOBAL ? Number(window.WOB_RAW_REWARD_GLOBAL) : 0"


class Refused(Exception):
    """Why an action is not done, in one line for the observation."""


class Session:
    """``failures``: the exception types of the browser library. Use from one thread."""

    def __init__(self, browser: Any, name: str, state: dict[str, Any], failures: tuple[type[Exception], ...]) -> None:
        self._failures = failures
        self._name, self._dense = name, name == MINIWOB
        self._server: Site | Files = Files(state["folder"]) if self._dense else Site(state)
        self._ids: dict[str, int] = {}
        self._document, self.goal = "", ""
        size = {"width": 1280, "height": 720}
        try:
            self._context = browser.new_context(
                viewport=size, locale="en-US", timezone_id="UTC", accept_downloads=False, service_workers="block"
            )
            self._context.set_default_timeout(SECONDS * 1000)
            self._context.set_default_navigation_timeout(LOAD_SECONDS * 1000)
            self._page = self._context.new_page()
            self._page.goto(self._real(state.get("start", "/")))
            if self._dense:
                self._page.evaluate(_BEGIN, str(state["seed"]))
                self._page.wait_for_function(_READY)
                self.goal = self._page.evaluate(_GOAL)
        except BaseException:
            self._server.stop()
            raise

    @property
    def _origin(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    def _real(self, path: str) -> str:
        return f"{self._origin}{path}"

    def _shown(self, url: str) -> str:
        return url.replace(self._origin, f"http://{self._name}.test", 1)

    def act(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Do it, and the screen afterwards; the screen begins with the reason where it could not be done."""
        message = ""
        try:
            _DO[name](self, arguments)
        except Refused as error:
            message = f"Error: {error}"
        except self._failures as error:
            if self._page.is_closed() or "Target crashed" in str(error):
                raise
            if "Timeout" in str(error) and not self._page.evaluate(_DRAWS):
                raise  # no page could have done it
            message = f"Error: {name} could not be done: {_first_line(error)}"
        return self.screen(message)

    def screen(self, message: str = "") -> str:
        """What is shown once the page has settled."""
        page, until = self._page, time.monotonic() + LOAD_SECONDS
        while True:
            try:
                page.wait_for_load_state("load")
                if self._dense:
                    page.evaluate(_LABEL)
                nodes = tree.read(page.locator("body").aria_snapshot(mode="ai"))
                title, url = page.title(), page.url
                break
            except self._failures:  # it went to another page meanwhile
                if time.monotonic() > until or page.is_closed():
                    raise
                time.sleep(0.02)
        self._number(nodes)
        tabs = [self._shown(tab.url) for tab in self._context.pages]
        tabs = [f"{tab} (shown)" if page == self._page else tab
                for page, tab in zip(self._context.pages, tabs, strict=True)]  # fmt: skip
        body = tree.lines(tree.plain(nodes, self._dense), self._bid)
        return tree.screen(self._shown(url), title, body, tabs, message)

    def _number(self, nodes: list[tree.Node]) -> None:
        """Another document begins at 1 again. Its refs share a prefix of their own."""
        document = f"{id(self._page)} {nodes[0].ref.rpartition('e')[0] if nodes else ''}"
        if document != self._document:
            self._document, self._ids = document, {}

    def _bid(self, ref: str) -> int:
        return self._ids.setdefault(ref, len(self._ids) + 1)

    def _element(self, arguments: Mapping[str, Any]) -> Any:
        bid = arguments["bid"]
        ref = next((ref for ref, number in self._ids.items() if number == bid), None)
        if ref is None:
            raise Refused(f"there is no element with bid {bid}")
        return self._page.locator(f"aria-ref={ref}")

    def _click(self, arguments: Mapping[str, Any]) -> None:
        self._element(arguments).click(button=arguments["button"], modifiers=arguments["modifiers"])

    def _fill(self, arguments: Mapping[str, Any]) -> None:
        self._element(arguments).fill(arguments["value"])

    def _select(self, arguments: Mapping[str, Any]) -> None:
        self._element(arguments).select_option(arguments["options"])

    def _hover(self, arguments: Mapping[str, Any]) -> None:
        self._element(arguments).hover()

    def _goto(self, arguments: Mapping[str, Any]) -> None:
        url, own = arguments["url"], f"http://{self._name}.test"
        if url != own and not url.startswith(f"{own}/"):
            raise Refused(f"only pages of {own}/ can be opened")
        self._page.goto(self._real(url.removeprefix(own) or "/"))

    def _focus(self, arguments: Mapping[str, Any]) -> None:
        pages = self._context.pages
        if not 0 <= arguments["index"] < len(pages):
            raise Refused(f"there is no tab {arguments['index']}")
        self._page = pages[arguments["index"]]
        self._page.bring_to_front()

    def _new(self, arguments: Mapping[str, Any]) -> None:
        self._page = self._context.new_page()

    def _close(self, arguments: Mapping[str, Any]) -> None:
        self._page.close()
        pages = self._context.pages
        self._page = pages[-1] if pages else self._context.new_page()

    def _mouse(self, method: str) -> Callable[[Mapping[str, Any]], None]:
        def move(arguments: Mapping[str, Any]) -> None:
            mouse = self._page.mouse
            mouse.move(arguments["x"], arguments["y"])
            if method in ("click", "dblclick"):
                getattr(mouse, method)(arguments["x"], arguments["y"], button=arguments["button"])
            elif method != "move":
                getattr(mouse, method)(button=arguments["button"])

        return move

    def end(self) -> dict[str, Any]:
        """Close the context, stop the server; what is left of the site, and MiniWoB's reward."""
        reward = None
        if self._dense:
            with contextlib.suppress(*self._failures):
                reward = self._context.pages[0].evaluate(_REWARD)
        try:
            self._context.close()
        finally:
            state = self._server.stop()
        return {"state": state, "reward": reward}


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return lines[0].split(": ", 1)[-1][:200]


_DO: dict[str, Callable[[Session, Mapping[str, Any]], Any]] = {
    "noop": lambda s, a: s._page.wait_for_timeout(a["wait_ms"]),
    "mouse_move": lambda s, a: s._mouse("move")(a),
    "mouse_click": lambda s, a: s._mouse("click")(a),
    "mouse_dblclick": lambda s, a: s._mouse("dblclick")(a),
    "mouse_down": lambda s, a: s._mouse("down")(a),
    "mouse_up": lambda s, a: s._mouse("up")(a),
    "scroll": lambda s, a: s._page.mouse.wheel(a["delta_x"], a["delta_y"]),
    "click": Session._click,
    "hover": Session._hover,
    "fill": Session._fill,
    "select_option": Session._select,
    "keyboard_press": lambda s, a: s._page.keyboard.press(a["key"]),
    "keyboard_type": lambda s, a: s._page.keyboard.type(a["text"]),
    "tab_focus": Session._focus,
    "new_tab": Session._new,
    "tab_close": Session._close,
    "go_back": lambda s, a: s._page.go_back(),
    "go_forward": lambda s, a: s._page.go_forward(),
    "goto": Session._goto,
}
