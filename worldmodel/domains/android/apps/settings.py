"""Settings: switches, brightness, language, screen timeout and the permissions of apps.

Owns: its pages, and what airplane mode switches off. Refuses: using the settings (the other apps read them).
"""

from __future__ import annotations

from worldmodel.domains.android.ui import Device, Effect, Element, Page, Pages, View, going_to, up_button

APP = "Settings"
SWITCHES = ("Wi-Fi", "Bluetooth", "Airplane mode", "Do not disturb", "Dark theme", "Location", "Auto-rotate")
RADIOS = ("Wi-Fi", "Bluetooth")  # off, and out of reach, in airplane mode
CHOICES = {
    "Language": ("English", "Deutsch", "Español", "Français", "Italiano", "Nederlands", "Polski", "Português",
                 "Svenska", "Türkçe"),
    "Screen timeout": ("15 seconds", "30 seconds", "1 minute", "2 minutes", "5 minutes", "10 minutes"),
}  # fmt: skip
BRIGHTNESS = "Brightness"
PERMISSIONS = "App permissions"


def _main(device: Device, page: Page) -> View:
    settings = device.data["settings"]
    rows = [_switch(device, name) for name in SWITCHES if name in settings]
    if BRIGHTNESS in settings:
        rows.append(Element("TextView", BRIGHTNESS, f"{settings[BRIGHTNESS]}%", tap=going_to(APP, "brightness")))
    for name in CHOICES:
        if name in settings:
            rows.append(Element("TextView", name, settings[name], tap=going_to(APP, "choice", of=name)))
    rows.append(Element("TextView", PERMISSIONS, tap=going_to(APP, "permissions")))
    return View("Settings", rows=tuple(rows))


def _switch(device: Device, name: str) -> Element:
    settings = device.data["settings"]
    enabled = name not in RADIOS or not settings.get("Airplane mode")
    return Element("Switch", name, tap=_flip(name), checked=settings[name], enabled=enabled)


def _flip(name: str) -> Effect:
    def flip(device: Device) -> None:
        settings = device.data["settings"]
        settings[name] = not settings[name]
        if name == "Airplane mode" and settings[name]:
            settings.update({radio: False for radio in RADIOS if radio in settings})

    return flip


def _brightness(device: Device, page: Page) -> View:
    slider = Element("SeekBar", f"{device.data['settings'][BRIGHTNESS]}%", BRIGHTNESS, drag=_slide)
    return View(BRIGHTNESS, bar=(up_button(),), rows=(slider,))


def _slide(device: Device, steps: int) -> None:
    """One swipe is ten percent."""
    settings = device.data["settings"]
    settings[BRIGHTNESS] = max(0, min(100, settings[BRIGHTNESS] + 10 * steps))


def _choice(device: Device, page: Page) -> View:
    name = page.args["of"]
    current = device.data["settings"][name]
    rows = (
        Element("RadioButton", value, tap=_choose(name, value), checked=value == current) for value in CHOICES[name]
    )
    return View(name, bar=(up_button(),), rows=tuple(rows))


def _choose(name: str, value: str) -> Effect:
    def choose(device: Device) -> None:
        device.data["settings"][name] = value

    return choose


def _permissions(device: Device, page: Page) -> View:
    granted = device.data["permissions"]
    rows = (Element("Switch", name, tap=_grant(name), checked=granted[name] == "allow") for name in sorted(granted))
    return View(PERMISSIONS, bar=(up_button(),), rows=tuple(rows))


def _grant(name: str) -> Effect:
    def grant(device: Device) -> None:
        granted = device.data["permissions"]
        granted[name] = "deny" if granted[name] == "allow" else "allow"

    return grant


PAGES: Pages = {"main": _main, "brightness": _brightness, "choice": _choice, "permissions": _permissions}
