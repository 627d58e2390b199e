"""How a collector behaves in a terminal: gold, noisy gold, wrong, slips of a weak policy, exploration.

Owns: seeded command sequences for a task, and what kind of step each command was. Refuses: running them.
A session is a list of steps that may change the world, followed by read-only probes of its final state.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from rollout.types import Task
from worldmodel.behaviours import Session
from worldmodel.domains.terminal import FINAL
from worldmodel.domains.terminal import vocabulary as v

MIX = {"gold": 0.12, "noisy": 0.2, "wrong": 0.14, "slip": 0.28, "explore": 0.26}
_TEXT = re.compile(r"[\w.-]+\.(?:txt|csv|log|conf|md|dat|sh|tmp|bak|old|tar)\b")


@dataclass(slots=True)
class Names:
    """What exists, as far as a collector keeps track."""

    files: list[str]
    words: list[str]
    dirs: list[str] = field(default_factory=list)

    def note(self, command: str) -> None:
        """Follow redirections, moves, copies and removals well enough to go on exploring."""
        for target in re.findall(r">>?\s*([\w./-]+)", command):
            self._add(target)
        parts = command.split()
        if len(parts) == 3 and parts[0] in ("mv", "cp") and "*" not in command:
            if parts[0] == "mv" and parts[1] in self.files:
                self.files.remove(parts[1])
            if parts[2] not in self.dirs:
                self._add(parts[2])
        if parts and parts[0] == "rm" and parts[-1] in self.files:
            self.files.remove(parts[-1])
        if parts and parts[0] in ("mkdir",):
            self.dirs.append(parts[-1])
        if parts and parts[0] in ("touch", "tar") and "/" not in parts[-1]:
            self._add(parts[2] if parts[0] == "tar" and len(parts) > 2 else parts[-1])

    def _add(self, name: str) -> None:
        if name not in self.files:
            self.files.append(name)


def plan(task: Task, rng: random.Random) -> Session:
    """One seeded session for ``task``, of a behaviour drawn from ``MIX``."""
    behaviour = rng.choices(list(MIX), list(MIX.values()))[0]
    names = known(task)
    gold = [c for c in task.reference.gold if c != "done"]
    if behaviour == "gold":
        steps = gold
    elif behaviour == "wrong":
        steps = [c for c in rng.choice(task.reference.wrong) if c != "done"]
    elif behaviour == "slip":
        steps = [slip(c, names, rng) for c in gold]
        if rng.random() < 0.3:
            steps = steps + gold if rng.random() < 0.5 else gold + steps
    elif behaviour == "noisy":
        steps = list(gold)
        for _ in range(rng.randint(1, 2)):
            steps.insert(rng.randint(0, len(steps)), _aside(names, rng))
    else:
        steps = []
        for _ in range(rng.randint(3, 6)):
            command = explore(names, rng)
            names.note(command)
            steps.append(command)
    for command in steps:
        names.note(command)
    return Session(behaviour, tuple(steps), _probes(task, names, steps, rng))


def known(task: Task) -> Names:
    """What exists when the session begins."""
    files = dict(task.world.state["files"])
    found = {w for content in files.values() for w in re.findall(r"[a-z]+\d?", content)}
    return Names(list(files), sorted(found) or list(v.WORDS[:8]), list(task.world.state.get("dirs", [])))


def _probes(task: Task, names: Names, steps: list[str], rng: random.Random) -> tuple[str, ...]:
    """The task's own probes and a few looks at what else the session touched."""
    chosen = [p for check in task.checks for p in check.probes]
    touched = [f for f in dict.fromkeys(f for c in steps for f in _TEXT.findall(c)) if not f.endswith(".tar")]
    read_back = [f"cat {f}" for f in rng.sample(touched, min(len(touched), 3))]
    pool = [f"cat {f}" for f in names.files if not f.endswith(".tar")] + ["ls"]
    pool += [look(names, rng) for _ in range(16)]
    extra = [*read_back, *rng.sample(pool, min(len(pool), rng.randint(6, 10)))]
    return tuple(dict.fromkeys(chosen + extra))


def _aside(names: Names, rng: random.Random) -> str:
    """Something a careful agent does on the way: a look, or a mistake that changes nothing."""
    return fault(names, rng) if rng.random() < 0.5 else look(names, rng)


def explore(names: Names, rng: random.Random) -> str:
    """One exploratory command: about half change something, a quarter fail."""
    roll = rng.random()
    if roll < 0.22:
        return fault(names, rng)
    if roll < 0.52:
        return look(names, rng)
    return change(names, rng)


