"""The task families: questions over several pages, their answers computed from the facts, and plausible errors.

Owns: what is asked, the pages that lead to the answer, the wrong answers. Refuses: look-ups (``atlas``), tasks
(``tasks``). A family gives None for a draw that has no single answer; its caller draws again.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from worldmodel.domains.search.atlas import (
    ASKED,
    Atlas,
    Draft,
    asked,
    joined,
    listed,
    to_city,
    to_country,
    to_element,
)
from worldmodel.domains.search.facts import fold
from worldmodel.domains.search.pages import country_url, currency_url, element_url

GAP = 1.1  # how much larger the larger must be


def currency_fact(rng: random.Random, atlas: Atlas) -> Draft | None:
    country = rng.choice(atlas.sole)
    found = asked(rng, atlas, country, but="currency")
    if found is None:
        return None
    label, value, other = found
    code = country.currency
    stages = ((f"{code} currency", currency_url(code)),), (to_country(country),)
    question = f"Only one country or territory pays with the currency {code}. What is its {label}?"
    return Draft(f"{code} {label}", question, stages, value, (other,))


def largest_city(rng: random.Random, atlas: Atlas) -> Draft | None:
    country, place = rng.choice(atlas.facts.countries), rng.randrange(2)
    cities = [atlas.cities[key] for key in country.cities]
    if len(cities) < 3 or len({city.population for city in cities}) < 3:
        return None
    rank = ("most", "second most")[place]
    question = f"Which city of {country.name} has the {rank} inhabitants?"
    wrong = tuple(city.name for city in cities if city is not cities[place])
    return Draft(f"{country.code} {rank}", question, ((to_country(country),),), cities[place].name, wrong)


def largest_of_three(rng: random.Random, atlas: Atlas) -> Draft | None:
    countries = rng.sample(atlas.facts.countries, 3)
    attribute = rng.choice(("area", "population"))
    order = sorted(countries, key=lambda country: -getattr(country, attribute))
    if getattr(order[0], attribute) < GAP * getattr(order[1], attribute):
        return None
    question = f"Which has the largest {attribute}: {', '.join(c.name for c in countries[:2])} or {countries[2].name}?"
    key = f"{attribute} {' '.join(sorted(country.code for country in countries))}"
    stages = (tuple(to_country(country) for country in countries),)
    return Draft(key, question, stages, order[0].name, (order[1].name, order[2].name))


def element_fact(rng: random.Random, atlas: Atlas) -> Draft | None:
    element, other = rng.sample(atlas.facts.elements, 2)
    label = rng.choice(("name", "atomic number", "period", "series"))
    value, wrong = (
        {"name": e.name, "atomic number": str(e.number), "period": str(e.period), "series": e.series}[label]
        for e in (element, other)
    )
    if value == wrong or not value:
        return None
    question = f"What is the {label} of the chemical element with the symbol {element.symbol}?"
    hop = (f"element symbol {element.symbol}", element_url(element))
    return Draft(f"{element.symbol} {label}", question, ((hop,),), value, (wrong,))


def element_difference(rng: random.Random, atlas: Atlas) -> Draft | None:
    one, two = rng.sample(atlas.facts.elements, 2)
    gap = abs(one.number - two.number)
    question = f"By how much do the atomic numbers of {one.name} and {two.name} differ?"
    key = " ".join(sorted((one.symbol, two.symbol)))
    wrong = (str(one.number + two.number), str(gap + 1))
    return Draft(key, question, ((to_element(one), to_element(two)),), str(gap), wrong)


def neighbours_currency(rng: random.Random, atlas: Atlas) -> Draft | None:
    country = rng.choice([country for country in atlas.facts.countries if len(country.neighbours) > 1])
    around = atlas.neighbours(country)
    code = rng.choice(sorted({other.currency for other in around}))
    hits = [other for other in around if other.currency == code]
    if not code or len(hits) == len(around):
        return None
    question = f"Which countries and territories that border {country.name} by land use the currency {code}? List all."
    stages = ((to_country(country), (f"{code} currency", currency_url(code))),)
    wrong = (listed(around), listed(hits[1:] or [other for other in around if other not in hits]))
    return Draft(f"{country.code} {code}", question, stages, listed(hits), wrong)


def capital_population(rng: random.Random, atlas: Atlas) -> Draft | None:
    city = rng.choice(atlas.towns)
    country = atlas.countries[city.country]
    if not country.seat or atlas.cities[country.seat].population == city.population:
        return None
    seat = atlas.cities[country.seat]
    question = (
        f"How many inhabitants has the capital of the country or territory in which the city of {city.name} lies?"
    )
    stages = (to_city(city),), (to_country(country),), (to_city(seat, country),)
    return Draft(city.key, question, stages, str(seat.population), (str(city.population), str(country.population)))


def bigger_city(rng: random.Random, atlas: Atlas) -> Draft | None:
    one, two = rng.sample(atlas.facts.cities, 2)
    large, small = sorted((one, two), key=lambda city: -city.population)
    if large.population < GAP * small.population or fold(large.name) == fold(small.name):
        return None
    lands = [atlas.countries[city.country] for city in (one, two)]
    question = f"Which city has more inhabitants, {one.name} ({lands[0].name}) or {two.name} ({lands[1].name})?"
    stages = ((to_city(one, lands[0]), to_city(two, lands[1])),)
    return Draft(" ".join(sorted((one.key, two.key))), question, stages, large.name, (small.name,))


def demonym_fact(rng: random.Random, atlas: Atlas) -> Draft | None:
    country = rng.choice(atlas.demonyms)
    found = asked(rng, atlas, country)
    if found is None:
        return None
    label, value, other = found
    question = f'What is the {label} of the country or territory whose demonym is "{country.demonym}"?'
    hop = (f"demonym {country.demonym} country", country_url(country))
    return Draft(f"{country.code} {label}", question, ((hop,),), value, (other,))


def city_code(rng: random.Random, atlas: Atlas) -> Draft | None:
    city = rng.choice(atlas.towns)
    country = atlas.countries[city.country]
    found = asked(rng, atlas, country, but="capital")
    if found is None:
        return None
    label, value, other = found
    question = f"In which country or territory lies the city of {city.name}? Answer with the {label} of that country."
    return Draft(f"{city.key} {label}", question, ((to_city(city),), (to_country(country),)), value, (other,))


def largest_city_zone(rng: random.Random, atlas: Atlas) -> Draft | None:
    country, place = rng.choice(atlas.facts.countries), rng.randrange(2)
    cities = [atlas.cities[key] for key in country.cities]
    if len(cities) < 3 or len({city.population for city in cities}) < 3:
        return None
    zone = cities[place].timezone
    others = sorted({city.timezone for city in atlas.facts.cities if city.timezone != zone})
    near = [other for other in others if other.split("/")[0] == zone.split("/")[0]]
    rank = ("largest", "second largest")[place]
    question = f"What is the time zone (such as Europe/Oslo) of the {rank} city, by inhabitants, of {country.name}?"
    stages = (to_country(country),), (to_city(cities[place], country),)
    return Draft(f"{country.code} {rank}", question, stages, zone, (rng.choice(near or others),))


def discovered_first(rng: random.Random, atlas: Atlas) -> Draft | None:
    one, two = rng.sample(atlas.dated, 2)
    first, later = sorted((one, two), key=lambda element: element.discovered)
    if first.discovered == later.discovered:
        return None
    question = f"Which chemical element was discovered first, {one.name} or {two.name}?"
    key = " ".join(sorted((one.symbol, two.symbol)))
    return Draft(key, question, ((to_element(one), to_element(two)),), first.name, (later.name,))


def element_rows(rng: random.Random, atlas: Atlas) -> Draft | None:
    chosen = rng.sample(atlas.facts.elements, rng.choice((2, 3)))
    question = (
        f"Make a table of the elements {joined([element.name for element in chosen])}: "
        'rows with the columns "element", "symbol" and "number" (the atomic number).'
    )
    numbers = [element.number for element in chosen]
    right, mixed = (
        tuple({"element": e.name, "symbol": e.symbol, "number": n} for e, n in zip(chosen, values, strict=True))
        for values in (numbers, [*numbers[1:], numbers[0]])
    )
    key = " ".join(sorted(element.symbol for element in chosen))
    return Draft(key, question, (tuple(to_element(element) for element in chosen),), right, (mixed, right[:-1]))


def border_rows(rng: random.Random, atlas: Atlas) -> Draft | None:
    country = rng.choice([country for country in atlas.facts.countries if 2 <= len(country.neighbours) <= 4])
    label = rng.choice(list(ASKED))
    around, column = atlas.neighbours(country), label.split(" (")[0]
    rows = tuple({"country": other.name, column: ASKED[label](other)} for other in around)
    if not all(row[column] for row in rows):
        return None
    question = (
        f"Make a table of the countries and territories that border {country.name} by land: "
        f'rows with the columns "country" and "{column}"{label.removeprefix(column)}.'
    )
    stages = (to_country(country),), tuple(to_country(other) for other in around)
    return Draft(f"{country.code} {column}", question, stages, rows, (rows[:-1], rows[1:]))


def shared_neighbours(rng: random.Random, atlas: Atlas) -> Draft | None:
    one = rng.choice([country for country in atlas.facts.countries if len(country.neighbours) > 1])
    others = sorted({code for around in atlas.neighbours(one) for code in around.neighbours} - {one.code})
    if not others:
        return None
    two = atlas.countries[rng.choice(others)]
    shared = [around for around in atlas.neighbours(one) if around.code in two.neighbours]
    union = {around.code: around for around in (*atlas.neighbours(one), *atlas.neighbours(two))}
    if not shared or len(union) == len(shared):
        return None
    question = f"Which countries and territories border both {one.name} and {two.name} by land? List all."
    key = " ".join(sorted((one.code, two.code)))
    stages = ((to_country(one), to_country(two)),)
    return Draft(key, question, stages, listed(shared), (listed(union.values()),))


def capital_gap(rng: random.Random, atlas: Atlas) -> Draft | None:
    one, two = rng.sample([country for country in atlas.facts.countries if country.seat], 2)
    seats = [atlas.cities[country.seat] for country in (one, two)]
    gap, lands = abs(seats[0].population - seats[1].population), abs(one.population - two.population)
    if gap in (0, lands):
        return None
    question = f"By how many inhabitants do the capital of {one.name} and the capital of {two.name} differ?"
    stages = (to_country(one), to_country(two)), (to_city(seats[0], one), to_city(seats[1], two))
    key = " ".join(sorted((one.code, two.code)))
    return Draft(key, question, stages, str(gap), (str(lands), str(max(seat.population for seat in seats))))


def domain_city(rng: random.Random, atlas: Atlas) -> Draft | None:
    country = rng.choice(atlas.domains)
    cities = [atlas.cities[key] for key in country.cities]
    if len({city.population for city in cities}) < 2 or cities[0].population == country.population:
        return None
    question = (
        f"How many inhabitants has the largest city of the country or territory with the internet domain {country.tld}?"
    )
    stages = ((f"internet domain {country.tld}", country_url(country)),), (to_city(cities[0], country),)
    return Draft(country.code, question, stages, str(cities[0].population), (str(country.population),))


def element_sum(rng: random.Random, atlas: Atlas) -> Draft | None:
    chosen = rng.sample(atlas.facts.elements, 3)
    numbers = [element.number for element in chosen]
    question = f"What is the sum of the atomic numbers of {joined([element.name for element in chosen])}?"
    key = " ".join(sorted(element.symbol for element in chosen))
    wrong = (str(sum(numbers[:2])), str(max(numbers)))
    return Draft(key, question, (tuple(to_element(element) for element in chosen),), str(sum(numbers)), wrong)


Family = Callable[[random.Random, Atlas], Draft | None]
TRAIN = (
    currency_fact, largest_city, largest_of_three, element_fact, element_difference, neighbours_currency,
    capital_population, bigger_city, demonym_fact, city_code, largest_city_zone, discovered_first, element_rows,
    border_rows,
)  # fmt: skip
HELD_OUT = (shared_neighbours, capital_gap, domain_city, element_sum)
FAMILIES: dict[str, Family] = {family.__name__: family for family in (*TRAIN, *HELD_OUT)}
