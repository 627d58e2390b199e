"""Documents as text: spreadsheets (.ods) and letters (.odt), read and written with the standard library.

Owns: the few parts of OpenDocument that tasks need, and bounds on what is read. Refuses: layout.

As data: a spreadsheet is {sheet: [[cell, ...], ...]} of strings and numbers, a letter a list of paragraphs, where
``# `` makes a heading. As text (``content``): ``[Sheet]`` and lines ``B2: 3.5``, with the formula behind a value as
``B4: 10 =SUM(B2:B3)``; paragraphs one a line, headings behind ``#``, bold words between ``**``, italic ones in ``_``.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from worldmodel.domains.os.inside.place import HOME

MAX_BYTES, MAX_CELLS, MAX_SHOWN = 4 << 20, 4000, 20_000
_URN = "urn:oasis:names:tc:opendocument:xmlns:"
SPACES = {"office": f"{_URN}office:1.0", "table": f"{_URN}table:1.0", "text": f"{_URN}text:1.0",
          "style": f"{_URN}style:1.0", "fo": f"{_URN}xsl-fo-compatible:1.0"}  # fmt: skip
KINDS = {"ods": "application/vnd.oasis.opendocument.spreadsheet", "odt": "application/vnd.oasis.opendocument.text"}
SETTINGS = (
    ("Common/Misc", "ShowTipOfTheDay", "false"), ("Common/Misc", "FirstRun", "false"),
    ("Common/Save/Document", "WarnAlienFormat", "false"), ("Recovery/AutoSave", "Enabled", "false"),
    ("Common/Save/Document", "AutoSave", "false"), ("Common/Misc", "UseLocking", "false"),
    ("Calc/Input", "ReplaceCellsWarning", "false"),
)  # fmt: skip
NO_SIDEBAR = (
    '<item oor:path="/org.openoffice.Office.Views/Windows"><node oor:name="10336" oor:op="replace">'
    '<prop oor:name="Visible" oor:op="fuse"><value>false</value></prop></node></item>\n'
)
PRODUCT = (("ooSetupLastVersion", "7.4"), ("LastTimeGetInvolvedShown", "4102444800"),
           ("LastTimeDonateShown", "4102444800"))  # fmt: skip


def office_settings() -> str:
    """The office suite's own settings: no greetings, no questions about formats, nothing saved by itself."""
    rows = [(f"/org.openoffice.Office.{path}", name, value) for path, name, value in SETTINGS]
    rows += [("/org.openoffice.Setup/Product", name, value) for name, value in PRODUCT]
    items = "".join(
        f'<item oor:path="{path}"><prop oor:name="{name}" oor:op="fuse"><value>{value}</value></prop></item>\n'
        for path, name, value in rows
    )
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<oor:items xmlns:oor="http://openoffice.org/2001/registry">'
    return f"{head}{items}{NO_SIDEBAR}</oor:items>\n"


def kind(path: str) -> str:
    return path.rsplit(".", 1)[-1].lower()


def write(path: str, data: Any) -> None:
    """A document of the kind that the name of ``path`` says."""
    body = _sheets(data) if kind(path) == "ods" else _paragraphs(data)
    names = " ".join(f'xmlns:{name}="{urn}"' for name, urn in SPACES.items())
    mime = KINDS[kind(path)]
    listed = "".join(
        f'<manifest:file-entry manifest:full-path="{name}" manifest:media-type="{media}"/>'
        for name, media in (("/", mime), ("content.xml", "text/xml"))
    )
    version = 'office:version="1.3"'
    body = f"<office:document-content {names} {version}><office:body>{body}</office:body></office:document-content>"
    space = f'xmlns:manifest="{_URN}manifest:1.0" manifest:version="1.3"'
    manifest = f"<manifest:manifest {space}>{listed}</manifest:manifest>"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("mimetype"), mime)
        for name, text in (("content.xml", body), ("META-INF/manifest.xml", manifest)):
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}')


def _sheets(data: dict[str, Sequence[Sequence[Any]]]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, (int, float)):
            kept = f'office:value-type="float" office:value="{value}"'
            return f"<table:table-cell {kept}><text:p>{value}</text:p></table:table-cell>"
        if value == "":
            return "<table:table-cell/>"
        return f'<table:table-cell office:value-type="string"><text:p>{escape(value)}</text:p></table:table-cell>'

    tables = []
    for name, rows in data.items():
        lines = "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in rows)
        tables.append(f'<table:table table:name="{escape(name)}">{lines}</table:table>')
    return f"<office:spreadsheet>{''.join(tables)}</office:spreadsheet>"


def _paragraphs(data: Sequence[str]) -> str:
    def paragraph(text: str) -> str:
        if text.startswith("# "):
            return f'<text:h text:outline-level="1">{escape(text[2:])}</text:h>'
        return f"<text:p>{escape(text)}</text:p>"

    return f"<office:text>{''.join(map(paragraph, data))}</office:text>"


