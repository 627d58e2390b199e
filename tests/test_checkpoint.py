"""Manifests, resume selection, rotation, attempts and lineage: all of it without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import CheckpointError
from rollout.types import Version
from trainer.attempts import Attempt, begin_attempt, check_restart, in_lineage, read_attempts, read_versions
from trainer.checkpoint import (
    HASHED_BYTES,
    MANIFEST,
    Layout,
    latest,
    read_manifest,
    read_rollout_state,
    rotate,
    seal,
    survey,
    validate,
)

ONE = Layout(world_size=1, zero_stage=0)
TWO = Layout(world_size=2, zero_stage=2)


def written(run_dir: Path, step: int) -> Path:
    """What the Trainer leaves behind, without a manifest."""
    folder = run_dir / f"checkpoint-{step}"
    (folder / "global_step1").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "global_step1" / "optimiser.pt").write_bytes(b"moments" * step)
    return folder


def sealed(run_dir: Path, step: int, layout: Layout = ONE, attempt: int = 1) -> Path:
    folder = written(run_dir, step)
    seal(folder, step=step, version=Version(attempt, step), layout=layout, rollout_state={"next": step})
    return folder


def test_a_sealed_checkpoint_validates_and_gives_its_rollout_state_back(tmp_path: Path) -> None:
    folder = sealed(tmp_path, 4, TWO)
    manifest = validate(folder)
    assert (manifest.step, manifest.version, manifest.layout) == (4, Version(1, 4), TWO)
    assert set(manifest.files) == {"model.safetensors", "global_step1/optimiser.pt", "rollout_state/state.json"}
    assert read_rollout_state(folder) == {"next": 4}


def test_only_a_sealed_folder_is_a_checkpoint(tmp_path: Path) -> None:
    sealed(tmp_path, 2)
    torn = written(tmp_path, 4)
    (tmp_path / "checkpoint-best").mkdir()
    found = survey(tmp_path)
    assert found.newest and found.newest.manifest.step == 2
    assert [path for path, _ in found.torn] == [torn]
    assert "cut short" in found.torn[0][1]


def test_latest_is_by_step_number_and_none_where_nothing_lies(tmp_path: Path) -> None:
    assert latest(tmp_path / "nowhere") is None
    for step in (9, 100, 20):
        sealed(tmp_path, step)
    newest = latest(tmp_path)
    assert newest and newest.path.name == "checkpoint-100"


def test_damage_to_any_listed_file_is_found(tmp_path: Path) -> None:
    for name in validate(sealed(tmp_path, 3)).files:
        file = tmp_path / "checkpoint-3" / name
        whole = file.read_bytes()
        for damage, words in (
            (whole[:-1] + bytes([whole[-1] ^ 1]), "sha256"),
            (whole[:-1], "bytes, the manifest says"),
            (None, "is missing"),
        ):
            if damage is None:
                file.unlink()
            else:
                file.write_bytes(damage)
            with pytest.raises(CheckpointError, match=words) as caught:
                validate(tmp_path / "checkpoint-3")
            assert name in str(caught.value) and "\n" not in str(caught.value)
            file.write_bytes(whole)
    validate(tmp_path / "checkpoint-3")


def test_a_file_over_the_hashing_limit_is_held_to_its_size(tmp_path: Path) -> None:
    folder = written(tmp_path, 1)
    with (folder / "big.pt").open("wb") as file:
        file.truncate(HASHED_BYTES + 1)  # sparse
    seal(folder, step=1, version=Version(1, 1), layout=ONE, rollout_state={})
    assert validate(folder).files["big.pt"].sha256 == ""
    with (folder / "big.pt").open("wb") as file:
        file.truncate(HASHED_BYTES)
    with pytest.raises(CheckpointError, match=r"big\.pt"):
        validate(folder)


@settings(deadline=None)
@given(
    junk=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["format", "step", "version", "layout", "files", "created"]),
                    inner | st.just(1),
                    max_size=6,
                )
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_other_manifest_is_one_clear_line(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "junk" / "checkpoint-1"  # one for all examples
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_bytes(junk)
    with pytest.raises(CheckpointError) as caught:
        read_manifest(folder)
    assert "manifest" in str(caught.value) and "\n" not in str(caught.value)


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    file = sealed(tmp_path, 1) / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        validate(tmp_path / "checkpoint-1")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint-7: no such folder"):
        validate(tmp_path / "checkpoint-7")


def test_a_snapshot_that_is_not_json_seals_nothing(tmp_path: Path) -> None:
    folder = written(tmp_path, 1)
    with pytest.raises(CheckpointError, match="not JSON"):
        seal(folder, step=1, version=Version(1, 1), layout=ONE, rollout_state={"group": object()})
    assert latest(tmp_path) is None


def test_rotation_keeps_the_newest_and_leaves_what_is_not_sealed(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        sealed(tmp_path, step)
    torn = written(tmp_path, 4)
    assert [path.name for path in rotate(tmp_path, keep=2)] == ["checkpoint-1", "checkpoint-2"]
    assert [found.manifest.step for found in survey(tmp_path).valid] == [3, 10]
    assert torn.is_dir()
    assert rotate(tmp_path, keep=2) == ()


def test_rotation_spares_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        sealed(tmp_path, step)
    assert [path.name for path in rotate(tmp_path, 1, {2})] == ["checkpoint-1", "checkpoint-3"]
    assert [found.manifest.step for found in survey(tmp_path).valid] == [2, 10]


def record_version(run_dir: Path, version: Version) -> None:
    """As the trainer does it."""
    with (run_dir / "versions.jsonl").open("a") as file:
        file.write(json.dumps(version._asdict()) + "\n")


def test_attempts_count_up_and_report_what_is_restored_and_lost(tmp_path: Path) -> None:
    first = begin_attempt(tmp_path, ONE)
    assert (first.attempt, first.step, first.lost) == (1, 0, ())
    for step in range(1, 8):
        record_version(tmp_path, Version(1, step))
    sealed(tmp_path, 5)
    torn = written(tmp_path, 7)
    second = begin_attempt(tmp_path, ONE)
    assert (second.attempt, second.step) == (2, 5)
    assert (
        second.lost[0] == "optimiser steps after 5 (weights were published up to step 7)"
        and "checkpoint-7" in second.lost[1]
    )
    assert not torn.exists(), "the next checkpoint-7 must not be written between the remains of the torn one"
    assert str(second).startswith(
        "attempt 2 resumes from checkpoint-5; restored: model, optimiser"
    ) and "\n" not in str(second)
    assert [record.attempt for record in read_attempts(tmp_path)] == [1, 2]


def test_a_damaged_checkpoint_is_set_aside_not_deleted(tmp_path: Path) -> None:
    sealed(tmp_path, 5)
    (sealed(tmp_path, 9) / "model.safetensors").write_bytes(b"other")
    start = begin_attempt(tmp_path, ONE)
    assert start.step == 5 and "model.safetensors has 5 bytes" in start.lost[0]
    aside = tmp_path / "damaged-checkpoint-9-before-attempt-1"
    assert (aside / "model.safetensors").read_bytes() == b"other"
    assert begin_attempt(tmp_path, ONE).lost == ()


def test_a_named_checkpoint_is_resumed_and_later_ones_leave_the_way(tmp_path: Path) -> None:
    for step in (3, 5, 7):
        sealed(tmp_path, step)
        record_version(tmp_path, Version(1, step))
    start = begin_attempt(tmp_path, ONE, str(tmp_path / "checkpoint-5"))
    assert start.step == 5 and "published up to step 7" in start.lost[0]
    assert [found.manifest.step for found in survey(tmp_path).valid] == [3, 5]
    assert (tmp_path / "abandoned-checkpoint-7-before-attempt-1/manifest.json").is_file()
    with pytest.raises(CheckpointError, match=r"checkpoint-7: not a whole checkpoint of .* \(it has: .*checkpoint-5\)"):
        begin_attempt(tmp_path, ONE, str(tmp_path / "checkpoint-7"))


def test_never_starts_again_only_where_nothing_is_overwritten(tmp_path: Path) -> None:
    assert begin_attempt(tmp_path, ONE, "never").step == 0
    record_version(tmp_path, Version(1, 4))
    with pytest.raises(CheckpointError, match="trained up to step 4, but no whole checkpoint is left; --resume never"):
        check_restart(tmp_path)
    assert "published up to step 4" in begin_attempt(tmp_path, ONE, "never").lost[0]
    sealed(tmp_path, 5)
    check_restart(tmp_path)
    with pytest.raises(CheckpointError, match="holds checkpoint-5, which starting again would overwrite"):
        begin_attempt(tmp_path, ONE, "never")
    assert len(read_attempts(tmp_path)) == 2


def test_an_attempt_is_counted_even_if_it_never_saves(tmp_path: Path) -> None:
    assert [begin_attempt(tmp_path, ONE).attempt for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("now", [ONE, Layout(4, 2), Layout(2, 3)])
def test_a_changed_layout_is_refused_and_changes_nothing(tmp_path: Path, now: Layout) -> None:
    sealed(tmp_path, 5, TWO)
    torn = written(tmp_path, 6)
    with pytest.raises(CheckpointError, match=r"written by 2 processes under ZeRO-2, this run has \d process"):
        begin_attempt(tmp_path, now)
    assert read_attempts(tmp_path) == () and torn.exists()


def test_without_zero_the_number_of_processes_may_change(tmp_path: Path) -> None:
    sealed(tmp_path, 5, ONE)
    assert begin_attempt(tmp_path, Layout(2, 0)).step == 5


def test_an_unreadable_attempt_record_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "attempts.json").write_text("[{")
    with pytest.raises(CheckpointError, match=r"attempts\.json: unreadable"):
        begin_attempt(tmp_path, ONE)


def test_a_version_line_cut_short_is_skipped(tmp_path: Path) -> None:
    record_version(tmp_path, Version(1, 1))
    with (tmp_path / "versions.jsonl").open("a") as file:
        file.write('{"attempt": 1, "st')
    assert read_versions(tmp_path) == (Version(1, 1),)


def test_versions_after_the_resumed_step_are_void(tmp_path: Path) -> None:
    versions = [Version(1, s) for s in (1, 2, 3)] + [Version(2, 3)] + [Version(3, s) for s in (3, 4)]
    attempts = [Attempt(1, 0, 0.0), Attempt(2, 2, 0.0), Attempt(3, 2, 0.0)]
    assert in_lineage(versions, attempts) == (Version(1, 1), Version(1, 2), Version(3, 3), Version(3, 4))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=6))
def test_the_lineage_holds_each_step_once(plan: list[tuple[int, int]]) -> None:
    """Attempts that resume anywhere reached so far and then run some steps: one version per step survives."""
    versions, attempts, reached = [], [], 0
    for attempt, (wish, count) in enumerate(plan, start=1):
        resumed = min(wish, reached)
        attempts.append(Attempt(attempt, resumed, 0.0))
        versions += [Version(attempt, step) for step in range(resumed + 1, resumed + count + 1)]
        reached = resumed + count
    assert [version.step for version in in_lineage(versions, attempts)] == list(range(1, reached + 1))


def test_looking_at_a_run_directory_needs_no_torch(tmp_path: Path) -> None:
    folder = sealed(tmp_path, 1)
    code = (
        "import sys; from trainer.checkpoint import latest; import trainer.attempts\n"
        f"assert latest({str(tmp_path)!r}).path.name == {folder.name!r}\n"
        "assert not {'torch', 'ray', 'trl', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    shutil.rmtree(folder)
