"""The second android backend against a stand-in for ``adb``: a script that keeps a little state and logs its calls."""

from __future__ import annotations

import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import WorldFault
from rollout.types import Check, ObservationKind, Predicate, Reference, Task, World
from worldmodel.domains.android.actions import PROBE, written
from worldmodel.domains.android.adb import DeviceSettings, swipe, typing
from worldmodel.domains.android.device import DeviceEnvironment, DeviceFactory
from worldmodel.domains.android.uiautomator import read, render

XML = """<?xml version='1.0' encoding='UTF-8' standalone='yes' ?><hierarchy rotation="0">
<node class="android.widget.FrameLayout" package="com.example.app" bounds="[0,0][1080,2400]" text="" clickable="false">
<node class="android.widget.ImageButton" content-desc="Up" text="" clickable="true" bounds="[0,100][100,200]"/>
<node class="android.widget.Switch" text="Wi-Fi &amp; more" checkable="true" checked="true" bounds="[0,200][1080,400]"/>
<node class="android.widget.EditText" text="old" focused="true" bounds="[0,400][1080,600]"/>
<node class="android.widget.Button" text="Save" enabled="false" bounds="[0,600][1080,800]"/>
<node class="android.widget.LinearLayout" text="" clickable="true" bounds="[0,800][1080,900]">
<node class="android.widget.TextView" text="Row" bounds="[10,810][500,890]"/></node>
<node class="android.widget.TextView" text="off the screen" bounds="[0,900][0,900]"/>
</node></hierarchy>UI hierchary dumped to: /dev/tty
"""
ADB = """#!{python}
import json, pathlib, sys, time
home = pathlib.Path({home!r})
assert sys.argv[1:3] == ["-s", "emulator-5554"], sys.argv
words = sys.argv[3:]
with (home / "calls").open("a") as log:
    log.write(json.dumps(words) + "\\n")
mode = json.loads((home / "mode").read_text())
line = " ".join(words)
if line.startswith(mode.get("hang", "-")):
    time.sleep(60)
if line.startswith(mode.get("fail", "-")):
    sys.exit("error: device 'emulator-5554' not found\\nsecond line")
if words == ["get-state"]:
    print(mode.get("state", "device"))
elif "uiautomator" in words:
    busy = home / "busy"
    left = int(busy.read_text()) if busy.exists() else 0
    busy.write_text(str(left - 1))
    print("ERROR: could not get idle state." if left > 0 else (home / "screen.xml").read_text())
elif words[-2:] == ["dumpsys", "window"]:
    print("  mCurrentFocus=Window{{1a2b u0 com.example.app/com.example.app.Main}}")
elif words[-2:] == ["dumpsys", "input_method"]:
    print("  mShowRequested=true mInputShown=" + mode.get("keyboard", "false"))
elif "content" in words:
    print("Row: 1 display_name=Bo, data1=555-2\\nRow: 0 display_name=Ada Berg, data1=555-1")
elif words[1:3] == ["settings", "get"]:
    print({{"wifi_on": "1", "bluetooth_on": "0"}}.get(words[-1], "null"))
"""


class Phone:
    """The stand-in's folder."""

    def __init__(self, home: Path) -> None:
        self.home, self.adb = home, home / "adb"
        self.adb.write_text(ADB.format(python=sys.executable, home=str(home)), encoding="utf-8")
        self.adb.chmod(0o755)
        (home / "screen.xml").write_text(XML, encoding="utf-8")
        self.mode()

    def mode(self, **mode: str) -> None:
        (self.home / "mode").write_text(json.dumps(mode), encoding="utf-8")

    def calls(self) -> list[str]:
        """The ``input``, ``monkey`` and other acting commands since the last call."""
        log = self.home / "calls"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return [" ".join(words) for words in lines if "dumpsys" not in words and "uiautomator" not in words]


def check(probe: str, kind: Any = "equals", value: str = "") -> Check:
    return Check(probe, (written(PROBE, what=probe),), Predicate(kind, value))


TASK = Task(
    id="t", domain="android", family="f", split="train", instruction="Do it.", world=World(), max_turns=3, seed=0,
    checks=(check("settings/Wi-Fi", value='"Wi-Fi" on'),), reference=Reference(),
)  # fmt: skip


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # locks of other runs are none of ours
    return Phone(tmp_path)


def environment(phone: Phone, **options: Any) -> DeviceEnvironment:
    options = {"adb": str(phone.adb), "apps": {"Example": "com.example.app"}, "settle_seconds": 0.0, **options}
    return pickle.loads(pickle.dumps(DeviceFactory(DeviceSettings("emulator-5554", **options))))(TASK, 1)


def test_a_dump_becomes_the_element_list_of_the_reference_device() -> None:
    assert render(read(XML), "com.example.app.Main", keyboard=True) == (
        'app com.example.app | screen "com.example.app.Main"\n'
        "keyboard shown\n"
        '[0] ImageButton desc "Up" [0,100][100,200]\n'
        '[1] Switch "Wi-Fi & more" checked [0,200][1080,400]\n'
        '[2] EditText "old" focused [0,400][1080,600]\n'
        '[3] Button "Save" disabled [0,600][1080,800]\n'
        '[4] TextView "Row" [10,810][500,890]'
    )


@pytest.mark.parametrize(
    "dump",
    ["", "ERROR: could not get idle state.", "<hierarchy></hierarchy>", "<hierarchy><node></hierarchy>",
     '<hierarchy><node bounds="x"/></hierarchy>', "<hierarchy>&lol;</hierarchy>", "</hierarchy><hierarchy>"],
)  # fmt: skip
def test_what_is_no_hierarchy_is_a_value_error(dump: str) -> None:
    with pytest.raises(ValueError, match="hierarchy"):
        read(dump)


