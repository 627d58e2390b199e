"""Runs inside a box: reading, editing, listing and searching files, and handing over sources, in JSON lines.

Owns: what each tool prints. The standard library alone. Refuses: anything but regular files (a pipe would hold it up),
and following links where sources are handed over.

Request: {"root": folder that paths are relative to, "name": tool, "arguments": {...}}. Reply: {"text": ...}, and for
``sources`` {"files": {path: text}}.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from typing import Any

MAX_LINES, MAX_WIDTH, MAX_ENTRIES, MAX_HITS = 200, 400, 200, 50
MAX_FILE = 2 * 1024 * 1024  # bytes
MAX_SOURCES, MAX_SOURCE_BYTES = 200, 4 * 1024 * 1024
SKIPPED = (".git", "__pycache__")


class Failed(Exception):
    """What a tool says instead of doing it."""


def load(path: str, shown: str) -> str:
    """The text of a regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(f"Error: {shown}: {error.strerror}") from None
    with open(fd, "rb") as stream:
        facts = os.fstat(fd)
        if stat.S_ISDIR(facts.st_mode):
            raise Failed(f"Error: {shown}: Is a directory")
        if not stat.S_ISREG(facts.st_mode):
            raise Failed(f"Error: {shown}: not a regular file")
        if facts.st_size > MAX_FILE:
            raise Failed(f"Error: {shown}: larger than {MAX_FILE} bytes")
        content = stream.read(MAX_FILE)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Failed(f"Error: {shown}: not a text file") from None


def read(root: str, arguments: dict[str, Any]) -> str:
    lines = load(os.path.join(root, arguments["path"]), arguments["path"]).split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    first = arguments.get("start", 1)
    last = min(arguments.get("end", len(lines)), len(lines), first + MAX_LINES - 1)
    if not lines:
        return "[empty file]"
    if first > len(lines):
        raise Failed(f"Error: {arguments['path']} has {len(lines)} lines")
    shown = [f"{number:>5}  {cut(lines[number - 1])}".rstrip() for number in range(first, last + 1)]
    whole = first == 1 and last == len(lines)
    return "\n".join(shown if whole else [*shown, f"[lines {first}-{last} of {len(lines)}]"])


def cut(line: str) -> str:
    return line if len(line) <= MAX_WIDTH else line[:MAX_WIDTH] + "..."


def edit(root: str, arguments: dict[str, Any]) -> str:
    name, old, new = arguments["path"], arguments["old"], arguments["new"]
    path = os.path.join(root, name)
    if not old:
        return create(path, name, new)
    text = load(path, name)
    count = text.count(old)
    if count != 1:
        raise Failed(f"Error: {name}: old occurs {count} times; it must occur once")
    try:
        with open(path, "w", encoding="utf-8", newline="") as stream:
            stream.write(text.replace(old, new))
    except OSError as error:
        raise Failed(f"Error: {name}: {error.strerror}") from None
    return f"Edited {name} at line {text[: text.index(old)].count(chr(10)) + 1}."


def create(path: str, name: str, text: str) -> str:
    try:
        with open(path, "x", encoding="utf-8", newline="") as stream:
            stream.write(text)
    except OSError as error:
        raise Failed(f"Error: {name}: {error.strerror}") from None
    return f"Created {name}."


def entries(root: str, arguments: dict[str, Any]) -> str:
    name = arguments.get("path", ".")
    try:
        with os.scandir(os.path.join(root, name)) as found:
            names = sorted(entry.name + "/" * entry.is_dir() for entry in found if entry.name not in SKIPPED)
    except OSError as error:
        raise Failed(f"Error: {name}: {error.strerror}") from None
    more = [f"[{len(names) - MAX_ENTRIES} more]"] if len(names) > MAX_ENTRIES else []
    return "\n".join([*names[:MAX_ENTRIES], *more]) or "[empty folder]"


def walk(top: str) -> Iterator[str]:
    """Files below ``top`` (or itself), sorted, without links to folders."""
    if not os.path.isdir(top):
        yield top
        return
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        yield from (os.path.join(folder, name) for name in sorted(files))


def search(root: str, arguments: dict[str, Any]) -> str:
    try:
        pattern = re.compile(arguments["pattern"])
    except (re.error, RecursionError, OverflowError) as error:
        raise Failed(f"Error: pattern: {error}") from None
    top = os.path.join(root, arguments.get("path", ""))
    if not os.path.lexists(top):
        raise Failed(f"Error: {arguments['path']}: No such file or directory")
    hits: list[str] = []
    for path in walk(top.rstrip("/")):
        try:
            lines = load(path, path).split("\n")
        except Failed:
            continue
        shown = os.path.relpath(path, root)
        for number, line in enumerate(lines, 1):
            if pattern.search(line):
                hits.append(f"{shown}:{number}:{cut(line)}")
        if len(hits) > MAX_HITS:
            return "\n".join([*hits[:MAX_HITS], "[more]"])
    return "\n".join(hits) or "[no match]"


def sources(root: str, arguments: dict[str, Any]) -> dict[str, str]:
    """Regular .py files below the folders ``below``; what is beyond the bounds or unreadable is left out."""
    found: dict[str, str] = {}
    size = 0
    for top in arguments["below"]:
        for folder, folders, files in os.walk(f"{root}/{top}"):
            folders[:] = sorted(name for name in folders if name not in SKIPPED)
            for name in sorted(files):
                path = f"{folder}/{name}"
                if not name.endswith(".py") or os.path.islink(path) or not path.isprintable():
                    continue
                try:
                    text = load(path, path)
                except Failed:
                    continue
                size += len(text)
                if size > MAX_SOURCE_BYTES or len(found) >= MAX_SOURCES:
                    return found
                found[path[len(root) + 1 :]] = text
    return found


TOOLS = {"read": read, "edit": edit, "list": entries, "search": search}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["name"] == "sources":
        return {"files": sources(request["root"], request["arguments"])}
    try:
        return {"text": TOOLS[request["name"]](request["root"], request["arguments"])}
    except Failed as error:
        return {"text": str(error)}
    except (OSError, ValueError, MemoryError) as error:
        return {"text": f"Error: {type(error).__name__}: {error}"}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
