"""A step's size follows the device's measured speed."""

from workers.vision.engine.step_budget import LEAST_ROWS, StepBudget


def budget() -> StepBudget:
    return StepBudget(most_rows=512, most_tiles=8, pause_s=1.0, longest_s=10.0)


def test_unmeasured_and_fast_devices_get_the_whole() -> None:
    fast = budget()
    assert (fast.rows(True), fast.tiles(True)) == (512, 8)
    fast.took_rows(512, 0.01)
    fast.took_tiles(8, 0.01)
    assert (fast.rows(True), fast.tiles(True)) == (512, 8)


def test_a_slow_device_holds_running_answers_up_for_no_longer_than_the_pause() -> None:
    slow = budget()
    slow.took_rows(512, 5.12)  # 10 ms a row
    slow.took_tiles(1, 3.0)
    assert (slow.rows(True), slow.rows(False)) == (100, 512)
    assert (slow.tiles(True), slow.tiles(False)) == (1, 3)


def test_a_step_is_never_so_small_that_reading_the_weights_is_all_it_does() -> None:
    slow = budget()
    slow.took_rows(1, 60.0)
    assert slow.rows(True) == LEAST_ROWS


def test_one_slow_step_does_not_decide() -> None:
    shaken = budget()
    for seconds in (1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        shaken.took_rows(100, seconds)
    assert shaken.rows(True) > 70


def test_halving_ends_at_the_smallest_step() -> None:
    shrinking = budget()
    assert shrinking.halve()
    assert (shrinking.rows(False), shrinking.tiles(False)) == (256, 4)
    while shrinking.halve():
        pass
    assert (shrinking.rows(False), shrinking.tiles(False)) == (LEAST_ROWS, 1)
