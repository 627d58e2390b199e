"""Fidelity on recorded episodes, and episodes on disk."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.errors import ConfigError, WorldFault
from rollout.types import Finish, Usage, World
from worldmodel.episodes import EpisodeWriter, from_json, read_episodes, read_manifest, to_json, write_episodes
from worldmodel.fidelity import FidelitySettings, choose, measure, normalise, state_candidates, table_rows
from worldmodel.types import Episode, Prediction, PredictRequest, Transition, WorldSpec

FILES = World({"files": {"notes.txt": "apple\npear\n", "src/run.sh": "echo hi\n"}, "dirs": ["src"]})


def spec(world: World) -> WorldSpec:
    return WorldSpec("terminal", "A shell.", "One command.", json.dumps(dict(world.state)))


def episode(id: str = "e0") -> Episode:
    steps = (
        Transition(id, 0, "cat notes.txt", "apple\npear", "copy", 0),
        Transition(id, 1, "echo fig > notes.txt", "", "silent", 0),
        Transition(id, 2, "cat notes.txt", "fig", "readback", 1),
        Transition(id, 3, "cat zzz", "cat: zzz: No such file or directory", "error", 0),
        Transition(id, 4, "cat notes.txt", "fig", "readback", 1, probe=True),
        Transition(id, 5, "ls", "notes.txt  src", "derive", 1, probe=True),
    )
    return Episode(id, "t", "terminal", "f", "gold", FILES, steps, True, {"seed": 1})


@dataclass
class Table:
    """Answers by action; ``seen`` keeps every request."""

    answers: dict[str, str | Exception]
    seen: list[PredictRequest] = field(default_factory=list)
    model_id: str = "table"

    async def predict(self, request: PredictRequest) -> Prediction:
        self.seen.append(request)
        answer = self.answers.get(request.action, "")
        if isinstance(answer, Exception):
            raise answer
        return Prediction(answer, answer, Usage(), Finish.STOP, self.model_id)

    async def close(self) -> None:
        self.seen.clear()


ANSWERS: dict[str, str | Exception] = {
    "cat notes.txt": "apple\npear",
    "cat zzz": "cat: zzz: No such file or directory",
    "ls": "notes.txt src ",
}


async def test_scores_per_class_depth_and_turn() -> None:
    result = await measure([episode()], Table(dict(ANSWERS)), spec, FidelitySettings(max_silent_share=1.0))
    forced = result.teacher_forced
    exact = {name: (m.n, m.exact, m.normalised) for name, m in forced.by_class.items()}
    assert exact == {
        "copy": (1, 1.0, 1.0),
        "derive": (1, 0.0, 1.0),  # only blanks differ
        "error": (1, 1.0, 1.0),
        "readback": (2, 0.0, 0.0),
        "silent": (1, 1.0, 1.0),
    }
    assert forced.macro.exact == pytest.approx(3 / 5) and forced.macro.normalised == pytest.approx(4 / 5)
    assert forced.micro.exact == pytest.approx(3 / 6)
    assert {d: m.n for d, m in forced.by_depth.items()} == {1: 3}
    assert {t: m.exact for t, m in forced.by_turn.items()} == {0: 1.0, 1: 1.0, 2: 0.0, 3: 1.0}
    assert forced.by_class["copy"].baseline == 1.0 and forced.by_class["readback"].baseline == 0.0
    assert {m["class"] for m in result.misses} == {"derive", "readback"}


async def test_teacher_forcing_gives_real_history_and_free_running_the_models_own() -> None:
    model = Table({**ANSWERS, "cat notes.txt": "WRONG"})
    await measure([episode()], model, spec, FidelitySettings())
    by_length = {}
    for request in model.seen:
        observations = tuple(e.observation for e in request.history)
        by_length.setdefault((request.action, len(observations)), []).append(observations)
    forced, free = by_length[("cat zzz", 3)]
    assert forced == ("apple\npear", "", "fig") and free == ("WRONG", "", "WRONG")
    probe_histories = by_length[("ls", 4)]  # probes see the four steps and never each other
    assert probe_histories == [(*forced, ANSWERS["cat zzz"]), (*free, ANSWERS["cat zzz"])]


async def test_a_perfect_model_scores_one_in_both_passes() -> None:
    class Perfect(Table):
        async def predict(self, request: PredictRequest) -> Prediction:
            table = {("cat notes.txt", 0): "apple\npear", ("ls", 4): "notes.txt  src"}
            text = table.get((request.action, len(request.history)))
            if text is None:
                text = {"cat notes.txt": "fig", "cat zzz": ANSWERS["cat zzz"]}.get(request.action, "")
            return Prediction(text, text, Usage(), Finish.STOP, "perfect")

    result = await measure([episode(f"e{i}") for i in range(5)], Perfect({}), spec, FidelitySettings(concurrency=2))
    assert result.teacher_forced.macro.exact == result.free_running.macro.exact == 1.0
    assert result.misses == () and result.n_episodes == 5


async def test_faults_are_misses_and_counted() -> None:
    model = Table({**ANSWERS, "cat zzz": WorldFault("down")})
    result = await measure([episode()], model, spec, FidelitySettings())
    assert result.teacher_forced.faults == 1 and result.teacher_forced.by_class["error"].exact == 0.0
    assert len(result.free_running.by_turn) == 4


def test_silent_transitions_are_at_most_the_allowed_share() -> None:
    speaking = [Transition(f"e{i}", 0, "cat a", "x", "copy") for i in range(70)]
    silent = [Transition(f"e{i}", 1, "mkdir d", "", "silent") for i in range(500)]
    chosen = choose(speaking + silent, FidelitySettings())
    assert sum(not t.observation for t in chosen) == 30 and len(chosen) == 100
    limited = choose(speaking + silent, FidelitySettings(max_transitions=50))
    assert len(limited) == 50 and sum(not t.observation for t in limited) == 15
    assert len(choose(speaking + silent[:3], FidelitySettings(max_transitions=50))) == 50
    assert chosen == choose(silent[::-1] + speaking[::-1], FidelitySettings())
    assert choose(speaking + silent, FidelitySettings(seed=1)) != chosen


@pytest.mark.parametrize(
    ("action", "found"),
    [
        ("cat notes.txt", "apple\npear"),
        ("cat ./notes.txt|head", "apple\npear"),
        ("cat src/run.sh", "echo hi"),
        ("cd src && cat 'run.sh'", "echo hi"),
    ],
)
def test_the_baseline_copies_the_named_file(action: str, found: str) -> None:
    assert state_candidates(FILES, action) == ["", found]
    assert state_candidates(FILES, "ls") == [""]


def test_normalisation_ignores_blanks_only() -> None:
    assert normalise("a  b \n\tc\n\n") == normalise("a b\n c")
    assert normalise("a\nb") != normalise("b\na") and normalise("ab") != normalise("a b")


async def test_the_table_and_the_json_hold_what_was_measured() -> None:
    result = await measure([episode()], Table(dict(ANSWERS)), spec, FidelitySettings(max_silent_share=1.0))
    rows = table_rows(result)
    assert len({len(row) for row in rows}) == 1
    assert rows[1] == ("macro over classes", "6", "60.0%", "80.0%", "40.0%", "80.0%", "40.0%", "60.0%")
    data = json.loads(json.dumps(result.to_json()))
    assert data["teacher_forced"]["macro"]["exact"] == pytest.approx(0.6) and data["model_id"] == "table"


async def test_no_episodes_is_an_empty_measurement() -> None:
    result = await measure([], Table({}), spec, FidelitySettings())
    assert result.teacher_forced.macro.n == 0 and table_rows(result)[1][1] == "0"


# ------------------------------------------------------------------------------------------------ episodes on disk

printable = st.text(alphabet=string.printable + "é\u2028\x85", max_size=30)


@given(printable, printable, st.dictionaries(printable, printable, max_size=3), st.sampled_from([True, False, None]))
def test_any_text_survives_the_disk_format(action, observation, state, success) -> None:
    original = Episode("e", "t", "d", "f", "gold", World(state), (Transition("e", 0, action, observation),), success)
    assert from_json(json.loads(json.dumps(to_json(original)))) == original


def test_a_folder_round_trips_with_counts(tmp_path) -> None:
    episodes = [episode("a"), replace(episode("b\u2028"), success=False, behaviour="wrong")]
    manifest = write_episodes(tmp_path / "t", episodes, {"seed": 7})
    assert list(read_episodes(tmp_path / "t")) == episodes
    assert (manifest["seed"], manifest["n_episodes"], manifest["n_transitions"], manifest["n_probes"]) == (7, 2, 12, 4)
    assert manifest["failing_share"] == 0.5 and manifest["by_behaviour"] == {"gold": 1, "wrong": 1}
    assert manifest["by_command_class"] == {"copy": 2, "derive": 2, "error": 2, "readback": 4, "silent": 2}


def test_an_interrupted_collection_leaves_nothing(tmp_path) -> None:
    with pytest.raises(RuntimeError), EpisodeWriter(tmp_path, {}) as writer:
        writer.write(episode())
        raise RuntimeError("box lost")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="no finished traces here; run `agentworld collect`"):
        read_manifest(tmp_path)


def test_damage_is_named_in_one_line(tmp_path) -> None:
    write_episodes(tmp_path, [episode()], {})
    path = tmp_path / "episodes.jsonl"
    good = path.read_text()
    cases = {
        "not json\n": r"episodes\.jsonl:1: not JSON",
        good.replace('"probe"', '"prob"', 1): r"episodes\.jsonl:1: transition 0: unknown field 'prob'",
        good.replace(', "success": true', ""): r"episodes\.jsonl:1: missing .*'success'",
        good.replace("apple", "grape"): r"does not match its manifest",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            list(read_episodes(tmp_path))
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(ConfigError, match="format 99 is not 1"):
        read_manifest(tmp_path)
