"""The few made files that every box sees read-only: /etc, /usr/local, and the mask over kernel files.

Owns: their content. Refuses: anything of the host but the loader's cache, file type tables and alternatives links.
"""

from __future__ import annotations

import contextlib
import os

EPOCH = 1735689600  # 2025-01-01 00:00 UTC: modification time of every initial file
ETC_COPIED = ("ld.so.cache", "ld.so.conf", "magic", "mime.types")
ETC_MADE = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000:user:/home/user:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "group": "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n127.0.1.1 box\n",
    "hostname": "box\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
DATE = f"""#!/bin/sh
# the clock of this machine stands still
for word; do
  case $word in -d*|-f*|-r*|-s*|--date*|--file*|--reference*|--set*) exec /usr/bin/date "$@" ;; esac
done
exec /usr/bin/date -d @{EPOCH + 12 * 3600} "$@"
"""


def build(base: str) -> None:
    """Write ``etc/``, ``local/`` and ``blank`` below ``base``, readable by every user."""
    _write(f"{base}/blank", b"", 0o444)
    os.makedirs(f"{base}/local/bin", 0o755)
    _write(f"{base}/local/bin/date", DATE.encode(), 0o755)
    os.makedirs(f"{base}/etc/alternatives", 0o755)
    for name, text in ETC_MADE.items():
        _write(f"{base}/etc/{name}", text.encode(), 0o644)
    for name in ETC_COPIED:
        with contextlib.suppress(OSError), open(f"/etc/{name}", "rb") as source:
            _write(f"{base}/etc/{name}", source.read(1 << 20), 0o644)
    with contextlib.suppress(OSError):
        for entry in os.scandir("/etc/alternatives"):
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), f"{base}/etc/alternatives/{entry.name}")


def _write(path: str, content: bytes, mode: int) -> None:
    with open(path, "wb") as stream:
        stream.write(content)
    os.chmod(path, mode)
