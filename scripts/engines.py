"""Reads a store with another engine by the very calls of README's "Reading the tables", and compares its answers with `driftline sql`.

    scripts/python.sh scripts/engines.py polars --store ./driftline-data/store --driftline target/debug/driftline
    scripts/spark.sh scripts/engines.py spark --store s3://bucket/driftline --driftline target/debug/driftline

With `--watch` it reads `history` again and again until its standard input ends, and holds every read to the contract: one row per
prediction, and never fewer rows than before. On a disk it takes README's snapshot before each read, and no read may fail; elsewhere a read
that fails is repeated, as README says. Exit 0: all is equal; 3: it is not.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"
ENGINES = {"duckdb": "DuckDB", "polars": "Polars", "pyarrow": "pyarrow", "spark": "Spark"}
# Sums over rows in another order differ by rounding.
TOLERANCE = 1e-12
# Reads of a remote store that fail one after the other, before that is a failure.
TRIES = 20
# So much of a failure is told: enough to see what it was about.
WORDS = 400
# Between two reads, in seconds: an engine leaves time to those that it watches.
PAUSE = 0.25
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)

# What is asked of each table: the columns of its groups, then (operation, column, …). A column that a store has not is left out.
QUESTIONS = {
    "history": (
        ["model_name", "date"],
        [("rows",), ("distinct", "model_version", "prediction_id", "window_start"), ("sum", "revision"), ("sum", "score"), ("count", "score"),
         ("sum", "label_value"), ("count", "label_value"), ("count", "label"), ("min", "event_time"), ("max", "event_time"),
         ("max", "label_time"), ("sum", "feature_amount"), ("count", "feature_amount"), ("count", "feature_amount_text"),
         ("sum", "feature_later"), ("count", "feature_later"), ("count", "tag_region"), ("count", "tag_later"), ("entry", "probabilities", "1"),
         ("entry", "probabilities", "0"), ("entry", "attributions", "amount"), ("min", "window_start")],
    ),
    "metrics": (
        ["model_name", "date", "metric"],
        [("rows",), ("sum", "value"), ("count", "value"), ("sum", "n"), ("sum", "n_labelled"), ("count", "segment"), ("max", "decided_at"),
         ("distinct", "window_start", "model_version", "segment", "segment_value", "class")],
    ),
    "drift": (
        ["model_name", "date", "column_name", "method"],
        [("rows",), ("sum", "statistic"), ("count", "statistic"), ("sum", "p_value"), ("true", "drifted"), ("sum", "n_reference")],
    ),
}  # fmt: skip


class Unequal(Exception):
    """What the contract forbids."""


# README


def section(readme: str) -> str:
    found = re.search(r"^## Reading the tables$(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    if not found:
        raise SystemExit("README has no section `Reading the tables`")
    return found[1]


def block(readme: str, language: str, first: str = "") -> str:
    """The one code block of that language whose first line begins so."""
    found = [text for text in re.findall(rf"^```{language}\n(.*?)^```$", section(readme), re.MULTILINE | re.DOTALL) if text.startswith(first)]
    if len(found) != 1:
        raise SystemExit(f"README has {len(found)} blocks of {language} that begin with {first!r}, not one")
    return found[0]


def snapshot(readme: str, store: str, into: str) -> str:
    """Carries out README's snapshot of a store on a disk, in a folder of its own, as README names it."""
    folder = tempfile.mkdtemp(dir=into)
    os.mkdir(os.path.join(folder, "driftline-data"))
    os.symlink(os.path.abspath(store), os.path.join(folder, "driftline-data/store"))
    subprocess.run(["bash", "-euc", block(readme, "sh")], cwd=folder, check=True)
    return os.path.join(folder, "snapshot")


# What is asked, as SQL, and in the words of the two engines without it


def names_of(operation: tuple) -> str:
    return " ".join(operation)


