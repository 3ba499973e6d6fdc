"""The engine's statistics are metrics."""

import time

from prometheus_client import CollectorRegistry, generate_latest

from tests.unit.vision.worker_fixture import ScriptedEngine
from workers.vision.engine.collector import EngineCollector
from workers.vision.engine.stats import EngineStats


class MeasuredEngine(ScriptedEngine):
    def __init__(self, stats: EngineStats | Exception) -> None:
        super().__init__()
        self.measured = stats

    def stats(self) -> EngineStats:
        if isinstance(self.measured, Exception):
            raise self.measured
        return self.measured


def scrape(stats: EngineStats | Exception) -> str:
    registry = CollectorRegistry()
    registry.register(EngineCollector(MeasuredEngine(stats)))
    return generate_latest(registry).decode()


def test_every_figure_is_exported() -> None:
    text = scrape(EngineStats(2, 3, 5, 70, time.monotonic() - 1, memory_bytes=1 << 30))
    for line in (
        'tileq_engine_requests{state="running"} 2.0',
        'tileq_engine_requests{state="waiting"} 3.0',
        "tileq_engine_answered_requests_total 5.0",
        "tileq_engine_generated_tokens_total 70.0",
        "tileq_engine_memory_bytes 1.073741824e+09",
    ):
        assert line in text
    (step,) = [line for line in text.splitlines() if line.startswith("tileq_engine_step_seconds")]
    assert float(step.split()[1]) >= 1


def test_the_figures_of_the_resident_engine_are_exported_where_it_serves() -> None:
    text = scrape(EngineStats(pages=100, used_pages=7, shared_pages=3, cached_tokens=42, step_s={"decode": 1.5}))
    for line in (
        'tileq_engine_pages{use="total"} 100.0',
        'tileq_engine_pages{use="requests"} 7.0',
        'tileq_engine_pages{use="shared"} 3.0',
        "tileq_engine_cached_tokens_total 42.0",
        'tileq_engine_step_part_seconds_total{part="decode"} 1.5',
    ):
        assert line in text
    assert "pages" not in scrape(EngineStats())


def test_what_was_computed_as_padding_is_exported() -> None:
    text = scrape(EngineStats(pages=1, computed={("rows", "wanted"): 9, ("rows", "padding"): 3}))
    assert 'tileq_engine_computed_total{unit="rows",use="wanted"} 9.0' in text
    assert 'tileq_engine_computed_total{unit="rows",use="padding"} 3.0' in text


def test_the_state_of_each_fast_path_and_the_cache_hit_ratio_are_exported() -> None:
    text = scrape(EngineStats(pages=1, fast_paths={"paged attention": "wrong"}, prompt_tokens=8, cached_tokens=6))
    assert 'tileq_engine_fast_path{path="paged attention",state="wrong"} 1.0' in text
    assert "tileq_engine_cache_hit_ratio 0.75" in text
    assert "tileq_engine_cache_hit_ratio 0.0" in scrape(EngineStats(pages=1))


def test_an_idle_engine_on_a_cpu_has_no_step_and_no_device_memory() -> None:
    text = scrape(EngineStats())
    assert "tileq_engine_step_seconds 0.0" in text
    assert "memory" not in text


def test_an_engine_that_can_not_tell_its_statistics_costs_no_scrape() -> None:
    assert scrape(RuntimeError("CUDA error")) == ""
