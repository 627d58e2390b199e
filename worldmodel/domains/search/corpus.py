"""The corpus of the search domain: pages and their BM25 index, in a folder of the user's cache.

Owns: that folder (built whole or not at all, checked against its manifest at every load), tokens and ranking.
Refuses: what pages say (``pages``). Nothing here is committed or fetched: it follows from the installed packages.

A folder is written beside its final name and renamed; its ``manifest.json``, written last, holds a SHA-256 of every
file. A folder that does not match is built again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from rollout.errors import ConfigError
from worldmodel.domains.search import facts as tables
from worldmodel.domains.search import pages as texts
from worldmodel.domains.search.facts import Facts, fold
from worldmodel.domains.search.pages import RESULTS, Page
from worldmodel.installed import folder

LAYOUT = 1  # of the folder and of the pages: a change of either makes another folder
MANIFEST = "manifest.json"
NAME_WEIGHT = 8  # more occurrences of a page's name than the page has
STALE = 3600.0  # seconds after which the unfinished folder of a killed build is removed
COMMON = frozenset("a an and are as at by for from has have in is it of on or that the to was what which with".split())
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Corpus:
    """Pages, by URL and ranked. Shared by all episodes of a process; read-only."""

    version: str
    facts: Facts = field(repr=False)
    pages: tuple[Page, ...] = field(repr=False)
    urls: Mapping[str, Page] = field(repr=False)
    ranker: Any  # bm25s.BM25

    def search(self, query: str, most: int = RESULTS) -> list[Page]:
        """The pages that share a word with ``query``, best first; ties in the order of the corpus."""
        words = tokens(query)
        if not words:
            return []
        scores = self.ranker.get_scores(words)
        order = (-scores).argsort(kind="stable")[:most]
        return [self.pages[place] for place in order if scores[place] > 0]


def tokens(text: str) -> list[str]:
    """Words without case, accents and the commonest English ones."""
    return [word for word in re.findall(r"\w+", fold(text)) if word not in COMMON]


def home() -> Path:
    """Where this machine's corpora are."""
    return folder("search")


def version() -> str:
    """Identity of the corpus that the installed packages make. Raises ConfigError where one is missing."""
    if lacking := tables.missing():
        raise ConfigError(f"search: missing {lacking}")
    named = {name: metadata.version(name) for name in tables.PACKAGES}
    digest = hashlib.sha256(json.dumps([LAYOUT, named], sort_keys=True).encode()).hexdigest()[:12]
    return f"atlas-{LAYOUT}-{digest}"


def load() -> Corpus:
    """The corpus, built at the first call on this machine (seconds) and read once a process.

    Raises:
        ConfigError: a package is missing.
        OSError: the cache folder cannot be written or read.
    """
    with _lock:
        return _loaded(home())


@cache
def _loaded(parent: Path) -> Corpus:
    folder = parent / version()
    ensure(folder, lambda: _files_of_facts(tables.read()))
    return _open(folder)


def _files_of_facts(facts: Facts) -> tuple[str, list[Page]]:
    return tables.to_json(facts), texts.make(facts)


def ensure(folder: Path, make: Callable[[], tuple[str, list[Page]]]) -> bool:
    """Make ``folder`` exist, whole. ``make`` gives the facts as JSON and the pages. Returns whether it was called.
    Several processes may build at once: the first that is done is kept."""
    if intact(folder):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    beside = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        _write(beside, *make())
        _publish(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return True


def intact(folder: Path) -> bool:
    """Whether every file is there as the manifest has it."""
    try:
        wanted = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return bool(wanted) and all(_digest(folder / name) == digest for name, digest in wanted.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write(folder: Path, facts: str, found: Sequence[Page]) -> None:
    (folder / "facts.json").write_text(facts, encoding="utf-8")
    rows = "".join(json.dumps(asdict(page), ensure_ascii=False) + "\n" for page in found)
    (folder / "pages.jsonl").write_text(rows, encoding="utf-8")
    ranker = import_module("bm25s").BM25()
    ranker.index([tokens(_indexed(page)) for page in found], show_progress=False)
    ranker.save(str(folder / "index"))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: _digest(folder / name) for name in names}
    (folder / MANIFEST).write_text(json.dumps({"layout": LAYOUT, "files": files}, indent=1), encoding="utf-8")


def _indexed(page: Page) -> str:
    """What of a page is indexed: all but its address and date; the name in its title counts several times."""
    name = re.split(r", | \(", page.title)[0]
    body = [line for line in page.text.split("\n") if not line.startswith(("Source: ", "Date: "))]
    return "\n".join([name] * NAME_WEIGHT + body)


def _publish(beside: Path, folder: Path) -> None:
    """Rename; where a folder is in the way, keep it if it is whole, else replace it."""
    try:
        beside.rename(folder)
    except OSError:
        if intact(folder):
            return
        broken = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
        folder.rename(broken / "broken")
        beside.rename(folder)
        shutil.rmtree(broken, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what killed builds left behind."""
    for path in parent.glob(".building-*"):
        if _age(path) > STALE:
            shutil.rmtree(path, ignore_errors=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _open(folder: Path) -> Corpus:
    facts = tables.from_json((folder / "facts.json").read_text(encoding="utf-8"))
    # Not splitlines: a page may hold a rare line separator.
    rows = (folder / "pages.jsonl").read_text(encoding="utf-8").split("\n")
    found = tuple(Page(**json.loads(row)) for row in rows if row)
    ranker = import_module("bm25s").BM25.load(str(folder / "index"))
    return Corpus(folder.name, facts, found, by_url(found), ranker)


def by_url(found: Iterable[Page]) -> dict[str, Page]:
    return {page.url: page for page in found}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
