"""A scripted solver for pages of MiniWoB++ whose task can be read off the tree: what shows that they work here.

Owns: which page is done in which way. Refuses: the ways (``miniwob_clicks``, ``miniwob_forms``), pages that need pixels
or knowledge of the world. A way is a generator: it yields calls and is sent the screen after each. It raises Lost where
the page is not as expected.
"""

from __future__ import annotations

from rollout.errors import WorldFault
from rollout.protocols import Environment
from rollout.types import ObservationKind
from worldmodel.domains.web import miniwob_clicks as clicks
from worldmodel.domains.web import miniwob_forms as forms
from worldmodel.domains.web.miniwob import INSTRUCTION
from worldmodel.domains.web.miniwob_look import Lost, Start, Way, read

MAX_CALLS = 80
_PAGES: tuple[tuple[Start, str], ...] = (
    (clicks.agreement, "sign-agreement"),
    (clicks.any_button, "click-test"),
    (clicks.choose_list, "choose-list"),
    (clicks.dialog, "click-dialog click-dialog-2"),
    (clicks.expand, "click-collapsible click-collapsible-nodelay"),
    (clicks.focused, "focus-text focus-text-2"),
    (clicks.greatest, "find-greatest"),
    (clicks.labelled, "click-button click-test-2 click-test-transfer unicode-test"),
    (clicks.mail, "email-inbox email-inbox-delete email-inbox-important email-inbox-noscroll email-inbox-star-reply"),
    (clicks.parity, "odd-or-even"),
    (clicks.phone_book, "phone-book"),
    (clicks.posts, "social-media-all social-media-some"),
    (clicks.scroll_list, "click-scroll-list"),
    (clicks.sections, "click-tab-2-medium"),
    (clicks.sequence, "click-button-sequence"),
    (clicks.slid, "form-sequence use-slider use-slider-2"),
    (clicks.tab, "click-tab"),
    (clicks.ticked, "click-checkboxes click-checkboxes-large click-checkboxes-transfer click-option"),
    (clicks.ticket, "buy-ticket"),
    (clicks.unfold, "navigate-tree"),
    (forms.algebra, "simple-algebra"),
    (forms.arithmetic, "simple-arithmetic"),
    (forms.calendar, "choose-date choose-date-easy choose-date-medium choose-date-nodelay"),
    (forms.completed, "use-autocomplete use-autocomplete-nodelay"),
    (forms.date_field, "enter-date"),
    (forms.dropdown_and_button, "form-sequence-3"),
    (forms.entered, "enter-password enter-text enter-text-2 enter-text-dynamic"),
    (forms.from_table, "read-table read-table-2"),
    (forms.generated, "generate-number"),
    (forms.guessed, "guess-number"),
    (forms.last_word, "scroll-text"),
    (forms.login, "login-user login-user-popup"),
    (forms.movies, "multi-layouts multi-orderings"),
    (forms.nth_word, "find-word"),
    (forms.radio_and_text, "form-sequence-2"),
    (forms.searched, "search-engine"),
    (forms.spelled, "text-transform"),
    (forms.spun, "use-spinner"),
    (forms.time_field, "enter-time"),
    (forms.to_the_end, "scroll-text-2"),
)
WAYS: dict[str, Start] = {page: way for way, pages in _PAGES for page in pages.split()}


def begin(page: str, goal: str, screen: str) -> Way:
    """The way for ``page``; raises Lost where there is none."""
    if page not in WAYS:
        raise Lost(f"no way is written for {page}")
    return WAYS[page](goal, read(screen))


async def solve(environment: Environment, page: str) -> None:
    """Start ``environment`` and go the way of ``page`` to its end. Raises Lost, or WorldFault where the world fails."""
    opening = (await environment.start()).messages[-1].content
    goal, _, screen = opening.partition("\n\n")
    way = begin(page, goal.removeprefix(INSTRUCTION).strip(), screen)
    try:
        text = next(way)
        for _ in range(MAX_CALLS):
            seen = await environment.step(environment.parse(text))
            if seen.kind is not ObservationKind.OK:
                raise WorldFault(f"{page}: {seen.error or seen.text}")
            text = way.send(read(seen.text))
    except StopIteration:
        return
    except RuntimeError as error:  # a way that found nothing where it looked for something
        raise Lost(str(error)) from error
    raise Lost(f"{page}: not done after {MAX_CALLS} calls")