def sql(dialect: str, table: str, relation: str, columns: set[str]) -> str:
    groups, operations = QUESTIONS[table]
    micros = {"duckdb": "epoch_us({})", "spark": "unix_micros({})", "driftline": "CAST({} AS BIGINT)"}[dialect]
    text = {"duckdb": "VARCHAR", "spark": "STRING", "driftline": "VARCHAR"}[dialect]
    quote = "`{}`" if dialect == "spark" else '"{}"'

    def said(operation: tuple) -> str:
        kind, *rest = operation
        column = quote.format(rest[0]) if rest else "*"
        match kind:
            case "rows":
                return "count(*)"
            case "sum" | "count":
                return f"{kind}({column})"
            case "distinct":
                parts = ", ".join(f"coalesce(CAST({quote.format(name)} AS {text}), '-')" for name in rest)
                return f"count(DISTINCT concat_ws('|', {parts}))"
            case "true":
                return f"sum(CASE WHEN {column} THEN 1 ELSE 0 END)"
            case "entry":
                return f"sum({column}['{rest[1]}'])"
            case _:
                return micros.format(f"{kind}({column})")

    keys = [f"CAST({quote.format(name)} AS {text})" for name in groups]
    asked = [said(operation) for operation in known(table, columns)]
    aliased = [f"{expression} AS {quote.format(f'c{number}')}" for number, expression in enumerate(keys + asked)]
    return f"SELECT {', '.join(aliased)} FROM {relation} GROUP BY {', '.join(keys)}"


def known(table: str, columns: set[str]) -> list[tuple]:
    """The operations whose columns there are."""
    last = {"entry": 2}
    return [one for one in QUESTIONS[table][1] if columns.issuperset(one[1 : last.get(one[0])])]


def micros_of(value) -> int | None:
    if not isinstance(value, datetime.datetime):
        return value
    if value.tzinfo is None:
        raise Unequal(f"the time {value} has no zone")
    return (value - EPOCH) // datetime.timedelta(microseconds=1)


class DuckDb:
    """DuckDB asks in SQL."""

    def __init__(self, readme: str, store: str):
        import duckdb

        self.duckdb, self.version = duckdb, duckdb.__version__
        extensions = pathlib.Path(sys.prefix) / "duckdb-extensions"
        if extensions.is_dir():
            duckdb.sql(f"SET extension_directory = '{extensions}'")
        if store.startswith("s3"):
            endpoint = urllib.parse.urlparse(os.environ.get("AWS_ENDPOINT_URL", ""))
            secret = block(readme, "sql", "CREATE SECRET")
            if endpoint.netloc:
                secret = secret.replace("s3.example.org:9000", endpoint.netloc).replace("USE_SSL true", f"USE_SSL {endpoint.scheme == 'https'}")
            else:
                secret = re.sub(r", ENDPOINT .*\)", ")", secret)
            duckdb.sql(secret)

    def columns(self, table) -> set[str]:
        return set(table.columns)

    # DuckDB finds a relation by the name of the Python variable, and `table` is a word of its own.
    def count(self, asked) -> tuple[int, int]:
        key = "(model_name, model_version, prediction_id, window_start)"
        return self.duckdb.sql(f"SELECT count(*), count(DISTINCT {key}) FROM asked").fetchall()[0]

    def ask(self, name: str, asked) -> list[tuple]:
        return self.duckdb.sql(sql("duckdb", name, "asked", self.columns(asked))).fetchall()


class Spark:
    """Spark too."""

    def __init__(self, readme: str, store: str):
        os.environ.setdefault("SPARK_CONF_DIR", str(pathlib.Path(sys.prefix) / "conf"))
        # Its shell prints progress on stderr otherwise.
        os.environ.setdefault("PYSPARK_SUBMIT_ARGS", "--conf spark.ui.showConsoleProgress=false pyspark-shell")
        import pyspark

        self.version = pyspark.__version__

    def columns(self, table) -> set[str]:
        return set(table.columns)

    def count(self, table) -> tuple[int, int]:
        row = table.selectExpr("count(*)", "count(DISTINCT struct(model_name, model_version, prediction_id, window_start))").collect()[0]
        return row[0], row[1]

    def ask(self, name: str, table) -> list[tuple]:
        table.createOrReplaceTempView("asked")
        return [tuple(row) for row in table.sparkSession.sql(sql("spark", name, "asked", self.columns(table))).collect()]


class Polars:
    """Polars asks by its expressions."""

    def __init__(self, readme: str, store: str):
        import polars

        self.pl, self.version = polars, polars.__version__

    def columns(self, table) -> set[str]:
        return set(table.collect_schema())

    def count(self, table) -> tuple[int, int]:
        pl = self.pl
        key = pl.struct("model_name", "model_version", "prediction_id", "window_start")
        return table.select(pl.len(), key.n_unique().alias("keys")).collect().row(0)

    def ask(self, name: str, table) -> list[tuple]:
        groups = QUESTIONS[name][0]
        asked = [self.said(operation).alias(names_of(operation)) for operation in known(name, self.columns(table))]
        rows = table.group_by(groups).agg(asked).collect().rows()
        return [tuple(micros_of(value) for value in row) for row in rows]

    def said(self, operation: tuple):
        pl = self.pl
        kind, *rest = operation
        match kind:
            case "rows":
                return pl.len()
            case "distinct":
                return pl.struct(rest).n_unique()
            case "true":
                return pl.col(rest[0]).sum()
            case "entry":
                return pl.col(rest[0]).map.get(rest[1]).sum()
            case _:
                return getattr(pl.col(rest[0]), kind)()


