"""Event streams are cut as the standard says, however the network cut them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.sse import Event, parse


def test_events_carry_name_data_and_the_latest_id() -> None:
    stream = b'retry: 2000\n\nevent: state\nid: 1-0/1\ndata: {}\n\nevent: delta\ndata: {"text": "a"}\n\n'
    assert list(parse([stream])) == [Event("state", "{}", "1-0/1"), Event("delta", '{"text": "a"}', "1-0/1")]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_every_line_end_of_the_standard_is_one(end: str) -> None:
    lines = ["event: delta", "id: 7", "data: one", "data: two", "", ""]
    assert list(parse([end.join(lines).encode()])) == [Event("delta", "one\ntwo", "7")]


def test_signs_that_only_unicode_calls_line_ends_stay_in_the_data() -> None:
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"
    assert list(parse([f"data: {text}\n\n".encode()])) == [Event("message", text, "")]


def test_comments_and_unknown_fields_are_passed_over() -> None:
    assert list(parse([b": still here\n\nflavour: sweet\ndata: x\n\n"])) == [Event("message", "x", "")]


def test_an_event_that_was_broken_off_is_left_out() -> None:
    assert list(parse([b"data: whole\n\nid: 9\ndata: hal"])) == [Event("message", "whole", "")]


def test_a_resumed_stream_keeps_the_id_it_was_resumed_with() -> None:
    assert list(parse([b"data: x\n\n"], "4-0/2")) == [Event("message", "x", "4-0/2")]


@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8")), min_size=1, max_size=4),
    end=st.sampled_from(["\n", "\r", "\r\n"]),
    cuts=st.lists(st.integers(0, 200), max_size=12),
)
def test_where_the_network_cuts_makes_no_difference(texts: list[str], end: str, cuts: list[int]) -> None:
    stream = "".join(f"id: {n}{end}data: {text}{end}{end}" for n, text in enumerate(texts)).encode()
    edges = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    chunks = [stream[first:last] for first, last in pairwise(edges)]
    assert [(event.data, event.id) for event in parse(chunks)] == [(text, str(n)) for n, text in enumerate(texts)]
