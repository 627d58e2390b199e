"""The apps of the reference device, by the name on the launcher.

Owns: which apps there are, and their order. Refuses: what they do (one module each).
"""

from __future__ import annotations

from collections.abc import Mapping

from worldmodel.domains.android.apps import alarms, contacts, files, messages, notes, settings
from worldmodel.domains.android.ui import Pages

APPS: Mapping[str, Pages] = {
    "Settings": settings.PAGES,
    "Contacts": contacts.PAGES,
    "Notes": notes.PAGES,
    "Alarms": alarms.PAGES,
    "Messages": messages.PAGES,
    "Files": files.PAGES,
}
