"""The families of desktop tasks over spreadsheets and letters.

Owns: instruction, initial documents, known good and wrong ways, checks. Refuses: ids, running checks.
"""

from __future__ import annotations

import copy
import random
from typing import Any

from rollout.types import Check, Predicate
from worldmodel.domains.os.drafts import (
    ITEMS,
    LINES,
    PEOPLE,
    SAVE,
    Draft,
    Family,
    block,
    holds_data,
    holds_text,
    keys,
    lines,
    listed,
    name,
    saved,
    state,
    table,
    typed,
)  # fmt: skip
from worldmodel.domains.os.grammar import probe_file


def _cell(place: tuple[int, int]) -> str:
    """Move to row and column, counted from 0."""
    row, column = place
    moves = [keys("ctrl", "home")]
    moves += [keys(f"down*{row}")] if row else []
    moves += [keys(f"right*{column}")] if column else []
    return block(*moves)


def sheet_cell(rng: random.Random) -> Draft:
    rows, path = table(rng, 4), name(rng, "ods")
    row, value = rng.randrange(1, 5), rng.randrange(61, 99)
    wanted = copy.deepcopy(rows)
    wanted[row][1] = value
    item = rows[row][0]
    ask = f"In the spreadsheet {path}, set the number of {item} to {value} and save it."

    def way(to: tuple[int, int], save: str = SAVE) -> tuple[str, ...]:
        return f"open_app('calc', {path!r})", block(_cell(to), typed(str(value)), keys("enter")), save

    return Draft(
        ask, state(documents={path: {"Sheet1": rows}}, office=True), way((row, 1)),
        (way((row, 2)), way((row, 1), "print('done')")), (holds_data(path, {"Sheet1": wanted}),),
    )  # fmt: skip


def sheet_row(rng: random.Random) -> Draft:
    rows, path = table(rng, 3), name(rng, "ods")
    item = rng.choice([item for item in ITEMS if item not in {row[0] for row in rows}])
    new: list[Any] = [item, rng.randrange(2, 60), rng.randrange(4, 200) / 4]
    ask = f"Add a row to {path}, below the last one: {item}, number {new[1]}, price {new[2]}. Save it as .ods."

    def way(values: list[Any]) -> tuple[str, ...]:
        row = [part for value in values for part in (typed(str(value)), keys("tab"))]
        return f"open_app('calc', {path!r})", block(_cell((4, 0)), *row), SAVE

    return Draft(
        ask, state(documents={path: {"Sheet1": rows}}, office=True), way(new),
        (way([item, new[2], new[1]]) if new[1] != new[2] else way([item]), way(new[:2])),
        (holds_data(path, {"Sheet1": [*rows, new]}),),
    )  # fmt: skip


def sheet_formula(rng: random.Random) -> Draft:
    rows, path = table(rng, 4), name(rng, "ods")
    total = sum(row[1] for row in rows[1:])
    ask = f"Put a formula with SUM into cell B6 of {path} that adds B2 to B5, and save the spreadsheet."

    def way(text: str) -> tuple[str, ...]:
        return f"open_app('calc', {path!r})", block(_cell((5, 1)), typed(text), keys("enter")), SAVE

    check = Check("formula", (probe_file(path),), Predicate("regex", rf"^B6: {total} =SUM\(B2:B5\)$"))
    return Draft(
        ask, state(documents={path: {"Sheet1": rows}}, office=True), way("=SUM(B2:B5)"),
        (way(str(total)), way("=SUM(B2:B4)")), (check,),
    )  # fmt: skip


def sheet_read(rng: random.Random) -> Draft:
    rows, path, target = table(rng, 5), name(rng, "ods"), name(rng)
    item, _, price = rng.choice(rows[1:])
    ask = f"Look up the price of {item} in the spreadsheet {path} and write it into {target}, as a plain number."
    gold = block(
        f"lines = content({path!r}).splitlines()",
        f"found = next(line for line in lines if line.endswith(' {item}'))",
        "cell = found.split(':')[0].replace('A', 'C')",
        "price = next(line.split(': ')[1] for line in lines if line.startswith(cell + ': '))",
        f"open({target!r}, 'w').write(price)",
    )
    return Draft(
        ask, state(documents={path: {"Sheet1": rows}}), (gold,),
        ((saved(target, str(price + 1)),), (gold.replace("'C'", "'B'"),)),
        (Check("price", (probe_file(target),), Predicate("regex", rf"\A{price:.10g}(\.?0*)\s*\Z")),),
    )  # fmt: skip


def letter_append(rng: random.Random) -> Draft:
    path, text = name(rng, "odt"), [f"# Letter to {rng.choice(PEOPLE)}", *lines(rng, 2)]
    new, other = rng.sample([line for line in LINES if line not in text], 2)
    ask = f"Add a paragraph '{new}' at the end of the letter {path}, in Writer, and save it."

    def way(line: str, save: str = SAVE) -> tuple[str, ...]:
        return f"open_app('writer', {path!r})", block(keys("ctrl", "end"), keys("enter"), typed(line)), save

    return Draft(
        ask, state(documents={path: text}, office=True), way(new), (way(other), way(new, "print('done')")),
        (Check("text", (probe_file(path),), Predicate("regex", _same_text([*text, new]))),),
    )  # fmt: skip


def _same_text(paragraphs: list[str]) -> str:
    """Writer begins a typed sentence with a capital letter by itself: either is right."""

    def either(text: str) -> str:
        first = f"[{text[0].lower()}{text[0].upper()}]" if text[0].isalpha() else _escaped(text[0])
        return first + "".join(map(_escaped, text[1:]))

    return r"\A" + "\n".join(map(either, paragraphs)) + r"\s*\Z"


def _escaped(character: str) -> str:
    return character if character.isalnum() or character == " " else "\\" + character


def letter_bold(rng: random.Random) -> Draft:
    path, text = name(rng, "odt"), lines(rng, 3)
    which = rng.randrange(3)
    ask = f"In the document {path}, make the whole paragraph '{text[which]}' bold, nothing else, and save it."

    def way(index: int, style: str) -> tuple[str, ...]:
        moves = [keys("ctrl", "home"), *([keys(f"down*{index}")] if index else []), keys("home"), keys("shift", "end")]
        return f"open_app('writer', {path!r})", block(*moves, keys("ctrl", style)), SAVE

    wanted = [f"**{line}**" if i == which else line for i, line in enumerate(text)]
    return Draft(
        ask, state(documents={path: text}, office=True), way(which, "b"), (way((which + 1) % 3, "b"), way(which, "i")),
        (holds_data(path, wanted),),
    )  # fmt: skip


def letter_title(rng: random.Random) -> Draft:
    title = f"Letter to {rng.choice(PEOPLE)}"
    path, target, text = name(rng, "odt"), name(rng), [f"# {title}", *lines(rng, 3)]
    ask = f"Write the heading of the document {path}, without marks, into a new file {target}."
    gold = f"title = content({path!r}).splitlines()[0]\nopen({target!r}, 'w').write(title.lstrip('# ') + '\\n')"
    return Draft(
        ask, state(documents={path: text}), (gold,),
        ((gold.replace(".lstrip('# ')", ""),), (gold.replace("[0]", "[1]"),)),
        (holds_text(target, title), listed(path, target)),
    )  # fmt: skip


OFFICE: dict[str, Family] = {
    family.__name__: family
    for family in (sheet_read, letter_title, sheet_cell, letter_append, sheet_row, letter_bold, sheet_formula)
}
