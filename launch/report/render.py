"""report.html: one self-contained page, safe to open whatever a model wrote into it.

Owns: the page. Refuses: scripts, network access, unescaped text. Three lines of defence (each tested): control
characters are stripped, the template escapes everything, and a content-security policy allows nothing but
embedded images and this page's one style sheet, named by its hash.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from launch.errors import strip_controls
from launch.report.data import ReportData, from_json, to_json
from launch.report.figures import chart_uri, families_uri, scatter_uri


def render(data: ReportData) -> str:
    """The page as text. A pure function of ``data``."""
    data = from_json(clean(dataclasses.asdict(data)))
    folder = resources.files("launch.report")
    css = (folder / "page.css").read_text(encoding="utf-8")
    jinja = Environment(autoescape=True, undefined=StrictUndefined)
    jinja.filters |= {"percent": percent, "points": points}
    template = jinja.from_string((folder / "page.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        data=data,
        css=Markup(css),
        policy=policy(css),
        charts=[
            *((chart, chart_uri(chart)) for chart in data.charts if chart.lines),
            *((scatter, scatter_uri(scatter)) for scatter in data.scatters if scatter.dots),
        ],
        families=families_uri(data.families) if data.families else "",
    )


def policy(css: str) -> str:
    """The content-security policy of a page with exactly this style sheet."""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def clean(value: Any) -> Any:
    """``value`` with every text inside free of control characters and encodable as UTF-8."""
    if isinstance(value, str):
        return strip_controls(value.replace("\r\n", "\n")).encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(clean(item) for item in value)
    return value


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def points(difference: float) -> str:
    """A difference of fractions in percentage points, always signed."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def write(data: ReportData, run_dir: Path) -> Path:
    """``report.json`` and ``report.html`` in ``run_dir``; each appears whole or not at all. Returns the page."""
    page = render(data)
    _replace(run_dir / "report.json", to_json(data))
    _replace(run_dir / "report.html", page)
    return run_dir / "report.html"


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
