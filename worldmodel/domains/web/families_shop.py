"""The web families of the shop: one small seeded function each.

Owns: instruction, first state, known good and wrong ways, checks. Refuses: ids, splits, running checks.
"""

from __future__ import annotations

import random

from worldmodel.domains.web import vocabulary as v
from worldmodel.domains.web.drafts import Draft, answers, draft, expect, named, told
from worldmodel.domains.web.inside.shop import SHIPPING, SORTS, money
from worldmodel.domains.web.visit import Visit
from worldmodel.domains.web.vocabulary import State


def _put(visit: Visit, name: str, quantity: int) -> Visit:
    return visit.search(name).link(name).write("Quantity", str(quantity)).button("Add to cart")


def add_to_cart(rng: random.Random) -> Draft:
    state = v.shop(rng)
    product, wrong = rng.sample(state["tables"]["products"], 2)
    name, count = product["name"], rng.randrange(1, 4)
    ask = rng.choice((f"Put {count} x {name} into the cart.", f"Add {name} to the shopping cart, quantity {count}."))
    return draft(
        state, ask,
        expect(state, lambda t: t["cart"].append({"product": product["id"], "quantity": count}), "cart"),
        lambda user: _put(user, name, count),
        lambda user: _put(user, wrong["name"], min(count, wrong["stock"])),
        lambda user: user.search(name).link(name).write("Quantity", str(count)),
    )  # fmt: skip


def cheapest(rng: random.Random) -> Draft:
    """The list is on several pages and can be sorted."""
    state = v.shop(rng)
    category = rng.choice(sorted({product["category"] for product in state["tables"]["products"]}))
    found = sorted((p for p in state["tables"]["products"] if p["category"] == category), key=lambda p: int(p["price"]))
    dear = rng.random() < 0.5
    best, second = (found[-1], found[-2]) if dear else (found[0], found[1])
    word = "most expensive" if dear else "cheapest"

    def buy(user: Visit, name: str) -> Visit:
        user.link(category).choose("Sort by", SORTS[2 if dear else 1]).button("Sort").link(name)
        return user.button("Add to cart")

    return draft(
        state, rng.choice((f"Add the {word} product of {category} to the cart.",
                           f"Put one of the {word} product in the category {category} into the cart.")),
        expect(state, lambda t: t["cart"].append({"product": best["id"], "quantity": 1}), "cart"),
        lambda user: buy(user, best["name"]),
        lambda user: buy(user, second["name"]),
    )  # fmt: skip


def change_quantity(rng: random.Random) -> Draft:
    state = v.shop(rng)
    product, other = v.filled(rng, state, 2)
    now = named(state["tables"]["cart"], product=product["id"])["quantity"]
    to = rng.choice([n for n in range(1, product["stock"] + 1) if n != now])

    def change(user: Visit, name: str, count: int) -> Visit:
        return user.link(_cart(state)).write(f"Quantity of {name}", str(count)).button(f"Update {name}")

    return draft(
        state, rng.choice((f"Change the quantity of {product['name']} in the cart to {to}.",
                           f"There should be {to} of {product['name']} in the cart.")),
        expect(state, lambda t: named(t["cart"], product=product["id"]).update(quantity=to), "cart"),
        lambda user: change(user, product["name"], to),
        lambda user: _put(user, product["name"], 1) if now + 1 != to else change(user, other["name"], 1),
        lambda user: user.link(_cart(state)).write(f"Quantity of {product['name']}", str(to)),
    )  # fmt: skip


def _cart(state: State) -> str:
    return f"Cart ({sum(line['quantity'] for line in state['tables']['cart'])})"


def remove_item(rng: random.Random) -> Draft:
    state = v.shop(rng)
    product, other, _ = v.filled(rng, state, 3)
    ask = rng.choice((f"Remove {product['name']} from the cart.", f"Take {product['name']} out of the shopping cart."))
    return draft(
        state, ask,
        expect(state, lambda t: t["cart"].remove(named(t["cart"], product=product["id"])), "cart"),
        lambda user: user.link(_cart(state)).button(f"Remove {product['name']}"),
        lambda user: user.link(_cart(state)).button(f"Remove {other['name']}"),
    )  # fmt: skip


def price_of(rng: random.Random) -> Draft:
    state = v.shop(rng)
    product, other = rng.sample(state["tables"]["products"], 2)
    name = product["name"]
    ask = rng.choice((f"What does {name} cost? Answer like 12.50 EUR.", f"Tell me the price of {name}, as 12.50 EUR."))
    return draft(
        state, ask, answers(money(product["price"])),
        lambda user: user.search(name).link(name).tell(money(product["price"])),
        lambda user: user.search(other["name"]).link(other["name"]).tell(money(other["price"])),
        lambda user: user.search(name).link(name),
    )  # fmt: skip


