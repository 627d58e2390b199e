"""The desktop domain: grammar, documents, tasks, and the live desktop where it is installed."""

from __future__ import annotations

import asyncio
import pickle
import struct
import time
from pathlib import Path

import psutil
import pytest

from rollout.errors import TaskError
from rollout.spot import replay_actions, success
from rollout.types import Check, ObservationKind, Predicate, Task
from worldmodel.domains.os import OS, as_text, transcript
from worldmodel.domains.os.desktop import Desktop, Pool
from worldmodel.domains.os.families import FAMILIES, HELD_OUT, TRAIN
from worldmodel.domains.os.grammar import MAX_ACTION, PROBE, RUN, parse
from worldmodel.domains.os.inside import documents, tree
from worldmodel.domains.os.inside.bus import BusError, Call, Reader, message, one_type, packed
from worldmodel.domains.os.install import missing
from worldmodel.domains.os.real import OsEnvironment, OsFactory, observation, reader
from worldmodel.domains.os.tasks import MAX_TURNS, generate, make
from worldmodel.sandbox import SandboxError, stop_keeper
from worldmodel.sandbox.link import keeper

LACKING = missing()
live = [
    pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(600),
    pytest.mark.skipif(bool(LACKING), reason=f"os: missing {LACKING}"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ("print(1)", RUN, None),
        ("```python\nprint(1)\n```", RUN, None),
        (" DONE\n", "DONE", None),
        ("FAIL", "FAIL", None),
        ("PROBE file a b.txt", PROBE, None),
        ("PROBE files", PROBE, None),
        ("", "", "expected a block of Python, DONE or FAIL"),
        ("```python\n\n```", "", "expected a block of Python, DONE or FAIL"),
        ("x = (", "", "SyntaxError: '(' was never closed (line 1)"),
        ("x" * (MAX_ACTION + 1), "", f"an action is at most {MAX_ACTION} characters"),
    ],
)
def test_what_is_an_action(text: str, name: str, error: str | None) -> None:
    action = parse(text)
    assert (action.name, action.error) == (name, error)
    assert action.final == (name in ("DONE", "FAIL")) and action.probe == (name == PROBE)


