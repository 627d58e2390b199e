"""Sweeps without Ray: mistakes are one line, and the ledger decides, whatever the order and however often it is cut."""

import base64
import dataclasses
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.report.render import write
from launch.sweep.config import Asha, Budget, Sweep, SweepConfig, load_sweep
from launch.sweep.control import Control
from launch.sweep.ledger import (
    Assigned,
    Ended,
    Event,
    Failed,
    Ledger,
    Lost,
    Opened,
    Proposed,
    Reached,
    Session,
    State,
    Trial,
    Unit,
    decode,
    encode,
    fold,
    read,
)
from launch.sweep.plan import due, goes_on, known, spent, units
from launch.sweep.run import check_done, plan_text
from launch.sweep.table import over_seeds, report, rows, short_table, student, table, write_table
from launch.sweep.unit import Measured, Outcome, locked, measured, run_unit, tokens_at
from rollout.errors import AgentworldError, BudgetSpent, CheckpointError, ConfigError
from rollout.evaluate import Interval
from tests.sweep_case import light, skill, write_case

CONFIGS = sorted((Path(__file__).parent.parent / "configs" / "sweeps").glob("*.yaml"))


# ------------------------------------------------------------------------------------------------ config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_shipped_sweeps_parse_and_are_complete(path: Path) -> None:
    sweep = load_sweep(path)
    assert set(yaml.safe_load(path.read_text())) == set(SweepConfig.model_fields)
    assert len(sweep.rungs) == 2 and plan_text(sweep)
    values = {name: parameter.examples()[-1] for name, parameter in sweep.config.parameters.items()}
    run = sweep.experiment(values, 3, 1)
    assert (run.seed, run.run_dir) == (1, str(sweep.folder / "trials" / "0003" / "seed_1"))
    assert run.trainer.trl["learning_rate"] == 6e-4 and run.eval_every == sweep.base.eval_every > 0


def test_there_are_a_real_and_a_tiny_sweep() -> None:
    assert {"quickstart.yaml", "tiny.yaml"} <= {path.name for path in CONFIGS}


def edited(folder: Path, **changes: Any) -> Path:
    """The case's sweep file with top-level keys replaced (None: removed)."""
    write_case(folder, trials=2)
    raw = {**yaml.safe_load((folder / "sweep.yaml").read_text()), **changes}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({key: value for key, value in raw.items() if value is not None}))
    return folder / "sweep.yaml"


