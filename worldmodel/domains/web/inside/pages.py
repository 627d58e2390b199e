"""The pages of the made sites: a few kinds of blocks, their HTML, and the accessibility tree a browser makes of them.

Owns: the blocks, ``html``, ``tree`` and ``controls`` (what can be acted on, in the order of the page: control N has
the id N). Refuses: what a page says (sites), serving it (``server``). That a real browser makes the same tree of the
HTML is proved by a test; so ids can be known without starting one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from worldmodel.domains.web.inside.tree import Node


@dataclass(frozen=True, slots=True)
class Link:
    text: str
    href: str


@dataclass(frozen=True, slots=True)
class Field:
    """``kind``: text, password, area, select (of ``options``), check (``value`` "1" where ticked) or hidden."""

    label: str
    name: str
    kind: str = "text"
    value: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """Fields and a button called ``submit``."""

    action: str
    fields: tuple[Field, ...]
    submit: str
    method: str = "post"


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 1


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """What the site says about the last action."""

    text: str


@dataclass(frozen=True, slots=True)
class Nav:
    parts: tuple[Link | Form, ...]


Part = str | Link | Form


@dataclass(frozen=True, slots=True)
class Items:
    """A list; each item is text, links and forms in a row."""

    items: tuple[tuple[Part, ...], ...]


Block = Heading | Text | Status | Nav | Items | Link | Form


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    blocks: tuple[Block, ...]
    code: int = 200


@dataclass(frozen=True, slots=True)
class Redirect:
    path: str


@dataclass(frozen=True, slots=True)
class Control:
    """A link, a visible field or a button of the page. ``form`` is None for a link; ``field`` None for a button."""

    role: str
    name: str
    href: str = ""
    form: Form | None = None
    field: Field | None = None


ROLES = {"text": "textbox", "password": "textbox", "area": "textbox", "select": "combobox", "check": "checkbox"}


def controls(page: Page) -> list[Control]:
    """All controls; the id of the first is 1."""
    return [control for block in page.blocks for part in _parts(block) for control in _controls(part)]


def _parts(block: Block) -> Iterator[Part]:
    match block:
        case Nav(parts):
            yield from parts
        case Items(items):
            for item in items:
                yield from item
        case Link() | Form():
            yield block


def _controls(part: Part) -> Iterator[Control]:
    if isinstance(part, Link):
        yield Control("link", part.text, part.href)
    elif isinstance(part, Form):
        for field in part.fields:
            if field.kind != "hidden":
                yield Control(ROLES[field.kind], field.label, form=part, field=field)
        yield Control("button", part.submit, form=part)


def html(page: Page) -> str:
    body = "".join(_html(block) for block in page.blocks)
    head = f'<meta charset="utf-8"><title>{escape(page.title)}</title>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _html(block: Block | str) -> str:
    match block:
        case str():
            return f" {escape(block)} "
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Status(text):
            return f'<div role="status">{escape(text)}</div>'
        case Nav(parts):
            return f"<nav>{' '.join(map(_html, parts))}</nav>"
        case Items(items):
            return "<ul>" + "".join(f"<li>{' '.join(map(_html, item))}</li>" for item in items) + "</ul>"
        case Link(text, href):
            return f'<a href="{escape(href)}">{escape(text)}</a>'
        case Form():
            fields = "".join(f"<div>{_input(field)}</div>" for field in block.fields)
            button = f"<button>{escape(block.submit)}</button>"
            return f'<form method="{block.method}" action="{escape(block.action)}">{fields}{button}</form>'


def _input(field: Field) -> str:
    named = f'name="{escape(field.name)}" aria-label="{escape(field.label)}" autocomplete="off"'
    value = escape(field.value)
    match field.kind:
        case "hidden":
            return f'<input type="hidden" name="{escape(field.name)}" value="{value}">'
        case "area":
            return f'<textarea rows="6" cols="60" {named}>\n{value}</textarea>'
        case "select":
            options = "".join(
                f"<option{' selected' if option == field.value else ''}>{escape(option)}</option>"
                for option in field.options
            )
            return f"<select {named}>{options}</select>"
        case "check":
            return f'<input type="checkbox" value="1" {named}{" checked" if field.value else ""}>'
    return f'<input type="{field.kind}" value="{value}" {named}>'


def tree(page: Page, values: Mapping[int, str], active: int | None) -> list[Node]:
    """What a browser shows of ``page``; ``values``: what was typed or chosen, by id; ``active``: the id in focus."""
    numbers = iter(range(1, len(controls(page)) + 1))

    def control(role: str, name: str, field: Field | None = None) -> Node:
        bid = next(numbers)
        focus = ("active",) if bid == active else ()
        value = values.get(bid, field.value) if field else ""
        if field and field.kind == "check":
            return Node(role, name, (*(("checked",) if value else ()), *focus), ref=str(bid))
        if field and field.kind == "select":
            options = [Node("option", text, ("selected",) if text == value else ()) for text in field.options]
            return Node(role, name, focus, children=options, ref=str(bid))
        return Node(role, name, focus, " ".join(value.split()), ref=str(bid))

    def part(item: Part) -> list[Node]:
        if isinstance(item, str):
            return [Node("text", value=item)]
        return [control(found.role, found.name, found.field) for found in _controls(item)]

    def block(found: Block) -> list[Node]:
        match found:
            case Heading(text, level):
                return [Node("heading", text, (f"level={level}",))]
            case Text(text):
                return [Node("paragraph", value=text)]
            case Status(text):
                return [Node("status", value=text)]
            case Nav(parts):
                return [Node("navigation", children=[node for item in parts for node in part(item)])]
            case Items(items):
                return [Node("list", children=[_item([n for p in item for n in part(p)]) for item in items])]
        return part(found)

    return [node for found in page.blocks for node in block(found)]


def _item(children: list[Node]) -> Node:
    if len(children) == 1 and children[0].role == "text":
        return Node("listitem", value=children[0].value)
    return Node("listitem", children=children)
