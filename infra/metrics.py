"""Finds the metrics of every process in the source, for `docs/metrics.md`. Imports none of the processes."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Folder of each process, in the order of the table; a metric of `shared` is every process's.
PROCESSES = {
    "services/intake/batches": "batches",
    "services/intake": "intake",
    "workers/vision": "vision",
    "workers/webhooks": "webhooks",
    "workers/reconciler": "reconciler",
    "shared": "all",
}
KINDS = {
    "Counter": "counter",
    "CounterMetricFamily": "counter",
    "Gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "Histogram": "histogram",
}


@dataclass(frozen=True)
class MetricDefinition:
    """One metric, as the source defines it."""

    process: str
    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def find_metrics() -> list[MetricDefinition]:
    """Return the metrics in the order of processes and names."""
    return [
        metric
        for folder, process in PROCESSES.items()
        for metric in sorted(_metrics_of(ROOT / folder, process), key=lambda metric: metric.name)
    ]


def table() -> str:
    """Return the table: one row a metric."""
    rows = ["| process | metric | kind | labels | meaning |", "|---|---|---|---|---|"]
    for metric in find_metrics():
        labels = " ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| {metric.process} | `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(rows)


def _metrics_of(folder: Path, process: str) -> Iterator[MetricDefinition]:
    nested = [ROOT / other for other in PROCESSES if (ROOT / other).is_relative_to(folder) and ROOT / other != folder]
    for path in sorted(folder.rglob("*.py")):
        if any(path.is_relative_to(other) for other in nested):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                texts = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
                if texts and str(texts[0]).startswith("tileq_"):
                    kind = KINDS[node.func.id]
                    yield MetricDefinition(process, _exposed(str(texts[0]), kind), kind, _labels(node), str(texts[1]))


def _exposed(name: str, kind: str) -> str:
    """Return the name as it is served: prometheus_client appends `_total` to a counter without it."""
    return f"{name.removesuffix('_total')}_total" if kind == "counter" else name


def _labels(call: ast.Call) -> tuple[str, ...]:
    lists = [*call.args[2:3], *(keyword.value for keyword in call.keywords if keyword.arg in ("labels", "labelnames"))]
    return tuple(
        str(element.value)
        for found in lists
        if isinstance(found, ast.List | ast.Tuple)
        for element in found.elts
        if isinstance(element, ast.Constant)
    )
