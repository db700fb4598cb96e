"""Answers SQL with rows, one line of JSON each.

A request is a JSON object: {"sql": ...} gives {"rows": [[cell, ...], ...]} or {"error": ...}. A cell is null, a text, or a
pair of its kind ("i", "f", "d", "b", "t") and its text.
"""

import datetime
import decimal
import json
import sys

import duckdb


def cell(value):
    if value is None:
        return None
    if isinstance(value, bool):
        return ["b", "true" if value else "false"]
    if isinstance(value, int):
        return ["i", str(value)]
    if isinstance(value, float):
        return ["f", repr(value)]
    if isinstance(value, decimal.Decimal):
        return ["d", format(value, "f")]
    if isinstance(value, (datetime.datetime, datetime.date)):
        return ["t", value.isoformat()]
    if isinstance(value, (list, dict)):
        return nested(value)
    return str(value)


def nested(value):
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "[" + ", ".join(nested(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {nested(field)}" for name, field in value.items()) + "}"
    if isinstance(value, float) and value != value:
        return "NaN"
    # Zeros are one value.
    return str(value + 0.0 if isinstance(value, float) else value)


def main():
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    for line in sys.stdin:
        try:
            cursor = connection.execute(json.loads(line)["sql"])
            answer = {"rows": [[cell(value) for value in row] for row in cursor.fetchall()]}
        except Exception as error:  # Whatever it is, the test tells it.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
