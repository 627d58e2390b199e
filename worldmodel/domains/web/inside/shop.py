"""The shop: products in categories, a cart, orders, reviews, an account.

Owns: its pages and what its forms change. Tables: products, cart, orders, reviews, users. Refuses: tasks about it.
Money is whole cents.
"""

from __future__ import annotations

from worldmodel.domains.web.inside.pages import Block, Field, Form, Items, Link, Page, Part, Redirect, Text
from worldmodel.domains.web.inside.site import (
    LOGIN,
    Record,
    Request,
    Route,
    State,
    find,
    layout,
    listed,
    missing,
    need_login,
    part,
    say,
    table,
    unpart,
    user,
)  # fmt: skip

SHIPPING = ("Standard", "Express", "Pick-up point")
SORTS = ("Name", "Price, lowest first", "Price, highest first")
RATINGS = ("5", "4", "3", "2", "1")


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d} EUR"


def _page(state: State, title: str, *blocks: Block) -> Page:
    count = sum(int(line["quantity"]) for line in table(state, "cart"))
    return layout(state, title, *blocks, links=(Link(f"Cart ({count})", "/cart"), Link("My account", "/account")))


def _home(state: State, request: Request, _: str) -> Page:
    names = sorted({product["category"] for product in table(state, "products")})
    return _page(state, "Corner Shop", Items(tuple((Link(name, f"/category/{part(name)}"),) for name in names)))


def _row(product: Record) -> tuple[Part, ...]:
    return Link(product["name"], f"/product/{product['id']}"), money(product["price"])


def _search(state: State, request: Request, _: str) -> Page:
    query = request.text("q")
    words = query.lower().split()
    found = [p for p in table(state, "products") if all(word in p["name"].lower() for word in words)]
    rows = [_row(product) for product in sorted(found, key=lambda product: str(product["name"]))]
    blocks = listed("/search", {"q": query}, rows, request.number("page", 1))
    return _page(state, "Search results", Text(f"{len(found)} products found."), *blocks)


def _category(state: State, request: Request, name: str) -> Page:
    name = unpart(name)
    found = [product for product in table(state, "products") if product["category"] == name]
    if not found:
        return missing(state)
    sort = request.text("sort") if request.text("sort") in SORTS else SORTS[0]
    found.sort(key=lambda product: str(product["name"]))
    if sort != SORTS[0]:
        found.sort(key=lambda product: int(product["price"]), reverse=sort == SORTS[2])
    path = f"/category/{part(name)}"
    choose = Form(path, (Field("Sort by", "sort", "select", sort, SORTS),), "Sort", "get")
    rows = [_row(product) for product in found]
    return _page(state, name, choose, *listed(path, {"sort": sort}, rows, request.number("page", 1)))


def _product(state: State, request: Request, number: str) -> Page:
    product = find(state, "products", "id", number)
    if product is None:
        return missing(state)
    stock = f"In stock: {product['stock']}." if product["stock"] else "Out of stock."
    facts = f"Price: {money(product['price'])}. {stock} Colour: {product['colour']}."
    blocks: list[Block] = [Text(facts), Link(product["category"], f"/category/{part(product['category'])}")]
    if product["stock"]:
        fields = (Field("", "product", "hidden", number), Field("Quantity", "quantity", "text", "1"))
        blocks.append(Form("/cart/add", fields, "Add to cart"))
    reviews = [review for review in table(state, "reviews") if review["product"] == number]
    if reviews:
        blocks.append(Items(tuple((f"{r['rating']} of 5 by {r['author']}: {r['text']}",) for r in reviews)))
    if user(state):
        fields = (Field("Rating", "rating", "select", RATINGS[0], RATINGS), Field("Review", "text", "area"))
        blocks.append(Form(f"/product/{number}/review", fields, "Send review"))
    return _page(state, product["name"], *blocks)


def _add(state: State, request: Request, _: str) -> Redirect:
    number, quantity = request.text("product"), request.number("quantity")
    product, line = find(state, "products", "id", number), find(state, "cart", "product", number)
    if product is None:
        return Redirect("/cart")
    wanted = quantity + (line["quantity"] if line else 0)
    if quantity < 1 or wanted > product["stock"]:
        say(state, f"Choose a quantity from 1 to {product['stock']}.")
        return Redirect(f"/product/{number}")
    if line:
        line["quantity"] = wanted
    else:
        table(state, "cart").append({"product": number, "quantity": quantity})
    say(state, f"{product['name']} added to the cart.")
    return Redirect("/cart")


def _total(state: State) -> int:
    prices = {product["id"]: int(product["price"]) for product in table(state, "products")}
    return sum(prices[line["product"]] * int(line["quantity"]) for line in table(state, "cart"))


