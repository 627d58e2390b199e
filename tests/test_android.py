"""The reference device of the android domain, its grammar, environment and tasks."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import random
import re
import statistics
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import TaskError
from rollout.protocols import Environment
from rollout.spot import replay_actions, success
from rollout.types import (
    Check,
    Completion,
    Finish,
    Observation,
    ObservationKind,
    Predicate,
    Reference,
    Task,
    Turn,
    Usage,
    World,
)
from worldmodel.domains.android import ANDROID, DONE
from worldmodel.domains.android.actions import PROBE, TYPES, parse, written
from worldmodel.domains.android.dump import dump, transcript
from worldmodel.domains.android.engine import act, boot, digest, elements, render
from worldmodel.domains.android.families_more import FAMILIES, HELD_OUT, TRAIN
from worldmodel.domains.android.planner import User
from worldmodel.domains.android.real import AndroidEnvironment, AndroidFactory
from worldmodel.domains.android.tasks import MAX_TURNS, generate, make
from worldmodel.domains.android.ui import HEIGHT, WIDTH, Device
from worldmodel.environment import SimulatedEnvironment, SimulationSettings
from worldmodel.prompt import static_parts
from worldmodel.types import Prediction, PredictRequest

MAX_LINES = 25
STATE: dict[str, Any] = {
    "settings": {"Wi-Fi": True, "Airplane mode": False, "Brightness": 50, "Language": "English"},
    "permissions": {"Messages: Contacts": "ask", "Files: Photos": "deny"},
    "contacts": [{"name": f"Ada {letter}", "phone": f"555-01{i:02d}"} for i, letter in enumerate("ABCDEFGHIJKLM")],
    "notes": [{"title": "One", "body": "a", "pinned": False}, {"title": "Two", "body": "b", "pinned": True}],
    "alarms": [{"hour": 7, "minute": 30, "label": "Gym", "on": True}],
    "messages": [{"with": "Ada A", "lines": [["Ada A", "hi"], ["You", "yes"]]}],
    "folders": ["Docs", "Work"],
    "files": {"Docs/a.txt": "alpha", "Docs/b.txt": "beta", "Work/b.txt": "gamma", "top.txt": "delta"},
}
TASK = Task(
    id="t", domain="android", family="f", split="train", instruction="Turn off Wi-Fi.", world=World(STATE),
    checks=(Check("off", (written(PROBE, what="settings/Wi-Fi"),), Predicate("equals", '"Wi-Fi" off')),),
    reference=Reference(), max_turns=5, seed=0,
)  # fmt: skip


def do(device: Device, name: str, **arguments: Any) -> str:
    act(device, name, arguments)
    return render(device)


def index(device: Device, name: str) -> int:
    """The index of the first element with this text or description."""
    return next(i for i, p in enumerate(elements(device)) if name in (p.element.text, p.element.desc))


def tap(device: Device, *names: str) -> str:
    for name in names:
        do(device, "click", index=index(device, name))
    return render(device)


def opened(app: str, state: dict[str, Any] = STATE) -> Device:
    device = boot(state)
    do(device, "open_app", app_name=app)
    return device


def test_a_screen_is_header_lines_and_indexed_elements() -> None:
    assert render(opened("alarms")) == (
        'app Alarms | screen "Alarms"\n'
        "keyboard hidden | dialog none\n"
        '[0] Switch "07:30" desc "Gym" checked [0,48][360,96]\n'
        '[1] Button "Add alarm" [0,592][360,640]'
    )
    home = render(boot(STATE))
    assert home.startswith('app Home | screen "Launcher"') and '[2] Button "Contacts"' in home


def test_back_goes_through_the_stack_to_the_launcher() -> None:
    device = opened("Contacts")
    tap(device, "Ada A", "Edit")
    assert 'screen "Edit contact"' in render(device)
    assert 'screen "Contact"' in do(device, "navigate_back")
    assert 'screen "Contacts"' in do(device, "navigate_back")
    assert "app Home" in do(device, "navigate_back")
    assert "app Home" in do(device, "navigate_back")


def test_home_and_open_app_start_afresh() -> None:
    device = opened("Notes")
    tap(device, "New note")
    do(device, "input_text", text="draft", index=index(device, "Title"))
    assert "app Home | " in do(device, "navigate_home") and not device.keyboard
    assert 'screen "Notes"' in tap(device, "Notes") and "draft" not in tap(device, "New note")
    before = render(device)
    assert do(device, "open_app", app_name="Calculator") == before
    assert "app Files" in do(device, "open_app", app_name=" fIlEs ")


def test_the_keyboard_covers_and_back_hides_it_first() -> None:
    device = opened("Alarms")
    tap(device, "Add alarm")
    screen = do(device, "input_text", text="7", index=index(device, "Hour"))
    assert "keyboard shown" in screen and re.search(r'Button "Save" covered', screen)
    assert do(device, "click", index=index(device, "Save")) == screen
    do(device, "input_text", text="5", index=index(device, "Minute"))
    hidden = do(device, "navigate_back")
    assert 'screen "New alarm"' in hidden and "covered" not in hidden
    assert "Alarm set for 07:05" in tap(device, "Save")
    assert dump(device.data, "alarms/07:05") == '"07:05" "" on'


def test_enter_moves_to_the_next_field_and_ends_at_the_last() -> None:
    device = opened("Contacts")
    tap(device, "Add contact", "Name")
    do(device, "input_text", text="Bo")
    assert re.search(r'hint "Phone" focused', do(device, "keyboard_enter"))
    do(device, "input_text", text="555")
    do(device, "input_text", text="-9")
    assert '"555-9" hint "Phone"' in render(device)
    assert "keyboard hidden" in do(device, "keyboard_enter")
    do(device, "input_text", text="nowhere")
    do(device, "keyboard_enter")
    tap(device, "Save")
    assert dump(device.data, "contacts/Bo") == '"Bo" "555-9"'


def test_text_is_added_unless_it_replaces_and_stays_on_one_line() -> None:
    device = opened("Notes")
    tap(device, "One")
    assert '"One more"' in do(device, "input_text", text=" more", index=index(device, "Title"))
    assert '"New" hint' in do(device, "input_text", text="New", index=index(device, "Title"), clear_text=True)
    for _ in range(3):
        do(device, "input_text", text='x\n"\u2028' * 30, index=index(device, "Text"))
    assert len(device.stack[-1].fields["body"]) == 200 and len(render(device).splitlines()) <= MAX_LINES
    before = render(device)
    assert do(device, "input_text", text="x", index=index(device, "Save")) == before


def test_dialogs_hide_the_page_and_back_cancels_them() -> None:
    device = opened("Contacts")
    tap(device, "Ada A", "Delete")
    screen = render(device)
    assert 'dialog "Confirm"' in screen and "Edit" not in screen and "Delete Ada A?" in screen
    assert "Ada A" in do(device, "navigate_back") and "dialog none" in render(device)
    tap(device, "Delete", "Cancel")
    assert len(device.data["contacts"]) == 13
    assert 'toast "Contact deleted"' in tap(device, "Delete", "Delete")
    assert dump(device.data, "contacts/Ada A") == "(empty)"
    assert "toast" not in do(device, "wait")


def test_unsaved_changes_are_asked_about() -> None:
    device = opened("Notes")
    tap(device, "One")
    do(device, "input_text", text="!", index=index(device, "Title"))
    do(device, "navigate_back")
    assert 'dialog "Discard changes"' in do(device, "navigate_back")
    assert '"One!" hint "Title"' in tap(device, "Keep editing")
    tap(device, "Navigate up")
    assert 'screen "Notes"' in tap(device, "Discard") and dump(device.data, "notes/One") == '"One" "a"'
    tap(device, "One")
    assert 'screen "Notes"' in do(device, "navigate_back")  # nothing changed, nothing asked


@pytest.mark.parametrize(
    ("answer", "granted", "screen"), [("Allow", "allow", "Choose contact"), ("Don't allow", "deny", "Messages")]
)
def test_a_permission_is_asked_for_once(answer: str, granted: str, screen: str) -> None:
    device = opened("Messages")
    assert "Allow Messages to access your contacts?" in tap(device, "New message")
    do(device, "navigate_back")
    assert device.data["permissions"]["Messages: Contacts"] == "ask"
    assert f'screen "{screen}"' in tap(device, "New message", answer)
    assert device.data["permissions"]["Messages: Contacts"] == granted
    do(device, "open_app", app_name="Messages")
    again = tap(device, "New message")
    assert "dialog none" in again
    assert ("Choose contact" in again) if granted == "allow" else ("Contacts permission is off" in again)


def test_a_long_list_shows_a_window_that_scrolls() -> None:
    device = opened("Contacts")
    first = render(device)
    assert "rows 1-8 of 13" in first and '"Ada H"' in first and '"Ada I"' not in first
    assert do(device, "scroll", direction="up") == first
    assert "rows 6-13 of 13" in do(device, "scroll", direction="down")
    end = render(device)
    assert '"Ada M"' in end and do(device, "swipe", direction="up") == end
    assert '"555-0112"' in tap(device, "Ada M")
    assert do(device, "navigate_back") == end
    assert do(device, "swipe", direction="down") == first
    found = do(device, "input_text", text="ada k", index=0)
    assert '"Ada K"' in found and "rows" not in found


def test_disabled_elements_do_nothing() -> None:
    device = opened("Settings")
    tap(device, "Airplane mode")
    screen = render(device)
    assert 'Switch "Wi-Fi" unchecked disabled' in screen
    assert tap(device, "Wi-Fi") == screen
    tap(device, "Airplane mode", "Wi-Fi")
    assert device.data["settings"]["Wi-Fi"] is True
    device = opened("Messages")
    tap(device, "Ada A")
    assert 'Button "Send" disabled' in render(device)


def test_a_message_is_not_sent_in_airplane_mode() -> None:
    device = opened("Messages", STATE | {"settings": {"Airplane mode": True}})
    tap(device, "Ada A")
    do(device, "input_text", text="ok", index=index(device, "Text message"))
    assert "covered" not in render(device) and "Not sent" in tap(device, "Send")
    device.data["settings"]["Airplane mode"] = False
    assert "Message sent" in tap(device, "Send") and '"ok" desc "You"' in render(device)
    assert dump(device.data, "messages/Ada A").splitlines()[-1] == '"Ada A" "You" "ok"'


def test_sliders_move_by_swipes_and_choices_by_clicks() -> None:
    device = opened("Settings")
    tap(device, "Brightness")
    for _ in range(7):
        do(device, "swipe", direction="right", index=1)
    assert device.data["settings"]["Brightness"] == 100
    do(device, "swipe", direction="left", index=1)
    do(device, "swipe", direction="left")
    assert dump(device.data, "settings/Brightness") == '"Brightness" 90'
    do(device, "navigate_back")
    tap(device, "Language", "Polski")
    assert 'RadioButton "Polski" checked' in render(device) and 'RadioButton "English" unchecked' in render(device)
    do(device, "navigate_back")
    tap(device, "App permissions", "Files: Photos")
    assert dump(device.data, "permissions/Files: Photos") == '"Files: Photos" allow'


def test_menus_of_notes_open_on_a_long_press() -> None:
    device = opened("Notes")
    assert render(device).index('"Two" desc "pinned"') < render(device).index('"One"')
    do(device, "long_press", index=index(device, "Two"))
    assert 'dialog "Note"' in render(device) and "Note unpinned" in tap(device, "Unpin")
    do(device, "long_press", index=index(device, "New note"))
    assert "dialog none" in render(device)
    tap(device, "One", "Pin")
    assert dump(device.data, "notes") == '"One" "a" pinned\n"Two" "b"'
    tap(device, "Delete", "Delete")
    assert dump(device.data, "notes") == '"Two" "b"' and 'screen "Notes"' in render(device)


def test_files_are_renamed_moved_and_deleted() -> None:
    device = opened("Files")
    tap(device, "Docs")
    do(device, "long_press", index=index(device, "b.txt"))
    assert "This name is taken" in tap(device, "Move", "Work")
    assert "Moved to Device storage" in tap(device, "Device storage")
    do(device, "long_press", index=index(device, "a.txt"))
    tap(device, "Rename")
    for bad in ("", "x/y"):
        do(device, "input_text", text=bad, index=index(device, "Name"), clear_text=True)
        assert "Enter a name without /" in tap(device, "Save")
    do(device, "input_text", text="z.txt", index=index(device, "Name"), clear_text=True)
    assert "Renamed" in tap(device, "Save") and '"alpha"' in tap(device, "z.txt")
    do(device, "open_app", app_name="Files")
    do(device, "long_press", index=index(device, "Docs"))
    assert "Move" not in tap(device, "Rename")
    do(device, "input_text", text="Papers", index=index(device, "Name"), clear_text=True)
    tap(device, "Save")
    assert dump(device.data, "files/Papers") == '"Papers/z.txt" "alpha"'
    do(device, "long_press", index=index(device, "Work"))
    tap(device, "Delete", "Delete")
    assert dump(device.data, "files") == '"Papers/z.txt" "alpha"\n"b.txt" "beta"\n"top.txt" "delta"'
    assert "This name is taken" not in tap(device, "New folder") and dump(device.data, "folders") == '"Papers"'


def test_a_double_tap_leaves_a_switch_and_opens_the_rest() -> None:
    device = opened("Settings")
    before = render(device)
    assert do(device, "double_tap", index=index(device, "Wi-Fi")) == before
    assert 'screen "Brightness"' in do(device, "double_tap", index=index(device, "Brightness"))


def test_forms_refuse_what_they_cannot_store() -> None:
    device = opened("Alarms")
    tap(device, "Add alarm")
    for hour, minute in (("24", "0"), ("", "1"), ("7", "60"), ("-1", "5"), ("٣", "5"), ("007", "5")):
        do(device, "input_text", text=hour, index=index(device, "Hour"), clear_text=True)
        do(device, "input_text", text=minute, index=index(device, "Minute"), clear_text=True)
        do(device, "navigate_back")
        assert "Enter a time from 00:00 to 23:59" in tap(device, "Save"), (hour, minute)
    assert len(device.data["alarms"]) == 1
    device = opened("Contacts")
    assert "Enter a name" in tap(device, "Add contact", "Save")
    device = opened("Notes")
    assert "Enter a title" in tap(device, "New note", "Save")


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "[]", "{}", "null", '{"action_type": "fly"}', '{"action_type": ["click"]}', '{"action_type": "click"}',
        '{"action_type": "click", "index": "-1"}', '{"action_type": "click", "index": "1000"}',
        '{"action_type": "click", "index": -1}', '{"action_type": "click", "index": true}', "[" * 4000, "1" * 4100,
        '{"action_type": "click", "index": 1e999}', '{"action_type": "click", "index": 1, "x\\n": 2}',
        '{"action_type": "input_text", "text": 5}', '{"action_type": "scroll", "direction": "in"}',
        '{"action_type": "status", "goal_status": "done"}', '{"action_type": "answer", "text": "' + "x" * 201 + '"}',
    ],
)  # fmt: skip
def test_what_is_no_action_has_a_one_line_error(text: str) -> None:
    action = parse(text)
    assert action.error and "\n" not in action.error and not action.name and not action.final and action.text == text
    assert "dump" not in action.error


def test_only_status_ends_an_episode() -> None:
    samples = {
        "index": 1, "text": "a\ud800\u2028", "direction": "up", "app_name": "Notes", "goal_status": "infeasible",
        "what": "notes",
    }  # fmt: skip
    for name, (needed, _) in TYPES.items():
        action = parse(" " + json.dumps({"action_type": name, **{key: samples[key] for key in needed}}) + "\n")
        assert action.name == name and action.final == (name == "status")
        assert parse(ANDROID.show(action)).arguments == action.arguments
        ANDROID.show(action).encode()
    quoted_index = parse('{"action_type": "click", "index": "07"}')
    assert ANDROID.show(quoted_index) == written("click", index=7)


def random_action(rng: random.Random, device: Device) -> tuple[str, dict[str, Any]]:
    """An action as a careless policy takes it: mostly on what is there."""
    count = len(elements(device))
    name = rng.choice([*("click",) * 8, *("input_text",) * 3, *("long_press",) * 2, "scroll", *TYPES])
    arguments: dict[str, Any] = {
        "click": {"index": rng.randrange(count + 1)},
        "double_tap": {"index": rng.randrange(count + 1)},
        "long_press": {"index": rng.randrange(count)},
        "input_text": {"text": rng.choice(["", "a", " 7 ", "x/y", '"\n', "é" * 150]), "index": rng.randrange(count)},
        "scroll": {"direction": rng.choice(["up", "down", "left"])},
        "swipe": {"direction": rng.choice(["up", "down", "left", "right"]), "index": rng.randrange(count)},
        "open_app": {"app_name": rng.choice(["Notes", "Files", "Alarms", "Messages", "Settings", "Contacts", "?"])},
        "answer": {"text": "x"}, "status": {"goal_status": "complete"}, "dump": {"what": "notes"},
    }.get(name, {})  # fmt: skip
    if name == "input_text" and rng.random() < 0.3:
        del arguments["index"]
    return name, arguments


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_random_walks_keep_every_invariant(seed: int) -> None:
    """Screens stay short and whole, indices are consecutive, equal actions give equal screens and digests."""
    rng = random.Random(seed)
    state = make(rng.choice(list(FAMILIES)), "train", seed, 0).world.state
    first, second = boot(state), boot(state)
    for _ in range(60):
        name, arguments = random_action(rng, first)
        screen, again = do(first, name, **arguments), do(second, name, **arguments)
        assert screen == again
        lines = screen.splitlines()
        assert len(lines) <= MAX_LINES and len(screen) < 6000
        numbered = [re.match(r"\[(\d+)\] [A-Z]\w+ .*\[(\d+),(\d+)\]\[(\d+),(\d+)\]$", line) for line in lines]
        found = [[int(part) for part in match.groups()] for match in numbered if match]
        assert [row[0] for row in found] == list(range(len(found))) and len(found) >= len(lines) - 4
        for _, left, top, right, bottom in found:
            assert 0 <= left < right <= WIDTH and 0 <= top < bottom <= HEIGHT
        assert json.loads(json.dumps(first.data)) == first.data
    assert digest(first) == digest(second)
    transcript(first.data)


def test_boot_copies_and_dumps_read() -> None:
    state = copy.deepcopy(STATE)
    device = opened("Settings", state)
    tap(device, "Wi-Fi")
    assert state == STATE
    before = digest(device)
    for what in ("settings", "notes/One", "files/", "answer", "nothing", "", "contacts/Nobody"):
        dump(device.data, what)
    assert digest(device) == before
    assert dump(STATE, "files/") == '"top.txt" "delta"' and dump(STATE, "nothing") == 'no table "nothing"'
    assert render(boot({})) == render(boot(STATE)) and "No contacts" in render(opened("Contacts", {}))
    for app in ("Settings", "Notes", "Alarms", "Messages", "Files"):
        assert render(opened(app, {}))


async def play(environment: Environment, *texts: str) -> list[Observation]:
    return [await environment.step(environment.parse(text)) for text in texts]


def turn(text: str, observation: Observation) -> Turn:
    return Turn((), Completion((1,), (0.0,), text, Finish.STOP, ()), ANDROID.parse(text), observation)


async def test_an_episode_through_the_protocol() -> None:
    environment = pickle.loads(pickle.dumps(AndroidFactory()))(TASK, 7)
    prompt = await environment.start()
    assert prompt.messages[1].content == f"{TASK.instruction}\n\n{render(boot(STATE))}"
    assert PROBE not in prompt.messages[0].content
    opened_, refused, broken, away = await play(
        environment,
        written("open_app", app_name="Settings"),
        written(PROBE, what="contacts"),
        "nonsense",
        written("click", index=99),
    )
    assert opened_.text.startswith("app Settings") and opened_.kind is ObservationKind.OK
    assert refused.kind is broken.kind is ObservationKind.INVALID_ACTION and "Ada" not in refused.text
    assert away.text == opened_.text and opened_.anchor != away.anchor == refused.anchor
    off, end = await play(environment, written("click", index=0), DONE)
    assert 'Switch "Wi-Fi" unchecked' in off.text and (end.text, end.done) == ("", True)
    (result,) = await environment.verify(TASK.checks)
    assert result.passed is True and result.replies == ('"Wi-Fi" off',)
    for probes, predicate in (((DONE,), Predicate("equals", "")), (TASK.checks[0].probes, Predicate("regex", "("))):
        (open_,) = await environment.verify((Check("c", probes, predicate),))
        assert open_.passed is None and open_.reason
    assert (await environment.verify((Check("c", (), Predicate("equals", "")),)))[0].passed is False
    await environment.close()
    await environment.close()


async def test_an_answer_is_remembered_and_the_screen_stays() -> None:
    environment = AndroidEnvironment(TASK)
    check = Check("answer", (written(PROBE, what="answer"),), Predicate("equals", '"42"'))
    assert (await environment.verify((check,)))[0].passed is False
    seen = await play(environment, written("wait"), written("answer", text="7"), written("answer", text="42"))
    assert seen[0].text == seen[1].text == seen[2].text and not seen[2].done
    assert (await environment.verify((check,)))[0].passed is True


async def test_restoring_equals_going_on() -> None:
    for task in generate("train", 23, 5):
        texts = ["not an action", *task.reference.gold]
        whole = AndroidEnvironment(task)
        seen = await play(whole, *texts)
        for cut in (0, 1, len(texts) // 2, len(texts) - 1):
            resumed = AndroidEnvironment(task)
            turns = [turn(text, observation) for text, observation in zip(texts[:cut], seen[:cut], strict=True)]
            assert await resumed.restore(turns) is True
            assert await play(resumed, *texts[cut:]) == seen[cut:]
            assert await resumed.verify(task.checks) == await whole.verify(task.checks)


async def test_what_cannot_be_continued_is_said() -> None:
    environment = AndroidEnvironment(TASK)
    text = written("open_app", app_name="Notes")
    fault = Observation("", kind=ObservationKind.WORLD_ERROR, error="gone")
    assert await environment.restore([turn(text, fault)]) is False
    assert await environment.restore([turn(text, Observation("another screen"))]) is False
    assert (await environment.step(environment.parse(written("wait")))).text.startswith("app Home")


def verdict(task: Task, actions: tuple[str, ...]) -> bool | None:
    results, _ = asyncio.run(replay_actions(AndroidEnvironment(task), task, actions, time.monotonic() + 30))
    return success(results)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_gold_passes_and_wrong_and_empty_fail(family: str) -> None:
    for seed in range(3):
        for index_ in range(4):
            task = make(family, "family" if family in HELD_OUT else "train", seed, index_)
            assert len(task.reference.gold) <= MAX_TURNS // 2 + 2 <= task.max_turns
            assert verdict(task, task.reference.gold) is True, task.id
            assert verdict(task, (DONE,)) is False, task.id
            assert task.reference.wrong and task.reference.gold not in task.reference.wrong
            for wrong in task.reference.wrong:
                assert verdict(task, wrong) is False, (task.id, wrong)
            assert json.loads(json.dumps(task.world.state)) == task.world.state


class Oracle:
    """Implements ``WorldModel`` by the reference device itself: what a perfect simulator would say."""

    model_id = "oracle"

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    async def predict(self, request: PredictRequest) -> Prediction:
        device = boot(self._state)
        for exchange in request.history:
            past = parse(exchange.action)
            if past.final:  # it shows nothing, and changes nothing
                continue
            act(device, past.name, past.arguments)
            assert render(device) == exchange.observation
        action = parse(request.action)
        if action.name == PROBE:
            text = dump(device.data, str(action.arguments["what"]), device.answer)
        else:
            text = do(device, action.name, **action.arguments)
        return Prediction(text, text, Usage(), Finish.STOP, self.model_id)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_perfect_simulator_gives_the_verdicts_of_the_real_world(family: str) -> None:
    task = make(family, "train", 9, 9)
    for actions in (task.reference.gold, (DONE,), *task.reference.wrong):
        model = Oracle(dict(task.world.state))
        simulated = SimulatedEnvironment(task, ANDROID, model, SimulationSettings())
        results, seen = asyncio.run(replay_actions(simulated, task, actions, time.monotonic() + 30))
        real, really = asyncio.run(replay_actions(AndroidEnvironment(task), task, actions, time.monotonic() + 30))
        assert results == real and [o.text for o in seen] == [o.text for o in really]


def test_there_are_many_distinct_tasks_and_families_held_out() -> None:
    tasks = [*generate("train", 640, 0), *generate("heldout", 200, 0), *generate("family", 200, 0)]
    distinct = {(task.instruction, json.dumps(task.world.state)) for task in tasks}
    assert len(distinct) >= 1000 and len(tasks) - len(distinct) <= 2
    assert len(FAMILIES) >= 14 and len(HELD_OUT) >= 3 and not set(HELD_OUT) & set(TRAIN)
    assert {task.family for task in tasks if task.split == "family"} == set(HELD_OUT)
    assert {task.family for task in tasks if task.split != "family"} == set(TRAIN)
    assert [t.family for t in generate("train", 2, 0, families=["pin_note"])] == ["pin_note"] * 2


async def test_a_step_is_fast() -> None:
    """The median; measured under 1 ms, bounded loosely for a busy machine."""
    environment, seconds = AndroidEnvironment(generate("train", 1, 0)[0]), []
    actions = [written("open_app", app_name="Contacts"), written("scroll", direction="down"), written("click", index=3)]
    for action in map(environment.parse, actions * 100):
        begun = time.perf_counter()
        await environment.step(action)
        seconds.append(time.perf_counter() - begun)
    assert statistics.median(seconds) < 0.020


def test_the_simulator_reads_the_state_as_it_is_printed() -> None:
    spec = ANDROID.spec(TASK.world)
    assert transcript(STATE) in spec.initial_state and render(boot(STATE)) in spec.initial_state
    for table in ("settings", "contacts", "notes", "alarms", "messages", "folders", "files"):
        assert dump(STATE, table) in spec.initial_state
    for name in ("Ada A", "07:30", "Docs"):
        assert f'"{name}"' in spec.initial_state
    parts = static_parts("worldmodel.domains.android")
    assert set(parts) == {"task_description", "action_space", "demonstrations", "simulation_instruction"}
    assert all(name in parts["action_space"] for name in TYPES if name != "status")
    assert TASK.instruction not in str(spec)


def test_the_demonstrations_are_what_the_device_prints() -> None:
    device = boot({"alarms": [{"hour": 6, "minute": 15, "label": "Ferry", "on": True}]})
    printed = []
    for line in static_parts("worldmodel.domains.android")["demonstrations"].splitlines():
        if line.startswith("> "):
            action = parse(line[2:])
            assert not action.error and ANDROID.show(action) == line[2:]
            if action.name == PROBE:
                printed += [line, dump(device.data, str(action.arguments["what"]))]
            else:
                printed += [line, do(device, action.name, **action.arguments)]
    assert "\n".join(printed) == static_parts("worldmodel.domains.android")["demonstrations"]


def test_the_planner_scrolls_and_uncovers_and_says_what_it_does_not_find() -> None:
    gold = User(STATE).open("Contacts").tap("Ada M", "Edit").write("Phone", "1").tap("Save").done()
    assert [parse(text).name for text in gold] == [
        "open_app", "scroll", "click", "click", "input_text", "click", "status",
    ]  # fmt: skip
    alarm = User(STATE).open("Alarms").tap("Add alarm").write("Hour", "1").tap("Save").done()
    assert [parse(text).name for text in alarm][3] == "navigate_back"
    with pytest.raises(TaskError, match="nothing on the screen is called 'Nobody'"):
        User(STATE).open("Contacts").tap("Nobody")