def colour_and_stock(rng: random.Random) -> Draft:
    """Two facts of one page."""
    state = v.shop(rng)
    product = rng.choice(state["tables"]["products"])
    name = product["name"]
    right, wrong = (f"{product['colour']}, {product['stock'] + more}" for more in (0, 1))
    return draft(
        state, f"Which colour is {name}, and how many are in stock? Answer like: red, 5", answers(right),
        lambda user: user.search(name).link(name).tell(right),
        lambda user: user.search(name).link(name).tell(wrong),
        lambda user: user.search(name).tell(str(product["colour"])),
    )  # fmt: skip


def write_review(rng: random.Random) -> Draft:
    state = v.shop(rng)
    product, other = rng.sample(state["tables"]["products"], 2)
    name, rating, text = product["name"], rng.choice("1234"), rng.choice(v.REVIEWS)
    record = {"product": product["id"], "author": v.login(state)[0], "rating": rating, "text": text}

    def review(user: Visit, of: str, stars: str) -> Visit:
        user.login(*v.login(state)).search(of).link(of)
        if stars != "5":
            user.choose("Rating", stars)
        return user.write("Review", text).button("Send review")

    return draft(
        state, f'Write a review of {name} with {rating} of 5 and the text "{text}". {told(state)}',
        expect(state, lambda t: t["reviews"].append(record), "reviews"),
        lambda user: review(user, name, rating),
        lambda user: review(user, name, "5"),
        lambda user: review(user, other["name"], rating),
    )  # fmt: skip


def change_address(rng: random.Random) -> Draft:
    state = v.shop(rng)
    me, to = state["tables"]["users"][0], v.address(rng)
    email = f"{me['name']}{rng.randrange(10, 100)}@post.test"
    field, new = rng.choice((("Address", to), ("E-mail", email)))
    key, wrong = {"Address": ("address", "E-mail"), "E-mail": ("email", "Address")}[field]

    def save(user: Visit, where: str) -> Visit:
        return user.login(*v.login(state)).link("My account").write(where, new)

    return draft(
        state, f"Change the {field.lower()} of my account to {new}. {told(state)}",
        expect(state, lambda t: t["users"][0].update({key: new}), "users"),
        lambda user: save(user, field).button("Save"),
        lambda user: save(user, field),
        lambda user: save(user, wrong).button("Save"),
    )  # fmt: skip


def _order(state: State, shipping: str, gift: str, address: str) -> State:
    tables = state["tables"]
    names = {product["id"]: product for product in tables["products"]}
    items = ", ".join(f"{line['quantity']} x {names[line['product']]['name']}" for line in tables["cart"])
    total = sum(names[line["product"]]["price"] * line["quantity"] for line in tables["cart"])
    return {"order": "1", "user": v.login(state)[0], "items": items, "address": address, "shipping": shipping,
            "gift": gift, "total": money(total)}  # fmt: skip


def _check_out(state: State, user: Visit) -> Visit:
    return user.login(*v.login(state)).link(_cart(state)).link("Check out")


def order_cart(rng: random.Random) -> Draft:
    state = v.shop(rng)
    v.filled(rng, state, 2)
    shipping = rng.choice(SHIPPING[1:])
    record = _order(state, shipping, "no", state["tables"]["users"][0]["address"])
    return draft(
        state, f"Order what is in the cart, with {shipping} shipping to the address of my account. {told(state)}",
        expect(state, lambda t: t["orders"].append(record), "orders"),
        lambda user: _check_out(state, user).choose("Shipping", shipping).button("Place order"),
        lambda user: _check_out(state, user).button("Place order"),
        lambda user: _check_out(state, user).choose("Shipping", shipping),
    )  # fmt: skip


def order_gift(rng: random.Random) -> Draft:
    """Held out: another address and gift wrap."""
    state = v.shop(rng)
    v.filled(rng, state, rng.randrange(1, 3))
    to = v.address(rng)
    record = _order(state, SHIPPING[0], "yes", to)
    return draft(
        state, f"Order what is in the cart as a gift: gift-wrapped, with Standard shipping to {to}. {told(state)}",
        expect(state, lambda t: t["orders"].append(record), "orders"),
        lambda user: _check_out(state, user).write("Address", to).tick("Gift wrap").button("Place order"),
        lambda user: _check_out(state, user).write("Address", to).button("Place order"),
        lambda user: _check_out(state, user).tick("Gift wrap").button("Place order"),
    )  # fmt: skip
