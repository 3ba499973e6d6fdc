"""Metric names follow https://prometheus.io/docs/practices/naming."""

import re

from infra.metrics import find_metrics

METRICS = find_metrics()
BASE_UNITS = ("_seconds", "_bytes")


def test_every_process_has_metrics() -> None:
    assert {metric.process for metric in METRICS} == {"intake", "batches", "vision", "webhooks", "reconciler", "all"}


def test_only_counters_end_in_total() -> None:
    assert [metric for metric in METRICS if metric.name.endswith("_total") != (metric.kind == "counter")] == []


def test_histograms_name_a_base_unit() -> None:
    assert [metric for metric in METRICS if metric.kind == "histogram" and not metric.name.endswith(BASE_UNITS)] == []


def test_no_name_holds_another_unit_or_a_label() -> None:
    parts = {part for metric in METRICS for part in metric.name.split("_")}
    assert parts & {"ms", "millis", "milliseconds", "minutes", "kb", "kib", "mb", "mib", "percent"} == set()


def test_names_and_labels_are_snake_case_and_unique() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    labels = [label for metric in METRICS for label in metric.labels]
    assert [name for name in names + labels if not re.fullmatch(r"[a-z][a-z0-9_]*", name)] == []


def test_every_metric_says_what_it_counts() -> None:
    assert [metric.name for metric in METRICS if not metric.help] == []
