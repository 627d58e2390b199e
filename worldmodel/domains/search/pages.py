"""Pages of the search domain: what one is, how lists of results look, and the pages that the facts make.

Owns: every text that a search or an opened page prints. Refuses: ranking and storage (``corpus``).
A snippet is the page's description: it says what kind of facts the page has and holds none of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from worldmodel.domains.search.facts import City, Country, Element, Facts, slug

SITE = "https://atlas.example"
RESULTS = 10  # entries a query
NO_RESULTS = "No results."
DESCRIPTIONS = {
    "country": (
        "Country profile with area, population, capital, money, neighbours and codes.",
        "Key figures of the country: geography, people, currency, largest cities and land borders.",
    ),
    "city": (
        "City profile with country, number of inhabitants and time zone.",
        "Facts about the city: where it lies, how many people live there, local time.",
    ),
    "element": (
        "Chemical element: symbol, atomic number, weight, place in the periodic table and discovery.",
        "Data sheet of the element with its position, atomic data and history.",
    ),
    "currency": (
        "Currency overview: code and the countries and territories that pay with it.",
        "Where this currency is used, with its code.",
    ),
    "region": (
        "Regional overview: the countries and territories that belong to it.",
        "List of the countries and territories of this part of the world.",
    ),
}


@dataclass(frozen=True, slots=True)
class Page:
    """``date`` as YYYY-MM-DD, '' where undated; ``text``: the whole page in Markdown, with title and address."""

    url: str
    title: str
    date: str
    description: str
    text: str


def entry(number: int, page: Page) -> str:
    """One result. ``number`` counts from 1."""
    shown = page.date or "N/A"
    return f"{number}. Title: {page.title}\n   URL: {page.url}\n   Snippet: {page.description}\n   Date: {shown}"


def listing(found: Sequence[Page]) -> str:
    """Results in the order given, one after the other."""
    return "\n".join(entry(number, page) for number, page in enumerate(found, 1)) or NO_RESULTS


def country_url(country: Country) -> str:
    return f"{SITE}/country/{slug(country.name)}"


def city_url(key: str) -> str:
    return f"{SITE}/city/{key}"


def element_url(element: Element) -> str:
    return f"{SITE}/element/{slug(element.name)}"


def currency_url(code: str) -> str:
    return f"{SITE}/currency/{code.lower()}"


def city_title(city: City, country: Country) -> str:
    return f"{city.name}, {country.name}"


def make(facts: Facts) -> list[Page]:
    """Every page, in a fixed order."""
    countries = {country.code: country for country in facts.countries}
    cities = {city.key: city for city in facts.cities}
    return [
        *(_country(country, countries, cities) for country in facts.countries),
        *(_city(city, countries[city.country]) for city in facts.cities),
        *(_element(element) for element in facts.elements),
        *_currencies(facts.countries),
        *_regions(facts.countries),
    ]


def _page(kind: str, url: str, title: str, sections: Iterable[tuple[str, Iterable[tuple[str, object]]]]) -> Page:
    """Date and description follow from the URL; a fact without a value is left out."""
    draw = zlib.crc32(url.encode())
    day = "" if draw % 7 == 0 else (date(2019, 1, 1) + timedelta(days=draw % 2000)).isoformat()
    description = DESCRIPTIONS[kind][draw // 7 % len(DESCRIPTIONS[kind])]
    lines = [f"# {title}", f"Source: {url}", f"Date: {day or 'N/A'}", "", description]
    for heading, pairs in sections:
        shown = [f"- {name}: {value}" for name, value in pairs if value or value == 0]
        lines += ["", f"## {heading}", *shown] if shown else []
    return Page(url, title, day, description, "\n".join(lines))


def _country(country: Country, countries: dict[str, Country], cities: dict[str, City]) -> Page:
    borders = "; ".join(sorted(countries[code].name for code in country.neighbours)) or "none"
    money = f"{country.currency_name} ({country.currency})" if country.currency else ""
    geography = (
        ("Continent", country.continent), ("Region", country.subregion),
        ("Area in square kilometres", country.area), ("Land borders", borders),
    )  # fmt: skip
    people = (
        ("Population", country.population), ("Demonym", country.demonym), ("Capital", country.capital),
        ("Largest cities (largest first)", "; ".join(cities[key].name for key in country.cities)),
    )  # fmt: skip
    codes = (("Currency", money), ("Calling code", country.phone), ("Internet domain", country.tld))
    sections = (("Geography", geography), ("People", people), ("Money and codes", codes))
    return _page("country", country_url(country), country.name, sections)


def _city(city: City, country: Country) -> Page:
    role = "capital" if city.key == country.seat else ""
    pairs = (
        ("Country", country.name), ("Role", role), ("Population", city.population), ("Time zone", city.timezone),
    )  # fmt: skip
    return _page("city", city_url(city.key), city_title(city, country), [("Facts", pairs)])


def _element(element: Element) -> Page:
    atom = (
        ("Symbol", element.symbol), ("Atomic number", element.number), ("Atomic weight", f"{element.weight:g}"),
        ("Block", element.block), ("Period", element.period), ("Group", element.group or ""),
        ("Series", element.series),
    )  # fmt: skip
    history = (("Discovered in", element.discovered or ""), ("Discovered by", element.discoverers))
    title = f"{element.name} (element)"
    return _page("element", element_url(element), title, [("Atom", atom), ("History", history)])


def _currencies(countries: Iterable[Country]) -> list[Page]:
    users: dict[str, list[Country]] = {}
    for country in countries:
        if country.currency:
            users.setdefault(country.currency, []).append(country)
    pages = []
    for code, found in sorted(users.items()):
        title = f"{found[0].currency_name} ({code}), currency"
        pairs = (("Code", code), ("Used in", "; ".join(sorted(country.name for country in found))))
        pages.append(_page("currency", currency_url(code), title, [("Facts", pairs)]))
    return pages


def _regions(countries: Iterable[Country]) -> list[Page]:
    members: dict[str, list[str]] = {}
    for country in countries:
        if country.subregion:
            members.setdefault(country.subregion, []).append(country.name)
    return [
        _page("region", f"{SITE}/region/{slug(name)}", f"{name} (region)", [("Members", [("List", "; ".join(found))])])
        for name, found in sorted(members.items())
    ]