def content(path: str) -> str:
    """What ``path``, relative to home, holds, as text; one line in brackets where it cannot be read."""
    place = path if path.startswith("/") else f"{HOME}/{path}"
    try:
        if kind(path) not in KINDS:
            with open(place, "rb") as stream:
                return stream.read(MAX_SHOWN).decode("utf-8", "replace")
        with zipfile.ZipFile(place) as archive, archive.open("content.xml") as member:
            raw = member.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES or b"<!ENTITY" in raw:
            return "(too large)"
        root = ElementTree.fromstring(raw)
    except FileNotFoundError:
        return "(no such file)"
    except (OSError, zipfile.BadZipFile, KeyError, ElementTree.ParseError, NotImplementedError, RuntimeError) as error:
        return f"(cannot be read: {type(error).__name__})"
    lines = read_sheets(root) if kind(path) == "ods" else read_paragraphs(root)
    return "\n".join(lines)[:MAX_SHOWN]


def _get(element: ElementTree.Element, name: str) -> str:
    space, _, local = name.partition(":")
    return element.get(f"{{{SPACES[space]}}}{local}", "")


def _tag(name: str) -> str:
    space, _, local = name.partition(":")
    return f"{{{SPACES[space]}}}{local}"


def column(index: int) -> str:
    """A, B, ..., Z, AA for 0, 1, ..."""
    letters = ""
    while index >= 0:
        letters = chr(65 + index % 26) + letters
        index = index // 26 - 1
    return letters


def _times(element: ElementTree.Element, name: str) -> int:
    found = _get(element, name)
    return int(found) if found.isascii() and found.isdigit() and len(found) < 9 else 1


def read_sheets(root: ElementTree.Element) -> Iterator[str]:
    left = MAX_CELLS
    for table in root.iter(_tag("table:table")):
        yield f"[{_get(table, 'table:name')}]"
        number = 0
        for row in table.iter(_tag("table:table-row")):
            cells = []
            at = 0
            for cell in row:
                times = _times(cell, "table:number-columns-repeated")
                shown = _cell(cell)
                if shown:
                    cells += [(at + i, shown) for i in range(min(times, left))]
                at += times
            for _ in range(min(_times(row, "table:number-rows-repeated"), left) if cells else 0):
                number += 1
                for place, shown in cells[:left]:
                    yield f"{column(place)}{number}: {shown}"
                left -= len(cells)
                if left <= 0:
                    return
            if not cells:
                number += _times(row, "table:number-rows-repeated")


def _cell(cell: ElementTree.Element) -> str:
    """Value, and the formula behind it."""
    value = _get(cell, "office:value") if _get(cell, "office:value-type") in ("float", "percentage", "currency") else ""
    if value:
        value = format(float(value), ".10g") if re.fullmatch(r"[-+0-9.eE]{1,40}", value) else "?"
    else:
        value = "\\n".join("".join(p.itertext()) for p in cell.findall(_tag("text:p")))
    formula = re.sub(r"\[\.([A-Z0-9$]+)(?::\.([A-Z0-9$]+))?\]", lambda m: ":".join(filter(None, m.groups())),
                     _get(cell, "table:formula").removeprefix("of:"))  # fmt: skip
    return f"{value} {formula}".strip()


def read_paragraphs(root: ElementTree.Element) -> Iterator[str]:
    styles = {_get(style, "style:name"): style for style in root.iter(_tag("style:style"))}
    body = root.find(f"{_tag('office:body')}/{_tag('office:text')}")
    for element in body.iter() if body is not None else ():
        if element.tag in (_tag("text:p"), _tag("text:h")):
            marks = "#" * min(6, _times(element, "text:outline-level")) if element.tag == _tag("text:h") else ""
            text = "".join(_runs(element, styles, _marks(styles.get(_get(element, "text:style-name")))))
            yield f"{marks} {text}".strip()


def _marks(style: ElementTree.Element | None) -> str:
    """The marks around text of this style."""
    marks = ""
    for properties in style.iter(_tag("style:text-properties")) if style is not None else ():
        marks += "**" if _get(properties, "fo:font-weight") == "bold" else ""
        marks += "_" if _get(properties, "fo:font-style") == "italic" else ""
    return marks


def _runs(element: ElementTree.Element, styles: dict[str, ElementTree.Element], marks: str) -> Iterator[str]:
    """The pieces of a paragraph between the marks of their styles."""

    def piece(text: str | None, marks: str) -> str:
        return f"{marks}{text}{marks[::-1]}" if text else ""

    yield piece(element.text, marks)
    for child in element:
        if child.tag == _tag("text:s"):
            yield " " * min(80, _times(child, "text:c"))
        elif child.tag == _tag("text:tab"):
            yield "\t"
        elif child.tag == _tag("text:span"):
            yield from _runs(child, styles, marks + _marks(styles.get(_get(child, "text:style-name"))))
        else:
            yield from _runs(child, styles, marks)
        yield piece(child.tail, marks)


def listing(folder: str) -> str:
    """The paths below ``folder``, relative to home, hidden ones left out, folders with a slash."""
    import os

    found = []
    for place, folders, names in os.walk(f"{HOME}/{folder}" if folder else HOME):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [*(f"{name}/" for name in folders), *(name for name in names if not name.startswith("."))]
        found += [os.path.relpath(f"{place}/{name}", HOME) + ("/" if name.endswith("/") else "") for name in shown]
        if len(found) > 2000:
            break
    return "\n".join(sorted(found)[:2000])


def main() -> None:
    """``file PATH`` or ``files [FOLDER]``: what a check reads, printed by a box of its own over the final files."""
    import sys

    verb, path = sys.argv[-2:]
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    print(content(path) if verb == "file" else listing(path))
