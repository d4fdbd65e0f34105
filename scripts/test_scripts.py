"""Tests of the scripts themselves: a judge that finds nothing wrong must be seen to find something."""

import contextlib
import datetime
import io
import json
import pathlib
import re
import sys
import tempfile
import unittest
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

# The fronts of other servers run by themselves, in their own folder.
sys.path.append(str(pathlib.Path(__file__).parent / "fronts"))

import audit_duckdb
import check_licences
import compare_sklearn
import engines
import s3_listings

TIME = pa.timestamp("us", tz="UTC")
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone.utc)
COMMON = [("topic", pa.string()), ("partition", pa.int64()), ("offset", pa.int64()), ("index", pa.int64()), ("model_name", pa.string()),
          ("prediction_id", pa.string()), ("event_time", TIME), ("reason", pa.string())]  # fmt: skip
RAW = {
    "predictions": pa.schema([*COMMON, ("model_version", pa.string()), ("prediction", pa.string()), ("error", pa.string())]),
    "labels": pa.schema([*COMMON, ("label", pa.string()), ("prediction_timestamp", TIME)]),
}
HISTORY = pa.schema(
    [("model_version", pa.string()), ("prediction_id", pa.string()), ("event_time", TIME), ("window_start", TIME), ("window_end", TIME),
     ("prediction", pa.string()), ("prediction_value", pa.float64()), ("score", pa.float64()), ("label", pa.string()),
     ("label_value", pa.float64()), ("label_time", TIME), ("tag_region", pa.string()), ("error", pa.string()), ("invalid_reason", pa.string()),
     ("after_final", pa.bool_()), ("topic", pa.string()), ("partition", pa.int64()), ("offset", pa.int64()), ("index", pa.int64())]  # fmt: skip
)
METRICS = pa.schema(
    [("model_version", pa.string()), ("segment", pa.string()), ("segment_value", pa.string()), ("window_start", TIME), ("window_end", TIME),
     ("metric", pa.string()), ("class", pa.string()), ("value", pa.float64()), ("reason", pa.string()), ("n", pa.int64()), ("n_labelled", pa.int64())]  # fmt: skip
)


def after(seconds: float) -> datetime.datetime:
    return NOON + datetime.timedelta(seconds=seconds)


class GoldenCounts(unittest.TestCase):
    """The README's table says how many golden values a quantity has: as many as make_golden.py has counted."""

    ROOT = pathlib.Path(__file__).parent.parent

    def rows(self):
        for line in (self.ROOT / "README.md").read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if line.startswith("| `") and len(cells) == 6:
                yield cells[0], cells[3]

    def test_the_table_says_what_was_counted(self):
        counts = json.loads((self.ROOT / "evaluator/golden/counts.json").read_text())
        known = lambda name: [n for quantity, n in counts.items() if quantity == name]
        compared = 0
        for quantity, said in self.rows():
            of = "difference of " if quantity.startswith("`comparisons`") else ""
            found = [n for name in re.findall(r"`([^`]+)`", quantity) for n in known(of + name)]
            numbers = [int(n) for n in re.findall(r"\d+", said)]
            if found and numbers:
                self.assertEqual([min(numbers), max(numbers)], [min(found), max(found)], quantity)
                compared += len(found)
        self.assertEqual(compared, 59)


class Licences(unittest.TestCase):
    def test_expressions(self):
        allowed = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"}
        for expression, expected in [
            ("MIT", True),
            ("GPL-3.0", False),
            ("MIT/GPL-3.0", True),
            ("MIT AND GPL-3.0", False),
            ("GPL-3.0 OR MIT AND Apache-2.0", True),
            ("(GPL-3.0 OR MIT) AND ISC", False),
            ("Apache-2.0 WITH LLVM-exception", True),
            ("MIT WITH LLVM-exception", False),
        ]:
            self.assertEqual(check_licences.is_allowed(expression, allowed), expected, expression)
        for expression in ["", "MIT OR", "(MIT", "MIT Apache-2.0", "AND"]:
            with self.assertRaises(ValueError, msg=expression):
                check_licences.is_allowed(expression, allowed)

    def test_a_package_without_a_licence_is_a_fault(self):
        package = {"name": "p", "version": "1.0.0", "license": None, "license_file": "COPYING"}
        self.assertEqual(len(check_licences.faults({"packages": [package]})), 1)


