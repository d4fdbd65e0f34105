#!/usr/bin/env python3
"""Asks a real Prometheus, which scrapes a Driftline at work, every query of every dashboard and every alert.

    scripts/check_dashboards.py --binary target/debug/driftline --brokers localhost:19092

Predictions and labels of two real data sets, and some events that must be rejected, go through Kafka; the configuration is
deploy/prometheus/prometheus.yml, with the process's address for the name that it has in the compose network. A query must parse, name
only metrics that Driftline exports, and return series.
"""

import argparse
import contextlib
import gzip
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import yaml

from check_deploy import METRIC, ROOT, expressions, run, skip

# Panels that have nothing to say while all is well.
MAY_BE_EMPTY = {"Alerts that fire"}
# Shorter than in production, so that rates are there soon.
SCRAPE = "1s"
RATE_INTERVAL = "20s"
# Seconds at most that anything may take, on a machine that has much else to do.
SETTLE_MAX = 300
DATA = {
    "ma_employment": (2500, 'task = "binary"\npositive_class = 1\nwindow = "day"'),
    "flight_airtime": (1500, 'task = "regression"\nwindow = "14d"'),
}
REJECTS = [b"{", b"[]x", b'{"prediction_id": "x"}', b'{"prediction_id":"u","model_name":"ma_employment","timestamp":"2015-01-01T00:00:00Z","prediction":1,"colour":"blue"}']


def get(url: str, **query) -> bytes:
    if query:
        url += "?" + urllib.parse.urlencode(query)
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def ask(prometheus: str, expression: str) -> list:
    """The series that a query returns; raises ValueError with Prometheus' words."""
    try:
        answer = json.loads(get(f"{prometheus}/api/v1/query", query=expression))
    except urllib.error.HTTPError as error:
        answer = json.loads(error.read())
    if answer["status"] != "success":
        raise ValueError(answer.get("error", "failed"))
    return answer["data"]["result"] if answer["data"]["resultType"] == "vector" else [answer["data"]["result"]]


def concrete(expression: str) -> str:
    """A panel's query as Grafana would send it with all models and metrics chosen."""
    expression = expression.replace("$__rate_interval", RATE_INTERVAL).replace("$__interval", RATE_INTERVAL)
    return re.sub(r"\$\{?(model|metric)\}?", ".*", expression)


def exported(page: str) -> set[str]:
    """Every series name of a page of /metrics."""
    return {re.match(r"[a-zA-Z0-9_:]+", line)[0] for line in page.splitlines() if line and not line.startswith("#")}


def unknown_metrics(expression: str, names: set[str]) -> list[str]:
    # What is in quotes or braces is a label's value or name.
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", expression)
    return sorted({name for name in METRIC.findall(bare)} - names - {"up", "ALERTS"})


def query_faults(where: str, expression: str, names: set[str], prometheus: str, may_be_empty: bool) -> list[str]:
    faults = [f"{where}: {name} is not exported" for name in unknown_metrics(expression, names)]
    try:
        series = ask(prometheus, concrete(expression))
    except ValueError as error:
        return [*faults, f"{where}: {error}: {expression}"]
    if not series and not may_be_empty:
        faults.append(f"{where}: returns nothing: {concrete(expression)}")
    return faults


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def process(command, log: pathlib.Path):
    with log.open("wb") as out:
        child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=45)
        except subprocess.TimeoutExpired:
            child.kill()
            raise


def await_value(what: str, wanted, log: pathlib.Path, child: subprocess.Popen):
    started = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            value = wanted()
            if value:
                return value
        if child.poll() is not None or time.monotonic() - started > SETTLE_MAX:
            raise SystemExit(f"{what}: not within {SETTLE_MAX} s\n{log.read_text()[-3000:]}")
        time.sleep(0.3)


def write_config(folder: pathlib.Path, brokers: str, topics: dict[str, str]) -> pathlib.Path:
    file = folder / "driftline.toml"
    models = "".join(
        f'[[models]]\nname = "{name}"\n{settings}\nreference = "{ROOT}/data/{name}/reference.jsonl.gz"\n' for name, (_, settings) in DATA.items()
    )
    file.write_text(
        f'''poll_interval = "100ms"
idle_timeout = "2s"
[kafka]
brokers = "{brokers}"
predictions_topics = ["{topics["predictions"]}"]
labels_topics = ["{topics["labels"]}"]
group = "{topics["predictions"]}"
create_topics = true
[kafka.properties]
"broker.address.family" = "v4"
[store]
url = "{folder}/store"
[flush]
interval = "300ms"
[revise]
min_delay = "500ms"
max_delay = "1s"
max_amplification = 1000
{models}'''
    )
    return file


def publish(binary: str, config: pathlib.Path, topic: str, lines: list[bytes]) -> None:
    file = config.parent / "events.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    said = run([binary, "--config", config, "produce", file, "--topic", topic])
    if said.returncode != 0:
        raise SystemExit(f"driftline produce: {said.stderr}")