def look(names: Names, rng: random.Random) -> str:
    """A read-only command."""
    name = rng.choice(names.files) if names.files else "notes.txt"
    if name.endswith(".tar"):
        return f"tar -tf {name}"
    if rng.random() < 0.6:
        return derive(name, names, rng)
    return rng.choice([
        f"cat {name}", f"cat {name}", "ls", f"stat -c %a {name}",
        *([f"bash {name}"] * 2 if name.endswith(".sh") else []),
        *([f"ls {rng.choice(names.dirs)}"] if names.dirs else []),
    ])  # fmt: skip


def derive(name: str, names: Names, rng: random.Random) -> str:
    """A command that prints something computed from the file ``name``."""
    return rng.choice([
        f"{_select(names, rng)} {name}", f"{_select(names, rng)} {name}", f"{_select(names, rng)} {name}",
        f"tr a-z A-Z < {name}", f"wc -l < {name}", f"cut -d, -f{rng.randint(1, 3)} {name}",
        f"cat {name} {rng.choice(names.files or [name])}", f"cat {rng.choice(names.files or [name])} {name}",
    ])  # fmt: skip


def _select(names: Names, rng: random.Random) -> str:
    word = rng.choice(v.LEVELS) if rng.random() < 0.6 else rng.choice(names.words)
    return rng.choice([
        f"grep {word}", f"grep {word}", f"grep -v {word}", f"grep -c {word}", f"head -n {rng.randint(1, 4)}",
        f"tail -n {rng.randint(1, 4)}", "sort", "sort", "sort -r", "sort -u",
    ])  # fmt: skip


def change(names: Names, rng: random.Random) -> str:
    """A command that changes the world."""
    name = rng.choice(names.files) if names.files else "notes.txt"
    out = rng.choice([v.output_name(rng), v.output_name(rng), rng.choice(v.file_names(rng, 3))])
    word, other = rng.choice(names.words), v.words(rng, 1)[0]
    if rng.random() < 0.4:
        return f"{derive(name, names, rng)} > {out}"
    return rng.choice([
        f"cp {name} {out}", f"mv {name} {out}", f"rm {name}", f"echo {other} > {out}", f"echo {other} >> {name}",
        f"echo {rng.choice(v.LEVELS)} {other} >> {name}", f"sed -i 's/{word}/{other}/' {name}",
        f"sed -i '/{word}/d' {name}", f"chmod {rng.choice(v.MODES[2:])} {name}",
        f"mkdir {rng.choice(v.FOLDERS)}", f"touch {out}", f"tar -cf {rng.choice(v.FOLDERS)}.tar {name}",
        f"cat {name} > {out}", f"rm *.{rng.choice(v.EXTENSIONS)}",
    ])  # fmt: skip


def fault(names: Names, rng: random.Random) -> str:
    """A command that fails and says so."""
    missing = rng.choice([n for n in v.file_names(rng, 8) if n not in names.files])
    name = rng.choice(names.files) if names.files else missing
    return rng.choice([
        f"cat {missing}", f"cat {missing}", f"{_select(names, rng)} {missing}", f"mv {missing} {v.output_name(rng)}",
        f"cp {missing} {v.output_name(rng)}", f"rm {missing}", f"chmod {rng.choice(v.MODES)} {missing}",
        f"{rng.choice(v.WORDS)} {name}", f"sort < {missing}", f"sed -i 's/a/b/' {missing}",
        f"cat {rng.choice(v.FOLDERS)}/{name}",
        f"touch {rng.choice(v.FOLDERS)}/{missing}", f"{_select(names, rng)} {missing} > {v.output_name(rng)}",
        f"ls {rng.choice(v.FOLDERS)}", f"stat -c %a {missing}", f"tar -tf {missing}", f"bash {missing}",
    ])  # fmt: skip


def near_miss(task: Task, rng: random.Random) -> tuple[str, ...]:
    """The gold solution with a slip in each command."""
    names = known(task)
    return tuple(action if action == FINAL else slip(action, names, rng) for action in task.reference.gold)


