"""A step's size follows the device's measured speed."""

from workers.vision.engine.step_budget import MIN_ROWS, REGROW_STEPS, StepBudget


def budget() -> StepBudget:
    return StepBudget(most_rows=512, most_tiles=8, pause_s=1.0, longest_s=10.0, row_s=1e-6, tile_s=1e-6)


def measured(row_s: float, tile_s: float) -> StepBudget:
    """A budget that has seen many steps of this speed."""
    made = budget()
    for _ in range(50):
        made.took_rows(100, 100 * row_s)
        made.took_tiles(1, tile_s)
    return made


def test_a_fast_device_gets_the_whole() -> None:
    fast = budget()
    fast.took_rows(512, 0.01)
    fast.took_tiles(8, 0.01)
    assert (fast.rows(True), fast.tiles(True)) == (512, 8)


def test_a_slow_device_holds_running_answers_up_for_no_longer_than_the_pause() -> None:
    slow = measured(row_s=0.0099, tile_s=3.0)
    assert (slow.rows(True), slow.rows(False)) == (101, 512)
    assert (slow.tiles(True), slow.tiles(False)) == (1, 3)


def test_a_step_is_never_so_small_that_reading_the_weights_is_all_it_does() -> None:
    assert measured(row_s=60.0, tile_s=60.0).rows(True) == MIN_ROWS


def test_the_first_measurement_replaces_the_estimate() -> None:
    first = budget()
    first.took_rows(32, 32 * 0.02)
    first.took_tiles(1, 5.0)
    assert (first.rows(True), first.tiles(False)) == (50, 2)


def test_one_slow_step_does_not_decide() -> None:
    shaken = measured(row_s=0.005, tile_s=1.0)
    assert shaken.rows(True) > 190
    shaken.took_rows(100, 2.0)
    assert shaken.rows(True) > 90


def test_halving_ends_at_the_smallest_step() -> None:
    shrinking = budget()
    assert shrinking.halve()
    assert (shrinking.rows(False), shrinking.tiles(False)) == (256, 4)
    while shrinking.halve():
        pass
    assert (shrinking.rows(False), shrinking.tiles(False)) == (MIN_ROWS, 1)


def steps_until_growth(shrunk: StepBudget) -> int:
    return next(count for count in range(1, 10_000) if shrunk.fitted())


def test_steps_that_fit_let_a_shrunk_budget_grow_back_to_its_size_and_no_further() -> None:
    shrunk = budget()
    assert not shrunk.fitted()
    shrunk.halve()
    shrunk.halve()
    sizes = []
    while steps := next((count for count in range(1, 1000) if shrunk.fitted()), 0):
        assert steps >= REGROW_STEPS
        sizes.append((shrunk.rows(False), shrunk.tiles(False)))
    assert sizes == [(192, 3), (288, 4), (432, 6), (512, 8)]


def test_a_lasting_shortage_is_met_ever_more_seldom() -> None:
    waits = []
    lasting = budget()
    for _ in range(4):
        lasting.halve()
        waits.append(steps_until_growth(lasting))
    assert waits == [waits[0], 2 * waits[0], 4 * waits[0], 8 * waits[0]]
