"""What the task families draw from: the facts with their look-ups, hops to pages, and the form of a question.

Owns: which subjects are unambiguous, and the search that leads to each kind of page. Refuses: questions (``families``).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from worldmodel.domains.search.facts import City, Country, Element, Facts, fold
from worldmodel.domains.search.pages import city_url, country_url, element_url

T = TypeVar("T")
Answer = str | tuple[Mapping[str, Any], ...]  # a text, or rows
Hop = tuple[str, str]  # a query and the URL that is opened from its results


@dataclass(frozen=True, slots=True)
class Draft:
    """``key``: what is asked about, however it is worded: one key is never on both sides of train and held-out.
    ``stages``: hops that follow from the question, then those that follow from the pages of the stage before."""

    key: str
    instruction: str
    stages: tuple[tuple[Hop, ...], ...]
    answer: Answer
    wrong: tuple[Answer, ...]


@dataclass(frozen=True)
class Atlas:
    """The facts, with what the families look up."""

    facts: Facts

    @cached_property
    def countries(self) -> dict[str, Country]:
        return {country.code: country for country in self.facts.countries}

    @cached_property
    def cities(self) -> dict[str, City]:
        return {city.key: city for city in self.facts.cities}

    @cached_property
    def users(self) -> dict[str, list[Country]]:
        """Currency code to the countries that use it."""
        found: dict[str, list[Country]] = {}
        for country in self.facts.countries:
            if country.currency:
                found.setdefault(country.currency, []).append(country)
        return found

    @cached_property
    def sole(self) -> list[Country]:
        """Countries that are alone in using their currency."""
        return [users[0] for users in self.users.values() if len(users) == 1]

    @cached_property
    def demonyms(self) -> list[Country]:
        return _unique(self.facts.countries, lambda country: fold(country.demonym))

    @cached_property
    def domains(self) -> list[Country]:
        return _unique(self.facts.countries, lambda country: fold(country.tld))

    @cached_property
    def towns(self) -> list[City]:
        """Cities that share their name with no other city and no country, and are no capital."""
        taken = {fold(country.name) for country in self.facts.countries}
        seats = {country.seat for country in self.facts.countries}
        alone = _unique(self.facts.cities, lambda city: fold(city.name))
        return [city for city in alone if city.key not in seats and fold(city.name) not in taken]

    @cached_property
    def dated(self) -> list[Element]:
        return [element for element in self.facts.elements if element.discovered]

    def neighbours(self, country: Country) -> list[Country]:
        return [self.countries[code] for code in country.neighbours]


def _unique(values: Iterable[T], key: Callable[[T], Hashable]) -> list[T]:
    """Those whose key is not empty and no other's."""
    kept = [value for value in values if key(value)]
    counts = Counter(key(value) for value in kept)
    return [value for value in kept if counts[key(value)] == 1]


ASKED: dict[str, Callable[[Country], str]] = {
    "capital": lambda country: country.capital,
    "calling code": lambda country: country.phone if re.fullmatch(r"\d+", country.phone) else "",
    "internet domain (with its dot)": lambda country: country.tld,
    "currency code (three letters)": lambda country: country.currency,
}


def to_country(country: Country) -> Hop:
    return f"{country.name} country", country_url(country)


def to_city(city: City, country: Country | None = None) -> Hop:
    where = f" {country.name}" if country else ""
    return f"{city.name}{where} city", city_url(city.key)


def to_element(element: Element) -> Hop:
    return f"{element.name} element", element_url(element)


def asked(rng: random.Random, atlas: Atlas, country: Country, but: str = "") -> tuple[str, str, str] | None:
    """(what is asked of the country, its value, the value of another country)."""
    label = rng.choice([label for label in ASKED if not label.startswith(but or "-")])
    value, others = ASKED[label](country), atlas.neighbours(country) or list(atlas.facts.countries)
    other = ASKED[label](rng.choice(others))
    return (label, value, other) if value and other and fold(value) != fold(other) else None


def joined(values: Sequence[str]) -> str:
    return f"{', '.join(values[:-1])} and {values[-1]}"


def listed(countries: Iterable[Country]) -> str:
    return "; ".join(sorted(country.name for country in countries))
