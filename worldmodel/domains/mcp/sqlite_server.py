"""An MCP server over one SQLite database: lines of JSON-RPC on standard input and output, the standard library alone.

Owns: four tools (list_tables, describe_table, read_query, write_query), what of SQL may be used, the form of replies.
Refuses: every other file (no ATTACH, no VACUUM INTO, no extensions), clocks and chance, statements without an end.

Runs inside a box: ``python3 sqlite_server.py DATABASE [SCRIPT]``; a database that is not there is made from SCRIPT.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
import sys

SHOWN_ROWS, STEPS = 100, 2_000_000  # rows printed; virtual machine steps of one statement
READS, WRITES = ("select", "with"), ("insert", "update", "delete", "replace", "create", "alter", "drop")
CLOCKS = {"random", "randomblob", "date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff",
          "current_date", "current_time", "current_timestamp", "load_extension"}  # fmt: skip
_TEXT = {"type": "string"}
TOOLS = {
    "list_tables": ({}, "The tables of the database."),
    "describe_table": ({"table": _TEXT}, "The statement that made a table."),
    "read_query": ({"query": _TEXT}, "One SELECT; the rows as CSV."),
    "write_query": ({"query": _TEXT}, "One INSERT, UPDATE, DELETE, REPLACE, CREATE, ALTER or DROP."),
}


def allow(action: int, first: str | None, second: str | None, *_: object) -> int:
    closed = action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA)
    clock = action == sqlite3.SQLITE_FUNCTION and str(second).lower() in CLOCKS
    return sqlite3.SQLITE_DENY if closed or clock else sqlite3.SQLITE_OK


def connect(database: str, script: str) -> sqlite3.Connection:
    """Open ``database``; where there is none, make it from the file ``script``."""
    new = not os.path.exists(database)
    connection = sqlite3.connect(database, isolation_level=None)
    if new and script:
        with open(script, encoding="utf-8") as stream:
            connection.executescript(stream.read())
    connection.set_authorizer(allow)
    return connection


def bounded(connection: sqlite3.Connection, query: str) -> sqlite3.Cursor:
    """Run one statement; OperationalError 'interrupted' after STEPS."""
    spent = 0

    def tick() -> int:
        nonlocal spent
        spent += 1
        return int(spent > STEPS // 1000)

    connection.set_progress_handler(tick, 1000)
    return connection.execute(query)


def starts(query: str, words: tuple[str, ...]) -> None:
    found = re.match(r"\s*([A-Za-z]+)", query)
    if not found or found.group(1).lower() not in words:
        raise ValueError(f"the query must start with {', '.join(word.upper() for word in words)}")


def read(connection: sqlite3.Connection, query: str) -> str:
    starts(query, READS)
    connection.execute("BEGIN")
    try:
        cursor = bounded(connection, query)
        rows = cursor.fetchmany(SHOWN_ROWS + 1)
    finally:
        connection.execute("ROLLBACK")  # WITH may lead to a statement that writes
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([column[0] for column in cursor.description or ()])
    table.writerows(["NULL" if value is None else value for value in row] for row in rows[:SHOWN_ROWS])
    return text.getvalue() + ("(more rows are left out)\n" if len(rows) > SHOWN_ROWS else "")


def write(connection: sqlite3.Connection, query: str) -> str:
    starts(query, WRITES)
    before = connection.total_changes
    bounded(connection, query).fetchall()
    return f"{connection.total_changes - before} rows changed"


def answer(connection: sqlite3.Connection, name: str, arguments: dict[str, str]) -> str:
    """Raises ValueError or sqlite3.Error with what the caller is told."""
    if set(arguments) != set(TOOLS[name][0]) or not all(isinstance(value, str) for value in arguments.values()):
        raise ValueError(f"{name} takes {', '.join(TOOLS[name][0]) or 'no arguments'}")
    if name == "read_query":
        return read(connection, arguments["query"])
    if name == "write_query":
        return write(connection, arguments["query"])
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    if name == "list_tables":
        return "\n".join(row[0] for row in rows) or "(no tables)"
    found = [row[1] for row in rows if row[0] == arguments["table"]]
    if not found:
        raise ValueError(f"no such table: {arguments['table']}")
    return str(found[0])


def called(connection: sqlite3.Connection, params: dict) -> dict:
    """The result of tools/call."""
    try:
        text, failed = answer(connection, params["name"], params.get("arguments") or {}), False
    except (ValueError, sqlite3.Error, sqlite3.Warning) as error:
        text, failed = str(error), True
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def reply(connection: sqlite3.Connection, method: str, params: dict) -> dict:
    """The result of a request. Raises KeyError for an unknown method or tool."""
    if method == "initialize":
        info = {"name": "sqlite", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "ping":
        return {}
    if method == "tools/list":
        return {"tools": [{"name": name, "description": text, "inputSchema": schema(fields)}
                          for name, (fields, text) in TOOLS.items()]}  # fmt: skip
    if method == "tools/call" and params["name"] in TOOLS:
        return called(connection, params)
    raise KeyError(params.get("name") or method)


def schema(fields: dict) -> dict:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def main() -> int:
    connection = connect(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue  # a notification
        body: dict = {"jsonrpc": "2.0", "id": message["id"]}
        try:
            body["result"] = reply(connection, message["method"], message.get("params") or {})
        except KeyError as error:
            body["error"] = {"code": -32602, "message": f"unknown method or tool: {error.args[0]}"}
        print(json.dumps(body), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