class PyArrow:
    """pyarrow asks by grouping a table."""

    def __init__(self, readme: str, store: str):
        import pyarrow
        import pyarrow.compute

        self.pa, self.pc, self.version = pyarrow, pyarrow.compute, pyarrow.__version__

    def columns(self, table) -> set[str]:
        return set(table.schema.names)

    def count(self, table) -> tuple[int, int]:
        key = ["model_name", "model_version", "prediction_id", "window_start"]
        rows = table.to_table(columns=key)
        return rows.num_rows, rows.group_by(key).aggregate([]).num_rows

    def ask(self, name: str, table) -> list[tuple]:
        groups, operations = QUESTIONS[name][0], known(name, self.columns(table))
        needed = {column for one in operations for column in (one[1:2] if one[0] == "entry" else one[1:])}
        rows = table.to_table(columns=sorted(needed | set(groups)))
        aggregations = []
        for number, operation in enumerate(operations):
            column, how = self.said(rows, operation)
            rows = rows.append_column(f"q{number}", column)
            aggregations.append((f"q{number}", how))
        answer = rows.group_by(groups).aggregate(aggregations)
        wanted = groups + [f"q{number}_{how}" for number, (_, how) in enumerate(aggregations)]
        return [tuple(micros_of(row[column]) for column in wanted) for row in answer.to_pylist()]

    def said(self, rows, operation: tuple):
        pc = self.pc
        kind, *rest = operation
        match kind:
            case "rows":
                return self.pa.array([1] * rows.num_rows), "sum"
            case "distinct":
                text = [pc.fill_null(pc.cast(rows[column], self.pa.string()), "-") for column in rest]
                return pc.binary_join_element_wise(*text, "|"), "count_distinct"
            case "true":
                return pc.cast(rows[rest[0]], self.pa.int64()), "sum"
            case "entry":
                return pc.map_lookup(rows[rest[0]], rest[1], "first"), "sum"
            case _:
                return rows[rest[0]], kind


KINDS = {"duckdb": DuckDb, "polars": Polars, "pyarrow": PyArrow, "spark": Spark}


# Comparing


def keyed(table: str, rows: list) -> dict[tuple, list]:
    width = len(QUESTIONS[table][0])
    answers = {}
    for row in rows:
        key = tuple(str(value) for value in row[:width])
        if key in answers:
            raise Unequal(f"{table}: the group {key} comes twice")
        answers[key] = list(row[width:])
    return answers


def same(one, other) -> bool:
    # An engine's sum of nothing is null or 0.
    one, other = one or 0, other or 0
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return one == other


def differences(table: str, operations: list[tuple], theirs: list, ours: list) -> list[str]:
    """Where the answers differ, in words."""
    theirs, ours, found = keyed(table, theirs), keyed(table, ours), []
    found += [f"{table}: the group {key} is not there" for key in ours.keys() - theirs.keys()]
    found += [f"{table}: the group {key} is not ours" for key in theirs.keys() - ours.keys()]
    for key in ours.keys() & theirs.keys():
        for operation, their, our in zip(operations, theirs[key], ours[key], strict=True):
            if not same(their, our):
                found.append(f"{table} {key}: {names_of(operation)} is {their}, ours is {our}")
    return sorted(found)


