#!/usr/bin/env python3
"""Recomputes a store's accounts with DuckDB, from the raw objects, and compares them with what Driftline says.

It checks
  * every raw chain: contiguous from its genesis, footers equal to rows, no position twice           (C1, A1)
  * every position that a producer was told is safe (--acked), and every partition's end (--ends)      (nothing lost)
  * history/: one row per prediction that stands, the right one, with the label that is current      (H1, T4)
  * the accounts of partitions, models and windows, as `driftline audit --format json` or the accounts table gives them

What retention has deleted cannot be counted again: a chain begins at its boundary then, which says what lay behind it, and
what history/ holds from there is taken as it stands. What was forgotten is counted by the tombstones in the raw objects.

Exit codes: 0 all equal, 1 it could not run, 3 something differs.
"""

import argparse
import collections
import datetime
import json
import pathlib
import re
import sys

import driftline_tables as tables

POSITION = "topic, partition, \"offset\", \"index\""
# Other words for a term that this script counts under one name.
SYNONYMS = {"duplicates": "duplicate", "gap": "gaps", "skipped": "gaps", "skipped_offsets": "gaps", "unlabelled": "waiting"}


class Audit:
    def __init__(self, arguments: argparse.Namespace):
        self.store = pathlib.Path(arguments.store).resolve()
        self.arguments = arguments
        self.models = tables.config_models(arguments.config)
        self.sql = tables.connect()
        self.differences: list[str] = []
        self.notes: list[str] = []
        # (scope, key, term) → count, as recomputed here
        self.counts: collections.Counter = collections.Counter()
        # chain → its boundary, where its oldest objects are given up
        self.boundaries: dict[str, dict] = {}
        for path in sorted((self.store / "raw").glob("*/boundary.json")):
            self.boundaries[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
        # model → [(minute, rows)] of predictions that were forgotten; windows with rows from behind a boundary
        self.forgotten: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
        self.partial: set[tuple] = set()

    def differ(self, message: str) -> None:
        self.differences.append(message)

    def rows(self, query: str) -> list[tuple]:
        return self.sql.execute(query).fetchall()

    # raw/

    def read_raw(self) -> None:
        paths = [path for path in tables.files(self.store, "raw/*/*.parquet") if not self.is_behind(path)]
        footers = []
        if paths:
            query = f"SELECT file_name, value FROM parquet_kv_metadata({tables.listed(paths)}) WHERE key = 'driftline'"
            for path, value in self.rows(query):
                footers.append((path, json.loads(bytes(value))))
        missing = set(paths) - {path for path, _ in footers}
        for path in sorted(missing):
            self.differ(f"{path}: no footer")
        self.create_raw_table("predictions", [path for path, footer in footers if footer["kind"] == "predictions"])
        self.create_raw_table("labels", [path for path, footer in footers if footer["kind"] == "labels"])
        self.check_chains(footers)

    def is_behind(self, path: str) -> bool:
        boundary = self.boundaries.get(pathlib.Path(path).parent.name)
        return boundary is not None and int(pathlib.Path(path).stem) < boundary["to"]

    def create_raw_table(self, kind: str, paths: list[str]) -> None:
        own = {
            "predictions": "model_version VARCHAR, prediction VARCHAR, error VARCHAR",
            "labels": "label VARCHAR, prediction_timestamp TIMESTAMPTZ",
        }[kind]
        common = (
            "topic VARCHAR, partition BIGINT, \"offset\" BIGINT, \"index\" BIGINT, model_name VARCHAR, prediction_id VARCHAR,"
            f" event_time TIMESTAMPTZ, reason VARCHAR, {own}"
        )
        self.sql.execute(f"CREATE TABLE {kind} ({common}, path VARCHAR)")
        if paths:
            names = ", ".join(part.strip().rsplit(" ", 1)[0] for part in common.split(","))
            self.sql.execute(
                f"INSERT INTO {kind} SELECT {names}, filename FROM read_parquet({tables.listed(paths)},"
                " union_by_name = true, hive_partitioning = false, filename = true)"
            )

    def check_chains(self, footers: list[tuple[str, dict]]) -> None:
        chains: dict[str, list[tuple[str, dict]]] = collections.defaultdict(list)
        for path, footer in footers:
            chains[pathlib.Path(path).parent.name].append((path, footer))
        seen = collections.defaultdict(collections.Counter)
        for table in ("predictions", "labels"):
            for path, reason, count in self.rows(f"SELECT path, reason, count(*) FROM {table} GROUP BY ALL"):
                seen[path][reason] += count
            for position in self.rows(f"SELECT {POSITION}, count(*) FROM {table} GROUP BY ALL HAVING count(*) > 1 LIMIT 10"):
                self.differ(f"raw: the position {position[:4]} is there {position[4]} times")
            for path, offset in self.rows(f"SELECT path, min(\"offset\") FROM {table} GROUP BY ALL"):
                if offset < int(pathlib.Path(path).stem):
                    self.differ(f"{path}: holds offset {offset}, before its beginning")
        self.ends: dict[tuple[str, int], int] = {}
        for folder in self.boundaries:
            chains.setdefault(folder, [])
        for folder, objects in sorted(chains.items()):
            self.check_chain(folder, sorted(objects, key=lambda entry: entry[1]["from"]), seen)

    def check_chain(self, folder: str, objects: list[tuple[str, dict]], seen: dict) -> None:
        genesis = self.store / "raw" / folder / "genesis.json"
        expected = json.loads(genesis.read_text(encoding="utf-8"))["from"] if genesis.exists() else None
        if expected is None:
            self.differ(f"raw/{folder}: no genesis")
        if folder in self.boundaries:
            expected = self.count_behind(folder, json.loads(genesis.read_text(encoding="utf-8")))
        for path, footer in objects:
            name, key = f"raw/{folder}/{pathlib.Path(path).name}", (footer["topic"], footer["partition"])
            if int(pathlib.Path(path).stem) != footer["from"]:
                self.differ(f"{name}: its footer begins at {footer['from']}")
            if expected is not None and footer["from"] != expected:
                self.differ(f"{name}: the chain stood at {expected}")
            expected = footer["to"]
            gap = footer["to"] - footer["from"] if footer["kind"] == "gap" else 0
            skipped = max(gap, footer["skipped_offsets"])
            if footer["to"] - footer["from"] != footer["records"] + skipped:
                self.differ(f"{name}: {footer['to'] - footer['from']} offsets, but {footer['records']} records and {skipped} skipped")
            rejected = {reason: n for reason, n in footer["rejected"].items() if n}
            found = {reason: n for reason, n in seen[path].items() if reason is not None}
            if footer["accepted"] != seen[path][None] or rejected != found:
                self.differ(f"{name}: the footer says {footer['accepted']} accepted, {rejected}; the rows are {seen[path][None]}, {found}")
            self.count("partition", key, "records", footer["records"])
            self.count("partition", key, "gaps", skipped)
            self.count("partition", key, "accepted", seen[path][None])
            self.count("partition", key, "rejected", sum(found.values()))
            for reason, n in found.items():
                self.count("partition", key, f"rejected:{reason}", n)
            for share in footer.get("models", []):
                for minute, n in share.get("forgotten", []):
                    self.count("partition", key, "forgotten", n)
                    if footer["kind"] == "labels":
                        self.count("model", (share["model"],), "forgotten", n)
                        self.count("model", (share["model"],), "accepted", n)
                    else:
                        self.forgotten[share["model"]].append((minute, n))
            self.ends[key] = max(self.ends.get(key, 0), footer["to"])

    def count_behind(self, folder: str, genesis: dict) -> int:
        """What a boundary says of the objects behind it; where the chain goes on."""
        boundary, key = self.boundaries[folder], (genesis["topic"], genesis["partition"])
        forgotten = boundary.get("forgotten", {})
        self.count("partition", key, "records", boundary["records"])
        self.count("partition", key, "gaps", boundary["gaps"])
        self.count("partition", key, "accepted", boundary["accepted"] - sum(forgotten.values()))
        if forgotten:
            self.count("partition", key, "forgotten", sum(forgotten.values()))
        self.count("partition", key, "rejected", sum(boundary["rejected"].values()))
        for reason, n in boundary["rejected"].items():
            self.count("partition", key, f"rejected:{reason}", n)
        if boundary["to"] - genesis["from"] != boundary["records"] + boundary["gaps"]:
            self.differ(f"raw/{folder}: its boundary lies at {boundary['to']}, and its records and gaps do not add up to that")
        kinds = json.loads((self.store / "driftline.json").read_text(encoding="utf-8"))["topics"].get(genesis["topic"], [])
        if any(incarnation["kind"] == "labels" for incarnation in kinds):
            for model, n in boundary["models"].items():
                gone = forgotten.get(model, 0)
                self.count("model", (model,), "accepted", n)
                self.count("model", (model,), "retired", n - gone)
                if gone:
                    self.count("model", (model,), "forgotten", gone)
        self.ends[key] = boundary["to"]
        return boundary["to"]

    def count(self, scope: str, key: tuple, term: str, number: int) -> None:
        self.counts[(scope, key, term)] += number

    # what the producers know

    def check_producers(self) -> None:
        if self.arguments.ends:
            for end in json_lines(self.arguments.ends):
                found = self.ends.get((end["topic"], end["partition"]), 0)
                if found != end["end"]:
                    self.differ(f"{end['topic']}[{end['partition']}]: Kafka ends at {end['end']}, the chain at {found}")
        if self.arguments.acked:
            self.sql.execute(f"CREATE TABLE acked AS SELECT * FROM read_json({tables.text(self.arguments.acked)}, format = 'newline_delimited')")
            lost = self.rows(
                "SELECT topic, partition, \"offset\" FROM acked ANTI JOIN"
                " (SELECT DISTINCT topic, partition, \"offset\" FROM predictions UNION SELECT DISTINCT topic, partition, \"offset\" FROM labels)"
                " USING (topic, partition, \"offset\")"
            )
            if lost:
                self.differ(f"{len(lost)} acknowledged records are not in raw/, the first is {lost[0]}")
            self.notes.append(f"acknowledged records found: {self.rows('SELECT count(*) FROM acked')[0][0] - len(lost)}")

    # history/

    def read_history(self) -> bool:
        if not tables.create_table_view(self.sql, self.store, "history"):
            if self.rows("SELECT count(*) FROM predictions WHERE reason IS NULL")[0][0]:
                self.differ("predictions were accepted, and history/ is empty")
            return False
        have = tables.columns(self.sql, "history")
        optional = {"after_final": "false", "invalid_reason": "NULL::VARCHAR", "error": "NULL::VARCHAR"}
        extra = "".join(f", {default} AS {name}" for name, default in optional.items() if name not in have)
        self.sql.execute(f"CREATE TABLE h AS SELECT *{extra} FROM history")
        self.sql.execute("CREATE TABLE win AS SELECT DISTINCT model_name, window_start, window_end FROM h")
        self.take_from_history()
        return True

    def take_from_history(self) -> None:
        """Rows of history/ that come from behind a boundary stand for the raw rows that are gone."""
        self.sql.execute("CREATE TABLE behind (topic VARCHAR, partition BIGINT, until BIGINT)")
        for folder, boundary in self.boundaries.items():
            genesis = json.loads((self.store / "raw" / folder / "genesis.json").read_text(encoding="utf-8"))
            self.sql.execute("INSERT INTO behind VALUES (?, ?, ?)", [genesis["topic"], genesis["partition"], boundary["to"]])
        if not self.boundaries:
            return
        self.partial = {
            (model, tables.micros(start))
            for model, start in self.rows(
                "SELECT DISTINCT model_name, window_start FROM h JOIN behind b"
                " ON h.topic = b.topic AND h.partition = b.partition AND h.\"offset\" < b.until"
            )
        }
        self.sql.execute(
            f"""
            INSERT INTO predictions ({POSITION}, model_name, prediction_id, event_time, model_version, prediction, error, path)
            SELECT h.topic, h.partition, h."offset", h."index", model_name, prediction_id, event_time, model_version, prediction, error,
                   'behind'
            FROM h JOIN behind b ON h.topic = b.topic AND h.partition = b.partition AND h."offset" < b.until;
            -- Its window stands for the one that the label may have named.
            INSERT INTO labels ({POSITION}, model_name, prediction_id, event_time, label, prediction_timestamp, path)
            SELECT DISTINCT label_topic, label_partition, label_offset, label_index, model_name, prediction_id, label_time, label,
                   window_start, 'behind'
            FROM h JOIN behind b ON label_topic = b.topic AND label_partition = b.partition AND label_offset < b.until;
            """
        )

    def judge(self) -> None:
        """Finds standing predictions and current labels from raw/ alone; only the windows' bounds are taken from history/."""
        horizons = "".join(
            f" WHEN {tables.text(name)} THEN {round(tables.seconds(model['label_horizon']) * 1e6)}"
            for name, model in self.models.items()
            if "label_horizon" in model
        )
        default = round(tables.seconds(self.arguments.horizon) * 1e6)
        horizon = f"(CASE p.model_name{horizons} ELSE {default} END)" if horizons else str(default)
        skew = round(tables.seconds(self.arguments.max_skew) * 1e6)
        self.sql.execute(
            f"""
            CREATE TABLE placed AS
            SELECT p.*, w.window_start, w.window_end,
                   row_number() OVER (PARTITION BY p.model_name, p.model_version, p.prediction_id, w.window_start
                                      ORDER BY p.event_time, p.topic, p.partition, p."offset", p."index") AS nth
            FROM predictions p LEFT JOIN win w
              ON w.model_name = p.model_name AND p.event_time >= w.window_start AND p.event_time < w.window_end
            WHERE p.reason IS NULL;
            CREATE TABLE standing AS SELECT * FROM placed WHERE nth = 1;
            CREATE TABLE l AS
            SELECT *, row_number() OVER (ORDER BY event_time, topic, partition, "offset", "index") AS rank
            FROM labels WHERE reason IS NULL;
            CREATE TABLE pairs AS
            SELECT p.model_name, p.topic, p.partition, p."offset", p."index", l.rank,
                   epoch_us(l.event_time) - epoch_us(p.event_time) AS delay,
                   delay BETWEEN -{skew} AND {horizon} AS eligible
            FROM standing p JOIN l ON l.model_name = p.model_name AND l.prediction_id = p.prediction_id
            WHERE l.prediction_timestamp IS NULL
               OR (l.prediction_timestamp >= p.window_start AND l.prediction_timestamp < p.window_end);
            CREATE TABLE current AS
            SELECT topic, partition, "offset", "index", max(rank) AS rank FROM pairs WHERE eligible GROUP BY ALL;
            """
        )

    def check_history(self) -> None:
        outside = self.rows("SELECT model_name, count(*), min(event_time) FROM placed WHERE window_start IS NULL GROUP BY ALL")
        outside = [(m, n, first) for m, n, first in outside if tables.micros(first) >= self.folded.get(m, 0)]  # else its history is deleted
        if sum(number for _, number, _ in outside) == self.untracked["predictions"]:
            outside = []  # of models beyond the cap: they are in no window, and counted
        for model, number, first in outside:
            self.differ(f"history/: {number} accepted predictions of {model} are in no window, the first at {first}")
        for model, number in self.rows(
            "SELECT model_name, count(*) FROM (SELECT model_name, model_version, prediction_id, window_start FROM h"
            " GROUP BY ALL HAVING count(*) > 1) GROUP BY ALL"
        ):
            self.differ(f"history/: {number} predictions of {model} have more than one row")
        key = "model_name, topic, partition, \"offset\", \"index\""
        for what, left, right in (("lacks", "standing", "h"), ("has, and should not have,", "h", "standing")):
            query = f"SELECT {key} FROM {left} WHERE window_start IS NOT NULL EXCEPT SELECT {key} FROM {right}"
            found = self.rows(f"SELECT model_name, count(*), any_value((topic, partition, \"offset\", \"index\")) FROM ({query}) GROUP BY ALL")
            for model, number, example in found:
                self.differ(f"history/ {what} {number} predictions of {model}, as {example}")
        # after_final rows and what reached a final window too late are classified once, in the ledger, and not here.
        wrong = self.rows(
            """
            SELECT h.model_name, count(*), any_value((h.prediction_id, h.label, h.label_time, l.label, l.event_time))
            FROM h LEFT JOIN current c USING (topic, partition, "offset", "index") LEFT JOIN l USING (rank)
            WHERE NOT h.after_final
              AND (h.label IS DISTINCT FROM l.label OR h.label_time IS DISTINCT FROM l.event_time)
            GROUP BY ALL
            """
        )
        for model, number, example in wrong:
            self.differ(f"history/: {number} rows of {model} have another label than raw/ gives, as (id, history's, raw's) {example}")

    def count_windows(self) -> None:
        key = lambda model, start: (model, tables.micros(start))
        for model, start, accepted, duplicate in self.rows(
            "SELECT model_name, window_start, count(*), count(*) FILTER (nth > 1) FROM placed WHERE window_start IS NOT NULL GROUP BY ALL"
        ):
            self.count("window", key(model, start), "accepted", accepted)
            self.count("window", key(model, start), "duplicate", duplicate)
        for model, start, after, failed, invalid, labelled, waiting in self.rows(
            """
            SELECT s.model_name, s.window_start, count(*) FILTER (term = 'after'), count(*) FILTER (term = 'failed'),
                   count(*) FILTER (term = 'invalid'), count(*) FILTER (term = 'labelled'), count(*) FILTER (term = 'waiting')
            FROM (SELECT s.model_name, s.window_start,
                         CASE WHEN h.after_final THEN 'after' WHEN s.error IS NOT NULL THEN 'failed'
                              WHEN h.invalid_reason IS NOT NULL THEN 'invalid'
                              WHEN l.label IS NOT NULL THEN 'labelled' ELSE 'waiting' END AS term
                  FROM standing s LEFT JOIN h USING (topic, partition, "offset", "index")
                       LEFT JOIN current c USING (topic, partition, "offset", "index") LEFT JOIN l USING (rank)
                  WHERE s.window_start IS NOT NULL) s
            GROUP BY ALL
            """
        ):
            for term, number in (("after_final", after), ("failed", failed), ("invalid", invalid), ("labelled", labelled)):
                self.count("window", key(model, start), term, number)
            # A window's rest is `waiting`, or `expired` once it is final; which of the two is the ledger's to say.
            self.count("window", key(model, start), "waiting+expired", waiting)

    def count_labels(self) -> None:
        query = """
            WITH fate AS (
                SELECT l.rank, coalesce(max(CASE WHEN c.rank IS NOT NULL THEN 4 WHEN p.eligible THEN 3 WHEN p.delay < 0 THEN 2
                                                 WHEN p.rank IS NOT NULL THEN 1 END), 0) AS fate
                FROM l LEFT JOIN pairs p USING (rank) LEFT JOIN (SELECT DISTINCT rank FROM current) c USING (rank) GROUP BY ALL),
            one AS (
                SELECT model_name, prediction_id, event_time, label, prediction_timestamp, max(fate) AS fate, count(*) AS copies
                FROM l JOIN fate USING (rank) GROUP BY ALL)
            SELECT model_name, sum(copies), sum(copies - 1), count(*) FILTER (fate = 4 AND label IS NOT NULL),
                   count(*) FILTER (fate = 4 AND label IS NULL), count(*) FILTER (fate = 3), count(*) FILTER (fate = 1),
                   count(*) FILTER (fate = 2), count(*) FILTER (fate = 0)
            FROM one GROUP BY ALL
        """
        # Rows that stand for labels behind a boundary are counted there.
        query = query.replace("FROM l LEFT JOIN pairs", "FROM (FROM l WHERE path <> 'behind') l LEFT JOIN pairs")
        for model, accepted, duplicate, joined, withdrawn, superseded, late, early, orphaned in self.rows(query):
            terms = {"accepted": accepted, "duplicate": duplicate, "joined": joined, "withdrawn": withdrawn, "superseded": superseded}
            for term, number in terms.items():
                self.count("model", (model,), term, int(number))
            # Whether a label that reaches nothing is pending or unmatched depends on what is final.
            self.count("model", (model,), "too_late+unmatched+pending", late + early + orphaned)
            self.count("model", (model,), "too_late", late)
            self.count("model", (model,), "(too early)", early)

    # what Driftline says

    def accounts(self) -> list[dict] | None:
        if self.arguments.audit:
            rows = read_accounts(pathlib.Path(self.arguments.audit).read_text(encoding="utf-8"))
        elif tables.create_table_view(self.sql, self.store, "accounts"):
            cursor = self.sql.execute("SELECT * FROM accounts")
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row)) for row in cursor.fetchall()]
        else:
            return None
        return rows

    def read_said(self) -> None:
        """What Driftline says: its accounts, and up to when each model's history is deleted."""
        rows = self.accounts()
        self.said: collections.Counter | None = None if rows is None else collections.Counter()
        self.folded: dict[str, int] = {}
        self.windows_said: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
        # kind → events of models that are not tracked, for there are too many
        self.untracked: collections.Counter = collections.Counter()
        for row in rows or []:
            if row["scope"] == "untracked":
                self.untracked[row["key"]] += row["count"]
                continue
            if row["scope"] == "folded":
                model = row.get("model_name") or row.get("model")
                before = datetime.datetime.fromisoformat(row["key"].split("/")[-1].replace("Z", "+00:00"))
                self.folded[model] = tables.micros(before)
                continue
            if row["scope"] == "window" and row["key"].count("/") == 1:
                ends = [datetime.datetime.fromisoformat(end.replace("Z", "+00:00")) for end in row["key"].split("/")]
                bounds = (tables.micros(ends[0]), tables.micros(ends[1]))
                self.windows_said[row.get("model_name") or row.get("model")].append(bounds)
            scope, term = row["scope"], SYNONYMS.get(row["term"], row["term"])
            self.said[(scope, normal_key(scope, row), term)] += row["count"]

    def count_forgotten(self) -> None:
        for model, rows in self.forgotten.items():
            bounds = sorted(set(self.windows_said[model]))
            for minute, number in rows:
                time = minute * 60_000_000
                start = next((start for start, end in bounds if start <= time < end), None)
                if start is not None:
                    self.count("window", (model, start), "forgotten", number)
                elif time >= self.folded.get(model, 0):
                    self.differ(f"{number} forgotten predictions of {model} are in no window, at minute {minute}")

    def compare(self) -> None:
        said = self.said
        if said is None:
            self.differ("there is neither an accounts table nor --audit")
            return
        tracked = {key for scope, key, _ in said if scope == "model"}
        unknown = {key for scope, key, _ in self.counts if scope == "model" and key not in tracked}
        labels = sum(self.counts[("model", key, "accepted")] for key in unknown)
        if labels <= self.untracked["labels"]:
            # Of models beyond the cap, which have no account. One that was named later has one, over its earlier labels too.
            self.counts = collections.Counter({k: n for k, n in self.counts.items() if k[0] != "model" or k[1] not in unknown})
        sums = {"waiting+expired": ("waiting", "expired"), "too_late+unmatched+pending": ("too_late", "unmatched", "pending")}
        for (scope, key, term), number in sorted(self.counts.items(), key=str):
            if term.startswith("("):
                continue
            if scope == "window" and key[1] < self.folded.get(key[0], 0):
                continue
            if (scope, term) == ("window", "forgotten"):
                continue  # together with the copies, below: of what is gone nobody can tell which were copies
            parts = sums.get(term, (term,))
            if (scope, term) in (("window", "duplicate"), ("window", "accepted")):
                number += self.counts[(scope, key, "forgotten")]
                parts = ("duplicate", "forgotten") if term == "duplicate" else parts
            found = sum(said[(scope, key, part)] for part in parts)
            if term == "accepted" and (scope, key, term) not in said and scope != "partition":
                found = sum(n for (s, k, t), n in said.items() if (s, k) == (scope, key))
            if term == "rejected" and (scope, key, term) not in said:
                found = sum(n for (s, k, t), n in said.items() if (s, k) == (scope, key) and t.startswith("rejected"))
            low, high = number, number
            if (scope, term) == ("model", "too_late"):
                # A label too far before its prediction reaches it and does not count: it may be called either.
                high += self.counts[(scope, key, "(too early)")]
            if scope == "window" and key in self.partial and term in ("duplicate", "accepted"):
                high = max(high, found)  # copies behind a boundary are gone
            if not low <= found <= high:
                self.differ(f"account {scope} {key} {term}: Driftline says {found}, raw/ gives {number}")
        keys = {(scope, key) for scope, key, _ in self.counts}
        for scope, key in sorted({(s, k) for s, k, _ in said} - keys, key=str):
            if scope == "window" and key[1:] and key[1] < self.folded.get(key[0], 0):
                continue
            if any(n for (s, k, _), n in said.items() if (s, k) == (scope, key)):
                self.differ(f"account {scope} {key}: Driftline has one, raw/ gives none")

    def run(self) -> int:
        self.read_raw()
        self.read_said()
        self.check_producers()
        if self.read_history():
            self.judge()
            self.check_history()
            self.count_windows()
            self.count_labels()
        self.count_forgotten()
        self.compare()
        if not self.counts:
            self.differ("there is nothing in raw/, so there is nothing to compare")
        totals = collections.Counter()
        for (scope, _, term), number in self.counts.items():
            totals[(scope, term)] += number
        for (scope, term), number in sorted(totals.items()):
            print(f"{scope:<10} {term:<28} {number:>12}")
        for note in self.notes:
            print(note)
        for difference in self.differences:
            print(f"DIFFERS: {difference}")
        print(f"{len(self.counts)} counts compared, {len(self.differences)} differences")
        return 3 if self.differences else 0