def test_a_block_is_shown_without_its_fence() -> None:
    assert OS.show(parse("```py\nx = 1\nprint(x)\n```")) == "x = 1\nprint(x)"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("ods", {"Sheet1": [["Item", "Price"], ["Ink & <pen>", 3.5], ["", 12]], "More": [[1]]}),
        ("odt", ["# A heading", "First & last.", "1 < 2"]),
    ],
)
def test_documents_are_read_as_they_were_written(kind: str, data: object, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    documents.write(str(path), data)
    assert documents.content(str(path)) == as_text(data)


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04", b"text"])
def test_what_is_no_document_is_said_to_be_none(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.odt"
    path.write_bytes(raw)
    assert documents.content(str(path)) == "(cannot be read: BadZipFile)"
    assert documents.content(str(tmp_path / "none.ods")) == "(no such file)"


def test_formulas_styles_and_repetitions_are_read() -> None:
    names = " ".join(f'xmlns:{name}="{urn}"' for name, urn in documents.SPACES.items())
    cell = '<table:table-cell office:value-type="float" office:value="2.50"'
    sheet = documents.ElementTree.fromstring(
        f'<r {names}><table:table table:name="S"><table:table-row table:number-rows-repeated="2">{cell}/>'
        f'</table:table-row><table:table-row table:number-rows-repeated="1000000"/><table:table-row>'
        f'<table:table-cell table:number-columns-repeated="2"/>{cell} table:formula="of:=SUM([.A1:.A2])"/>'
        f"</table:table-row></table:table></r>"
    )
    lines = list(documents.read_sheets(sheet))
    assert lines == ["[S]", "A1: 2.5", "A2: 2.5", "C1000003: 2.5 =SUM(A1:A2)"]
    letter = documents.ElementTree.fromstring(
        f'<r {names}><style:style style:name="T"><style:text-properties fo:font-weight="bold"/></style:style>'
        f'<office:body><office:text><text:p>a <text:span text:style-name="T">b</text:span> c</text:p>'
        f"</office:text></office:body></r>"
    )
    assert list(documents.read_paragraphs(letter)) == ["a **b** c"]


def test_the_bus_speaks_its_format() -> None:
    body = bytearray()
    packed("su", ("hi", 7), body)
    assert bytes(body) == b"\x02\0\0\0hi\0\0\x07\0\0\0" and Reader(bytes(body)).values("su") == ["hi", 7]
    told = message(Call(":1.1", "/a", "x.Y", "Go", "s", ("z",)), 5)
    fields = struct.unpack_from("<I", told, 12)[0]
    head = dict(Reader(told, 12).value("a(yv)"))
    assert head == {1: "/a", 2: "x.Y", 3: "Go", 6: ":1.1", 8: "s"} and len(told) == 16 + fields + -fields % 8 + 6
    assert one_type("a{sv}u", 0) == 5
    with pytest.raises(BusError, match="too short"):
        Reader(b"\1").values("u")


def test_a_tree_has_a_line_for_what_is_shown_and_only_that() -> None:
    shown = frozenset({tree.SHOWING, tree.SENSITIVE})
    deep = tree.Node("a", "/3", role="push button", label="Save", states=shown, box=(1, 2, 30, 10))
    hidden = tree.Node("a", "/4", role="push button", label="Gone", states=frozenset(), box=(1, 2, 30, 10))
    panel = tree.Node("a", "/2", role="panel", states=shown, box=(0, 0, 50, 50), children=[deep, hidden])
    bar = tree.Node("a", "/5", role="statusbar", label="x | Free space: 19,1\xa0MiB", states=shown, box=(0, 60, 9, 9))
    frame = tree.Node("a", "/1", role="frame", label="W", states=shown | {tree.ACTIVE}, box=(0, 0, 99, 99))
    frame.children = [panel, bar]
    assert tree.render([tree.Node("a", "/", top=True, children=[frame])]).split("\n") == [
        'frame "W" active [0,0][99,99]',
        '  push button "Save" [1,2][31,12]',
        '  statusbar "x | Free space: ..." [0,60][9,69]',
    ]


def test_observations_are_bounded() -> None:
    text = observation("x" * 10_000, "timeout", "line\n" * 10_000)
    assert len(text) < 16_000 and "(output cut)" in text and text.endswith("(screen cut)")
    assert observation("", "ok", "") == "screen: no window"


def test_tasks_cover_the_applications_and_stay_apart() -> None:
    tasks = generate("train", 80, 0) + generate("family", 40, 0)
    assert len({task.instruction for task in tasks}) >= 100 and len(HELD_OUT) >= 3 and not set(HELD_OUT) & set(TRAIN)
    assert {task.family for task in tasks} == set(FAMILIES)
    for task in tasks:
        assert len(task.reference.gold) <= MAX_TURNS and len(task.reference.wrong) >= 1
        assert all(way != task.reference.gold for way in task.reference.wrong), task.id
        assert all(parse(probe).probe for check in task.checks for probe in check.probes)
        assert not any(parse(text).error for way in task.reference.wrong for text in way), task.id
    with pytest.raises(TaskError, match="unknown os family 'none'"):
        make("none", "train", 0, 0)


def test_the_simulator_reads_the_files_in_the_form_of_the_probes() -> None:
    task = make("sheet_cell", "train", 0, 0)
    (path,) = task.world.state["documents"]
    assert f"file {path}\n[Sheet1]\nA1: Item\nB1: Number" in transcript(task.world.state)


def test_the_factory_travels_without_its_desktops() -> None:
    factory = OsFactory(seconds=3.0)
    factory.pool()
    copied = pickle.loads(pickle.dumps(factory))
    assert copied == factory and copied._pool is None
    assert "'" not in reader(parse("PROBE file $(id);`id`")).replace("'\"'\"'", "").split(" file ")[1].strip("'")


def played(task: Task, *blocks: str, checks: tuple[Check, ...] = ()) -> tuple[list[str], list[bool | None]]:
    """What each block is answered, and the verdict of each check, on a desktop of its own."""

    async def play() -> tuple[list[str], list[bool | None]]:
        pool = Pool()
        environment = OsEnvironment(task, pool, 60.0)
        try:
            await environment.start()
            seen = [await environment.step(environment.parse(block)) for block in blocks]
            assert all(one.kind is ObservationKind.OK for one in seen), seen
            results = await environment.verify(checks or task.checks)
            return [one.text for one in seen], [result.passed for result in results]
        finally:
            await environment.close()
            pool.close()

    return asyncio.run(play())


class TestLive:
    pytestmark = live

    @pytest.mark.parametrize("family", sorted(FAMILIES))
    def test_gold_succeeds_and_wrong_fails(self, family: str) -> None:
        task, factory = make(family, "heldout", 5, 0), OsFactory(seconds=120.0)
        try:
            for actions, expected in [(task.reference.gold, True), *((way, False) for way in task.reference.wrong)]:
                ran = replay_actions(factory(task, 0), task, actions, time.monotonic() + 300)
                assert success(asyncio.run(ran)[0]) is expected, actions
        finally:
            factory.pool().close()

    def test_two_executions_show_the_same(self) -> None:
        task = make("editor_append", "heldout", 1, 0)
        first, second = (played(task, *task.reference.gold[:-1])[0] for _ in range(2))
        assert first == second and "Mousepad" in first[0]

    def test_a_block_that_ends_everything_it_can_reach_is_answered(self) -> None:
        task = make("sum_csv", "heldout", 1, 0)
        texts, passed = played(task, "os.kill(-1, 9)", "print(1 + 1)", *task.reference.gold[:-1])
        assert "ended all applications" in texts[0] and "output:\n2" in texts[1] and all(passed)

    def test_a_window_that_pretends_to_be_the_calculator_is_not_believed(self) -> None:
        task = make("calculator_product", "heldout", 1, 0)
        value = task.checks[0].predicate.value
        fake = (
            "import gi; gi.require_version('Gtk', '3.0'); from gi.repository import Gtk;"
            "w = Gtk.Window(title='galculator');"
            f"v = Gtk.TextView(); v.get_buffer().set_text({value!r}); w.add(v); w.show_all(); Gtk.main()"
        )
        block = f"subprocess.Popen(['/usr/bin/python3', '-c', {fake!r}]); time.sleep(3); settle()"
        texts, passed = played(task, block, "print(1)")
        assert passed == [False] and 'text "' in texts[0]

    def test_a_program_left_in_home_cannot_answer_for_a_file(self) -> None:
        task = make("sum_csv", "heldout", 2, 0)
        forged = f"print({task.checks[0].predicate.value!r})"
        plant = (
            "for name in ('zipfile', 'documents', 'sitecustomize', 'encodings'):\n"
            f"    open(name + '.py', 'w').write({forged!r})\n"
            "os.mkfifo('pipe.txt')"
        )
        check = Check("pipe", ("PROBE file pipe.txt",), Predicate("contains", ""))
        _, passed = played(task, plant, checks=(*task.checks, check))
        assert passed[0] is False and passed[-1] is False

    @pytest.mark.parametrize("victim", ["keeper", "dbus-daemon", "openbox", "soffice.bin"])
    def test_a_desktop_that_lost_something_while_it_waited_is_replaced(self, victim: str) -> None:
        pool, office = Pool(), victim == "soffice.bin"
        try:
            pool.wait(office, 120.0)
            if victim == "keeper":
                stop_keeper()
            else:
                own = [child for child in psutil.Process(keeper().pid).children(True) if child.name() == victim]
                if victim == "openbox":
                    own[0].suspend()
                    while own[0].status() != psutil.STATUS_STOPPED:
                        time.sleep(0.01)
                else:
                    own[0].kill()
                    psutil.wait_procs(own[:1], 10)
            desktop = pool.take(office)
            try:
                assert desktop.whole()
            finally:
                desktop.machine.close()
        finally:
            pool.close()

    def test_a_desktop_that_did_not_come_up_while_nobody_waited_costs_no_episode(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start, failed = Desktop.start, list[bool]()

        def once(desktop: Desktop) -> Desktop:
            if not failed:
                failed.append(True)
                raise SandboxError("os: the calculator did not start")
            return start(desktop)

        monkeypatch.setattr(Desktop, "start", once)
        pool = Pool()
        try:
            with pytest.raises(SandboxError):
                pool.wait(False, 120.0)
            desktop = pool.take(False)
            try:
                assert failed and desktop.whole()
            finally:
                desktop.machine.close()
        finally:
            pool.close()