def ask_driftline(binary: str, store: str, query: str) -> list[dict]:
    said = subprocess.run([binary, "--store", store, "sql", "--format", "json", "-c", query], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise Unequal(f"driftline sql: {said.stderr[-2000:]}")
    return json.loads(said.stdout)


def ours(binary: str, store: str, table: str, columns: set[str]) -> list[list]:
    rows = ask_driftline(binary, store, sql("driftline", table, table, columns))
    return [[row.get(f"c{number}") for number in range(len(row))] for row in rows]


def repeated(remote: bool, read):
    """A read, repeated while it fails where that may be; returns the failures too, in their first words."""
    failures = []
    while True:
        try:
            return read(), failures
        except Unequal:
            raise
        # Polars says so by a panic, which is no Exception.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit) or not remote or len(failures) + 1 == TRIES:
                raise
            failures.append(" ".join(f"{type(error).__name__}: {error}".split())[:WORDS])
            # Longer from try to try: a slow read wants the windows to rest a while.
            time.sleep(min(0.05 * 2 ** len(failures), 2))


class Reader:
    """An engine on a store, by README's calls."""

    def __init__(self, name: str, store: str, readme: str):
        self.store, self.readme, self.remote = store, readme, "://" in store
        self.engine = KINDS[name](readme, store)
        self.names = {"store": None}
        self.url = re.sub("^s3://", "s3a://", store) if name == "spark" else store
        exec(compile(block(readme, "python", f"# {ENGINES[name]}"), f"README ({ENGINES[name]})", "exec"), self.names)

    def read(self, do):
        """`do(table)` on README's `table`, on a snapshot where one can be taken."""
        if self.remote:
            self.names["store"] = self.url
            return do(self.names["table"])
        with tempfile.TemporaryDirectory(dir=pathlib.Path(self.store).resolve().parent, prefix="snapshot-") as folder:
            self.names["store"] = snapshot(self.readme, self.store, folder)
            return do(self.names["table"])


def watch(reader: Reader) -> dict:
    """Reads until the standard input ends."""
    reads, failed, before, first, ended = 0, [], 0, None, False
    while not ended:
        (rows, distinct), failures = repeated(reader.remote, lambda: reader.read(lambda table: reader.engine.count(table("history"))))
        if rows != distinct:
            raise Unequal(f"read {reads + 1} has {rows} rows of {distinct} predictions")
        if rows < before:
            raise Unequal(f"read {reads + 1} has {rows} rows, the one before it {before}")
        reads, failed, before, first = reads + 1, failed + failures, rows, first if first is not None else rows
        print("read", flush=True)
        if select.select([sys.stdin], [], [], PAUSE)[0] and not sys.stdin.readline():
            ended = True
    said = {"reads": reads, "repeated": len(failed), "first_rows": first, "last_rows": before}
    return said | ({"last_failure": failed[-1]} if failed else {})


def compare(reader: Reader, binary: str) -> list[str]:
    found = []
    for name in QUESTIONS:

        def both(table, name=name):
            relation = table(name)
            return reader.engine.columns(relation), reader.engine.ask(name, relation)

        (columns, theirs), _ = repeated(reader.remote, lambda: reader.read(both))  # noqa: B023
        mine = ours(binary, reader.store, name, columns)
        known_columns = {row["column_name"] for row in ask_driftline(binary, reader.store, f"SELECT column_name FROM information_schema.columns WHERE table_name = '{name}'")}
        found += [f"{name}: the column {column} is not there" for column in sorted(known_columns - columns)]
        found += [f"{name}: the column {column} is not ours" for column in sorted(columns - known_columns)]
        operations = known(name, columns)
        found += differences(name, operations, theirs, mine)
        totals = {names_of(operation): total(row[len(QUESTIONS[name][0]) + at] for row in theirs) for at, operation in enumerate(operations) if operation[0] not in ("min", "max")}
        mine_totals = {names_of(operation): total(row[len(QUESTIONS[name][0]) + at] for row in mine) for at, operation in enumerate(operations) if operation[0] not in ("min", "max")}
        print(json.dumps({"engine": reader.engine.version, "table": name, "groups": len(theirs), "columns": len(columns), "asked": len(operations), "theirs": totals, "ours": mine_totals}), flush=True)
    return found


def total(values) -> float:
    return math.fsum(value or 0 for value in values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--store", required=True, help="a folder, or s3://bucket/prefix with the usual AWS_… variables")
    parser.add_argument("--driftline", default="driftline", help="the binary to compare with")
    parser.add_argument("--readme", type=pathlib.Path, default=README)
    parser.add_argument("--watch", action="store_true", help="read `history` until standard input ends, then compare")
    args = parser.parse_args()
    reader = Reader(args.engine, args.store, args.readme.read_text(encoding="utf-8"))
    try:
        if args.watch:
            print(json.dumps(watch(reader)), flush=True)
        found = compare(reader, args.driftline)
    except Unequal as error:
        found = [str(error)]
    for difference in found[:20]:
        print(f"{args.engine}: {difference}", file=sys.stderr)
    print(f"{ENGINES[args.engine]} {reader.engine.version}: {len(found)} differences", flush=True)
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