def json_lines(path: str) -> list[dict]:
    return [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def read_accounts(document: str) -> list[dict]:
    """A JSON array, an object with the array under `accounts`, or JSON lines."""
    try:
        value = json.loads(document)
    except json.JSONDecodeError:
        return [json.loads(line) for line in document.splitlines() if line.strip()]
    return value.get("accounts", value.get("rows", [])) if isinstance(value, dict) else value


def normal_key(scope: str, row: dict) -> tuple:
    """(topic, partition), (model,) or (model, window start in microseconds), from any of the forms that a key may have."""
    key = row["key"]
    if scope == "partition":
        found = re.fullmatch(r"(.*?)(?:\[(\d+)\]|[~/:-](\d+))", key)
        return (found[1], int(found[2] or found[3])) if found else (key,)
    model = row.get("model_name") or row.get("model")
    if scope == "model":
        return (model or key,)
    compact = re.search(r"(\d{4})-?(\d\d)-?(\d\d)[T ](\d\d):?(\d\d):?(\d\d)", key)
    if not compact:
        return (key,)
    start = datetime.datetime(*(int(part) for part in compact.groups()), tzinfo=datetime.timezone.utc)
    if not model:
        model = re.sub(r"[/ @|:~]+$", "", key[: compact.start()])
    return (model, tables.micros(start))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="the store's folder")
    parser.add_argument("--audit", help="what `driftline audit --format json` printed; without it the accounts table is read")
    parser.add_argument("--config", help="driftline.toml, for the models' label horizons")
    parser.add_argument("--horizon", default="30d", help="label horizon of a model that is not configured (30d)")
    parser.add_argument("--max-skew", default="10m", help="how far a label may precede its prediction (10m)")
    parser.add_argument("--acked", help="JSON lines {topic, partition, offset}: records that a producer was told are safe")
    parser.add_argument("--ends", help="JSON lines {topic, partition, end}: the partitions' ends in Kafka")
    return Audit(parser.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())
