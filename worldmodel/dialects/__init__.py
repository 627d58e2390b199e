"""Wire formats between this code and a world model, by name."""

from __future__ import annotations

from typing import Literal

from worldmodel.dialects.reference import ReferenceDialect
from worldmodel.dialects.transcript import Transcript
from worldmodel.dialects.wire import Wire

DialectName = Literal["transcript", "reference"]


def dialect(name: DialectName) -> Wire:
    """The dialect called ``name``."""
    return Transcript() if name == "transcript" else ReferenceDialect()
