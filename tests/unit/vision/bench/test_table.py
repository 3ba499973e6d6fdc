"""The figures of `tileq bench`, over engines that compute nothing."""

from collections.abc import Iterator

import pytest

from tests.unit.vision.worker_fixture import answer
from workers.vision.bench.figure import Figure
from workers.vision.bench.measure import Requests, Taken, serve
from workers.vision.bench.random_model import SMALL, Kind, shapes
from workers.vision.bench.table import Load, Table, measure
from workers.vision.engine.base import Done, EngineRequest, Event
from workers.vision.engine.errors import OutOfMemory
from workers.vision.engine.stats import EngineStats
from workers.vision.prompts import IMAGE_CONTEXT

CONFIG, TOKENIZER = shapes(SMALL)
ASKED = Load(jobs=64, new=128, tiles=(1, 7, 200), baseline_jobs=3)


class FakeEngine:
    """Answers at once; keeps what it was asked."""

    slots = 1

    def __init__(self, most_tiles: int = 1000) -> None:
        self.asked: list[EngineRequest] = []
        self.closed = False
        self._most_tiles = most_tiles

    def submit(self, request: EngineRequest) -> Iterator[Event]:
        self.asked.append(request)
        if len(request.tiles) > self._most_tiles:
            raise OutOfMemory("no memory")
        yield answer(request.id)

    def cancel(self, request_id: str) -> None:
        raise AssertionError

    def stats(self) -> EngineStats:
        return EngineStats()

    def close(self) -> None:
        self.closed = True


def requests() -> Requests:
    return Requests(CONFIG, TOKENIZER.token_id(IMAGE_CONTEXT))


def measured(table: Table, *, judged: bool, load: Load = ASKED, most_tiles: int = 1000) -> dict[Kind, FakeEngine]:
    engines: dict[Kind, FakeEngine] = {}

    def start(kind: Kind) -> FakeEngine:
        assert all(engine.closed for engine in engines.values())  # two models may not fit into the memory
        return engines.setdefault(kind, FakeEngine(most_tiles))

    notes: list[str] = []
    measure(table, start, requests(), load, judged, notes.append)
    assert any(note.startswith("200 tiles are left out") for note in notes)
    return engines


def test_each_engine_is_asked_for_each_number_of_tiles_and_no_image_twice() -> None:
    engines = measured(Table(), judged=True)
    warm_up = 1
    assert len(engines["resident"].asked) == warm_up + 2 * (1 + 64)
    assert len(engines["transformers"].asked) == warm_up + 2 * 3
    asked = engines["resident"].asked + engines["transformers"].asked
    assert len({request.tiles.tobytes() for request in asked}) == len(asked)
    assert {request.sampling.max_new_tokens for request in asked[1:100]} == {128}


def test_goals_stand_beside_the_load_and_the_model_that_they_are_for() -> None:
    table = Table()
    measured(table, judged=True)
    bounds = {figure.name: figure.bound for figure in table.figures if figure.bound}
    assert bounds == {
        "64 jobs of 1 tile, 128 tokens each": 123,
        "64 jobs of 7 tiles, 128 tokens each": 26,
        "one job of 1 tile, decoding": 890,
        **{f"jobs/s beside it, {of}": 20 for of in ("of 1 tile", "of 7 tiles")},
        **{f"latency beside it, {of}": 3 for of in ("of 1 tile", "of 7 tiles")},
    }
    elsewhere, fewer = Table(), Table()
    measured(elsewhere, judged=False)
    measured(fewer, judged=True, load=Load(8, 128, (1, 200), 0))
    assert not [figure for figure in elsewhere.figures + fewer.figures if figure.bound]


def test_what_was_measured_before_an_error_is_kept_and_the_engine_closed() -> None:
    table, engine = Table(), FakeEngine(most_tiles=1)
    with pytest.raises(OutOfMemory):
        measure(table, lambda _: engine, requests(), ASKED, True, lambda _: None)
    assert table.figures[0].name == "64 jobs of 1 tile, 128 tokens each"
    assert engine.closed


def test_rates_are_of_the_whole_time_and_of_the_tokens_after_the_first() -> None:
    taken = Taken(jobs=4, seconds=2.0, generated=9, decode_s=0.5)
    assert (taken.jobs_per_second, taken.decode_tokens_per_second) == (2.0, 16.0)
    found = serve(FakeEngine(), [requests().one(1, 4)])
    done = answer("")
    assert isinstance(done, Done)
    assert (found.jobs, found.generated) == (1, done.completion_tokens)


@pytest.mark.parametrize(("value", "at_most", "met"), [(2, False, True), (0.5, False, False), (0.5, True, True)])
def test_a_figure_keeps_its_bound_or_misses_it(value: float, at_most: bool, met: bool) -> None:
    figure = Figure("name", value, "x", 1.0, at_most)
    assert figure.met is met
    assert figure.row() == ("name", f"{value:g} x", f"{'<=' if at_most else '>='} 1 x", "met" if met else "missed")


@pytest.mark.parametrize(("value", "shown"), [(1256.4, "1260 x"), (0.01184, "0.0118 x"), (2_214_000, "2210000 x")])
def test_a_figure_has_three_digits_that_count_and_no_exponent(value: float, shown: str) -> None:
    assert Figure("name", value, "x").row()[1] == shown