class Store:
    """A store of one model with five predictions and six labels, written by hand, right in every count."""

    def __init__(self, folder: str):
        self.root = pathlib.Path(folder)
        p = lambda offset, id, seconds, **more: self.event("p", offset, id, seconds, model_version="1", prediction="1", **more)
        l = lambda offset, id, seconds, label, **more: self.event("l", offset, id, seconds, label=label, **more)
        broken = {"topic": "p", "partition": 0, "offset": 2, "index": 0, "reason": "not_json"}
        # A copy that came first and is younger, so that the second row stands.
        first = [p(0, "a", 5), p(1, "a", 0), broken]
        second = [p(4, "b", 10), p(5, "c", 20), p(6, "d", 30, error="time-out")]
        labels = [l(0, "a", 100, "1"), l(1, "a", 100, "1"), l(2, "b", 50, "0"), l(3, "b", 60, None), l(4, "nobody", 1, "1"), l(5, "c", 31 * 86400, "1")]
        self.raw("p~0", "predictions", 0, 3, 3, first, {"not_json": 1})
        self.raw("p~0", "predictions", 3, 7, 3, second, {})
        self.raw("l~0", "labels", 0, 6, 6, labels, {})
        end = after(3600)
        row = lambda event, label, label_time: {
            **{name: event.get(name) for name in HISTORY.names if name in event}, "window_start": NOON, "window_end": end,
            "label": label, "label_time": label_time, "after_final": False, "score": 0.5,
        }  # fmt: skip
        self.history = [row(first[1], "1", after(100)), row(second[0], None, after(60)), row(second[1], None, None), row(second[2], None, None)]
        self.write_history()
        self.accounts = [
            *self.account("partition", "p[0]", records=6, gaps=1, accepted=5, **{"rejected:not_json": 1}),
            *self.account("partition", "l[0]", records=6, gaps=0, accepted=6),
            *self.account("model", "m", duplicate=1, joined=1, withdrawn=1, superseded=1, too_late=1, unmatched=0, pending=1),
            *self.account("window", "2026-01-01T12:00:00Z", duplicate=1, after_final=0, failed=1, invalid=0, labelled=1, waiting=2, expired=0),
        ]

    @staticmethod
    def event(topic, offset, id, seconds, **more):
        base = {"topic": topic, "partition": 0, "offset": offset, "index": 0, "model_name": "m", "prediction_id": id, "event_time": after(seconds)}
        return {**base, **more}

    @staticmethod
    def account(scope, key, **terms):
        model = None if scope == "partition" else "m"
        return [{"model_name": model, "scope": scope, "key": key, "term": term, "count": count} for term, count in terms.items()]

    def raw(self, chain, kind, start, end, records, rows, rejected):
        folder = self.root / "raw" / chain
        folder.mkdir(parents=True, exist_ok=True)
        if start == 0:
            (folder / "genesis.json").write_text(json.dumps({"from": 0}))
        footer = {"kind": kind, "topic": chain[0], "partition": 0, "from": start, "to": end, "records": records,
                  "skipped_offsets": end - start - records, "accepted": len(rows) - sum(rejected.values()), "rejected": rejected}  # fmt: skip
        table = pa.Table.from_pylist(rows, schema=RAW[kind]).replace_schema_metadata({"driftline": json.dumps(footer)})
        pq.write_table(table, folder / f"{start:020}.parquet")

    def write_history(self):
        folder = self.root / "history/model_name=m/date=2026-01-01"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self.history, schema=HISTORY), folder / "x_p0.parquet")

    def write_metrics(self, **values):
        folder = self.root / "metrics/model_name=m/date=2026-01-01"
        folder.mkdir(parents=True, exist_ok=True)
        base = {"window_start": NOON, "window_end": after(3600), "n": 3, "n_labelled": 1}
        rows = [{**base, "metric": name, "value": value, "reason": None if value is not None else "one_class"} for name, value in values.items()]
        pq.write_table(pa.Table.from_pylist(rows, schema=METRICS), folder / "x.parquet")

    def audit(self, *more) -> tuple[int, str]:
        path = self.root / "audit.json"
        path.write_text(json.dumps(self.accounts))
        return run(audit_duckdb, "--store", str(self.root), "--audit", str(path), *more)


def run(script, *arguments) -> tuple[int, str]:
    said = io.StringIO()
    with mock.patch.object(sys, "argv", ["script", *arguments]), contextlib.redirect_stdout(said):
        return script.main(), said.getvalue()


