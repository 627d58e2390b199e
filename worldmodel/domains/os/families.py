"""The families of desktop tasks over files, editor, calculator and file manager: one small seeded function each.

Owns: instruction, initial files, known good and wrong ways, checks; the split by family.
Refuses: ids, running checks, and the office suite (``families_office``).
"""

from __future__ import annotations

import random

from worldmodel.domains.os.drafts import (
    FOLDERS,
    KINDS,
    LINES,
    SAVE,
    STEMS,
    Draft,
    Family,
    block,
    displayed,
    edit,
    holds_text,
    keys,
    lines,
    listed,
    name,
    names,
    reckoned,
    saved,
    state,
    table,
    typed,
)  # fmt: skip
from worldmodel.domains.os.families_office import OFFICE


def editor_append(rng: random.Random) -> Draft:
    path, text = name(rng), lines(rng, 3)
    new, other = rng.sample([line for line in LINES if line not in text], 2)
    ask = f"Open {path} in the editor, add the line '{new}' at its end and save it."
    before = "\n".join(text)

    def way(line: str) -> tuple[str, str]:
        return block(edit(path), keys("ctrl", "end"), keys("enter"), typed(line)), SAVE

    return Draft(
        ask, state({path: before}), way(new), (way(other), way(new)[:1]),
        (holds_text(path, "\n".join([*text, new])), listed(path)),
    )  # fmt: skip


def editor_rewrite(rng: random.Random) -> Draft:
    path, (old, new, other) = name(rng), lines(rng, 3)
    ask = f"Replace everything in {path} by the single line '{new}', with the editor."

    def way(line: str) -> tuple[str, str]:
        return edit(path), block(keys("ctrl", "a"), typed(line), SAVE)

    return Draft(
        ask, state({path: f"{old}\n{other}\n"}), way(new), (way(other), (edit(path), typed(new))),
        (holds_text(path, new), listed(path)),
    )  # fmt: skip


def editor_new(rng: random.Random) -> Draft:
    path, other = names(rng, 2)
    line = rng.choice(LINES)
    ask = f"Write a new file {path} in the home folder that holds the line '{line}'."

    def way(target: str, button: str = "Save") -> tuple[str, ...]:
        where = f"/home/user/{target}"
        return (
            block("open_app('editor')", typed(line)),
            block(SAVE, "wait_for('Name:')", keys("ctrl", "a"), typed(where), f"click({button!r}, 'push button')"),
        )

    return Draft(ask, state(), way(path), (way(other), way(path, "Cancel")), (holds_text(path, line), listed(path)))


def calculator_product(rng: random.Random) -> Draft:
    a, b, c = rng.randrange(12, 99), rng.randrange(12, 99), rng.randrange(100, 999)
    ask = f"The calculator is open. Work out {a} * {b} + {c} in it and leave the result in its display."

    def way(text: str) -> tuple[str, ...]:
        return (block("click('AC')", reckoned(text), keys("enter")),)

    right = a * b + c
    return Draft(
        ask, state(calculator=True), way(f"{a}*{b}+{c}"), (way(f"{a}*{b}-{c}"), (f"print({right})",)),
        (displayed(str(right)),),
    )  # fmt: skip


def calculator_buttons(rng: random.Random) -> Draft:
    a, b = rng.randrange(100, 999), rng.randrange(100, 999)
    ask = f"Add {a} and {b} on the calculator that is open. The sum must be shown at the end."

    def way(operator: str, *last: str) -> tuple[str, ...]:
        pressed = [*str(a), operator, *str(b), *last]
        return "click('AC')", block(*(f"click({button!r})" for button in pressed))

    return Draft(
        ask, state(calculator=True), way("+", "="), (way("-", "="), way("+", "=", "C")), (displayed(str(a + b)),)
    )


def calculator_to_file(rng: random.Random) -> Draft:
    a, b, path = rng.randrange(120, 999), rng.randrange(12, 99), name(rng)
    ask = f"Multiply {a} by {b} with the calculator, then write the result into {path}."
    gold = block("click('AC')", reckoned(f"{a}*{b}"), keys("enter"))
    return Draft(
        ask, state(calculator=True), (gold, saved(path, f"{a * b}\n")),
        ((gold,), (gold, saved(path, f"{a * b + 10}\n"))),
        (holds_text(path, str(a * b)), displayed(str(a * b))),
    )  # fmt: skip


def manager_folder(rng: random.Random) -> Draft:
    new, other = (f"{folder}{rng.randrange(1, 100)}" for folder in rng.sample(FOLDERS, 2))
    path = name(rng)
    ask = f"Make a folder called {new} in the home folder, with the file manager."

    def way(folder: str, last: str) -> tuple[str, ...]:
        named = block(keys("ctrl", "shift", "n"), "wait_for('Create')", keys("ctrl", "a"), typed(folder), keys(last))
        return "open_app('files')", named

    return Draft(
        ask, state({path: "x\n"}), way(new, "enter"), (way(other, "enter"), way(new, "esc")), (listed(path, f"{new}/"),)
    )


