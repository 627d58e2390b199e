"""Web tasks: seeded generation and the split.

Owns: ids, seeds, turn limits, which families are held out. Refuses: running tasks, and MiniWoB++ (``miniwob``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import get_args

from rollout.errors import TaskError
from rollout.seeds import derive_seed
from rollout.types import Reference, Task, World
from worldmodel.domains.web import families_forum as forum
from worldmodel.domains.web import families_shop as shop
from worldmodel.domains.web import families_wiki as wiki
from worldmodel.domains.web.drafts import Family
from worldmodel.tasks import Split

MAX_TURNS = 20  # equal for all tasks, so that it tells nothing; the longest gold behaviour is proved to fit
_TRAIN: dict[str, tuple[Family, ...]] = {
    "shop": (shop.add_to_cart, shop.cheapest, shop.change_quantity, shop.remove_item, shop.price_of,
             shop.colour_and_stock, shop.write_review, shop.change_address, shop.order_cart),
    "forum": (forum.reply, forum.new_thread, forum.edit_post, forum.delete_post, forum.vote, forum.who_started,
              forum.most_votes),
    "wiki": (wiki.fact, wiki.last_author, wiki.edit_fact, wiki.create_page, wiki.restore_version, wiki.watch_page),
}  # fmt: skip
_HELD_OUT: dict[str, tuple[Family, ...]] = {
    "shop": (shop.order_gift,), "forum": (forum.send_message,), "wiki": (wiki.compare, wiki.rename_page),
}  # fmt: skip


def _named(table: dict[str, tuple[Family, ...]]) -> dict[str, Family]:
    return {f"{site}_{family.__name__}": family for site, families in table.items() for family in families}


TRAIN, HELD_OUT = tuple(_named(_TRAIN)), tuple(_named(_HELD_OUT))
FAMILIES = {**_named(_TRAIN), **_named(_HELD_OUT)}


def generate(split: Split, count: int, seed: int, families: Sequence[str] | None = None) -> list[Task]:
    """``count`` tasks, families in rotation. Equal arguments give equal tasks; splits never share a seed."""
    names = list(families or (HELD_OUT if split == "family" else TRAIN))
    return [make(names[i % len(names)], split, seed, i) for i in range(count)]


def make(family: str, split: Split, seed: int, index: int) -> Task:
    """One task. Raises TaskError for an unknown family or split."""
    if family not in FAMILIES:
        raise TaskError(f"unknown web family '{family}'; known: {', '.join(sorted(FAMILIES))}")
    if split not in get_args(Split):
        raise TaskError(f"unknown split '{split}'; known: {', '.join(get_args(Split))}")
    task_seed = derive_seed("web", split, seed, family, index)
    draft = FAMILIES[family](random.Random(task_seed))
    return Task(
        id=f"{family}-{split}-{seed}-{index}", domain="web", family=family, split=split,
        instruction=draft.instruction, world=World(state=draft.state), checks=draft.checks,
        reference=Reference(draft.gold, draft.wrong), max_turns=MAX_TURNS, seed=task_seed,
    )  # fmt: skip