class OnAStore(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.store = Store(folder.name)

    def expect(self, code: int, text: str, *more):
        found, said = self.store.audit(*more)
        self.assertEqual(found, code, said)
        self.assertIn(text, said)

    def test_the_audit_agrees_with_a_right_store(self):
        self.expect(0, " 0 differences")

    def test_the_audit_sees_a_wrong_count(self):
        for at, account in enumerate(self.store.accounts):
            with self.subTest(account):
                account["count"] += 1
                # A term of a sum that is compared as a whole may only be seen there.
                self.expect(3, "DIFFERS")
                self.store.accounts[at]["count"] -= 1

    def test_the_audit_sees_a_lost_object_and_a_hole_in_a_chain(self):
        (self.store.root / "raw/p~0/00000000000000000000.parquet").unlink()
        self.expect(3, "the chain stood at 0")

    def test_the_audit_sees_a_row_too_few_a_row_twice_and_a_wrong_label(self):
        right = self.store.history
        for wrong, message in [
            (right[1:], "lacks 1 predictions"),
            ([*right, right[0]], "more than one row"),
            ([{**right[0], "label": "0"}, *right[1:]], "another label"),
            ([right[0], {**right[1], "label": "0", "label_time": after(50)}, *right[2:]], "another label"),
        ]:
            self.store.history = wrong
            self.store.write_history()
            self.expect(3, message)

    def test_the_audit_sees_an_acknowledged_record_that_is_missing(self):
        acked, ends = self.store.root / "acked.jsonl", self.store.root / "ends.jsonl"
        ends.write_text('{"topic":"p","partition":0,"end":7}\n')
        acked.write_text('{"topic":"p","partition":0,"offset":2}\n{"topic":"l","partition":0,"offset":5}\n')
        self.expect(0, "acknowledged records found: 2", "--acked", str(acked), "--ends", str(ends))
        acked.write_text('{"topic":"p","partition":0,"offset":3}\n')
        self.expect(3, "1 acknowledged records are not in raw/", "--acked", str(acked))

    def test_scikit_learn_is_agreed_with_and_differed_from(self):
        for accuracy, auc, code in [(1.0, None, 0), (1.0, 0.5, 3), (0.5, None, 3)]:
            self.store.write_metrics(accuracy=accuracy, roc_auc=auc)
            found, said = run(compare_sklearn, str(self.store.root), "--model", "m")
            self.assertEqual(found, code, said)



class Engines(unittest.TestCase):
    """The engines' judge on stores with a fault in them."""

    ROWS = [("a", 1.0), ("b", 2.0), ("c", 3.0)]

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.store = pathlib.Path(folder.name) / "store"
        for table in ["metrics", "drift"]:
            self.write(f"{table}/model_name=m/date=2026-01-01/{table}.parquet", {"value": pa.array([1.0])})
        for number, (name, _) in enumerate(self.ROWS):
            self.part(f"w{number}_p0", name)

    def write(self, path: str, columns: dict) -> pathlib.Path:
        file = self.store / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), file)
        return file

    def part(self, name: str, prediction: str, **columns) -> pathlib.Path:
        common = {"model_version": pa.array(["1"]), "prediction_id": pa.array([prediction]), "window_start": pa.array([NOON], TIME)}
        return self.write(f"history/model_name=%C3%A9%201/date=2026-01-01/{name}.parquet", common | columns)

    def reader(self, name: str) -> engines.Reader:
        return engines.Reader(name, str(self.store), engines.README.read_text(encoding="utf-8"))

    def watch(self, name: str, between=lambda: None) -> dict:
        """Two reads, and what happens between them."""
        turns = iter([False, True])

        def select(*_):
            ended = next(turns)
            between()
            return ([ended] if ended else [], [], [])

        with mock.patch.object(engines.select, "select", select), mock.patch.object(sys, "stdin", io.StringIO()):
            with contextlib.redirect_stdout(io.StringIO()):
                return engines.watch(self.reader(name))

    def test_a_sound_store_is_read(self):
        for name in ["duckdb", "polars", "pyarrow"]:
            self.assertEqual(self.watch(name), {"reads": 2, "repeated": 0, "first_rows": 3, "last_rows": 3}, name)

    def test_a_part_that_is_there_twice_is_seen(self):
        self.part("w1_p1", "b")
        for name in ["duckdb", "polars", "pyarrow"]:
            with self.assertRaisesRegex(engines.Unequal, "4 rows of 3 predictions", msg=name):
                self.watch(name)

    def test_a_part_that_vanishes_is_seen(self):
        part = self.part("w3_p0", "d")
        with self.assertRaisesRegex(engines.Unequal, "3 rows, the one before it 4"):
            self.watch("pyarrow", lambda: part.unlink(missing_ok=True))

    def test_columns_of_later_objects_and_names_in_bytes_are_read(self):
        self.part("w3_p0", "d", feature_later=pa.array([2.5]), feature_amount_text=pa.array(["n/a"]))
        for name in ["duckdb", "polars", "pyarrow"]:
            reader = self.reader(name)
            rows = reader.read(lambda table: reader.engine.ask("history", table("history")))  # noqa: B023
            columns = reader.read(lambda table: reader.engine.columns(table("history")))  # noqa: B023
            self.assertEqual([str(value) for value in rows[0][:2]], ["é 1", "2026-01-01"], name)
            at = 2 + engines.known("history", columns).index(("sum", "feature_later"))
            self.assertEqual((len(rows), rows[0][2], rows[0][at]), (1, 4, 2.5), name)

    def test_every_difference_is_found(self):
        operations = [("rows",), ("sum", "score")]
        ours = [("m", "2026-01-01", 3, 0.1), ("m", "2026-01-02", 1, None)]
        self.assertEqual(engines.differences("history", operations, [*ours], ours), [])
        self.assertEqual(engines.differences("history", operations, [("m", "2026-01-01", 3, 0.1 + 1e-15), ours[1]], ours), [])
        for theirs, said in [
            (ours[:1], "is not there"),
            ([*ours, ("m", "2026-01-03", 1, 1.0)], "is not ours"),
            ([("m", "2026-01-01", 4, 0.1), ours[1]], "rows is 4, ours is 3"),
            ([("m", "2026-01-01", 3, 0.1 + 1e-9), ours[1]], "sum score"),
        ]:
            found = engines.differences("history", operations, theirs, ours)
            self.assertEqual(len(found), 1, found)
            self.assertIn(said, found[0])
        with self.assertRaises(engines.Unequal):
            engines.differences("history", operations, [ours[0], *ours], ours)

    def test_a_changed_readme_is_not_passed_over(self):
        readme = engines.README.read_text(encoding="utf-8")
        self.assertIn("read_parquet", engines.block(readme, "python", "# DuckDB"))
        for broken in [readme.replace("# Polars", "# Polar"), readme.replace("## Reading the tables", "## Reading")]:
            with self.assertRaises(SystemExit):
                engines.block(broken, "python", "# Polars")
        without = readme.replace(", missing_columns=\"insert\"", "")
        self.part("w3_p0", "d", feature_later=pa.array([2.5]))
        reader = engines.Reader("polars", str(self.store), without)
        with self.assertRaises(Exception):
            reader.read(lambda table: reader.engine.ask("history", table("history")))

    def test_only_a_remote_read_is_repeated(self):
        answers = iter([OSError("replaced"), OSError("replaced"), 7])

        def read():
            answer = next(answers)
            if isinstance(answer, OSError):
                raise answer
            return answer

        self.assertEqual(engines.repeated(True, read), (7, ["OSError: replaced"] * 2))
        answers = iter([OSError("replaced"), 7])
        with self.assertRaises(OSError):
            engines.repeated(False, read)


class Listings(unittest.TestCase):
    """versitygw's listings, as AWS would encode them."""

    LISTING = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>a/%C3</Prefix>'
        "<EncodingType></EncodingType><Contents><Key>a/%C3%A9 &amp; b.txt</Key><ETag>&quot;x&quot;</ETag></Contents>"
        "<CommonPrefixes><Prefix>a/+/</Prefix></CommonPrefixes></ListBucketResult>"
    )

    def test_keys_and_prefixes_are_encoded_and_the_rest_is_left(self):
        found = s3_listings.encoded(self.LISTING)
        for part in ["<Key>a/%25C3%25A9+%26+b.txt</Key>", "<Prefix>a/%25C3</Prefix>", "<Prefix>a/%2B/</Prefix>", "<Name>b</Name>", "<ETag>&quot;x&quot;</ETag>"]:
            self.assertIn(part, found)
        self.assertEqual(found.count("<EncodingType>url</EncodingType>"), 1)
        self.assertEqual(found.count("EncodingType"), 2)


if __name__ == "__main__":
    unittest.main()
