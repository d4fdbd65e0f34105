"""Tests of the deployment's checks: each must be seen to find something."""

import copy
import json
import pathlib
import unittest

import check_dashboards
import check_deploy
import check_image

BOARD = {
    "uid": "u",
    "title": "t",
    "schemaVersion": 39,
    "time": {"from": "now-1h", "to": "now"},
    "templating": {"list": [{"name": "model", "datasource": {"uid": "p"}}]},
    "panels": [
        {"id": 1, "type": "row", "title": "r", "gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}},
        {
            "id": 2,
            "type": "timeseries",
            "title": "a",
            "gridPos": {"x": 0, "y": 1, "w": 12, "h": 8},
            "datasource": {"uid": "p"},
            "targets": [{"refId": "A", "datasource": {"uid": "p"}, "expr": 'rate(driftline_flushes_total{model=~"$model"}[$__rate_interval])'}],
        },
    ],
}
SERVICE = {
    "image": "driftline:dev",
    "restart": "unless-stopped",
    "stop_grace_period": "40s",
    "ports": [{"host_ip": "127.0.0.1", "published": "9464"}],
    "networks": {"default": {"aliases": ["driftline-metrics"]}},
}


def model(**services) -> dict:
    kafka = {"image": check_deploy.re.sub(r"@.*", "", f"apache/kafka:{kafka_version()}")}
    return {"services": {"driftline": copy.deepcopy(SERVICE), "kafka": kafka, **services}}


def kafka_version() -> str:
    return check_deploy.re.search(r"<kafka.version>(.+?)<", (check_deploy.ROOT / "scripts/kafka/pom.xml").read_text())[1]


class Compose(unittest.TestCase):
    def faults(self, change) -> str:
        broken = model()
        change(broken["services"])
        return "\n".join(check_deploy.compose_faults(broken, 30))

    def test_each_rule_finds_its_fault_and_nothing_else(self):
        self.assertEqual(self.faults(lambda s: None), "")
        for change, fault in [
            (lambda s: s["driftline"].update(image="driftline:latest"), "not pinned"),
            (lambda s: s.update(x={"image": "driftline"}), "not pinned"),
            (lambda s: s["driftline"].update(stop_grace_period="30s"), "before it can have drained"),
            (lambda s: s["driftline"].update(deploy={"replicas": 2}), "cannot share port 9464"),
            (lambda s: s["driftline"]["ports"][0].pop("host_ip"), "open to the network"),
            (lambda s: s.update(x={"image": "x:1", "ports": [{"host_ip": "127.0.0.1", "published": "9464"}]}), "published by driftline too"),
            (lambda s: s["driftline"].update(networks={"default": None}), "cannot find it"),
            (lambda s: s["driftline"].update(depends_on={"nobody": {}}), "not there"),
            (lambda s: s["driftline"].update(user="0"), "overrides the image's user"),
            (lambda s: s["driftline"].update(volumes=[{"type": "bind", "source": "/nowhere/at/all"}]), "does not exist"),
            (lambda s: s["driftline"].update(volumes=[{"type": "volume", "source": "x"}]), "is not declared"),
            (lambda s: s["kafka"].update(image="apache/kafka:3.0.0"), "but the tests run"),
        ]:
            found = self.faults(change)
            self.assertIn(fault, found)
            self.assertEqual(len(found.splitlines()), 1, found)

    def test_durations(self):
        for text, expected in [("40s", 40), ("1m30s", 90), ("1m0s", 60), ("500ms", 0.5), (40_000_000_000, 40)]:
            self.assertEqual(check_deploy.seconds(text), expected)


class Dashboards(unittest.TestCase):
    def faults(self, change) -> str:
        broken = copy.deepcopy(BOARD)
        change(broken)
        return "\n".join(check_deploy.dashboard_faults("b", broken, {"p"}))

    def test_each_rule_finds_its_fault(self):
        self.assertEqual(self.faults(lambda b: None), "")
        other = {**BOARD["panels"][1], "id": 3, "title": "b"}
        for change, fault in [
            (lambda b: b.pop("schemaVersion"), "no schemaVersion"),
            (lambda b: b.update(id=7), "another Grafana's id"),
            (lambda b: b["panels"].append({**other, "id": 2, "gridPos": {"x": 12, "y": 1, "w": 12, "h": 8}}), "not unique"),
            (lambda b: b["panels"].append({**other, "gridPos": {"x": 11, "y": 8, "w": 12, "h": 8}}), "lies over 'a'"),
            (lambda b: b["panels"].append({**other, "gridPos": {"x": 13, "y": 1, "w": 12, "h": 8}}), "out of the grid"),
            (lambda b: b["panels"][1]["targets"].clear(), "asks nothing"),
            (lambda b: b["panels"][1]["datasource"].update(uid="q"), "not provisioned"),
            (lambda b: b["panels"][1]["targets"][0]["datasource"].update(uid="q"), "not provisioned"),
            (lambda b: b["panels"][1]["targets"][0].update(expr="vector(1)"), "no metric of ours"),
            (lambda b: b["templating"]["list"].clear(), "no variable"),
        ]:
            self.assertIn(fault, self.faults(change))

    def test_names_of_metrics_are_found_in_queries_and_pages(self):
        page = '# HELP driftline_a x\n# TYPE driftline_a counter\ndriftline_a_total{k="v"} 1\ndriftline_b_seconds_bucket{le="1"} 2\n'
        names = check_dashboards.exported(page)
        self.assertEqual(names, {"driftline_a_total", "driftline_b_seconds_bucket"})
        self.assertEqual(check_dashboards.unknown_metrics('sum(rate(driftline_a_total{job="driftline_x"}[1m])) / up{job="driftline"}', names), [])
        self.assertEqual(check_dashboards.unknown_metrics("driftline_a + driftline_a_total", names), ["driftline_a"])

    def test_variables_are_filled_in(self):
        self.assertEqual(check_dashboards.concrete('rate(x{m=~"$model"}[$__rate_interval])'), 'rate(x{m=~".*"}[20s])')

    def test_the_events_are_all_used_once(self):
        whole = check_dashboards.events("labels", 0, 1)
        self.assertEqual(check_dashboards.events("labels", 0, 0.8)[:1], whole[:1])
        self.assertEqual(len(check_dashboards.events("labels", 0, 0.8)) + len(check_dashboards.events("labels", 0.8, 1)), len(whole))
        self.assertTrue(all(json.loads(line)["label"] is not None for line in whole))


class Dockerfile(unittest.TestCase):
    def test_the_last_stage_is_read_as_written(self):
        text = 'FROM a AS build\nRUN one\nFROM b\n# a word\nRUN two \\\n && three\nENV A=b\nENTRYPOINT ["x"]\n'
        stage = check_image.last_stage(check_image.instructions(text))
        self.assertEqual(stage, [("FROM", "b"), ("RUN", "two && three"), ("ENV", "A=b"), ("ENTRYPOINT", '["x"]')])
        self.assertEqual(check_image.exec_form('["x"]'), ["x"])
        with self.assertRaises(ValueError):
            check_image.exec_form("x run")

    def test_the_real_one_ends_as_an_ordinary_user_in_exec_form(self):
        words = dict(check_image.last_stage(check_image.instructions(pathlib.Path(check_deploy.ROOT / "Dockerfile").read_text())))
        self.assertEqual(words["USER"], "10001:10001")
        self.assertEqual(check_image.exec_form(words["ENTRYPOINT"]), ["driftline"])
        self.assertEqual(words["STOPSIGNAL"], "SIGTERM")


if __name__ == "__main__":
    unittest.main()
