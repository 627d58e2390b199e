"""YAML as people write it: texts of several lines stand as blocks.

Owns: dumping rendered documents. Refuses: their content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """``SafeDumper`` with block style for texts of several lines, and without anchors."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, _Dumper.represent_str)


def to_yaml(documents: Sequence[Mapping[str, Any]], comment: str) -> str:
    """One stream of ``documents`` under a comment."""
    text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=1000, explicit_start=len(documents) > 1)
    return "".join(f"# {line}\n" for line in comment.splitlines()) + text


def without_nothing(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """``mapping`` without the keys whose value is None or an empty container."""
    return {key: value for key, value in mapping.items() if value is not None and value not in ({}, [], ())}