def _cart(state: State, request: Request, _: str) -> Page:
    rows: list[tuple[Part, ...]] = []
    for line in table(state, "cart"):
        product = find(state, "products", "id", line["product"]) or {}
        name, hidden = product["name"], Field("", "product", "hidden", line["product"])
        amount = Field(f"Quantity of {name}", "quantity", "text", str(line["quantity"]))
        rows.append((
            Link(name, f"/product/{line['product']}"), money(product["price"]),
            Form("/cart/update", (hidden, amount), f"Update {name}"), Form("/cart/remove", (hidden,), f"Remove {name}"),
        ))  # fmt: skip
    if not rows:
        return _page(state, "Cart", Text("The cart is empty."))
    return _page(state, "Cart", Items(tuple(rows)), Text(f"Total: {money(_total(state))}."),
                 Link("Check out", "/checkout"))  # fmt: skip


def _update(state: State, request: Request, _: str) -> Redirect:
    number, quantity = request.text("product"), request.number("quantity")
    product, line = find(state, "products", "id", number), find(state, "cart", "product", number)
    if product and line and 1 <= quantity <= product["stock"]:
        line["quantity"] = quantity
        say(state, f"Quantity of {product['name']} set to {quantity}.")
    elif product:
        say(state, f"Choose a quantity from 1 to {product['stock']}.")
    return Redirect("/cart")


def _remove(state: State, request: Request, _: str) -> Redirect:
    lines = table(state, "cart")
    lines[:] = [line for line in lines if line["product"] != request.text("product")]
    say(state, "Removed from the cart.")
    return Redirect("/cart")


def _account(state: State, request: Request, _: str) -> Page | Redirect:
    record = find(state, "users", "name", user(state))
    if record is None:
        return need_login(state)
    fields = (Field("Address", "address", "text", record["address"]), Field("E-mail", "email", "text", record["email"]))
    orders = [order for order in table(state, "orders") if order["user"] == user(state)]
    rows = tuple((f"Order {o['order']}: {o['items']}. {o['shipping']} to {o['address']}. {o['total']}.",)
                 for o in orders)  # fmt: skip
    history: Block = Items(rows) if rows else Text("No orders yet.")
    return _page(state, "My account", Form("/account", fields, "Save"), history)


def _save(state: State, request: Request, _: str) -> Redirect:
    record = find(state, "users", "name", user(state))
    if record is None:
        return need_login(state)
    if not request.text("address") or "@" not in request.text("email"):
        say(state, "Give an address and an e-mail address.")
    else:
        record.update(address=request.text("address"), email=request.text("email"))
        say(state, "Account saved.")
    return Redirect("/account")


def _checkout(state: State, request: Request, _: str) -> Page | Redirect:
    record = find(state, "users", "name", user(state))
    if record is None:
        return need_login(state)
    if not table(state, "cart"):
        return Redirect("/cart")
    fields = (
        Field("Address", "address", "text", record["address"]),
        Field("Shipping", "shipping", "select", SHIPPING[0], SHIPPING), Field("Gift wrap", "gift", "check"),
    )  # fmt: skip
    return _page(state, "Check out", Text(f"Total: {money(_total(state))}."), Form("/checkout", fields, "Place order"))


def _order(state: State, request: Request, _: str) -> Redirect:
    lines, address, shipping = table(state, "cart"), request.text("address"), request.text("shipping")
    if not user(state):
        return need_login(state)
    if not lines or not address or shipping not in SHIPPING:
        say(state, "Give an address and a way of shipping.")
        return Redirect("/checkout")
    items = []
    for line in lines:
        product = find(state, "products", "id", line["product"]) or {}
        items.append(f"{line['quantity']} x {product['name']}")
        product["stock"] -= line["quantity"]
    orders = table(state, "orders")
    orders.append({
        "order": str(len(orders) + 1), "user": user(state), "items": ", ".join(items), "address": address,
        "shipping": shipping, "gift": "yes" if request.text("gift") else "no", "total": money(_total(state)),
    })  # fmt: skip
    lines.clear()
    say(state, f"Thank you. Your order has the number {len(orders)}.")
    return Redirect("/account")


def _review(state: State, request: Request, number: str) -> Redirect:
    rating, text = request.text("rating"), request.text("text")
    if not user(state):
        return need_login(state)
    if find(state, "products", "id", number) and rating in RATINGS and text:
        table(state, "reviews").append({"product": number, "author": user(state), "rating": rating, "text": text})
        say(state, "Thank you for the review.")
    else:
        say(state, "A review needs a text.")
    return Redirect(f"/product/{number}")


ROUTES: tuple[Route, ...] = (
    ("GET", "/", _home), ("GET", "/search", _search), ("GET", "/category/([^/]+)", _category),
    ("GET", "/product/([0-9]+)", _product), ("POST", "/product/([0-9]+)/review", _review), ("GET", "/cart", _cart),
    ("POST", "/cart/add", _add), ("POST", "/cart/update", _update), ("POST", "/cart/remove", _remove),
    ("GET", "/account", _account), ("POST", "/account", _save), ("GET", "/checkout", _checkout),
    ("POST", "/checkout", _order), *LOGIN,
)  # fmt: skip
