"""The task families over one server: files, graph, database. One small seeded function each.

Owns: instruction, state, known good and wrong ways, checks. Refuses: ids, splits, running checks.
"""

from __future__ import annotations

import copy
import random

from worldmodel.domains.mcp import vocabulary as v
from worldmodel.domains.mcp.drafts import (
    Draft,
    answered,
    call,
    change,
    file_is,
    graph_is,
    no_file,
    others,
    place,
    read,
    replace,
    rows_are,
    select,
    way,
    world,
    write,
)


def change_setting(rng: random.Random) -> Draft:
    name, other = (f"conf/{stem}.conf" for stem in rng.sample(v.TOPICS, 2))
    values, rest = v.settings(rng), v.settings(rng)
    key, wrong = rng.sample(sorted(values), 2)
    old, new = values[key], rng.choice([word for word in v.WORDS if word not in values.values()])
    files = {name: v.lined(values), other: v.lined(rest)}
    right = v.lined({**values, key: new})
    ask = rng.choice((f"Set {key} to {new} in {name}.", f"In {name}, change the value of {key} to {new}."))
    return Draft(
        ask, world("filesystem", files=files), (file_is(name, right), file_is(other, files[other])),
        way(read(name), replace(place(name), f"{key}={old}", f"{key}={new}")),
        (
            way(read(name), replace(place(name), f"{wrong}={values[wrong]}", f"{wrong}={new}")),
            way(read(name), write(name, f"{key}={new}\n")),
        ),
    )  # fmt: skip


def move_file(rng: random.Random) -> Draft:
    names, (folder, to) = v.names(rng, 3), rng.sample(v.FOLDERS, 2)
    files = {f"{folder}/{name}": v.text(v.prose(rng)) for name in names}
    name = names[0]
    old, new = f"{folder}/{name}", f"{to}/{name}"
    ask = rng.choice((f"Move {old} into the folder {to}.", f"The file {name} in {folder} belongs in {to}. Move it."))
    return Draft(
        ask, world("filesystem", files=files, dirs=[to]), (file_is(new, files[old]), no_file(old)),
        way(call("move_file", source=place(old), destination=place(new))),
        (
            way(read(old), write(new, files[old])),
            way(call("move_file", source=place(f"{folder}/{names[1]}"), destination=place(f"{to}/{names[1]}"))),
        ),
    )  # fmt: skip


def join_files(rng: random.Random) -> Draft:
    one, two, to = v.names(rng, 3)
    files = {one: v.text(v.prose(rng)), two: v.text(v.prose(rng))}
    ask = rng.choice((
        f"Write a file {to} with the lines of {one} and below them those of {two}.",
        f"Join {one} and {two}, in this order, in a new file {to}.",
    ))  # fmt: skip
    reading = read(one), read(two)
    return Draft(
        ask, world("filesystem", files=files), (file_is(to, files[one] + files[two]), file_is(one, files[one])),
        way(*reading, write(to, files[one] + files[two])),
        (way(*reading, write(to, files[two] + files[one])), way(*reading, write(to, files[one]))),
    )  # fmt: skip


def keep_matching(rng: random.Random) -> Draft:
    source, to = v.names(rng, 2)
    word = rng.choice(v.WORDS)
    lines = [f"{line} {word}" if rng.random() < 0.5 else line for line in v.prose(rng, 4, 6) if word not in line]
    lines[0], lines[1] = f"{lines[0].removesuffix(f' {word}')} {word}", lines[1].removesuffix(f" {word}")
    kept = [line for line in lines if word in line]
    rest = [line for line in lines if word not in line]
    files = {source: v.text(lines)}
    ask = rng.choice((
        f"Write the lines of {source} that hold the word {word} to a new file {to}.",
        f"Make {to} from those lines of {source} in which {word} occurs.",
    ))  # fmt: skip
    return Draft(
        ask, world("filesystem", files=files), (file_is(to, v.text(kept)), file_is(source, files[source])),
        way(read(source), write(to, v.text(kept))),
        (way(read(source), write(to, v.text(rest))), way(read(source), write(to, files[source]))),
    )  # fmt: skip


