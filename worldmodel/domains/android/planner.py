"""A user of the reference device who knows what to look for: the source of known behaviours.

Owns: turning steps by name ("tap Save") into actions with the right indices, by looking at each screen as a policy
would: it scrolls to what is out of sight and hides a keyboard that is in the way. Refuses: deciding what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollout.errors import TaskError
from worldmodel.domains.android import actions
from worldmodel.domains.android.engine import act, boot, elements, render, view_of
from worldmodel.domains.android.ui import Placed

Found = tuple[int, Placed]


class User:
    """Holds a device and the actions taken on it so far. Raises TaskError where a step cannot be taken."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._device = boot(state)
        self._taken: list[str] = []

    def done(self) -> tuple[str, ...]:
        """All actions, ending in ``status``."""
        return (*self._taken, actions.written(actions.FINAL, goal_status="complete"))

    def tap(self, *names: str) -> User:
        for name in names:
            self._do("click", index=self._reach(name)[0])
        return self

    def hold(self, name: str) -> User:
        return self._do("long_press", index=self._reach(name)[0])

    def write(self, hint: str, text: str) -> User:
        """Make ``text`` the content of the field with ``hint``."""
        index, placed = self._reach(hint)
        clear = {"clear_text": True} if placed.element.text else {}
        return self._do("input_text", text=text, index=index, **clear)

    def drag(self, name: str, steps: int) -> User:
        """Swipe on a slider, to the right for positive ``steps``."""
        for _ in range(abs(steps)):
            self._do("swipe", direction="right" if steps > 0 else "left", index=self._reach(name)[0])
        return self

    def open(self, app: str) -> User:
        return self._do("open_app", app_name=app)

    def back(self) -> User:
        return self._do("navigate_back")

    def answer(self, text: str) -> User:
        return self._do("answer", text=text)

    def _do(self, name: str, **arguments: actions.Value) -> User:
        act(self._device, name, arguments)
        self._taken.append(actions.written(name, **arguments))
        return self

    def _reach(self, name: str) -> Found:
        """Where ``name`` can be touched, after hiding the keyboard or scrolling as needed."""
        for _ in range(2 + len(view_of(self._device).rows)):
            found = self._find(name)
            if found is None:
                self._do("scroll", direction="down")
            elif found[1].covered:
                self.back()
            else:
                return found
        raise TaskError(f"nothing on the screen is called {name!r}:\n{render(self._device)}")

    def _find(self, name: str) -> Found | None:
        """By text first, then by description; an element that can be touched before one that cannot."""
        ranked = [
            (placed.element.text != name, placed.element.tap is None and not placed.element.field, index, placed)
            for index, placed in enumerate(elements(self._device))
            if name in (placed.element.text, placed.element.desc)
        ]
        best = min(ranked, key=lambda entry: entry[:3], default=None)
        return (best[2], best[3]) if best else None
