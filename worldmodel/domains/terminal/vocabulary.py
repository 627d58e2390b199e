"""Words, names and small files from which terminal tasks are made.

Owns: the seeded material (words, file names, file contents). Refuses: instructions, commands, checks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

WORDS = tuple(
    """
    amber apple arrow atlas bacon badge baker basil beach berry birch bison blade bloom board bonus brick
    brook brush cabin cable camel candy cargo cedar chalk charm chess cider clamp clay cliff cloud clover coast
    cobalt comet copper coral cotton crane creek crown daisy delta denim desk dingo dove dragon drum eagle earth
    easel ebony elbow elder ember epoch fable falcon fern fiber field finch flame flint flora forge fossil
    frost garlic gecko ginger glade globe grape gravel grove guitar hammer harbor hazel heron hinge honey hotel
    igloo indigo iris island ivory jacket jade jasper jewel jolly juice kayak kettle kiosk kiwi knight koala
    ladder lagoon laser lemon lever lilac linen lotus lunar magnet mango maple marble meadow melon mesa mint
    moss motor nectar needle nickel ninja noble north novel nylon oasis ocean olive onyx opal orbit orchid otter
    panda paper pebble pepper piano pilot pine planet plum poppy quartz queen quill quota rabbit radar rapid
    raven reef ribbon river robin rocket rose saddle sage salmon satin scarf shell silver slate snow spruce
    steel stone sugar table talon tango teal thorn tiger timber topaz torch tulip umber union urban valley vapor
    velvet violet vista walnut water wheat willow winter wolf yacht yarn yellow zebra zinc
    """.split()
)
STEMS = ("notes", "items", "data", "list", "names", "stock", "cities", "fruits", "users", "orders", "books",
         "tools", "plan", "team", "parts", "songs")  # fmt: skip
OUTPUTS = ("out", "result", "report", "final", "answer", "summary", "clean", "new")
FOLDERS = ("docs", "src", "backup", "archive", "build", "assets", "logs", "work", "media", "store")
KEYS = ("host", "port", "mode", "color", "level", "user", "theme", "limit", "cache", "region")
LEVELS = ("info", "warn", "error", "debug")
MODES = ("600", "640", "644", "700", "750", "755", "444", "400")
EXTENSIONS = ("txt", "md", "log", "dat", "csv", "tmp", "bak", "old", "conf", "sh")
MISSPELT = ("ecoh", "ehco", "eco", "echoo", "cho")  # for echo
_SYLLABLES = ("ba", "ko", "ri", "zu", "me", "la", "to", "vi", "ne", "su", "da", "po", "xi", "wu", "fe", "gy")


def words(rng: random.Random, count: int) -> list[str]:
    """``count`` distinct words; about one in twelve is an invented one that no list holds."""
    chosen = rng.sample(WORDS, count)
    return [coined(rng) if rng.random() < 0.08 else word for word in chosen]


def coined(rng: random.Random) -> str:
    """An invented word, so that copying cannot be replaced by remembering."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 3))) + str(rng.randint(1, 9))


def file_names(rng: random.Random, count: int, extension: str = "txt") -> list[str]:
    """``count`` distinct file names."""
    return [f"{stem}.{extension}" for stem in rng.sample(STEMS, count)]


def output_name(rng: random.Random) -> str:
    return f"{rng.choice(OUTPUTS)}.txt"


def text(lines: Sequence[str]) -> str:
    """Lines as file content, each ended by a newline."""
    return "".join(f"{line}\n" for line in lines)


def word_lines(rng: random.Random, low: int = 3, high: int = 5) -> list[str]:
    """Distinct single words, a line each; three or more are in neither sorted nor reverse order."""
    while True:
        lines = words(rng, rng.randint(low, high))
        if len(lines) < 3 or lines not in (sorted(lines), sorted(lines, reverse=True)):
            return lines


def repeated_lines(rng: random.Random) -> list[str]:
    """Words with at least one repetition, neighbours differing."""
    base = words(rng, rng.randint(2, 3))
    while True:
        lines = [rng.choice(base) for _ in range(rng.randint(4, 5))]
        if len(set(lines)) < len(lines) and len(set(lines)) > 1 and lines != sorted(lines):
            return lines


def record_lines(rng: random.Random) -> list[str]:
    """``word,word,number`` records."""
    count = rng.randint(3, 4)
    first, second = words(rng, count), words(rng, count)
    return [f"{a},{b},{rng.randint(10, 99)}" for a, b in zip(first, second, strict=True)]


def log_lines(rng: random.Random) -> list[str]:
    """``level word`` lines over two or three levels; at least two lines share the first one."""
    levels = rng.sample(LEVELS, rng.randint(2, 3))
    count = rng.randint(4, 5)
    chosen = [levels[0], levels[0], *levels[1:], *(rng.choice(levels) for _ in range(count - 1 - len(levels)))]
    rng.shuffle(chosen)
    return [f"{level} {word}" for level, word in zip(chosen, words(rng, len(chosen)), strict=True)]


def config_lines(rng: random.Random) -> tuple[list[str], list[str]]:
    """(``key=value`` lines, keys)."""
    keys = rng.sample(KEYS, rng.randint(3, 4))
    values = [str(rng.randint(10, 99)) if rng.random() < 0.4 else rng.choice(WORDS) for _ in keys]
    return [f"{k}={v}" for k, v in zip(keys, values, strict=True)], keys


def any_file(rng: random.Random) -> list[str]:
    """The content of a file that is not the subject of the task."""
    kind = rng.randrange(4)
    if kind == 0:
        return word_lines(rng, 2, 4)
    if kind == 1:
        return record_lines(rng)[:3]
    if kind == 2:
        return log_lines(rng)[:4]
    return config_lines(rng)[0]