def manager_rename(rng: random.Random) -> Draft:
    old, new, other = names(rng, 3)
    line = rng.choice(LINES)
    ask = f"Rename {old} to {new} in the file manager."

    def way(to: str, last: str) -> tuple[str, ...]:
        renamed = block(f"click({old!r})", keys("f2"), "wait_for('Rename')", keys("ctrl", "a"), typed(to), keys(last))
        return "open_app('files')", renamed

    return Draft(
        ask, state({old: f"{line}\n"}), way(new, "enter"), (way(other, "enter"), way(new, "esc")),
        (listed(new), holds_text(new, line)),
    )  # fmt: skip


def move_file(rng: random.Random) -> Draft:
    first, second = names(rng, 2)
    folder, other = rng.sample(FOLDERS, 2)
    files = {path: f"{line}\n" for path, line in zip((first, second), lines(rng, 2), strict=True)}
    ask = f"Move {first} into the folder {folder}."
    return Draft(
        ask, state(files, dirs=[folder, other]), (f"os.rename({first!r}, {f'{folder}/{first}'!r})",),
        (
            (f"os.rename({first!r}, {f'{other}/{first}'!r})",),
            (f"import shutil\nshutil.copy({first!r}, {f'{folder}/{first}'!r})",),
        ),
        (listed(f"{folder}/", f"{other}/", f"{folder}/{first}", second),),
    )  # fmt: skip


def delete_by_kind(rng: random.Random) -> Draft:
    folder, kind = rng.choice(FOLDERS), rng.choice(KINDS)
    keep, drop = names(rng, 2), [f"{stem}.{kind}" for stem in rng.sample(STEMS, rng.randrange(2, 4))]
    outside = f"{rng.choice(STEMS)}.{kind}"
    inside = [f"{folder}/{path}" for path in (*keep, *drop)]
    files = {path: f"{rng.choice(LINES)}\n" for path in (outside, *inside)}
    ask = f"Delete every file in the folder {folder} whose name ends in .{kind} and keep all others."
    gold = (
        f"for name in os.listdir({folder!r}):\n    if name.endswith('.{kind}'):\n        os.remove('{folder}/' + name)"
    )
    everything = f"for name in os.listdir({folder!r}):\n    os.remove('{folder}/' + name)"
    return Draft(
        ask, state(files), (gold,), ((everything,), (f"os.remove('{folder}/{drop[0]}')",)),
        (listed(outside, f"{folder}/", *(f"{folder}/{path}" for path in keep)),),
    )  # fmt: skip


def sum_csv(rng: random.Random) -> Draft:
    rows, (path, target) = table(rng, 5), (name(rng, "csv"), name(rng))
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    total = sum(row[1] for row in rows[1:])
    ask = f"{path} lists items. Write the sum of its column Number into {target}, as a plain number."
    gold = block(
        "import csv", f"rows = list(csv.DictReader(open({path!r})))",
        f"with open({target!r}, 'w') as f:\n    f.write(str(sum(int(row['Number']) for row in rows)))",
    )  # fmt: skip
    wrong = (saved(target, str(len(rows) - 1)),), (gold.replace("'Number'", "'Price'").replace("int(", "float("),)
    return Draft(ask, state({path: text}), (gold,), wrong, (holds_text(target, str(total)), holds_text(path, text)))


def sort_lines(rng: random.Random) -> Draft:
    path, text = name(rng), lines(rng, 6)
    ask = f"Sort the lines of {path} from A to Z, in the same file."
    gold = f"text = sorted(open({path!r}).read().splitlines())\nopen({path!r}, 'w').write('\\n'.join(text) + '\\n')"
    text = [line for line in text if text != sorted(text)] or text[::-1]
    backwards = gold.replace("splitlines())", "splitlines(), reverse=True)")
    elsewhere = gold.replace(f"open({path!r}, 'w')", "open('sorted.txt', 'w')")
    return Draft(
        ask, state({path: "\n".join(text) + "\n"}), (gold,), ((backwards,), (elsewhere,)),
        (holds_text(path, "\n".join(sorted(text))), listed(path)),
    )  # fmt: skip


PLAIN: dict[str, Family] = {
    family.__name__: family
    for family in (
        editor_append, sum_csv, calculator_product, manager_folder, editor_rewrite, delete_by_kind, editor_new,
        calculator_buttons, manager_rename, move_file, calculator_to_file, sort_lines,
    )
}  # fmt: skip
FAMILIES: dict[str, Family] = {**PLAIN, **OFFICE}
HELD_OUT = ("move_file", "calculator_to_file", "sort_lines", "sheet_formula")
TRAIN = tuple(family for family in FAMILIES if family not in HELD_OUT)
