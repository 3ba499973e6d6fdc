"""A job as it happens."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from services.intake.event_stream import DeltaAssembler, Event, KeepAlive, StateChanged
from shared.events import TextDelta
from shared.storage import result_key
from shared.store import transitions
from tests.unit.intake.app_fixture import App, events, once_waiting, problem, running_app


def text_of(found: Sequence[tuple[str, str, Any]]) -> str:
    """What a client has at the end: the deltas since the last reset."""
    text = ""
    for name, _, data in found:
        text = "" if name == "reset" else text + data["text"] if name == "delta" else text
    return text


def names(found: Sequence[tuple[str, str, Any]]) -> list[str]:
    return [name for name, _, _ in found]


def read_events(intake: App, id: str, last: str = "") -> list[tuple[str, str, Any]]:
    answer = intake.http.get(f"/v1/jobs/{id}/events", headers={"Last-Event-ID": last} if last else {})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    found = events(answer)
    assert len({id for _, id, _ in found}) == len(found)
    return found


class TestLine:
    """`GET /v1/jobs/{id}/events`."""

    def test_an_ended_job_is_told_at_once(self, intake: App) -> None:
        id = intake.answered("A sign.")
        found = read_events(intake, id)
        assert names(found) == ["state", "delta", "end"]
        assert (text_of(found), found[0][2]["output"], found[-1][2]["output"]["text"]) == ("A sign.", None, "A sign.")

    def test_text_comes_as_it_is_written(self, intake: App) -> None:
        id = intake.accepted()

        def work() -> None:
            job = intake.claim()
            for offset, piece in ((0, "A "), (2, "red "), (6, "sign.")):
                intake.stream(job, offset, piece)
            intake.succeed(job, "A red sign.")

        worker = once_waiting(intake, work)
        found = read_events(intake, id)
        worker.join()
        assert [data["text"] for name, _, data in found if name == "delta"] == ["A ", "red ", "sign."]
        assert next(data["state"] for name, _, data in found if name == "state") == "queued"
        assert names(found)[-1] == "end"

    def test_a_new_attempt_makes_what_was_said_void(self, intake: App) -> None:
        id = intake.accepted()

        def work() -> None:
            lost = intake.claim()
            intake.stream(lost, 0, "A blue ")
            intake.store.run(transitions.release(lost.id, lost.attempt))
            again = intake.claim()
            intake.stream(again, 0, "A red ")
            intake.stream(lost, 7, "sea")  # a worker that thaws
            intake.stream(again, 6, "sign.")
            intake.succeed(again, "A red sign.")

        worker = once_waiting(intake, work)
        found = read_events(intake, id)
        worker.join()
        assert text_of(found) == "A red sign."
        assert names(found).count("reset") == 1
        assert "sea" not in str(found)

    def test_lost_text_is_made_good_at_the_end(self, intake: App) -> None:
        id = intake.accepted()

        def work() -> None:
            job = intake.claim()
            intake.stream(job, 0, "A ")
            intake.stream(job, 6, "sign")  # "red " never arrived
            intake.succeed(job, "A red sign.")

        worker = once_waiting(intake, work)
        found = read_events(intake, id)
        worker.join()
        assert text_of(found) == "A red sign."
        assert "reset" in names(found)

    def test_no_stream_at_all_is_made_good_too(self, intake: App) -> None:
        id = intake.answered("Everything.")
        assert text_of(read_events(intake, id)) == "Everything."

    def test_a_job_that_failed_ends_with_its_error(self, intake: App) -> None:
        id = intake.accepted()
        job = intake.claim()
        intake.stream(job, 0, "A ")
        intake.fail(job)
        found = read_events(intake, id)
        assert names(found) == ["state", "delta", "end"]
        assert found[-1][2]["error"]["code"] == "undecodable_image"

    def test_a_lost_result_ends_the_line_with_its_error(self, intake: App) -> None:
        id = intake.accepted()
        job = intake.claim()
        intake.succeed(job, "A red sign.", inline=False)
        intake.objects.delete(result_key(id, job.attempt))
        name, _, data = read_events(intake, id)[-1]
        assert (name, data["output"], data["error"]["code"]) == ("end", None, "result_lost")

    def test_it_resumes_behind_what_is_known(self, intake: App) -> None:
        id = intake.accepted()
        job = intake.claim()
        intake.stream(job, 0, "A ")
        intake.stream(job, 2, "red ")
        intake.stream(job, 6, "sign.")
        intake.succeed(job, "A red sign.")
        whole = read_events(intake, id)
        for place, (name, last, _) in enumerate(whole[:-1]):
            rest = read_events(intake, id, last)
            before = text_of(whole[: place + 1])
            joined = text_of([("delta", "", {"text": before}), *rest])
            assert joined == "A red sign.", (name, last)
            assert "reset" not in names(rest)

    def test_there_is_nothing_behind_the_end(self, intake: App) -> None:
        id = intake.answered("A sign.")
        _, last, _ = read_events(intake, id)[-1]
        answer = intake.http.get(f"/v1/jobs/{id}/events", headers={"Last-Event-ID": last})
        assert (answer.status_code, answer.content) == (204, b"")

    def test_resuming_what_is_gone_starts_afresh(self, intake: App) -> None:
        id = intake.answered("A red sign.")
        found = read_events(intake, id, "1700000000000-0/3")
        assert names(found)[0] == "reset"
        assert text_of(found) == "A red sign."

    def test_a_tail_told_from_the_record_is_not_told_twice(self, intake: App) -> None:
        id = intake.accepted()
        job = intake.claim()
        intake.stream(job, 0, "A ")
        intake.succeed(job, "A red sign.")
        whole = read_events(intake, id)
        tail = next(last for name, last, data in whole if name == "delta" and data["text"] == "red sign.")
        rest = read_events(intake, id, tail)
        assert text_of([("delta", "", {"text": "A red sign."}), *rest]) == "A red sign."

    @pytest.mark.parametrize("last", ["x", "1-1", "1-1/x", "-/1"])
    def test_an_id_that_is_none_is_no_id(self, intake: App, last: str) -> None:
        assert text_of(read_events(intake, intake.answered("A sign."), last)) == "A sign."

    def test_a_job_that_is_none(self, intake: App) -> None:
        problem(intake.http.get("/v1/jobs/job_x/events"), 404, "not_found")

    def test_a_shutdown_ends_the_line(self, intake: App) -> None:
        id = intake.accepted()
        closer = once_waiting(intake, lambda: intake.http.portal.call(intake.context.changes.close))  # type: ignore[union-attr]
        assert names(read_events(intake, id)) == ["state"]
        closer.join()

    def test_a_deleted_job_ends_the_line(self, intake: App) -> None:
        id = intake.accepted()
        remover = once_waiting(intake, lambda: intake.store.client.delete(f"tileq:job:{id}"))
        assert names(read_events(intake, id)) == ["state"]
        remover.join()

    def test_a_silent_stream_is_kept_open(self, intake: App, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("services.intake.event_stream.KEEPALIVE_S", 0.02)
        job = intake.job(intake.accepted())

        async def first_two() -> list[Event]:
            async with aclosing(intake.context.streams.stream(job)) as stream:
                return [await anext(stream), await anext(stream)]

        state, silence = intake.call(first_two)
        assert (type(state), silence) == (StateChanged, KeepAlive())

    def test_there_is_a_most(self) -> None:
        with running_app(max_streams=1) as intake:
            intake.context.streams._open = 1
            problem(intake.http.get(f"/v1/jobs/{intake.accepted()}/events"), 503, "overloaded")


class TestAssembler:
    """`DeltaAssembler`, without any server."""

    def test_a_late_delta_of_an_earlier_attempt_is_dropped(self) -> None:
        assembler = DeltaAssembler()
        assert list(assembler.feed(TextDelta(2, 0, "new"))) == ["new"]
        assert list(assembler.feed(TextDelta(1, 0, "old"))) == []

    def test_a_first_attempt_without_text_needs_no_reset(self) -> None:
        assembler = DeltaAssembler()
        assert list(assembler.feed(TextDelta(1, 0, ""))) == []
        assert list(assembler.feed(TextDelta(2, 0, "x"))) == ["x"]

    def test_after_a_gap_nothing_is_sent_until_the_end(self) -> None:
        assembler = DeltaAssembler()
        list(assembler.feed(TextDelta(1, 0, "a")))
        assert list(assembler.feed(TextDelta(1, 5, "f"))) == [None]
        assert list(assembler.feed(TextDelta(1, 6, "g"))) == []
        assert list(assembler.reconcile("abcdefg", False)) == ["abcdefg"]

    def test_the_end_adds_only_what_is_missing(self) -> None:
        assembler = DeltaAssembler(1, "abc")
        assert list(assembler.reconcile("abcdef", False)) == ["def"]
        assert list(assembler.reconcile("abcdef", True)) == []

    def test_a_different_output_starts_afresh(self) -> None:
        assert list(DeltaAssembler(1, "abx").reconcile("abc", False)) == [None, "abc"]