def one(name: str, **kind: Any) -> dict[str, Any]:
    return {"parameters": {name: kind}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (one("trainer.trl.lerning_rate", uniform=[0.1, 0.2]), ["lerning_rate", "did you mean learning_rate"]),
        (one("trainer.trl.top_p", uniform=[0.1, 0.2]), ["top_p", "refused"]),
        (one("rollout.group_sise", choice=[2]), ["'rollout.group_sise'", "did you mean 'rollout.group_size'"]),
        (one("group_size", choice=[2]), ["did you mean 'rollout.group_size'"]),
        (one("learning_rate", choice=[2]), ["did you mean 'trainer.trl.learning_rate'"]),
        (one("qqqq", choice=[2]), ["'qqqq' is no key of an experiment"]),
        (one("seed", choice=[2]), ["'seed' cannot be set here", "'seeds'"]),
        (one("trainer.trl.max_steps", int=[2, 4]), ["max_steps", "different length"]),
        (one("rollout.temperature", chioce=[2]), ["parameters: rollout.temperature", "'chioce'", "'choice'"]),
        (one("rollout.temperature"), ["rollout.temperature", "exactly one of"]),
        (one("rollout.temperature", choice=[1], uniform=[1, 2]), ["exactly one of"]),
        (one("rollout.temperature", uniform=[2, 1]), ["low must be below high"]),
        (one("rollout.temperature", loguniform=[0, 1]), ["low above 0"]),
        (one("rollout.temperature", uniform=[-1, 1]), ["override 'rollout.temperature=-1.0'", "greater than 0"]),
        (one("rollout.temperature", choice=["hot"]), ["parameters: rollout.temperature", "hot"]),
        (one("both", choice=[{"rollout.slots": 1}, {"rollout.sluts": 2}]), ["'rollout.sluts'", "'rollout.slots'"]),
        (
            {"parameters": {"rollout.slots": {"choice": [1]}, "x": {"choice": [{"rollout.slots": 1}]}}},
            ["'rollout.slots' is set by two parameters"],
        ),
        ({"parameters": {}}, ["'parameters'"]),
        ({"overrides": {"seed": 1}}, ["'seed' cannot be set here"]),
        ({"overrides": {"rollout.slot": 1}}, ["did you mean 'rollout.slots'"]),
        ({"overrides": {"eval_every": 0}}, ["eval_every is 0"]),
        ({"overrides": {"eval_every": 3}}, ["must be a multiple of eval_every 3"]),
        ({"seeds": [1, 1]}, ["'seeds'", "differ"]),
        ({"seeds": [-1]}, ["'seeds.0'"]),
        ({"budget": {}}, ["'budget'", "trials, hours or tokens"]),
        ({"budget": {"trails": 2}}, ["'budget.trails'", "'budget.trials'"]),
        ({"budget": None}, ["'budget' is missing"]),
        ({"asha": {"grace": 2}}, ["asha.grace 2 must be below"]),
        ({"paralel": 2}, ["'paralel'", "'parallel'"]),
        ({"experiment": "absent.yaml"}, ["absent.yaml", "no such config file"]),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    path = edited(tmp_path, **changes)
    with pytest.raises(AgentworldError) as caught:
        load_sweep(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_overrides_of_the_sweep_itself(tmp_path: Path) -> None:
    sweep = load_sweep(edited(tmp_path), ["budget.trials=7", "parallel=3"])
    assert (sweep.config.budget.trials, sweep.config.parallel, sweep.rungs) == (7, 3, (1, 2))


def test_options_that_set_several_keys(tmp_path: Path) -> None:
    options = [
        {"rollout.group_size": 2, "rollout.groups_per_batch": 4},
        {"rollout.group_size": 4, "rollout.groups_per_batch": 2},
    ]
    sweep = load_sweep(edited(tmp_path, **one("groups", choice=options)))
    run = sweep.experiment({"groups": options[0]}, 0, 5)
    assert (run.rollout.group_size, run.rollout.groups_per_batch, run.seed) == (2, 4, 5)


# ------------------------------------------------------------------------------------------------ ledger

UNIT = Unit(0, 1, 4)
EVENTS: list[Event] = [
    Opened({"seed": 0}, "ab12"),
    Session(1),
    Proposed(0, {"x": 0.1, "groups": {"rollout.slots": 2}}),
    Assigned(UNIT, 1),
    Lost(UNIT, "gone"),
    Reached(UNIT, 0.5, 1.0, 300, 2.5),
    Failed(Unit(0, 2, 4), "no"),
    Ended(0, "failed", 4),
]


def test_events_read_back() -> None:
    for event in EVENTS:
        assert decode(encode(event, 12.5)) == (12.5, event)


def test_state_follows_events() -> None:
    state = fold((float(at), event) for at, event in enumerate(EVENTS))
    assert state.trials == (
        Trial(
            0,
            {"x": 0.1, "groups": {"rollout.slots": 2}},
            {(1, 4): EVENTS[5]},
            {(2, 4): EVENTS[6]},
            {(1, 4): 1},
            "failed",
            4,
        ),
    )
    assert (state.sessions, state.seconds, state.last) == (1, 6.0, 7.0)
    later = fold([*((float(at), event) for at, event in enumerate(EVENTS)), (1000.0, Session(2)), (1003.0, EVENTS[3])])
    assert later.seconds == 9.0, "the time between two sessions is not counted"


@given(cut=st.integers(1, 80))
@settings(max_examples=30, deadline=None)
def test_a_line_cut_short_never_happened(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    with Ledger(folder) as ledger:
        for event in EVENTS:
            ledger.record(event)
    data = ledger.file.read_bytes()
    last = len(data) - data[:-1].rfind(b"\n") - 1
    ledger.file.write_bytes(data[: -min(cut, last)])
    with Ledger(folder) as again:
        assert again.state.trials[0].fate is None and len(read(again.file)[0]) == len(EVENTS) - 1
        again.record(EVENTS[-1])
    assert [event for _, event in read(ledger.file)[0]] == EVENTS


def test_one_driver_at_a_time_and_damage_is_named(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.record(EVENTS[0])
        with pytest.raises(ConfigError, match="another sweep is running here"):
            Ledger(tmp_path)
    with ledger.file.open("a") as stream:
        stream.write('{"event": "nonsense", "time": 1}\n')
    with pytest.raises(CheckpointError, match=r"ledger\.jsonl, line 2"):
        Ledger(tmp_path)


# ------------------------------------------------------------------------------------------------ decisions


def sweep_config(**changes: Any) -> SweepConfig:
    values: dict[str, Any] = {
        "experiment": "x",
        "sweep_dir": "y",
        "parameters": {"x": {"uniform": [0.0, 1.0]}},
        "budget": Budget(trials=8),
        "asha": Asha(grace=1, factor=2),
    }
    return SweepConfig.model_validate({**values, **changes})


def trial(number: int, *values: float, fate: Any = "finished", seeds: tuple[int, ...] = (0, 1)) -> Trial:
    """A trial whose seeds all got ``values`` at steps 1, 2, ..."""
    reached = {
        (seed, step): Reached(Unit(number, seed, step), value, 1.0, 100 * step, 1.0)
        for step, value in enumerate(values, 1)
        for seed in seeds
    }
    return Trial(number, {"x": number / 10}, reached, fate=fate, step=len(values))


def test_halving_keeps_the_best_of_those_seen() -> None:
    config = sweep_config()
    peers = [trial(0, 0.5), trial(1, 0.7), trial(2, 0.6)]
    assert goes_on(config, trial(3, 0.7), 1, peers), "equals go on"
    assert goes_on(config, trial(3, 0.65), 1, peers), "second of four, one in two goes on"
    assert not goes_on(config, trial(3, 0.55), 1, peers)
    assert goes_on(config, trial(0, 0.0), 1, []), "the first of all goes on"
    assert not goes_on(config, trial(1, 0.1), 1, peers[:1])
    failed = dataclasses.replace(trial(4, 0.9, seeds=(0,)), fate="failed")
    assert goes_on(config, trial(5, 0.1), 1, [failed]), "a trial without all its seeds is no peer"


def test_a_trial_knows_all_but_the_last_ones() -> None:
    trials = [trial(n, 0.5) for n in range(6)]
    for parallel in (1, 2, 4):
        config = sweep_config(parallel=parallel)
        assert [t.number for t in known(config, trials, 5)] == list(range(6 - parallel))
        assert known(config, trials, 0) == ()


def test_fates_wait_for_every_seed() -> None:
    config, rungs = sweep_config(), (1, 2)
    half = trial(0, 0.5, fate=None, seeds=(0,))
    assert due(config, rungs, State((half,))) is None
    assert units(config, rungs, State((half,))) == [Unit(0, 1, 1)]
    broken = dataclasses.replace(half, failed={(1, 1): Failed(Unit(0, 1, 1), "no")})
    assert due(config, rungs, State((broken,))) == Ended(0, "failed", 1)
    whole = trial(0, 0.5, fate=None)
    assert due(config, rungs, State((whole,))) is None
    assert units(config, rungs, State((whole,))) == [Unit(0, 0, 2), Unit(0, 1, 2)]
    assert due(config, rungs, State((trial(0, 0.5, 0.6, fate=None),))) == Ended(0, "finished", 2)
    state = State((trial(0, 0.5, 0.6), trial(1, 0.4, fate=None)))
    assert due(config, rungs, state) == Ended(1, "pruned", 1)


def test_budgets() -> None:
    state = State(tuple(trial(n, 0.5, 0.6) for n in range(4)))  # 400 tokens each
    for budget, elapsed, word in [
        (Budget(trials=4), 0.0, "trials"),
        (Budget(trials=5), 0.0, None),
        (Budget(tokens=1600), 0.0, "tokens"),
        (Budget(tokens=1601), 0.0, None),
        (Budget(hours=1), 3599.0, None),
        (Budget(hours=1, trials=9), 3600.0, "hours"),
    ]:
        reason = spent(sweep_config(budget=budget), state, elapsed)
        assert (reason is None) == (word is None) and (word or "") in (reason or "")
    late = sweep_config(budget=Budget(tokens=1600), parallel=2)
    assert spent(late, state, 0.0) is None, "the last trial may still be under way, so it does not count"
    failed = State(tuple(dataclasses.replace(trial(n, 0.5), fate="failed") for n in range(2)))
    assert "max_failed 1" in str(spent(sweep_config(max_failed=1), failed, 0.0))
    assert spent(sweep_config(max_failed=2), failed, 0.0) is None


# ------------------------------------------------------------------------------------------------ whole sweeps, faked


class Crash(Exception):
    """The driver is gone."""


def value_of(values: dict[str, Any], unit: Unit) -> float:
    trl = {key.rsplit(".", 1)[-1]: value for key, value in values.items()}
    return skill(trl, unit.seed, unit.until)


def diverges(values: dict[str, Any], unit: Unit) -> bool:
    """One seed of some trials fails, always the same ones."""
    return unit.seed == 1 and values["trainer.trl.learning_rate"] > 5e-3


def drive(sweep: Sweep, order: random.Random, crash_after: float = float("inf"), lose: float = 0.0) -> list[Unit]:
    """A driver whose units come back in a random order, some of them lost first; dies after so many results. Returns
    the units that came back."""
    came: list[Unit] = []
    with Ledger(sweep.folder) as ledger:
        control = Control(sweep, ledger, lambda _: None)
        working: list[Unit] = []
        while True:
            while len(working) < 3 and (unit := control.next_unit()) is not None:
                working.append(unit)
            if not working:
                return came
            if len(came) >= crash_after:
                raise Crash(came)
            unit = working.pop(order.randrange(len(working)))
            if order.random() < lose and not ledger.state.trials[unit.trial].lost.get((unit.seed, unit.until)):
                control.lost(unit, "out of memory")
                continue
            values = dict(ledger.state.trials[unit.trial].values)
            value, bad = value_of(values, unit), diverges(values, unit)
            control.done(unit, Outcome(None if bad else Measured(value, 1.0, 10 * unit.until), 1.0, "diverged" * bad))
            came.append(unit)


def result(sweep: Sweep) -> str:
    with Ledger(sweep.folder) as ledger:
        return write_table(sweep, rows(sweep.config, ledger.state)).read_text()


def make(folder: Path, parallel: int, trials: int = 12) -> Sweep:
    write_case(folder, trials, steps=4)
    return load_sweep(folder / "sweep.yaml", [f"parallel={parallel}", "max_failed=12"])


@pytest.fixture(scope="module")
def calm() -> dict[int, str]:
    """By ``parallel``: the table of a sweep whose units came back in order, none lost."""
    return {}


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), parallel=st.sampled_from([1, 2, 4]), cuts=st.lists(st.integers(0, 9), max_size=4))
def test_order_losses_and_crashes_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, calm: dict[int, str], seed: int, parallel: int, cuts: list[int]
) -> None:
    pytest.importorskip("optuna")
    cut = make(tmp_path_factory.mktemp("cut"), parallel)
    order, came = random.Random(seed), []
    for count in cuts:
        try:
            came += drive(cut, order, crash_after=count, lose=0.2)
        except Crash as crash:
            came += crash.args[0]
    came += drive(cut, order, lose=0.2)
    if parallel not in calm:
        whole = make(tmp_path_factory.mktemp("calm"), parallel)
        drive(whole, random.Random(0))
        calm[parallel] = result(whole)
        fates = [row["fate"] for row in json.loads(calm[parallel])["rows"]]
        assert {"finished", "failed"} <= set(fates) and ("pruned" in fates or parallel == 4)
        assert fates.count("failed") < 6, "TPE learns where trials fail"
    assert result(cut) == calm[parallel]
    assert len(came) == len(set(came)), "a unit that came back is never run again"


def test_a_finished_sweep_is_done_and_a_larger_budget_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    short, order = make(tmp_path, 2, trials=6), random.Random(0)
    drive(short, order)
    before = result(short)
    assert drive(short, order) == [] and result(short) == before
    longer = make(tmp_path, 2, trials=9)
    drive(longer, order)
    grown = {row["trial"]: row for row in json.loads(result(longer))["rows"]}
    assert len(grown) == 9
    assert all(grown[row["trial"]] == row for row in json.loads(before)["rows"])
    whole = make(tmp_path / "whole", 2, trials=9)
    drive(whole, order)
    assert result(whole) == result(longer)


def test_other_decisions_are_refused(tmp_path: Path) -> None:
    sweep = make(tmp_path, 2)
    with Ledger(sweep.folder) as ledger:
        Control(sweep, ledger, lambda _: None)
    for override, key in (
        ("seed=1", "seed"),
        ("asha.grace=2", "asha.grace"),
        ("overrides={rollout.slots: 3}", "experiment.rollout.slots"),
    ):
        other = load_sweep(tmp_path / "sweep.yaml", ["parallel=2", override])
        with Ledger(sweep.folder) as ledger, pytest.raises(ConfigError, match=f"another '{key}'"):
            Control(other, ledger, lambda _: None)
    more = load_sweep(tmp_path / "sweep.yaml", ["parallel=2", "budget.trials=99", "retries=7"])
    with Ledger(sweep.folder) as ledger:
        Control(more, ledger, lambda _: None)


def test_a_unit_lost_too_often_fails(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    sweep = make(tmp_path, 1)
    with Ledger(sweep.folder) as ledger:
        control = Control(sweep, ledger, lambda _: None)
        unit = control.next_unit()
        assert unit is not None
        control.lost(unit, "out of memory")
        assert unit in units(sweep.config, sweep.rungs, control.state)
        control.lost(unit, "out of memory")
        assert "lost 2 times" in control.state.trials[0].failed[unit.seed, unit.until].reason


# ------------------------------------------------------------------------------------------------ proposals


def test_tpe_goes_where_it_was_good_and_repeats_nothing(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from launch.sweep.proposals import propose

    parameters = {"x": {"loguniform": [1e-4, 1.0]}, "n": {"int": [1, 3]}, "c": {"choice": ["a", {"k": 1}, None]}}
    config = sweep_config(parameters=parameters, startup=5)
    trials: list[Trial] = []
    for number in range(40):
        values = propose(config, trials)
        assert values is not None and values == propose(config, trials), "the same question, the same answer"
        assert 1e-4 <= values["x"] <= 1.0 and values["n"] in (1, 2, 3) and values["c"] in ("a", {"k": 1}, None)
        score = 1.0 - abs(values["x"] - 0.01) - 0.1 * values["n"] * (values["c"] != "a")
        trials.append(dataclasses.replace(trial(number, score), values=dict(values)))
    late = [t.values for t in trials[20:]]
    assert sum(values["x"] < 0.1 for values in late) > 15 and sum(values["c"] == "a" for values in late) > 8
    assert len({json.dumps(t.values, sort_keys=True) for t in trials}) == 40


def test_a_small_space_is_exhausted() -> None:
    pytest.importorskip("optuna")
    from launch.sweep.proposals import propose

    config = sweep_config(parameters={"n": {"int": [1, 3]}, "c": {"choice": [True, False]}}, startup=2)
    trials: list[Trial] = []
    while (values := propose(config, trials)) is not None:
        trials.append(dataclasses.replace(trial(len(trials), 0.5), values=dict(values)))
    assert len(trials) == 6


# ------------------------------------------------------------------------------------------------ units


def test_a_unit_trains_reads_and_reports_failures(tmp_path: Path) -> None:
    sweep = write_case(tmp_path, trials=1)
    values = {"trainer.trl.learning_rate": 3e-3, "trainer.trl.max_grad_norm": 1.0}
    run = sweep.experiment(values, 0, 1)
    first = run_unit(run, 1, "success", {}, light)
    assert first.measured == Measured(value_of(values, Unit(0, 1, 1)), 1.0, 100)
    log = Path(run.run_dir) / "logs" / "sweep.log"
    assert log.read_text().count("attempt") == 1
    assert run_unit(run, 1, "success_scored", {}, light).measured == first.measured
    assert log.read_text().count("attempt") == 1, "what is there is not trained again"
    second = run_unit(run, 2, "success", {}, light)
    assert second.measured is not None and second.measured.tokens == 200
    assert "resumes from checkpoint-1" in log.read_text()

    def user(*_: Any) -> None:
        raise ConfigError("no such policy")

    def bug(*_: Any) -> None:
        raise ValueError("two\nlines")

    other = sweep.experiment(values, 1, 0)
    assert run_unit(other, 1, "success", {}, user) == Outcome(None, pytest.approx(0, abs=5), "no such policy")
    assert run_unit(other, 1, "success", {}, bug).error.startswith("ValueError: two lines; see ")
    assert "no evaluation at step 1" in run_unit(other, 1, "success", {}, lambda *_: None).error


def test_unscored_evaluations_and_torn_metrics(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    file = tmp_path / "eval" / "real-step_000004.json"
    file.write_text(json.dumps({"success": {"mean": 0.0}, "success_scored": None, "coverage": 0.0}))
    assert measured(tmp_path, 4, "success") == Measured(0.0, 0.0, 0)
    assert measured(tmp_path, 4, "success_scored") == Measured(None, 0.0, 0)
    assert measured(tmp_path, 8, "success") is None
    steps, tokens = (1, 3, 5, 3, 4, 5), (5, 7, 9, 8, None, 99)
    lines = [{"step": s} if t is None else {"step": s, "num_tokens": t} for s, t in zip(steps, tokens, strict=True)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines))[:-3])
    assert tokens_at(tmp_path, 4) == 8


def test_a_run_directory_has_one_process(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(AgentworldError, match="another process"), locked(tmp_path, 0.3):
        pass


# ------------------------------------------------------------------------------------------------ table


def test_interval_over_seeds() -> None:
    assert over_seeds([0.4]) == Interval(0.4, 0.0, 1.0, 1)
    three = over_seeds([0.4, 0.5, 0.6])
    assert three.mean == pytest.approx(0.5) and three.high - three.mean == pytest.approx(4.3027 * 0.1 / 3**0.5)
    assert over_seeds([0.0, 1.0]).low == 0.0 and over_seeds([0.5, 0.5]).high == 0.5
    assert student(11) == pytest.approx(2.2010, abs=2e-4) and student(1000) == pytest.approx(1.9623, abs=2e-4)


def test_table_ranks_and_shows_every_trial(tmp_path: Path) -> None:
    sweep = write_case(tmp_path, trials=5)
    failed = dataclasses.replace(
        trial(3, 0.9, seeds=(0,)), fate="failed", failed={(1, 1): Failed(Unit(3, 1, 1), "<b>no memory</b>")}
    )
    pruned, under_way = trial(1, 0.95, fate="pruned"), dataclasses.replace(trial(4, fate=None), step=0)
    found = [trial(0, 0.2, 0.5), pruned, trial(2, 0.3, 0.6), failed, under_way]
    lr = {"trainer.trl.learning_rate": 1e-3, "trainer.trl.max_grad_norm": 0.5}
    state = State(tuple(dataclasses.replace(t, values=lr) for t in found))
    ranked = rows(sweep.config, state)
    assert [(row.trial, row.fate) for row in ranked] == [
        (2, "finished"),
        (0, "finished"),
        (1, "pruned"),
        (4, "under way"),
        (3, "failed"),
    ]
    assert ranked[0].success is not None and ranked[0].success.mean == pytest.approx(0.6)
    assert ranked[-1].seeds == {"0": 0.9} and "no memory" in ranked[-1].reason
    text = "learning_rate 0.001, max_grad_norm 0.5"
    printed = table(sweep.config, ranked)
    assert len(printed) == 6 and all(len(row) == len(printed[0]) for row in printed)
    assert short_table(sweep.config, ranked)[1] == ("trial 2", "finished", "2", "60.0%", "60.0% to 60.0%", text)
    light(sweep.experiment(lr, 2, 0), lambda _: None, 2)
    light(sweep.experiment(lr, 2, 1), lambda _: None, 2)
    page = write(report(sweep, state, ranked, "budget.trials 5"), tmp_path / "out").read_text()
    assert "Best: trial 2" in page and "&lt;b&gt;no memory" in page and page.count("<img") == 4
    drawings = [base64.b64decode(found).decode() for found in re.findall(r'svg\+xml;base64,([^"]*)', page)]
    assert any(">0.001<" in drawing for drawing in drawings) and not any("mathdefault" in d for d in drawings)


def test_a_sweep_without_results_is_not_done(tmp_path: Path) -> None:
    sweep = write_case(tmp_path, trials=2)
    with Ledger(sweep.folder) as ledger:
        control = Control(sweep, ledger, lambda _: None)
        with pytest.raises(BudgetSpent, match="none of 0 trials"):
            check_done(sweep, control, [])


# ------------------------------------------------------------------------------------------------ Tune's side


def test_tune_gets_units_and_the_ledger_their_results(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from ray.tune.search import Searcher

    from launch.sweep.tune import _Units

    sweep = make(tmp_path, 1, trials=1)
    with Ledger(sweep.folder) as ledger:
        searcher = _Units(Control(sweep, ledger, lambda _: None))
        first, second, nothing = (searcher.suggest(name) for name in ("a", "b", "c"))
        assert isinstance(first, dict) and isinstance(second, dict) and nothing is None, "two seeds, then wait"
        job, other = json.loads(first["job"]), json.loads(second["job"])
        assert job["experiment"]["seed"] == 0 and job["until"] == 1
        assert job["name"]["WANDB_RUN_GROUP"] == "sweep"
        assert job["name"]["WANDB_RUN_ID"] != other["name"]["WANDB_RUN_ID"]
        searcher.on_trial_complete("a", error=True)
        assert searcher.suggest("d") == first, "lost: once more"
        good = Outcome(Measured(0.5, 1.0, 3), 1.0)
        searcher.on_trial_complete("b", {"outcome": json.dumps(dataclasses.asdict(good)), "done": True})
        searcher.on_trial_complete("d", {"outcome": json.dumps(dataclasses.asdict(Outcome(None, 1.0, "diverged")))})
        assert searcher.suggest("e") == Searcher.FINISHED
        assert [row.reason for row in rows(sweep.config, ledger.state)] == ["seed 0: diverged"]


def test_a_ledger_that_cannot_be_written_ends_the_driver(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from launch.sweep.tune import _Units

    sweep = make(tmp_path, 1, trials=1)
    with Ledger(sweep.folder) as ledger:
        searcher = _Units(Control(sweep, ledger, lambda _: None))
        searcher.suggest("a")
        ledger._stream.close()
        ledger._stream = (tmp_path / "sweep.yaml").open("rb")  # not writable: an OSError
        searcher.on_trial_complete("a", error=True)
        with pytest.raises(OSError):
            searcher.suggest("b")
