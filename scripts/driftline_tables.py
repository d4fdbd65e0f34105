"""How the outside checks open a store: plain Parquet, found by its paths, read by DuckDB. Nothing of Driftline is used."""

import datetime
import glob
import json
import pathlib
import re
import tomllib
import urllib.parse

import duckdb

HIVE_EMPTY = "__HIVE_DEFAULT_PARTITION__"
UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def files(store: pathlib.Path, pattern: str) -> list[str]:
    return sorted(glob.glob(str(pathlib.Path(glob.escape(str(store))) / pattern), recursive=True))


def text(value: str) -> str:
    """A SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def listed(paths: list[str]) -> str:
    """A SQL list of paths; those characters that DuckDB would take for a glob are escaped."""
    return "[" + ", ".join(text(re.sub(r"([\[*?])", r"[\1]", path)) for path in paths) + "]"


def model_of(path: str) -> str | None:
    """The model in a table's path, percent-decoded."""
    found = re.search(r"/model_name=([^/]*)/", path)
    if not found:
        return None
    return "" if found[1] == HIVE_EMPTY else urllib.parse.unquote(found[1])


def create_table_view(connection: duckdb.DuckDBPyConnection, store: pathlib.Path, table: str) -> bool:
    """Makes a view of a Hive-style table, with `model_name` from the path. False if the table has no object yet."""
    paths = files(store, f"{table}/**/*.parquet")
    if not paths:
        return False
    models = json.dumps({path: model_of(path) for path in paths})
    connection.execute(f"CREATE TABLE {table}_paths AS SELECT key AS filename, value ->> '$' AS model_name FROM json_each({text(models)})")
    connection.execute(
        f"CREATE VIEW {table} AS SELECT p.model_name, t.* EXCLUDE (filename) FROM read_parquet({listed(paths)}, union_by_name = true,"
        f" hive_partitioning = false, filename = true) t JOIN {table}_paths p USING (filename)"
    )
    return True


def columns(connection: duckdb.DuckDBPyConnection, table: str) -> set[str]:
    return {row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()}


def seconds(duration: str) -> float:
    """`30d`, `1h 30m`, `10min`."""
    parts = re.findall(r"([0-9.]+)\s*([a-z]+)", duration)
    return sum(float(number) * UNITS[unit if unit in UNITS else unit[0]] for number, unit in parts)


def config_models(path: str | None) -> dict[str, dict]:
    """The `[[models]]` of a driftline.toml, by name."""
    if path is None:
        return {}
    return {model["name"]: model for model in tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8")).get("models", [])}


def micros(value: datetime.datetime) -> int:
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.timezone.utc)
    return (value - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)
