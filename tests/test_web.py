"""The web domain: grammar, trees, the made sites, tasks, the real browser and its faults."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import ConfigError, TaskError
from rollout.spot import replay_actions, success
from rollout.types import Check, ObservationKind, Predicate, Reference, Task, World
from worldmodel import installed
from worldmodel.domains.web import DONE, WEB, browser, install, miniwob, vocabulary
from worldmodel.domains.web.dump import NOTHING, dump, transcript
from worldmodel.domains.web.grammar import FUNCTIONS, PROBE, call, parse
from worldmodel.domains.web.inside import tree
from worldmodel.domains.web.inside.pages import Page, Redirect, html
from worldmodel.domains.web.inside.server import SITES, read_request
from worldmodel.domains.web.inside.site import Request, respond
from worldmodel.domains.web.kit import KIT
from worldmodel.domains.web.miniwob_solver import WAYS, solve
from worldmodel.domains.web.real import WebEnvironment, judge, probed
from worldmodel.domains.web.tasks import HELD_OUT, MAX_TURNS, TRAIN, generate, make
from worldmodel.domains.web.visit import Visit
from worldmodel.prompt import compact
from worldmodel.sandbox import stop_keeper
from worldmodel.sandbox.link import keeper

SECONDS = 300.0  # for one episode: the machine may be slow, and a verdict is not about time


def shop(**session: str) -> dict[str, Any]:
    """Six products of one category, so that its list has two pages."""
    products = [
        {"id": str(n), "name": f"Oak lamp {n}", "category": "Hall", "price": 100 * n, "stock": 4, "colour": "red"}
        for n in range(1, 7)
    ]
    users = [{"name": "ada", "password": "plum-42", "address": "1 Hill Road", "email": "ada@mail.test"}]
    tables = {"products": products, "cart": [], "orders": [], "reviews": [], "users": users}
    return {"site": "shop", "tables": tables, "session": {"user": "", **session}}


def walk(task: Task, actions: tuple[str, ...]) -> bool:
    """The verdict on ``actions`` without a browser."""
    visit, message = Visit(task.world.state), ""
    for text in actions:
        action = parse(text)
        if action.final:
            message = str(action.arguments["text"])
            break
        visit.act(action)
    replies = [judge(c, [probed(visit.state["tables"], message, p) for p in c.probes]) for c in task.checks]
    return bool(success(tuple(replies)))


# The grammar


def test_there_are_the_21_functions_of_the_reference() -> None:
    assert len(FUNCTIONS) == 21 and sum(name.startswith("mouse_") for name in FUNCTIONS) == 5


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("click 3", "expected one JSON object"),
        ('{"name": "click"}', "click: give bid, perhaps button, modifiers, nothing else"),
        (call("click", bid=0), "click: bid must be a whole number"),
        (call("click", bid=True), "click: bid must be a whole number"),
        (call("click", bid=1, modifiers=["Hyper"]), "click: modifiers must be"),
        (call("fill", bid=1, value="x" * 2001), "fill: value must be a text of at most 2000 characters"),
        (call("fill", bid=1, value="\ud800"), "fill: value must be a text"),
        (call("goto", url="file:///etc/passwd"), "goto: url must be an address that starts with http://"),
        (call("goto", url="javascript:alert(1)"), "goto: url must be"),
        (call("noop", wait_ms=60_000), "noop: wait_ms must be a number from 0 to 1000"),
        (call("mouse_move", x=float("nan"), y=0), "mouse_move: x must be"),
        (call("select_option", bid=1, options=[]), "select_option: options must be"),
        (call("tab_close", index=1), "tab_close: give no arguments, nothing else"),
        (call("send_msg_to_user", text=" "), "send_msg_to_user: text must be a text of 1 to"),
        (call("open_door"), "name: use noop, "),
        ("[" * 20_000, "a call is at most"),
        ("[" * 9_000, "expected one JSON object"),
    ],
)
def test_a_malformed_action_says_what_is_wrong(text: str, error: str) -> None:
    action = parse(text)
    assert action.error and action.error.startswith(error) and action.name == ""


def test_defaults_are_filled_in_and_left_out_again() -> None:
    action = parse('{"name": "click", "arguments": {"bid": "7"}}')
    assert action.arguments == {"bid": 7, "button": "left", "modifiers": []}
    assert WEB.show(action) == call("click", bid=7)
    assert WEB.show(parse(call("click", bid=7, button="right"))) == call("click", bid=7, button="right")
    assert parse(DONE).final and parse(call(PROBE, what="cart")).probe and not parse(call("new_tab")).final


@given(text=st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_what_was_written_is_what_is_read(text: str) -> None:
    action = parse(call("fill", bid=3, value=text))
    assert action.error is not None or (action.arguments["value"] == text and parse(WEB.show(action)) is not None)


# The tree


def test_a_snapshot_is_read_and_written_with_ids_of_what_can_be_acted_on() -> None:
    text = """- generic [active] [ref=f1e1]:
  - navigation [ref=f1e2]:
    - 'link "Chair \\"x\\": it''s" [ref=f1e3] [cursor=pointer]':
      - /url: /p/2
  - paragraph [ref=f1e4]: "a: b"
  - generic [ref=f1e5]:
    - text: Search
    - textbox "Search" [active] [ref=f1e6]: hi
  - combobox "Sort" [ref=f1e7]:
    - option "By name" [selected]
  - generic [ref=f1e8] [cursor=pointer]: More"""
    ids: dict[str, int] = {}
    shown = tree.lines(tree.plain(tree.read(text)), lambda ref: ids.setdefault(ref, len(ids) + 1))
    assert shown == [
        "- navigation:",
        '  - link "Chair \\"x\\": it\'s" [bid=1]',
        "- paragraph: a: b",
        "- text: Search",
        '- textbox "Search" [bid=2] [active]: hi',
        '- combobox "Sort" [bid=3]:',
        '  - option "By name" [selected]',
        "- generic [bid=4]: More",
    ]
    assert ids == {"f1e3": 1, "f1e6": 2, "f1e7": 3, "f1e8": 4}


@given(text=st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_snapshot_is_read_and_every_line_is_one_line(text: str) -> None:
    for line in tree.lines(tree.plain(tree.read(text), dense=True), lambda ref: 1):
        assert line.splitlines() == [line]


def test_a_long_page_is_cut_and_says_so() -> None:
    nodes = [tree.Node("paragraph", value="x" * 5000) for _ in range(400)]
    shown = tree.lines(nodes, lambda ref: 1)
    assert len(shown) == tree.MAX_LINES + 1 and shown[-1] == "(100 more lines)" and max(map(len, shown)) < 1100


# The sites


@given(
    method=st.sampled_from(("GET", "POST", "PUT")),
    path=st.sampled_from(("/", "/cart/add", "/product/1", "/checkout", "/board/Garden/new", "/thread/1/reply", "/new",
                          "/page/Ashford", "/edit/x", "/account", "/search", "/login", "/restore/Ashford")),
    values=st.dictionaries(
        st.sampled_from(("q", "page", "product", "quantity", "text", "title", "name", "address", "email", "version")),
        st.text(max_size=20), max_size=5),
    name=st.sampled_from(sorted(SITES)), entered=st.booleans(),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_a_site_answers_any_request(method: str, path: str, values: dict[str, str], name: str, entered: bool) -> None:
    state = getattr(vocabulary, name)(random.Random(1))
    if entered:
        state["session"]["user"] = vocabulary.login(state)[0]
    found = respond(state, Request(method, path, values), SITES[name])
    assert isinstance(found, Redirect) or html(found).startswith("<!doctype html>")
    json.dumps(state)


def test_what_users_write_is_escaped() -> None:
    state = shop(user="ada")
    request = Request("POST", "/product/1/review", {"rating": "1", "text": "<script>x</script>\"'&"})
    respond(state, request, SITES["shop"])
    page = respond(state, Request("GET", "/product/1"), SITES["shop"])
    assert isinstance(page, Page) and "<script>" not in html(page) and "&lt;script&gt;" in html(page)


def test_an_order_takes_from_the_stock_and_empties_the_cart() -> None:
    visit = Visit(shop()).login("ada", "plum-42").search("lamp 2").link("Oak lamp 2").write("Quantity", "3")
    visit.button("Add to cart").link("Check out").choose("Shipping", "Express").tick("Gift wrap").button("Place order")
    assert dump(visit.state["tables"], "orders") == (
        "order: 1; user: ada; items: 3 x Oak lamp 2; address: 1 Hill Road; shipping: Express; gift: yes; "
        "total: 6.00 EUR"
    )
    assert visit.state["tables"]["products"][1]["stock"] == 1 and dump(visit.state["tables"], "cart") == NOTHING
    assert "Your order has the number 1." in visit.screen() and "has the number" not in visit.link("Home").screen()


@pytest.mark.parametrize("quantity", ["0", "-1", "5", "x", "", "9999999"])
def test_a_quantity_that_is_not_there_changes_nothing(quantity: str) -> None:
    visit = Visit(shop()).link("Hall", "Oak lamp 1").write("Quantity", quantity).button("Add to cart")
    assert not visit.state["tables"]["cart"] and "Choose a quantity from 1 to 4." in visit.screen()


def test_a_list_has_pages_and_an_order() -> None:
    visit = Visit(shop()).link("Hall").choose("Sort by", "Price, highest first").button("Sort")
    assert "Oak lamp 6" in visit.screen() and not visit.has("link", "Oak lamp 1")
    assert visit.reach("Oak lamp 1").screen().startswith("URL: http://shop.test/product/1\nTitle: Oak lamp 1")


def test_a_wrong_password_is_refused_and_what_needs_a_login_says_so() -> None:
    visit = Visit(shop()).link("My account")
    assert "Please log in first." in visit.screen()
    assert "Wrong user name or password." in visit.login("ada", "pear-1").screen()
    assert "Logged in as ada." in visit.login("ada", "plum-42").screen()


def test_requests_are_read_as_browsers_send_them() -> None:
    request = read_request("POST", "/a%20b?x=1", "text=one+two%26&text=three&empty=")
    assert (request.path, request.values) == ("/a b", {"text": "one two&", "empty": ""})


def test_a_dump_reads_any_json() -> None:
    assert dump({"cart": [{"product": "1", "quantity": 2}]}, "cart/1") == "product: 1; quantity: 2"
    assert dump({"cart": [3, [True, None], {"a": {"b": 1}}]}, "cart") == "3\nyes, None\na: {'b': 1}"
    assert dump({}, "cart") == dump({"cart": "x"}, "cart") == "there is no table cart"
    assert dump({}, "message") == NOTHING and dump({}, "message", "yes") == "yes"


# Tasks


def test_families_and_sizes() -> None:
    assert len(TRAIN) >= 12 and len(HELD_OUT) >= 3 and not set(TRAIN) & set(HELD_OUT)
    with pytest.raises(TaskError, match="unknown web family"):
        make("none", "train", 0, 0)
    with pytest.raises(TaskError, match="unknown split"):
        make(TRAIN[0], "test", 0, 0)


def test_gold_passes_and_wrong_and_empty_fail_in_every_family_without_a_browser() -> None:
    for task in (*generate("heldout", len(TRAIN), 7), *generate("family", len(HELD_OUT), 7)):
        assert walk(task, task.reference.gold), task.id
        assert len(task.reference.gold) <= MAX_TURNS and len(task.reference.wrong) >= 1
        assert not walk(task, (DONE,)), task.id
        assert not any(walk(task, wrong) for wrong in task.reference.wrong), task.id


@pytest.mark.slow
def test_a_thousand_distinct_tasks_and_their_gold() -> None:
    tasks = [*generate("train", 1100, 3), *generate("family", 100, 3)]
    assert len({(task.instruction, json.dumps(task.world.state)) for task in tasks}) >= 1000
    failed = Counter(task.family for task in tasks if not walk(task, task.reference.gold))
    assert sum(failed.values()) <= 0.02 * len(tasks), failed
    wrong = [walk(task, text) for task in tasks for text in task.reference.wrong]
    assert sum(wrong) <= 0.02 * len(wrong)


def test_prompts_show_the_first_page_and_the_simulator_the_tables() -> None:
    task = make("shop_price_of", "train", 0, 0)
    prompt = WEB.prompt(task).messages[1].content
    assert "URL: http://shop.test/" in prompt and "password" not in prompt
    told = compact(WEB.spec(task.world))
    assert all(dump(task.world.state["tables"], name) in told for name in task.world.state["tables"])
    assert transcript(task.world.state) in told and len(told) < 16_000


def test_the_demonstrations_of_the_simulator_are_what_a_site_shows() -> None:
    demonstrations = WEB.spec(World(shop())).demonstrations
    visit = Visit(shop()).link("Log in")
    screens = [visit.screen(), visit.write("User name", "nils").screen(), visit.button("Log in").screen()]
    assert [part.split("\n", 1)[1] if number else part for number, part in enumerate(
        demonstrations.split("\n> "))][:3] == screens  # fmt: skip


# Set-up


def test_what_is_missing_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    assert "playwright" in KIT.missing() and KIT.missing().endswith("run `agentworld setup web`")
    assert miniwob.pages() == []


def test_every_package_of_set_up_has_a_checksum() -> None:
    lines = Path(install.__file__).with_name("requirements.txt").read_text().replace("\\\n", "").splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert len(packages) == 5 and all("==" in line and "--hash=sha256:" in line for line in packages)


def test_set_up_without_a_browser_for_this_system_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "CHROMIUM", ("/nowhere/chromium",))
    monkeypatch.setattr(installed, "apt_install", lambda packages, say: None)
    with pytest.raises(ConfigError, match="no Chromium at /nowhere/chromium"):
        install.setup(lambda line: None)


# The real browser


@pytest.fixture
def here() -> Iterator[None]:
    """Skips where the browser is not installed; ends it afterwards, on the thread that it lives on."""
    if lacking := KIT.missing():
        pytest.skip(f"web: missing {lacking}")
    yield
    asyncio.run(browser.on_thread(browser.stop))


def one(task: Task, work: Callable[[WebEnvironment], Awaitable[Any]]) -> Any:
    """``work`` in an episode of its own."""

    async def run() -> Any:
        environment = WebEnvironment(task)
        try:
            await environment.start()
            return await work(environment)
        finally:
            await environment.close()

    return asyncio.run(run())


async def said(environment: WebEnvironment, name: str, **arguments: Any) -> str:
    seen = await environment.step(parse(call(name, **arguments)))
    assert seen.kind is ObservationKind.OK, seen.error
    return seen.text


TASK = Task(
    id="t", domain="web", family="f", split="train", instruction="Buy.", world=World(shop()), max_turns=9, seed=0,
    checks=(Check("cart", (call(PROBE, what="cart"),), Predicate("equals", "product: 1; quantity: 2")),),
    reference=Reference(),
)  # fmt: skip


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        yield pid


def chromiums() -> list[int]:
    """Processes of a Chromium that this process's keeper started; other tests may run theirs."""
    found, own = [], keeper().pid
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if words and words[0].startswith(b"/usr/lib/chromium/") and own in ancestors(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_browser_shows_what_the_visit_shows(here: None) -> None:
    """Every screen of the gold behaviour of a task of each family: so two executions show equal screens, ids too."""

    async def compared(environment: WebEnvironment, task: Task) -> bool | None:
        visit = Visit(task.world.state)
        for text in task.reference.gold[:-1]:
            seen = await environment.step(parse(text))
            assert seen.text == visit.act(parse(text)), (task.id, text)
        await environment.step(parse(task.reference.gold[-1]))
        return success(await environment.verify(task.checks))

    for task in (*generate("heldout", len(TRAIN), 12), *generate("family", len(HELD_OUT), 12)):
        assert one(task, lambda environment, task=task: compared(environment, task)) is True, task.id


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_functions_of_the_browser(here: None) -> None:
    async def use(environment: WebEnvironment) -> None:
        first = await said(environment, "noop", wait_ms=1)
        assert "URL: http://shop.test/" in first and "127.0.0.1" not in first
        assert await said(environment, "scroll", delta_x=0, delta_y=100) == first
        assert (await said(environment, "click", bid=77)).startswith("Error: there is no element with bid 77\nURL:")
        assert (await said(environment, "goto", url="http://127.0.0.1:1/")).startswith("Error: only pages of http://s")
        assert (await said(environment, "goto", url="http://shop.test.evil/")).startswith("Error: only pages of")
        assert (await said(environment, "fill", bid=1, value="x")).startswith("Error: fill could not be done")
        assert (await said(environment, "keyboard_press", key="NoSuchKey")).startswith("Error: keyboard_press")
        assert (await said(environment, "tab_focus", index=3)).startswith("Error: there is no tab 3")
        product = await said(environment, "goto", url="http://shop.test/product/1")
        assert "URL: http://shop.test/product/1" in product
        assert "Corner Shop" in await said(environment, "go_back")
        assert await said(environment, "go_forward") == product
        both = await said(environment, "new_tab")
        assert "Tab 0: http://shop.test/product/1\nTab 1: about:blank (shown)" in both
        assert "Oak lamp 1" in await said(environment, "tab_focus", index=0)
        await said(environment, "tab_focus", index=1)
        assert await said(environment, "tab_close") == product
        await said(environment, "click", bid=5)
        assert '"Search" [bid=5] [active]: lamp 2' in await said(environment, "keyboard_type", text="lamp 2")
        assert "1 products found." in await said(environment, "keyboard_press", key="Enter")
        assert "URL: http://shop.test/search?q=lamp+2" in await said(environment, "hover", bid=1)
        for name in ("mouse_move", "mouse_down", "mouse_up", "mouse_click", "mouse_dblclick"):
            await said(environment, name, x=1200, y=700)

    one(TASK, use)


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_episodes_share_a_browser_and_nothing_else(here: None) -> None:
    async def both() -> None:
        first, second = WebEnvironment(TASK), WebEnvironment(TASK)
        await asyncio.gather(first.start(), second.start())
        assert first._visitor._browser is second._visitor._browser
        await said(first, "goto", url="http://shop.test/product/1")
        await said(first, "fill", bid=8, value="2")
        await said(first, "click", bid=9)
        assert "Cart (0)" in await said(second, "goto", url="http://shop.test/cart")
        assert success(await second.verify(TASK.checks)) is False
        assert success(await first.verify(TASK.checks)) is True
        await asyncio.gather(first.close(), second.close())

    asyncio.run(both())


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_browser_that_dies_or_hangs_is_a_typed_fault_and_the_next_episode_is_fine(
    here: None, stop: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(environment: WebEnvironment) -> None:
        monkeypatch.setattr(browser, "SECONDS", 60.0 if stop is signal.SIGKILL else 3.0)
        for pid in chromiums():
            os.kill(pid, stop)
        seen = await environment.step(parse(call("goto", url="http://shop.test/cart")))
        assert seen.kind is ObservationKind.WORLD_ERROR and "web: the browser" in str(seen.error)

    one(TASK, broken)
    assert not chromiums()
    monkeypatch.undo()

    async def fine(environment: WebEnvironment) -> str:
        return await said(environment, "goto", url="http://shop.test/cart")

    assert "The cart is empty." in one(TASK, fine)


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_browser_that_draws_no_more_is_a_fault(here: None) -> None:
    async def hung(environment: WebEnvironment) -> None:
        await said(environment, "click", bid=1)
        for pid in chromiums():
            if b"--type=gpu-process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGSTOP)
        seen = await environment.step(parse(call("click", bid=1)))
        assert seen.kind is ObservationKind.WORLD_ERROR and "web: the browser" in str(seen.error)

    one(TASK, hung)


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_browser_lost_or_hung_between_two_episodes_is_replaced(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cart(environment: WebEnvironment) -> str:
        return await said(environment, "goto", url="http://shop.test/cart")

    assert "The cart is empty." in one(TASK, cart)
    stop_keeper()
    assert "The cart is empty." in one(TASK, cart)
    monkeypatch.setattr(browser, "SECONDS", 5.0)
    for pid in chromiums():
        os.kill(pid, signal.SIGSTOP)
    assert "The cart is empty." in one(TASK, cart)


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worn_browser_is_replaced_and_an_ended_one_leaves_nothing(
    here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "EPISODES", 1)
    seen: list[object] = []

    async def keep(environment: WebEnvironment) -> None:
        seen.append(environment._visitor._browser)

    one(TASK, keep)
    one(TASK, keep)
    assert seen[0] is not seen[1]
    asyncio.run(browser.on_thread(browser.stop))
    until = time.monotonic() + 10
    while chromiums() and time.monotonic() < until:
        time.sleep(0.05)
    assert not chromiums()


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_of_miniwob_gives_the_verdict_and_no_simulator_can(here: None) -> None:
    from worldmodel.domains.web.real import PAGE_REWARD

    task = miniwob.make("click-test", 3)
    assert WEB.parse(PAGE_REWARD).error is not None and task.split not in ("train", "heldout", "family")

    def acted(*actions: str) -> bool | None:
        results, seen = asyncio.run(replay_actions(WebEnvironment(task), task, actions, time.monotonic() + SECONDS))
        screens.append(seen[0].text)
        return success(results)

    screens: list[str] = []
    assert acted(call("noop", wait_ms=1), DONE) is False
    bid = next(line for line in screens[0].splitlines() if "- button" in line).split("bid=")[1].split("]")[0]
    assert acted(call("click", bid=int(bid)), DONE) is True
    assert dataclasses.replace(task, id="x").checks[0].probes == (PAGE_REWARD,)


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_solver_of_miniwob_pages_is_paid_by_the_pages(here: None) -> None:
    """One page of each kind of control; ``python bench/miniwob_gold.py`` acts out all of them."""

    assert len(WAYS) >= 60 and (len(set(WAYS) & set(miniwob.pages())) == len(WAYS))
    for page in ("choose-list", "click-checkboxes", "enter-date", "use-slider", "find-greatest"):
        task = miniwob.make(page, 1)
        assert asyncio.run(played(task, page)) is True, page


async def played(task: Task, page: str) -> bool | None:
    environment = WebEnvironment(task)
    try:
        await solve(environment, page)
        return success(await environment.verify(task.checks))
    finally:
        await environment.close()
