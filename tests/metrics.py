"""A metric's value as a scrape shows it."""

from prometheus_client import REGISTRY


def sample(name: str, **labels: str) -> float:
    """Return the value of `name` with `labels`; 0 where it has none yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