def find_in_files(rng: random.Random) -> Draft:
    names = v.names(rng, 4)
    words = rng.sample(v.WORDS, 8)
    files = {name: v.text([words[2 * i], words[2 * i + 1]]) for i, name in enumerate(names)}
    spot = rng.randrange(8)
    right = names[spot // 2]
    ask = rng.choice((f"Which file holds the word {words[spot]}?", f"In which file does {words[spot]} occur?"))
    looking = call("list_directory", path=place("").rstrip("/")), call("read_multiple_files", paths=sorted(
        place(name) for name in names))  # fmt: skip
    return Draft(
        f"{ask} Answer with its name.", world("filesystem", files=files), (answered(right),),
        way(*looking, answer=right), tuple(way(*looking, answer=name) for name in others(names, right)),
    )  # fmt: skip


def total_of_item(rng: random.Random) -> Draft:
    item, *rest = rng.sample(v.GOODS, 4)
    rows = [(item, rng.randint(1, 30)), (item, rng.randint(1, 30))]
    rows += [(rng.choice(rest), rng.randint(1, 30)) for _ in range(rng.randint(2, 4))]
    rng.shuffle(rows)
    right = sum(count for name, count in rows if name == item)
    wrong = [str(sum(count for _, count in rows)), str(next(count for name, count in rows if name == item))]
    name = "stock.csv"
    files = {name: v.text(["item,count", *(f"{name},{count}" for name, count in rows)])}
    ask = rng.choice((f"What is the total count of {item} in {name}?", f"Add up all counts of {item} in {name}."))
    return Draft(
        ask, world("filesystem", files=files), (answered(str(right)),), way(read(name), answer=str(right)),
        tuple(way(read(name), answer=value) for value in others(wrong, str(right))),
    )  # fmt: skip


def add_person(rng: random.Random) -> Draft:
    graph = v.graph(rng)
    taken = {entity["name"] for entity in graph["entities"]}
    name = rng.choice([name for name in v.GIVEN if name not in taken])
    firm, other = rng.sample([entity["name"] for entity in graph["entities"] if entity["entityType"] == "firm"], 2)
    habit = rng.choice(v.HABITS)
    person = {"name": name, "entityType": "person", "observations": [habit]}
    job = {"from": name, "to": firm, "relationType": "works_at"}
    right = {"entities": [*graph["entities"], person], "relations": [*graph["relations"], job]}
    ask = rng.choice((
        f'Add a person {name} to the graph with the observation "{habit}" and the relation works_at to {firm}.',
        f'Remember: {name} is a person, "{habit}" (one observation), and works_at {firm} (a relation).',
    ))  # fmt: skip
    made = call("create_entities", entities=[person])
    wrong = call("create_relations", relations=[{**job, "to": other}])
    return Draft(
        ask, world("memory", graph=graph), (graph_is(right),),
        way(made, call("create_relations", relations=[job])), (way(made), way(made, wrong)),
    )  # fmt: skip


def correct_fact(rng: random.Random) -> Draft:
    graph = v.graph(rng)
    persons = [entity for entity in graph["entities"] if entity["entityType"] == "person"]
    spot, other = rng.sample(range(len(persons)), 2)
    person, used = persons[spot], {fact for entity in persons for fact in entity["observations"]}
    old, new = person["observations"][-1], rng.choice([habit for habit in v.HABITS if habit not in used])
    right = copy.deepcopy(graph)
    right["entities"][spot]["observations"] = [*person["observations"][:-1], new]
    ask = rng.choice((
        f'Replace the observation "{old}" of {person["name"]} by "{new}".',
        f'It is wrong that {person["name"]} {old}. Put the observation "{new}" in its place.',
    ))  # fmt: skip
    gone = call("delete_observations", deletions=[{"entityName": person["name"], "observations": [old]}])
    added = call("add_observations", observations=[{"entityName": person["name"], "contents": [new]}])
    to_other = call("add_observations", observations=[{"entityName": persons[other]["name"], "contents": [new]}])
    return Draft(
        ask, world("memory", graph=graph), (graph_is(right),),
        way(call("open_nodes", names=[person["name"]]), gone, added), (way(added), way(gone, to_other)),
    )  # fmt: skip


def forget(rng: random.Random) -> Draft:
    graph = v.graph(rng)
    name, other = rng.sample([e["name"] for e in graph["entities"] if e["entityType"] == "person"], 2)
    right = {
        "entities": [entity for entity in graph["entities"] if entity["name"] != name],
        "relations": [relation for relation in graph["relations"] if name not in (relation["from"], relation["to"])],
    }
    ask = rng.choice((f"Remove {name} from the graph.", f"Delete the entity {name} and its relations."))
    facts = [entity["observations"] for entity in graph["entities"] if entity["name"] == name]
    emptied = call("delete_observations", deletions=[{"entityName": name, "observations": facts[0]}])
    return Draft(
        ask, world("memory", graph=graph), (graph_is(right),), way(call("delete_entities", entityNames=[name])),
        (way(call("delete_entities", entityNames=[other])), way(emptied)),
    )  # fmt: skip


def city_of_person(rng: random.Random) -> Draft:
    graph = v.graph(rng, persons=4, firms=3)
    links = {relation["from"]: relation["to"] for relation in graph["relations"]}
    name = rng.choice([entity["name"] for entity in graph["entities"] if entity["entityType"] == "person"])
    right = links[links[name]]
    wrong = [entity["name"] for entity in graph["entities"] if entity["entityType"] == "city"]
    ask = rng.choice((f"In which city lies the firm where {name} works?", f"{name} works in a firm. In which city?"))
    looking = call("open_nodes", names=[name]), call("open_nodes", names=[links[name]])
    return Draft(
        ask, world("memory", graph=graph), (answered(right),), way(*looking, answer=right),
        tuple(way(*looking, answer=value) for value in [*others(wrong, right), links[name]]),
    )  # fmt: skip


def change_quantity(rng: random.Random) -> Draft:
    customers, orders = v.shop(rng)
    spot, other = rng.sample(range(len(orders)), 2)
    new = rng.choice([n for n in range(21, 60) if n != orders[spot]["quantity"]])
    right = [{**row, "quantity": new} if i == spot else row for i, row in enumerate(orders)]
    number = orders[spot]["id"]
    ask = rng.choice((f"Set the quantity of order {number} to {new}.", f"Order {number} is for {new} pieces. Fix it."))
    update = f"UPDATE orders SET quantity = {new}"
    return Draft(
        ask, world("sqlite", database=v.dump(customers, orders)), (rows_are("orders", v.csv_of(right)),),
        way(select(f"SELECT * FROM orders WHERE id = {number}"), change(f"{update} WHERE id = {number}")),
        (way(change(f"{update} WHERE id = {orders[other]['id']}")), way(change(update))),
    )  # fmt: skip


def add_order(rng: random.Random) -> Draft:
    customers, orders = v.shop(rng)
    who, other = rng.sample(customers, 2)
    row = {"id": len(orders) + 1, "customer": who["id"], "item": rng.choice(v.GOODS), "quantity": rng.randint(1, 20),
           "state": "open"}  # fmt: skip
    insert = "INSERT INTO orders VALUES ({id}, {customer}, '{item}', {quantity}, '{state}')"
    ask = rng.choice((
        f"Add order {row['id']}, state open: {row['quantity']} x {row['item']} for the customer {who['name']}.",
        f"{who['name']} orders {row['quantity']} x {row['item']}. Enter it as order {row['id']} with the state open.",
    ))  # fmt: skip
    looking = select(f"SELECT id FROM customers WHERE name = '{who['name']}'")
    return Draft(
        ask, world("sqlite", database=v.dump(customers, orders)), (rows_are("orders", v.csv_of([*orders, row])),),
        way(call("describe_table", table="orders"), looking, change(insert.format_map(row))),
        (way(looking, change(insert.format_map({**row, "customer": other["id"]}))), way(looking)),
    )  # fmt: skip


def drop_orders(rng: random.Random) -> Draft:
    customers, orders = v.shop(rng)
    state, wrong = rng.sample(v.STATES[:2], 2)
    below = 1 + rng.choice([row["quantity"] for row in orders if row["state"] == state])
    right = [row for row in orders if row["state"] != state or row["quantity"] >= below]
    ask = rng.choice((
        f"Delete all orders whose state is {state} and whose quantity is less than {below}.",
        f"Remove every order with the state {state} and a quantity below {below}.",
    ))  # fmt: skip
    delete, small = "DELETE FROM orders", f"quantity < {below}"
    one = min(row["id"] for row in orders if row["state"] == wrong)
    more = any(row["state"] == state for row in right)
    return Draft(
        ask, world("sqlite", database=v.dump(customers, orders)), (rows_are("orders", v.csv_of(right)),),
        way(change(f"{delete} WHERE state = '{state}' AND {small}")),
        (
            way(change(f"{delete} WHERE state = '{state if more else wrong}'")),
            way(change(f"{delete} WHERE state = '{wrong}' AND {small}")), way(change(f"{delete} WHERE id = {one}")),
        ),
    )  # fmt: skip


def quantity_of_city(rng: random.Random) -> Draft:
    customers, orders = v.shop(rng)
    city = rng.choice(customers)["city"]
    home = {row["id"]: row["city"] for row in customers}
    counts = [row["quantity"] for row in orders if home[row["customer"]] == city]
    right = str(sum(counts))
    wrong = others([str(sum(row["quantity"] for row in orders)), str(len(counts)), str(max(counts))], right)
    ask = rng.choice((
        f"How many pieces did customers from {city} order in total?",
        f"What is the sum of the quantities of all orders by customers in {city}?",
    ))  # fmt: skip
    query = "SELECT sum(quantity) FROM orders JOIN customers ON customer = customers.id WHERE city = "
    return Draft(
        ask, world("sqlite", database=v.dump(customers, orders)), (answered(right),),
        way(call("list_tables"), select(f"{query}'{city}'"), answer=right),
        tuple(way(select("SELECT * FROM orders"), answer=value) for value in wrong),
    )  # fmt: skip