def test_text_is_quoted_for_the_shell_of_the_device() -> None:
    assert typing("it's 5%s; rm") == [
        ("shell", "input", "text", "'it'\"'\"'s%s5%'"),
        ("shell", "input", "text", "'s;%srm'"),
    ]
    assert typing("") == []
    assert swipe("up", (0, 0, 1080, 2400)) == ("shell", "input", "swipe", "540", "1800", "540", "600", "300")


async def test_actions_become_input_commands(phone: Phone) -> None:
    world = environment(phone, reset=(("emu", "avd", "snapshot", "load", "clean"),))
    prompt = await world.start()
    assert prompt.messages[1].content.startswith('Do it.\n\napp com.example.app | screen "com.example.app.Main"\n')
    home = "shell input keyevent KEYCODE_HOME"
    assert phone.calls() == ["emu avd snapshot load clean", "get-state", home]
    delete = " ".join(["KEYCODE_DEL"] * 3)
    for text, expected in {
        written("click", index=1): ["shell input tap 540 300"],
        written("double_tap", index=1): ["shell input tap 540 300 && input tap 540 300"],
        written("long_press", index=4): ["shell input swipe 255 850 255 850 1000"],
        written("input_text", text="a b", index=2): ["shell input tap 540 500", "shell input text a%sb"],
        written("input_text", text="c", index=2, clear_text=True): [
            "shell input tap 540 500", f"shell input keyevent KEYCODE_MOVE_END {delete}", "shell input text c",
        ],
        written("scroll", direction="down"): ["shell input swipe 540 1800 540 600 300"],
        written("swipe", direction="right", index=1): ["shell input swipe 270 300 810 300 300"],
        written("keyboard_enter"): ["shell input keyevent KEYCODE_ENTER"],
        written("navigate_back"): ["shell input keyevent KEYCODE_BACK"],
        written("navigate_home"): [home],
        written("open_app", app_name="Example"): [
            "shell monkey -p com.example.app -c android.intent.category.LAUNCHER 1"
        ],
        written("click", index=99): [], written("wait"): [], written("answer", text="42"): [],
    }.items():  # fmt: skip
        seen = await world.step(world.parse(text))
        assert (seen.kind, phone.calls()) == (ObservationKind.OK, expected), text
        assert "[1] Switch" in seen.text and seen.anchor
    end = await world.step(world.parse(written("status", goal_status="complete")))
    assert (end.done, end.text, phone.calls()) == (True, "", [])
    assert await world.restore(()) is False
    await world.close()
    await world.close()


async def test_what_the_device_cannot_do_is_an_invalid_action(phone: Phone) -> None:
    world = environment(phone)
    await world.start()
    phone.calls()
    for text in (
        "x", written(PROBE, what="contacts"), written("open_app", app_name="Other"),
        written("input_text", text="é", index=2),
    ):  # fmt: skip
        seen = await world.step(world.parse(text))
        assert seen.kind is ObservationKind.INVALID_ACTION and "\n" not in seen.text
    assert phone.calls() == []
    await world.close()


async def test_verdicts_rest_on_what_a_device_can_tell(phone: Phone) -> None:
    world = environment(phone)
    await world.start()
    await world.step(world.parse(written("answer", text="42")))
    checks = (
        *TASK.checks,
        check("settings/Bluetooth", value='"Bluetooth" on'),
        check("settings/Airplane mode", value="?"),  # unknown to this device
        check("contacts", "same_lines", '"Ada Berg" "555-1"\n"Bo" "555-2"'),
        check("contacts/Bo", value='"Bo" "555-2"'),
        check("answer", value='"42"'),
        check("notes", value="(empty)"),
    )
    results = await world.verify(checks)
    assert [result.passed for result in results] == [True, False, None, True, True, True, None]
    assert results[-1].reason
    await world.close()


async def test_faults_are_typed_and_bounded_in_time(phone: Phone) -> None:
    world = environment(phone, call_seconds=2.0)
    await world.start()
    phone.mode(fail="shell input tap")
    broken = await world.step(world.parse(written("click", index=1)))
    assert broken.kind is ObservationKind.WORLD_ERROR and "\n" not in (broken.error or "")
    assert "not found" in (broken.error or "") and broken.text == ""
    phone.mode(hang="shell input tap")
    begun = time.monotonic()
    late = await world.step(world.parse(written("click", index=1)))
    assert "no answer in 2 s" in (late.error or "") and time.monotonic() - begun < 20
    phone.mode(fail="shell settings")
    with pytest.raises(WorldFault, match="shell settings get"):
        await world.verify(TASK.checks)
    await world.close()


async def test_a_device_that_is_not_ready_is_a_fault_at_the_start(phone: Phone) -> None:
    for mode, message in (({"state": "offline"}, "the device is 'offline'"), ({"fail": "get-state"}, "not found")):
        phone.mode(**mode)
        world = environment(phone)
        with pytest.raises(WorldFault, match=message):
            await world.start()
        await world.close()
    missing = environment(phone, adb=str(phone.home / "nothing"))
    with pytest.raises(WorldFault, match="No such file"):
        await missing.start()
    await missing.close()


async def test_a_screen_that_does_not_rest_is_asked_for_again(phone: Phone) -> None:
    (phone.home / "busy").write_text("2")
    world = environment(phone)
    await world.start()
    (phone.home / "busy").write_text("9")
    seen = await world.step(world.parse(written("wait")))
    assert seen.kind is ObservationKind.WORLD_ERROR and "idle state" in (seen.error or "")
    await world.close()


async def test_one_episode_at_a_time(phone: Phone) -> None:
    first, second = environment(phone), environment(phone)
    await first.start()
    with pytest.raises(WorldFault, match="another episode"):
        await second.start()
    await first.close()
    await second.start()
    await second.close()
