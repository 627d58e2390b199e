"""The task families of the terminal domain: one small seeded function each.

Owns: what each kind of work is (instruction, files, gold, plausible wrong solutions, checks).
Refuses: ids, splits, running anything. Expected results are computed here in Python and proved against the
real sandbox by a test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rollout.types import Check, Predicate
from worldmodel.domains.terminal import vocabulary as v


@dataclass(frozen=True, slots=True)
class Draft:
    """A task before it has an identity."""

    instruction: str
    files: dict[str, str]
    gold: tuple[str, ...]
    wrong: tuple[tuple[str, ...], ...]
    checks: tuple[Check, ...]
    dirs: tuple[str, ...] = ()
    modes: dict[str, str] = field(default_factory=dict)


Family = Callable[[random.Random], Draft]


def _pick(rng: random.Random, *templates: str) -> str:
    return rng.choice(templates)


def _reads(path: str, lines: Sequence[str], name: str = "content") -> Check:
    return Check(name, (f"cat {path}",), Predicate("equals", "\n".join(lines)))


def _prints(command: str, lines: Sequence[str], name: str) -> Check:
    return Check(name, (command,), Predicate("equals", "\n".join(lines)))


def _with_other(rng: random.Random, name: str, lines: Sequence[str]) -> tuple[dict[str, str], str]:
    """The subject file beside an unrelated one."""
    other = next(n for n in v.file_names(rng, 3) if n != name)
    files = {name: v.text(lines), other: v.text(v.any_file(rng))}
    return dict(sorted(files.items())), other


def filter_lines(rng: random.Random) -> Draft:
    (name,), out, lines = v.file_names(rng, 1), v.output_name(rng), v.log_lines(rng)
    level = max(sorted({line.split()[0] for line in lines}), key=lambda w: [ln.split()[0] for ln in lines].count(w))
    keep = [line for line in lines if level in line]
    files, other = _with_other(rng, name, lines)
    ask = _pick(rng, f"Keep only the lines of {name} that contain {level}. Write them to {out}.",
                f"Write the lines with {level} from {name} into {out}.",
                f"Find {level} in {name} and save the matching lines as {out}.")  # fmt: skip
    wrong = ((f"grep -v {level} {name} > {out}",), (f"cat {name} > {out}",), (f"grep {level} {other} > {out}",))
    return Draft(ask, files, (f"grep {level} {name} > {out}",), wrong, (_reads(out, keep),))


def exclude_lines(rng: random.Random) -> Draft:
    (name,), out, lines = v.file_names(rng, 1), v.output_name(rng), v.log_lines(rng)
    level = rng.choice(sorted({line.split()[0] for line in lines}))
    keep = [line for line in lines if level not in line]
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Drop the lines of {name} that contain {level}. Write the rest to {out}.",
                f"Write all lines without {level} from {name} into {out}.",
                f"Remove every {level} line of {name} and save the others as {out}.")  # fmt: skip
    wrong = ((f"grep {level} {name} > {out}",), (f"cat {name} > {out}",))
    return Draft(ask, files, (f"grep -v {level} {name} > {out}",), wrong, (_reads(out, keep),))


def count_matches(rng: random.Random) -> Draft:
    (name,), out, lines = v.file_names(rng, 1), v.output_name(rng), v.log_lines(rng)
    level = rng.choice(sorted({line.split()[0] for line in lines}))
    count = sum(level in line for line in lines)
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Count the lines of {name} that contain {level}. Write the number to {out}.",
                f"How many lines of {name} have {level}? Put the number in {out}.",
                f"Save the number of {level} lines of {name} as {out}.")  # fmt: skip
    wrong = ((f"grep {level} {name} > {out}",), (f"echo {count + 1} > {out}",))
    return Draft(ask, files, (f"grep -c {level} {name} > {out}",), wrong, (_reads(out, [str(count)]),))


def count_lines(rng: random.Random) -> Draft:
    (name,), out, lines = v.file_names(rng, 1), v.output_name(rng), v.word_lines(rng)
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Count the lines of {name}. Write the number to {out}.",
                f"How many lines has {name}? Put the number in {out}.",
                f"Save the line count of {name} as {out}.")  # fmt: skip
    wrong = ((f"wc -l {name} > {out}",), (f"cat {name} > {out}",))
    return Draft(ask, files, (f"wc -l < {name} > {out}",), wrong, (_reads(out, [str(len(lines))]),))


def sort_lines(rng: random.Random) -> Draft:
    (name,), out, lines = v.file_names(rng, 1), v.output_name(rng), v.word_lines(rng)
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Sort the lines of {name}. Write them to {out}.",
                f"Put the lines of {name} in order and save them as {out}.",
                f"Write a sorted copy of {name} into {out}.")  # fmt: skip
    wrong = ((f"sort -r {name} > {out}",), (f"cp {name} {out}",))
    return Draft(ask, files, (f"sort {name} > {out}",), wrong, (_reads(out, sorted(lines)),))


def sort_reverse(rng: random.Random) -> Draft:
    (name,), out, lines = v.file_names(rng, 1), v.output_name(rng), v.word_lines(rng, 3, 5)
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Sort the lines of {name} in reverse. Write them to {out}.",
                f"Put the lines of {name} in descending order and save them as {out}.",
                f"Write a reverse sorted copy of {name} into {out}.")  # fmt: skip
    wrong = ((f"sort {name} > {out}",), (f"cp {name} {out}",))
    return Draft(ask, files, (f"sort -r {name} > {out}",), wrong, (_reads(out, sorted(lines, reverse=True)),))


def dedupe(rng: random.Random) -> Draft:
    (name,), out, lines = v.file_names(rng, 1), v.output_name(rng), v.repeated_lines(rng)
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Sort {name} and remove repeated lines. Write the result to {out}.",
                f"Save every distinct line of {name} once, sorted, as {out}.",
                f"Write the unique sorted lines of {name} into {out}.")  # fmt: skip
    wrong = ((f"sort {name} > {out}",), (f"cp {name} {out}",))
    return Draft(ask, files, (f"sort -u {name} > {out}",), wrong, (_reads(out, sorted(set(lines))),))


def merge_files(rng: random.Random) -> Draft:
    (one, two), out = v.file_names(rng, 2), v.output_name(rng)
    first, second = v.word_lines(rng, 2, 4), v.word_lines(rng, 2, 4)
    files = dict(sorted({one: v.text(first), two: v.text(second)}.items()))
    ask = _pick(rng, f"Join {one} and {two}, in this order. Write the result to {out}.",
                f"Write {one} followed by {two} into {out}.",
                f"Merge {one} and then {two} into one file {out}.")  # fmt: skip
    wrong = ((f"cat {two} {one} > {out}",), (f"cat {one} > {out}",))
    return Draft(ask, files, (f"cat {one} {two} > {out}",), wrong, (_reads(out, [*first, *second]),))


def first_lines(rng: random.Random) -> Draft:
    (name,), out, lines = v.file_names(rng, 1), v.output_name(rng), v.word_lines(rng, 4, 5)
    count = rng.randint(1, 3)
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Write the first {count} lines of {name} to {out}.",
                f"Save the top {count} lines of {name} as {out}.",
                f"Take {count} lines from the start of {name} and put them in {out}.")  # fmt: skip
    wrong = ((f"tail -n {count} {name} > {out}",), (f"head -n {count + 1} {name} > {out}",))
    return Draft(ask, files, (f"head -n {count} {name} > {out}",), wrong, (_reads(out, lines[:count]),))


def extract_field(rng: random.Random) -> Draft:
    (stem,), out, lines = rng.sample(v.STEMS, 1), v.output_name(rng), v.record_lines(rng)
    name, column = f"{stem}.csv", rng.randint(1, 3)
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Write column {column} of {name} to {out}.",
                f"Extract field {column} of the comma separated {name} into {out}.",
                f"Save only column {column} of {name} as {out}.")  # fmt: skip
    wrong = ((f"cut -d, -f{column % 3 + 1} {name} > {out}",), (f"cat {name} > {out}",))
    keep = [line.split(",")[column - 1] for line in lines]
    return Draft(ask, files, (f"cut -d, -f{column} {name} > {out}",), wrong, (_reads(out, keep),))


def set_config(rng: random.Random) -> Draft:
    (stem,), (lines, keys) = rng.sample(v.STEMS, 1), v.config_lines(rng)
    name, key = f"{stem}.conf", rng.choice(keys)
    value = next(w for w in v.words(rng, 6) if f"{key}={w}" not in lines)
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Set {key} to {value} in {name}.",
                f"Change the value of {key} in {name} to {value}.",
                f"In {name} make {key} equal to {value}.")  # fmt: skip
    other = next(k for k in keys if k != key)
    new = [f"{key}={value}" if line.startswith(f"{key}=") else line for line in lines]
    gold = f"sed -i 's/^{key}=.*/{key}={value}/' {name}"
    wrong = ((f"sed -i 's/^{other}=.*/{other}={value}/' {name}",), (f"echo {key}={value} >> {name}",),
             (f"echo {key}={value} > {name}",))  # fmt: skip
    return Draft(ask, files, (gold,), wrong, (_reads(name, new),))


def upper_case(rng: random.Random) -> Draft:
    (name,), out, lines = v.file_names(rng, 1), v.output_name(rng), rng.sample(v.WORDS, rng.randint(2, 4))
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Write {name} in upper case to {out}.",
                f"Turn all letters of {name} into capitals and save it as {out}.",
                f"Save an upper case copy of {name} as {out}.")  # fmt: skip
    wrong = ((f"tr A-Z a-z < {name} > {out}",), (f"cp {name} {out}",))
    return Draft(ask, files, (f"tr a-z A-Z < {name} > {out}",), wrong, (_reads(out, [w.upper() for w in lines]),))


def append_log(rng: random.Random) -> Draft:
    (stem,), lines = rng.sample(v.STEMS, 1), v.log_lines(rng)[:4]
    name, entry = f"{stem}.log", f"{rng.choice(v.LEVELS)} {v.words(rng, 1)[0]}"
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Append the line {entry} to {name}.",
                f"Add {entry} at the end of {name}.",
                f"Log {entry} as a new last line of {name}.")  # fmt: skip
    wrong = ((f"echo {entry} > {name}",), (f"echo {entry.split()[1]} >> {name}",))
    return Draft(ask, files, (f"echo {entry} >> {name}",), wrong, (_reads(name, [*lines, entry]),))


def rename_file(rng: random.Random) -> Draft:
    old, new = v.file_names(rng, 2)
    lines = v.word_lines(rng, 2, 4)
    files, other = _with_other(rng, old, lines)
    if other == new:
        new = f"{rng.choice(v.OUTPUTS)}.txt"
    ask = _pick(rng, f"Rename {old} to {new}.", f"Give {old} the new name {new}.",
                f"Change the name of {old} to {new}.")  # fmt: skip
    left = sorted([new, other])
    wrong = ((f"cp {old} {new}",), (f"mv {other} {new}",), (f"rm {old}",))
    return Draft(ask, files, (f"mv {old} {new}",), wrong, (_reads(new, lines), _prints("ls", left, "listing")))


def rename_pattern(rng: random.Random) -> Draft:
    old, new = rng.sample(("txt", "md", "log", "dat", "csv"), 2)
    stems = sorted(rng.sample(v.STEMS, 3))
    moved, kept = stems[:2], stems[2]
    third = next(e for e in ("txt", "md", "log", "dat", "csv") if e not in (old, new))
    files = {f"{s}.{old}": v.text(v.word_lines(rng, 2, 2)) for s in moved} | {f"{kept}.{third}": "x\n"}
    ask = _pick(rng, f"Rename every .{old} file to .{new}.",
                f"Change the extension of all .{old} files to .{new}.",
                f"Give each .{old} file the ending .{new}.")  # fmt: skip
    gold = f"for f in *.{old}; do mv $f ${{f%.{old}}}.{new}; done"
    wrong = ((f"mv {moved[0]}.{old} {moved[0]}.{new}",), (f"for f in *.{old}; do cp $f ${{f%.{old}}}.{new}; done",))
    left = sorted([*(f"{s}.{new}" for s in moved), f"{kept}.{third}"])
    return Draft(ask, dict(sorted(files.items())), (gold,), wrong, (_prints("ls", left, "listing"),))


def make_tree(rng: random.Random) -> Draft:
    top, sub = rng.sample(v.FOLDERS, 2)
    (name,) = v.file_names(rng, 1)
    other = v.file_names(rng, 1)[0]
    files = {other: v.text(v.any_file(rng))}
    ask = _pick(rng, f"Create the folder {top} with a folder {sub} and in that an empty file {name}.",
                f"Make {top}/{sub} and an empty {name} inside it.",
                f"Build the tree {top}/{sub}/{name}, the file being empty.")  # fmt: skip
    gold = (f"mkdir -p {top}/{sub}", f"touch {top}/{sub}/{name}")
    wrong = ((f"mkdir -p {top}/{sub}",), (f"mkdir {top}", f"touch {top}/{name}"))
    checks = (_prints(f"ls {top}/{sub}", [name], "file"), _prints(f"ls {top}", [sub], "folder"))
    return Draft(ask, files, gold, wrong, checks)


def permissions(rng: random.Random) -> Draft:
    (name,), mode = v.file_names(rng, 1), rng.choice([m for m in v.MODES if m != "644"])
    files, other = _with_other(rng, name, v.word_lines(rng, 2, 3))
    ask = _pick(rng, f"Set the mode of {name} to {mode}.",
                f"Change the permissions of {name} to {mode}.",
                f"Give {name} the mode {mode}.")  # fmt: skip
    bad = rng.choice([m for m in v.MODES if m != mode])
    wrong = ((f"chmod {bad} {name}",), (f"chmod {mode} {other}",))
    return Draft(ask, files, (f"chmod {mode} {name}",), wrong, (_prints(f"stat -c %a {name}", [mode], "mode"),))


def archive(rng: random.Random) -> Draft:
    one, two, three = v.file_names(rng, 3)
    files = {n: v.text(v.word_lines(rng, 2, 2)) for n in sorted((one, two, three))}
    out = f"{rng.choice(v.FOLDERS)}.tar"
    ask = _pick(rng, f"Pack {one} and {two} into {out}.",
                f"Create the archive {out} from {one} and {two}.",
                f"Make a tar file {out} that holds {one} and {two}.")  # fmt: skip
    wrong = ((f"tar -cf {out} {one}",), (f"tar -cf {out} {one} {three}",))
    checks = (_prints(f"tar -tf {out}", [one, two], "members"),)
    return Draft(ask, files, (f"tar -cf {out} {one} {two}",), wrong, checks)


def find_delete(rng: random.Random) -> Draft:
    bad, good = rng.sample(("tmp", "log", "bak", "old", "txt"), 2)
    stems = sorted(rng.sample(v.STEMS, 4))
    goners, kept = stems[::2], stems[1::2]
    files = {f"{s}.{bad}": "x\n" for s in goners} | {f"{s}.{good}": v.text(v.word_lines(rng, 2, 2)) for s in kept}
    ask = _pick(rng, f"Delete every .{bad} file.", f"Remove all files that end in .{bad}.",
                f"Clean up: no .{bad} file may remain.")  # fmt: skip
    left = sorted(f"{s}.{good}" for s in kept)
    wrong = ((f"rm *.{good}",), (f"rm {goners[0]}.{bad}",))
    return Draft(ask, dict(sorted(files.items())), (f"rm *.{bad}",), wrong, (_prints("ls", left, "listing"),))


def fix_script(rng: random.Random) -> Draft:
    word = v.words(rng, 1)[0]
    name = f"{rng.choice(v.FOLDERS)}.sh"
    typo = rng.choice(v.MISSPELT)
    lines = [f"# prints {word}", f"{typo} {word}"]
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"The script {name} says {typo} where it means echo. Fix it.",
                f"Repair {name}: replace {typo} by echo.",
                f"Correct the typo {typo} in {name}, it should be echo.")  # fmt: skip
    wrong = ((f"sed -i 's/{typo}/print/' {name}",), (f"sed -i 's/{word}/echo/' {name}",))
    return Draft(ask, files, (f"sed -i 's/{typo}/echo/' {name}",), wrong, (_prints(f"bash {name}", [word], "runs"),))


def last_lines(rng: random.Random) -> Draft:
    (name,), out, lines = v.file_names(rng, 1), v.output_name(rng), v.word_lines(rng, 4, 5)
    count = rng.randint(1, 3)
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Write the last {count} lines of {name} to {out}.",
                f"Save the bottom {count} lines of {name} as {out}.")  # fmt: skip
    wrong = ((f"head -n {count} {name} > {out}",), (f"cat {name} > {out}",))
    return Draft(ask, files, (f"tail -n {count} {name} > {out}",), wrong, (_reads(out, lines[-count:]),))


def back_up(rng: random.Random) -> Draft:
    (name,), lines = v.file_names(rng, 1), v.word_lines(rng, 2, 4)
    files, other = _with_other(rng, name, lines)
    ask = _pick(rng, f"Make a copy of {name} called {name}.bak.", f"Back up {name} as {name}.bak.")
    left = sorted([name, f"{name}.bak", other])
    wrong = ((f"mv {name} {name}.bak",), (f"touch {name}.bak",))
    checks = (_reads(f"{name}.bak", lines), _prints("ls", left, "listing"))
    return Draft(ask, files, (f"cp {name} {name}.bak",), wrong, checks)


def move_into(rng: random.Random) -> Draft:
    (name,), folder = v.file_names(rng, 1), rng.choice(v.FOLDERS)
    files, other = _with_other(rng, name, v.word_lines(rng, 2, 4))
    ask = _pick(rng, f"Create a folder {folder} and move {name} into it.",
                f"Move {name} into a new folder {folder}.")  # fmt: skip
    wrong = ((f"mkdir {folder}", f"cp {name} {folder}"), (f"mv {name} {folder}",))
    checks = (_prints(f"ls {folder}", [name], "moved"), _prints("ls", sorted([folder, other]), "listing"))
    return Draft(ask, files, (f"mkdir {folder}", f"mv {name} {folder}"), wrong, checks)


def delete_lines(rng: random.Random) -> Draft:
    (name,), lines = v.file_names(rng, 1), v.log_lines(rng)
    level = rng.choice(sorted({line.split()[0] for line in lines}))
    files, _ = _with_other(rng, name, lines)
    ask = _pick(rng, f"Delete the {level} lines from {name} itself.", f"Take every line with {level} out of {name}.")
    wrong = ((f"sed -i '/{level}/!d' {name}",), (f"grep -v {level} {name}",))
    keep = [line for line in lines if level not in line]
    return Draft(ask, files, (f"sed -i '/{level}/d' {name}",), wrong, (_reads(name, keep),))


TRAIN: dict[str, Family] = {
    f.__name__: f
    for f in (
        filter_lines,
        exclude_lines,
        count_matches,
        count_lines,
        sort_lines,
        sort_reverse,
        dedupe,
        merge_files,
        first_lines,
        extract_field,
        set_config,
        upper_case,
        append_log,
        rename_file,
        rename_pattern,
        make_tree,
        permissions,
        archive,
        find_delete,
        fix_script,
    )
}
HELD_OUT: dict[str, Family] = {f.__name__: f for f in (last_lines, back_up, move_into, delete_lines)}
FAMILIES: dict[str, Family] = TRAIN | HELD_OUT
