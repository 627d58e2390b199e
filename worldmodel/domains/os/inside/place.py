"""Where things of a desktop lie in its boxes, and the environment of every program there.

Owns: paths, the size of the screen, variables. Refuses: starting anything.
"""

from __future__ import annotations

from collections.abc import Mapping

HOME = "/home/user"
PROGRAMS = "/opt/inside"  # this folder
REGISTRY = "/opt/registry"  # the office suite's own settings: Debian keeps them below /etc, which boxes do not see
PACKAGES = "/opt/packages"  # what ``agentworld setup os`` installed for the blocks
BUS = "/tmp/.desktop/bus"
CONFIG = "/tmp/.desktop/config"
DISPLAY = ":0"
DISPLAY_SOCKET = "/tmp/.X11-unix/X0"
WIDTH, HEIGHT = 1024, 768
CALCULATOR = "/usr/bin/galculator"
FILES_SETTINGS = "/usr/lib/x86_64-linux-gnu/xfce4/xfconf/xfconfd"
OFFICE_SETTINGS = "libreoffice/4/user/registrymodifications.xcu"  # below XDG_CONFIG_HOME
OFFICE = "/usr/lib/libreoffice/program/soffice.bin"

ENVIRONMENT: Mapping[str, str] = {
    "HOME": HOME,
    "USER": "user",
    "LOGNAME": "user",
    "SHELL": "/bin/bash",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "LANG": "C.UTF-8",
    "TZ": "UTC0",
    "CONFIGURATION_LAYERS": f"xcsxcu:file://{REGISTRY} res:file://{REGISTRY} user:!file://{CONFIG}/{OFFICE_SETTINGS}",
    "DISPLAY": DISPLAY,
    "DBUS_SESSION_BUS_ADDRESS": f"unix:path={BUS}",
    "AT_SPI_BUS_ADDRESS": f"unix:path={BUS}",  # one bus for both: nothing needs to be activated
    "GDK_BACKEND": "x11",
    "GIO_USE_VFS": "local",
    "GSETTINGS_BACKEND": "memory",
    "GTK_CSD": "0",
    "NO_AT_BRIDGE": "0",
    "SAL_USE_VCLPLUGIN": "gtk3",
    "XDG_RUNTIME_DIR": "/tmp/.desktop",
    "XDG_CACHE_HOME": "/tmp/.desktop/cache",
    "XDG_CONFIG_HOME": CONFIG,
    "XDG_DATA_HOME": "/tmp/.desktop/data",
    "FONTCONFIG_FILE": f"{PROGRAMS}/fonts.txt",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONPATH": PACKAGES,
}
