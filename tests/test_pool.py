"""Pools: the in-process twin (fast) and Ray actors (slow), the same signature and the same results."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeFactory, Faults, gold_script, make_task, make_tasks, save_tokenizer

from rollout.episode import EpisodeSettings
from rollout.errors import AgentworldError, ConfigError, SamplerFault, WorldFault
from rollout.events import FaultKind
from rollout.local_pool import LocalPool
from rollout.pool import Pool
from rollout.pool_types import Faulted, Finished
from rollout.ray_pool import RayPool
from rollout.reward.checks import ChecksReward
from rollout.samplers.scripted import ScriptedSamplerSpec
from rollout.scheduler import SchedulerSettings
from rollout.source import RolloutSource
from rollout.spot import replay_actions
from rollout.store import RolloutStore, fates, lineage
from rollout.types import Batch, Sampling, Stop, Version
from rollout.worker import EpisodeJob, Packed, PoolSpec, pack

TASKS = make_tasks(6)


@dataclass(frozen=True)
class BrokenFactory:
    """An EnvFactory that raises."""

    error: Exception

    def __call__(self, task, seed):
        raise self.error


def spec_for(path: Path, script=None, **kwargs) -> PoolSpec:
    chat = save_tokenizer(path)
    slow = FakeFactory({"t1": Faults(hangs={"start": 3.0})})
    worlds = {"sim": FakeFactory(), "real": FakeFactory(world_id="real"), "slow": slow}
    options = {
        "num_workers": 2,
        "slots": 4,
        "env_factories": worlds,
        "sampler_factory": ScriptedSamplerSpec(chat, script or gold_script(TASKS)),
        "chat_factory": chat,
        "reward": ChecksReward(),
        "sampling": Sampling(1.0, 64),
    }
    return PoolSpec(**{**options, **kwargs})


def job(task, member: int = 0, env: str = "sim", version: Version | None = None, id: str = "") -> EpisodeJob:
    return EpisodeJob(id or f"{task.id}/{member}", task, "g0", member, 5, env, Sampling(1.0, 64), version)


def drain(pool: Pool, count: int, timeout: float = 20.0):
    found, until = [], time.monotonic() + timeout
    while len(found) < count and time.monotonic() < until:
        found += pool.poll(0.2)
    return found


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[LocalPool]:
    with LocalPool(spec_for(tmp_path)) as made:
        yield made


def test_more_jobs_than_slots_all_come_back(pool: LocalPool):
    pool.submit(job(task, member) for task in TASKS for member in range(5))
    events = drain(pool, 30)
    assert {event.job.id for event in events} == {f"t{t}/{m}" for t in range(6) for m in range(5)}
    assert all(isinstance(event, Finished) and event.trajectory.score.reward == 1.0 for event in events)
    assert pool.counts() == {"queued": 0, "running": 0, "lost_workers": 0}


def test_cancelled_jobs_bring_no_event(pool: LocalPool):
    pool.submit([job(TASKS[1], 0, "slow"), job(TASKS[0])])
    time.sleep(0.1)
    pool.cancel(["t1/0", "unknown"])
    assert [event.job.id for event in drain(pool, 2, timeout=1.0)] == ["t0/0"]
    assert pool.counts()["running"] == 0


def test_publish_changes_the_version_of_later_tokens(pool: LocalPool):
    assert pool.version is None
    assert pool.publish(Version(1, 3), []) == Version(1, 3)
    (found,) = pool.run_tasks(TASKS[:1])
    assert found.oldest_version == Version(1, 3) == pool.version


def test_run_tasks_repeats_in_order_and_names_its_world(pool: LocalPool):
    found = pool.run_tasks(TASKS[:2], env="real", repeats=2, sampling=Sampling(0.0, 64))
    assert [(t.task.id, t.member, t.world_id) for t in found] == [
        ("t0", 0, "real"),
        ("t0", 1, "real"),
        ("t1", 0, "real"),
        ("t1", 1, "real"),
    ]
    assert found[0].sampling.greedy


def test_evaluation_holds_the_weights_it_began_with(tmp_path: Path):
    import threading

    with LocalPool(spec_for(tmp_path)) as pool:
        pool.publish(Version(1, 0), [])
        found = []
        slow = threading.Thread(target=lambda: found.extend(pool.run_tasks([TASKS[1]] * 2, env="slow")))
        slow.start()
        time.sleep(0.2)
        begun = time.monotonic()
        pool.publish(Version(1, 1), [])
        assert time.monotonic() - begun > 1.0
        slow.join()
        assert [t.oldest_version for t in found] == [Version(1, 0)] * 2


def test_publish_does_not_wait_for_evaluation_for_ever(tmp_path: Path):
    with LocalPool(spec_for(tmp_path, update_timeout=0.3)) as pool:
        pool._submit([job(TASKS[1], env="slow")], pool._inbox, 0, pinned=True)
        with pytest.raises(SamplerFault, match=r"\(1, 1\) waited 0.3 s for evaluation"):
            pool.publish(Version(1, 1), [])


def test_faults_are_typed_and_bugs_are_fatal(tmp_path: Path):
    worlds = {
        "world": BrokenFactory(WorldFault("no box")),
        "config": BrokenFactory(ConfigError("bubblewrap is missing")),
        "bug": BrokenFactory(ZeroDivisionError("planted")),
    }
    with LocalPool(spec_for(tmp_path, env_factories=worlds, env="world")) as pool:
        pool.submit(job(TASKS[0], env=env, id=env) for env in [*worlds, "nowhere"])
        found = {event.job.id: event for event in drain(pool, 4)}
        assert all(isinstance(event, Faulted) for event in found.values())
        assert (found["world"].kind, found["world"].cause, found["world"].fatal) == (FaultKind.WORLD, "no box", False)
        assert (found["config"].cause, found["config"].fatal) == ("bubblewrap is missing", True)
        assert (found["bug"].cause, found["bug"].fatal) == ("ZeroDivisionError: planted", True)
        assert "no world named 'nowhere'" in found["nowhere"].cause and "bug, config" in found["nowhere"].cause
        (lost,) = pool.run_tasks(TASKS[:1], env="world")
        assert (lost.stop, lost.score.reward, lost.error) == (Stop.WORLD_ERROR, None, "no box")
        with pytest.raises(AgentworldError, match="t0: bubblewrap is missing"):
            pool.run_tasks(TASKS[:1], env="config")


def test_run_tasks_ends_at_its_deadline(pool: LocalPool):
    done, late = pool.run_tasks(TASKS[:2], env="slow", timeout=0.5)
    assert done.score.reward == 1.0
    assert (late.stop, late.turns) == (Stop.TIMEOUT, ())


def test_a_worker_that_does_not_return_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PoolSpec, "episode_limit", 0.2)
    with LocalPool(spec_for(tmp_path)) as pool:
        pool.submit([job(TASKS[1], env="slow")])
        (event,) = drain(pool, 1, timeout=3.0)
        assert isinstance(event, Faulted) and event.kind is FaultKind.WORKER
        assert event.cause == "the local worker did not return t1/0 (t1) before its deadline"
        assert pool.counts()["running"] == 0


def test_the_episode_limit_covers_the_episodes_own_deadlines(tmp_path: Path):
    settings = EpisodeSettings(episode_timeout=10.0, verify_timeout=5.0, close_timeout=1.0)
    limit = replace(spec_for(tmp_path), settings=settings).episode_limit
    assert limit > 10.0 + 2 * 5.0 + 1.0


def test_replay_brings_results_and_faults_in_order(tmp_path: Path):
    worlds = {"real": FakeFactory({"t1": Faults(raises={0: "box lost"})})}
    with LocalPool(spec_for(tmp_path, env_factories=worlds, env="real")) as pool:
        jobs = [(task, task.reference.gold, "real", 0) for task in TASKS[:3]] + [(TASKS[0], [], "real", 0)]
        found = pool.replay(jobs, timeout=5.0)
        assert [outcome.task_id for outcome in found] == ["t0", "t1", "t2", "t0"]
        assert [[r.passed for r in outcome.results] for outcome in found] == [[True], [], [True], [False]]
        assert found[1].fault == "box lost"
        assert [o.text for o in found[0].observations] == ["", ""]


async def test_replay_stops_with_the_episode_and_closes_the_world():
    task = make_task(value="1")
    world = FakeFactory()(task, 0)
    results, seen = await replay_actions(world, task, ["set a 1", "done", "set a 2"], time.monotonic() + 5)
    assert results[0].passed and len(seen) == 2 and world.closed == 1


async def test_replay_names_the_step_that_failed_or_was_late():
    task = make_task()
    broken = FakeFactory({"t0": Faults(errors={1: "box lost"})})(task, 0)
    with pytest.raises(WorldFault, match="t0, step 1: box lost"):
        await replay_actions(broken, task, ["set a 1", "done"], time.monotonic() + 5)
    hung = FakeFactory({"t0": Faults(hangs={"verify": 9.0})})(task, 0)
    with pytest.raises(WorldFault, match="deadline in verify"):
        await replay_actions(hung, task, ["done"], time.monotonic() + 0.1)
    assert (broken.closed, hung.closed) == (1, 1)


def test_the_spec_and_jobs_pickle(tmp_path: Path):
    spec = spec_for(tmp_path)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert pickle.loads(pickle.dumps(job(TASKS[0]))) == job(TASKS[0])


def test_weights_travel_as_bytes():
    raw = Packed(np.arange(4, dtype=np.uint8), "bfloat16", (2,))
    packed = pack([("w", replace(raw, data=raw.data.tobytes()))])
    assert bytes(packed["w"].data) == bytes(raw.data) and packed["w"].shape == (2,)


def test_a_factory_that_fails_ends_the_pool(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        LocalPool(spec_for(tmp_path, chat_factory=replace(save_tokenizer(tmp_path), path=str(tmp_path / "none"))))


# ------------------------------------------------------------------------------------------------ Ray


@pytest.fixture(scope="module")
def ray_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayPool]:
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # workers unpickle the fakes by name
    try:
        with RayPool(spec_for(tmp_path_factory.mktemp("tokenizer"))) as pool:
            yield pool
    finally:
        del os.environ["PYTHONPATH"]
    import ray

    assert not ray.is_initialized(), "the pool must end the Ray it started"


def pid_of(pool: RayPool, worker: int) -> int:
    import ray

    return int(ray.get(pool._workers[worker].handle._actor.__ray_call__.remote(lambda _: os.getpid())))


def environment_of(pool: RayPool, name: str) -> str | None:
    import ray

    return ray.get(pool._workers[0].handle._actor.__ray_call__.remote(lambda _: os.environ.get(name)))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_runs_the_same_episodes_as_the_twin(ray_pool: RayPool, tmp_path: Path):
    ray_pool.publish(Version(1, 0), [])
    found = ray_pool.run_tasks(TASKS, repeats=2)
    with LocalPool(spec_for(tmp_path)) as twin:
        twin.publish(Version(1, 0), [])
        assert [replace(t, timings={}, turns=()) for t in found] == [
            replace(t, timings={}, turns=()) for t in twin.run_tasks(TASKS, repeats=2)
        ]
    assert environment_of(ray_pool, "OMP_NUM_THREADS") == "1"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_workers_all_confirm_a_version(ray_pool: RayPool):
    weights = [("w", Packed(np.zeros(1 << 20, np.uint8), "uint8", (1 << 20,)))]
    assert ray_pool.publish(Version(1, 7), weights) == Version(1, 7)
    found = ray_pool.run_tasks(TASKS, repeats=3)
    assert {v for t in found for turn in t.turns for v in turn.completion.versions} == {Version(1, 7)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_errors_keep_their_type(ray_pool: RayPool):
    ray_pool.submit([job(TASKS[0], env="nowhere")])
    (event,) = drain(ray_pool, 1)
    assert isinstance(event, Faulted) and event.fatal
    assert event.cause.startswith("no world named 'nowhere'")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_worker_loses_its_jobs_and_comes_back_with_the_weights(ray_pool: RayPool):
    ray_pool.publish(Version(1, 9), [])
    before = [pid_of(ray_pool, worker) for worker in (0, 1)]
    jobs = [job(TASKS[1], m, "slow", Version(1, 9), id=f"k{m}") for m in range(8)]  # every slot is taken
    ray_pool.submit(jobs)
    time.sleep(1.0)
    os.kill(before[0], signal.SIGKILL)
    events = drain(ray_pool, 8, timeout=40.0)
    lost = [event for event in events if isinstance(event, Faulted)]
    assert len(lost) == 4 and all(e.kind is FaultKind.WORKER and not e.fatal for e in lost)
    assert all(event.cause.startswith("worker 0 was lost") for event in lost)
    again = [replace(event.job, id=f"{event.job.id}/1") for event in lost]
    more = [job(TASKS[0], m, "sim", Version(1, 9), id=f"m{m}") for m in range(16)]
    ray_pool.submit([*again, *more])
    events = drain(ray_pool, 20, timeout=40.0)
    assert all(isinstance(event, Finished) for event in events)
    assert {event.trajectory.oldest_version for event in events} == {Version(1, 9)}
    assert pid_of(ray_pool, 1) == before[1] and pid_of(ray_pool, 0) != before[0]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_source_retries_what_a_killed_worker_lost(ray_pool: RayPool, tmp_path: Path):
    store = RolloutStore(tmp_path, 1)
    source = RolloutSource(ray_pool, TASKS, SchedulerSettings(4, 6), store, seed=0, env="slow")
    source.publish(Version(2, 0), [])
    time.sleep(1.0)
    os.kill(pid_of(ray_pool, 1), signal.SIGKILL)
    batch = source.take(0, timeout=60.0)
    assert isinstance(batch, Batch), batch
    assert batch.metrics["rollout/faults/worker"] >= 1
    assert {m.oldest_version for g in batch.groups for m in g.members} == {Version(2, 0)}
    source.settle(0)
    source.finish()
    assert set(map(tuple, fates(lineage(tmp_path, 1)).values())) == {("trained",)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hung_ray_worker_is_ended_and_replaced(ray_pool: RayPool, monkeypatch: pytest.MonkeyPatch):
    ray_pool.publish(Version(1, 10), [])
    monkeypatch.setattr(PoolSpec, "episode_limit", 0.5)
    ray_pool.submit([job(TASKS[1], env="slow", version=Version(1, 10))])
    (event,) = drain(ray_pool, 1, timeout=10.0)
    assert isinstance(event, Faulted) and "did not return t1/0" in event.cause
    monkeypatch.undo()
    found = ray_pool.run_tasks(TASKS, repeats=2)
    assert {t.oldest_version for t in found} == {Version(1, 10)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wrong_policies_score_zero_and_are_no_faults(ray_pool: RayPool):
    task = make_task("unknown")  # the script has no reply for it but "done"
    (found,) = ray_pool.run_tasks([task])
    assert (found.stop, found.score.reward) == (Stop.DONE, 0.0)
