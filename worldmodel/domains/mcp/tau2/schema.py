"""Tools as a policy reads them: a JSON schema as a signature, with a line of help for each argument.

Owns: that form. Refuses: checking arguments (the tools answer what is wrong with them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]


def shown(name: str, help_: str, schema: Schema) -> str:
    """``name(key: form, key?: form): help`` and, indented below it, what is said of the arguments."""
    known, needed = schema.get("properties", {}), schema.get("required", ())
    definitions = schema.get("$defs", {})
    head = ", ".join(f"{key}{'' if key in needed else '?'}: {form(known[key], definitions)}" for key in known)
    lines = [f"  {key}: {_line(text)}" for key, inner in known.items() if (text := inner.get("description"))]
    return "\n".join([f"{name}({head}): {_line(help_)}", *lines])


def form(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """A schema in a few characters: ``[{id: string, kind: "a"|"b"}]``."""
    if reference := schema.get("$ref"):
        return form(definitions[reference.rpartition("/")[2]], definitions)
    if "enum" in schema or "const" in schema:
        return "|".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        forms = dict.fromkeys(form(choice, definitions) for choice in choices)
        described = any(text.startswith("{") for text in forms)  # then a bare object says nothing more
        return "|".join(text for text in forms if not (described and text == "object"))
    if schema.get("type") == "array":
        return f"[{form(schema.get('items', {}), definitions)}]"
    if properties := schema.get("properties"):
        needed = schema.get("required", ())
        inner = (f"{key}{'' if key in needed else '?'}: {form(properties[key], definitions)}" for key in properties)
        return f"{{{', '.join(inner)}}}"
    return str(schema.get("type", "any"))


def _line(text: str) -> str:
    return " ".join(text.split())