def events(kind: str, start: float, end: float) -> list[bytes]:
    """A slice of the beginning of each data set: the first tenth, say, is 0 to 0.1."""
    lines = []
    for name, (count, _) in DATA.items():
        with gzip.open(ROOT / f"data/{name}/{kind}.jsonl.gz") as file:
            head = [line.rstrip(b"\n") for line, _ in zip(file, range(count))]
        lines += head[int(start * count) : int(end * count)]
    return lines


def write_scrape_config(folder: pathlib.Path, address: str, own: int) -> pathlib.Path:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
    config["rule_files"] = [str(ROOT / "deploy/prometheus/alerts.yml")]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    del jobs["driftline"]["dns_sd_configs"]
    jobs["driftline"]["static_configs"] = [{"targets": [address]}]
    jobs["prometheus"]["static_configs"] = [{"targets": [f"localhost:{own}"]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


def check(prometheus: str, address: str) -> list[str]:
    names = exported(get(f"http://{address}/metrics").decode())
    faults, asked = [], 0
    for file in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        for title, expression in expressions(board):
            asked += 1
            faults += query_faults(f"{file.name}: {title!r}", expression, names, prometheus, title in MAY_BE_EMPTY)
        for variable in board["templating"]["list"]:
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
            if not any(label in series["metric"] for series in ask(prometheus, concrete(metric))):
                faults.append(f"{file.name}: the variable {variable['name']} has no values")
    groups = json.loads(get(f"{prometheus}/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    for rule in rules:
        faults += [f"alert {rule['name']}: {name} is not exported" for name in unknown_metrics(rule["query"], names)]
        if rule["health"] != "ok":
            faults.append(f"alert {rule['name']}: {rule['health']} {rule.get('lastError', '')}")
        if rule["state"] == "firing":
            faults.append(f"alert {rule['name']} fires on a healthy pipeline")
    if not asked or not rules:
        faults.append("there were no queries, or no rules, to ask")
    shown = {name for file in (ROOT / "deploy/grafana/dashboards").glob("*.json") for name in METRIC.findall(file.read_text())}
    unseen = sorted(name for name in names if re.sub("_(bucket|sum|count)$", "", name) not in {re.sub("_(bucket|sum|count)$", "", s) for s in shown})
    version = json.loads(get(f"{prometheus}/api/v1/status/buildinfo"))["data"]["version"]
    print(f"Prometheus {version}: {asked} queries, {len(rules)} alerts, {len(names)} names at /metrics; on no dashboard: {', '.join(unseen) or 'none'}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--brokers", required=True)
    arguments = parser.parse_args()
    found = run([ROOT / "scripts/prometheus.sh"])
    if found.returncode != 0:
        return skip(found.stderr.strip(), can_be_brought=True)
    server = pathlib.Path(found.stdout.strip()) / "prometheus"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        tag = uuid.uuid4().hex[:8]
        topics = {kind: f"dashboards-{tag}.{kind}" for kind in ("predictions", "labels")}
        config = write_config(folder, arguments.brokers, topics)
        log = folder / "driftline.log"
        # It creates its topics, so it starts first.
        driftline = stack.enter_context(process([arguments.binary, "--config", config, "run", "--listen", "127.0.0.1:0"], log))
        address = await_value("it serves", lambda: (re.search(r"http://([\d.:]+)/metrics", log.read_text()) or [None, None])[1], log, driftline)
        await_value("it is ready", lambda: get(f"http://{address}/readyz") == b"ok\n", log, driftline)
        port = free_port()
        scrape = write_scrape_config(folder, address, port)
        own_log = folder / "prometheus.log"
        command = [server, f"--config.file={scrape}", f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address=127.0.0.1:{port}"]
        prometheus = f"http://127.0.0.1:{port}"
        watcher = stack.enter_context(process(command, own_log))
        await_value("Prometheus is ready", lambda: get(f"{prometheus}/-/ready"), own_log, watcher)
        await_value("Prometheus scrapes", lambda: ask(prometheus, 'up{job="driftline"} == 1'), own_log, watcher)
        publish(arguments.binary, config, topics["predictions"], events("predictions", 0, 0.8) + REJECTS)
        publish(arguments.binary, config, topics["labels"], events("labels", 0, 0.8))
        both = lambda: len(ask(prometheus, "count by (model) (driftline_model_metric)")) == len(DATA)
        await_value("both models have figures", both, log, driftline)
        # A counter must be seen twice before it has a rate.
        publish(arguments.binary, config, topics["predictions"], events("predictions", 0.8, 1) + REJECTS)
        publish(arguments.binary, config, topics["labels"], events("labels", 0.8, 1))
        again = lambda: ask(prometheus, f'rate(driftline_evaluations_total[{RATE_INTERVAL}]) > 0 and on () sum(rate(driftline_events_rejected_total[{RATE_INTERVAL}])) > 0')
        await_value("rates show", again, log, driftline)
        await_value("it is ready for Prometheus too", lambda: ask(prometheus, "driftline_ready == 1"), log, driftline)
        faults = check(prometheus, address)
        if faults:
            print(f"--- driftline's log\n{log.read_text()[-2000:]}", file=sys.stderr)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
