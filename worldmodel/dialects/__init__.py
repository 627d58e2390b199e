"""Wire formats between this code and a world model, by name."""

from __future__ import annotations

from typing import Literal

from worldmodel.dialects.brief import Brief
from worldmodel.dialects.reference import ReferenceDialect
from worldmodel.dialects.transcript import Transcript
from worldmodel.dialects.wire import Wire

DialectName = Literal["transcript", "brief", "reference"]


def dialect(name: DialectName) -> Wire:
    """The dialect called ``name``."""
    made: dict[DialectName, type[Wire]] = {"transcript": Transcript, "brief": Brief, "reference": ReferenceDialect}
    return made[name]()