def slip(command: str, names: Names, rng: random.Random) -> str:
    """``command`` with the kind of mistake a weak policy makes."""
    parts = command.split(" ")
    files = [i for i, p in enumerate(parts) if _TEXT.fullmatch(p)]
    roll = rng.random()
    if roll < 0.18:
        return typo(command, rng)
    if roll < 0.36 and files:
        parts[rng.choice(files)] = rng.choice([*names.files, v.output_name(rng), *v.file_names(rng, 1)])
    elif roll < 0.54:
        spots = [i for i, p in enumerate(parts) if re.fullmatch(r"[a-z]{3,}\d?|\d+|-f\d|-n", p) and i > 0]
        if spots:
            spot = rng.choice(spots)
            parts[spot] = f"-f{rng.randint(1, 3)}" if parts[spot].startswith("-f") else (
                str(rng.randint(1, 5)) if parts[spot].isdigit() else rng.choice([*v.LEVELS, *names.words]))  # fmt: skip
    elif roll < 0.64 and len(parts) > 1:
        del parts[rng.randrange(len(parts))]
    elif roll < 0.72 and len(parts) > 1:
        parts.insert(rng.randrange(len(parts)), rng.choice(parts))
    elif roll < 0.82:
        found = sorted(set(re.findall(r"[a-z]{3,}", command)))
        if found:
            old = rng.choice(found)
            like = v.MISSPELT if old in v.MISSPELT else [*v.KEYS, *v.LEVELS, *names.words]
            return command.replace(old, rng.choice(like))
    else:
        return change(names, rng)
    return " ".join(parts) or "ls"


def typo(command: str, rng: random.Random) -> str:
    """``command`` with one wrong letter, letters swapped, doubled or lost, or another file ending."""
    endings = list(re.finditer(r"\.([a-z]{2,4})\b", command))
    if endings and rng.random() < 0.35:
        at = rng.choice(endings)
        return f"{command[: at.start(1)]}{rng.choice(v.EXTENSIONS)}{command[at.end(1) :]}"
    found = list(re.finditer(r"[A-Za-z]{2,}", command))
    if not found:
        return command
    at = rng.choice(found)
    word, i = at.group(), rng.randrange(len(at.group()) - 1)
    new = rng.choice([
        word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i + 1 :], word[: i + 1] + word[i:],
        word[:i] + rng.choice("aeiorstn") + word[i + 1 :],
    ])  # fmt: skip
    return f"{command[: at.start()]}{new}{command[at.end() :]}"


_FAILS = re.compile(
    r"(?m)^(bash|cat|ls|mv|cp|rm|grep|sort|head|tail|cut|sed|tr|chmod|stat|tar|touch|mkdir|wc|\S+\.sh)\b.*: "
)


class Ledger:
    """Which files a session has touched, to name the class of each step and its depth.

    Classes: ``silent`` (no output), ``error``, ``copy`` (shows an untouched initial file), ``derive`` (computes
    from untouched files), ``list`` (names and modes), ``readback`` (shows what the session changed). Depth =
    state-changing steps the shown text depends on.
    """

    def __init__(self, task: Task) -> None:
        self._depth = dict.fromkeys(task.world.state["files"], 0)
        self._initial = set(self._depth)
        self._changes = 0

    def classify(self, command: str, observation: str) -> tuple[str, int]:
        """(class, depth) of a step, before its own effect is noted."""
        names = [n.rstrip("/") for n in re.findall(r"[\w./-]+", command)]
        depth = max((self._depth.get(n, 0) for n in names), default=0)
        head = command.split(" ")[0]
        if head in ("ls", "find"):
            depth = self._changes
        if not observation.strip():
            return "silent", depth
        if _FAILS.search(observation):
            return "error", depth
        if depth:
            return "readback", depth
        if head in ("ls", "find", "stat", "tar"):
            return "list", 0
        return ("copy" if re.fullmatch(r"cat( [\w.-]+)+", command) else "derive"), 0

    def note(self, command: str, failed: bool) -> None:
        """Record the effect of a step."""
        if not _changes(command):
            return
        self._changes += 1
        names = [n for n in re.findall(r"[\w./-]+", command) if n in self._depth or _TEXT.fullmatch(n)]
        sources = [self._depth.get(n, 0) for n in names]
        outs = re.findall(r">>?\s*([\w./-]+)", command) or names[-1:]
        if "*" in command:
            outs = [*outs, *self._depth]
        for out in outs:
            self._depth[out] = 1 + max(sources, default=0)
        if command.startswith("mv") and len(names) == 2:
            self._depth[names[0]] = self._depth[names[1]]


def _changes(command: str) -> bool:
    return ">" in command or bool(re.match(r"(mv|cp|rm|sed -i|chmod|mkdir|touch|tar -c|for)\b", command))
