"""The alert rules, the Grafana dashboard and the documentation know exactly the metrics that exist."""

import ast
import json
import re
from dataclasses import replace

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from statuses import HEALTHY, NODE, on_cluster

from paystream.project import CHECKOUT
from paystream.settings import Settings
from paystream.status.health import judge
from paystream.status.metrics import PROBLEMS, StatusCollector, families
from paystream.status.state import QUESTION_TIMEOUT_S, TIMEOUT_S, NodeState, Status, Subject, Unmeasured

SETTINGS = Settings(_env_file=None)
RULES = yaml.safe_load((CHECKOUT / "monitoring/alerts.yaml").read_text())["groups"][0]["rules"]
GRAFANA = json.loads((CHECKOUT / "monitoring/grafana.json").read_text())


def exported(status: Status) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return what Prometheus would read: value by labels by name."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(lambda: (status, judge(status, SETTINGS))))
    return {
        family.name: {tuple(sorted(sample.labels.items())): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }


EXPORTED = exported(HEALTHY)
ON_CLUSTER = exported(on_cluster(NODE, NodeState("10.0.0.2:8123", "Connection refused")))
EVERYWHERE = ON_CLUSTER | EXPORTED


def selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """Return the metrics that an expression names, with their label conditions."""
    matches = re.findall(r"\b(paystream_[a-z0-9_]+)(?:\{([^}]*)\})?", expression)
    return [(name, dict(re.findall(r"(\w+)=~?\"([^\"]*)\"", labels))) for name, labels in matches]


def expressions() -> list[str]:
    panels = [target["expr"] for panel in GRAFANA["panels"] for target in panel["targets"]]
    return [*panels, *(rule["expr"] for rule in RULES)]


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_in_a_rule_or_a_panel_is_exported(expression: str) -> None:
    assert selectors(expression)
    for name, labels in selectors(expression):
        assert name in EVERYWHERE
        for label, wanted in labels.items():
            values = {dict(sample)[label] for sample in EVERYWHERE[name]}
            assert all(any(re.fullmatch(pattern, value) for value in values) for pattern in wanted.split("|")), (
                name,
                label,
            )


def test_legends_name_labels_that_exist() -> None:
    for panel in GRAFANA["panels"]:
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                [(name, _)] = selectors(target["expr"])
                assert all(label in dict(sample) for sample in EXPORTED[name]), panel["title"]


def sections() -> dict[str, str]:
    """Return the anchors of the runbook's sections, as the usual renderers make them, with their titles."""
    titles = re.findall(r"^## (.+)$", (CHECKOUT / "docs/runbook.md").read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-"): title for title in titles}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_names_a_section_of_the_runbook(rule: dict) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page == "docs/runbook.md" and anchor in sections()
    assert rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"]


def test_every_reason_names_a_section_and_is_exported() -> None:
    tree = ast.parse((CHECKOUT / "paystream/status/health.py").read_text())
    made = [
        [argument.value for argument in (call.args[0], call.args[2])]
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Problem"
    ]
    assert {name for name, _ in made} == set(PROBLEMS)
    assert {section for _, section in made} <= set(sections().values())


def test_the_page_lists_every_metric() -> None:
    rows = re.findall(r"^\| (`paystream_.*?) \|", (CHECKOUT / "docs/monitoring.md").read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(paystream_\w+)`", row)} == set(EVERYWHERE)


def test_values_and_labels() -> None:
    assert EXPORTED["paystream_healthy"] == {(): 1}
    assert EXPORTED["paystream_lag_messages"] == {(("partition", "0"),): 12, (("partition", "1"),): 0}
    assert EXPORTED["paystream_latency_seconds"][("quantile", "0.95"),] == 0.31
    assert EXPORTED["paystream_refused_per_minute"] == {(("reason", "not_json"),): 6}
    assert EXPORTED["paystream_dimension_age_seconds"][("dimension", "fx"),] == 5 * 3600
    assert EXPORTED["paystream_newest_quote_age_days"] == {(): 1}
    assert EXPORTED["paystream_error_budget_spent_ratio"] == {(): 0.002}
    assert set(EXPORTED["paystream_problem"].values()) == {0}


def test_only_on_a_cluster_do_metrics_say_of_which_node_they_are() -> None:
    assert not {name for name in EXPORTED if "node" in name}
    assert not [sample for samples in EXPORTED.values() for sample in samples if {"node", "set"} & dict(sample).keys()]
    node = (("node", "10.0.0.1:8123"), ("set", "1"), ("shard", "1"))
    assert ON_CLUSTER["paystream_node_up"] == {node[:1]: 1, (("node", "10.0.0.2:8123"),): 0}
    assert ON_CLUSTER["paystream_parts"] == {(*node, ("table", "transactions")): 12}
    assert ON_CLUSTER["paystream_failed_loads"] == {node: 0}
    assert ON_CLUSTER["paystream_node_lag_messages"] == {node: 12}
    assert ON_CLUSTER["paystream_node_dimension_snapshot"][(("dimension", "fx"), *node)] == 3
    assert ON_CLUSTER["paystream_lag_messages"][("partition", "0"), ("set", "1")] == 12
    assert ON_CLUSTER["paystream_problem"][("name", "node"),] == 1


def test_what_is_not_known_is_left_out_and_said() -> None:
    away = Status("transactions", "paystream", HEALTHY.at, 5.0, unmeasured=[Unmeasured(Subject.UNREAD, "Gone.", 3)])
    metrics = exported(away)
    assert metrics["paystream_up"] == {(("service", "kafka"),): 0, (("service", "clickhouse"),): 1}
    assert metrics["paystream_healthy"] == {(): 0}
    assert metrics["paystream_problem"][("name", "unmeasured"),] == 1
    assert not {name for name in metrics if "lag" in name or "latency" in name or "audit" in name}


def test_no_traffic_is_no_latency_and_no_division() -> None:
    idle = replace(HEALTHY, flow=replace(HEALTHY.flow, messages=0, refused=0, p50_s=None, p95_s=None, p99_s=None))
    names = {family.name for family in families(idle, judge(idle, SETTINGS))}
    assert "paystream_latency_seconds" not in names and "paystream_refused_ratio" in names


def test_a_panel_that_shows_one_value_shows_no_old_one() -> None:
    """A range query's last value would stay, green, for hours after `paystream metrics` has ended."""
    for panel in GRAFANA["panels"]:
        if panel["type"] == "stat":
            assert all(target["instant"] and not target["range"] for target in panel["targets"]), panel["title"]
            assert panel["fieldConfig"]["defaults"]["noValue"] == "no data"


def test_a_scrape_lasts_longer_than_the_longest_answer() -> None:
    [job] = yaml.safe_load((CHECKOUT / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    # On a cluster, as long as one question for its nodes first.
    longest_s = QUESTION_TIMEOUT_S + TIMEOUT_S + QUESTION_TIMEOUT_S
    assert longest_s < int(job["scrape_timeout"].rstrip("s")) <= int(job["scrape_interval"].rstrip("s"))
