"""Pages: counted, shared by digest, given away oldest first, neighbours where possible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.vision.engine.page_pool import OutOfPages, PagePool


def test_a_fresh_allocation_is_one_run() -> None:
    pool = PagePool(10)
    assert pool.allocate(4) == [0, 1, 2, 3]
    assert pool.used == 4


def test_a_sequence_goes_on_where_it_stopped() -> None:
    pool = PagePool(16)
    first = pool.allocate(3)
    pool.allocate(3)
    assert pool.allocate(2, after=first[-1]) == [3, 4]  # the second began in the middle of the gap


def test_more_than_there_is_allocates_nothing() -> None:
    pool = PagePool(3)
    pool.allocate(2)
    with pytest.raises(OutOfPages):
        pool.allocate(2)
    assert pool.available == 1


def test_a_published_page_is_found_after_its_sequence_is_gone() -> None:
    pool = PagePool(4)
    pages = pool.allocate(2)
    pool.publish(pages[0], b"a")
    pool.release(pages)
    assert (pool.available, pool.find([b"a", b"b"])) == (4, [pages[0]])


def test_a_page_that_two_hold_outlives_the_first_release() -> None:
    pool = PagePool(2)
    (page,) = pool.allocate(1)
    pool.publish(page, b"a")
    pool.acquire([page])
    pool.release([page])
    assert pool.available == 1
    pool.release([page])
    assert pool.available == 2


def test_idle_pages_are_given_away_oldest_and_last_of_their_sequence_first() -> None:
    pool = PagePool(4)
    old, new = pool.allocate(2), pool.allocate(2)
    for page, digest in zip([*old, *new], [b"old1", b"old2", b"new1", b"new2"], strict=True):
        pool.publish(page, digest)
    pool.release(old)
    pool.release(new)
    pool.allocate(1)
    assert pool.find([b"old1"])
    assert not pool.find([b"old2"])
    pool.allocate(1)
    assert not pool.find([b"old1"])
    assert len(pool.find([b"new1", b"new2"])) == 2


def test_a_forgotten_page_is_not_found_even_while_another_holds_it() -> None:
    pool = PagePool(2)
    (page,) = pool.allocate(1)
    pool.publish(page, b"a")
    pool.acquire([page])
    pool.release([page], forget=True)
    assert not pool.find([b"a"])
    pool.release([page])
    assert pool.available == 2


def test_the_first_page_of_a_digest_stays_the_one_that_is_found() -> None:
    pool = PagePool(2)
    first, second = pool.allocate(2)
    pool.publish(first, b"a")
    pool.publish(second, b"a")
    assert pool.find([b"a"]) == [first]
    pool.release([second])
    assert pool.published == 1


@given(st.lists(st.tuples(st.sampled_from(["allocate", "release", "share"]), st.integers(0, 9)), max_size=80))
def test_no_page_is_lost_or_given_twice(actions: list[tuple[str, int]]) -> None:
    pool, held, serial = PagePool(12), list[list[int]](), 0
    for action, number in actions:
        if action == "allocate" and number <= pool.available:
            pages = pool.allocate(number)
            assert len(set(pages)) == number
            assert not {page for other in held for page in other} & set(pages)
            for page in pages[::2]:
                serial += 1
                pool.publish(page, serial.to_bytes(4, "big"))
            held.append(pages)
        elif action == "share" and held:
            found = pool.find([n.to_bytes(4, "big") for n in range(max(1, serial - 1), serial + 1)])
            if not {page for other in held for page in other} & set(found):
                pool.acquire(found)
                held.append(found)
        elif action == "release" and held:
            pool.release(held.pop(number % len(held)))
        assert pool.used == len({page for pages in held for page in pages})
    for pages in held:
        pool.release(pages)
    assert pool.available == 12
