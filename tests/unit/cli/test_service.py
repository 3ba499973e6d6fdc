"""The layout of the whole service: which processes, with which environment; nothing is started."""

from pathlib import Path

from services.cli.local.service import WholeService, whole_service
from shared.settings.roles import Settings
from tests.servers import needed


def layout(folder: Path, vision: int, without: tuple[str, ...] = ()) -> WholeService:
    return needed(
        lambda: whole_service(
            folder, Settings(shutdown_grace=7), host="127.0.0.1", port=8000, vision=vision, without=without, load=9
        )
    )


def names(service: WholeService) -> list[str]:
    return [program.name for stage in service.stages for program in stage]


def test_several_vision_workers_are_numbered_and_none_is_fine(tmp_path: Path) -> None:
    assert names(layout(tmp_path, 3))[-3:] == ["vision", "vision-2", "vision-3"]
    assert not [name for name in names(layout(tmp_path, 0)) if name.startswith("vision")]


def test_a_process_left_out_is_the_only_one_that_is_missing(tmp_path: Path) -> None:
    whole, part = names(layout(tmp_path, 1)), names(layout(tmp_path, 1, ("intake", "valkey")))
    assert [name for name in whole if name not in part] == ["intake"]


def test_every_process_has_a_metrics_port_of_its_own(tmp_path: Path) -> None:
    _, ours = layout(tmp_path, 2).stages
    ports = [program.metrics_port for program in ours]
    assert 0 not in ports
    assert len(set(ports)) == len(ours) == 6


def test_a_worker_may_take_as_long_as_it_was_given(tmp_path: Path) -> None:
    (worker,) = (program for stage in layout(tmp_path, 1).stages for program in stage if program.name == "vision")
    assert (worker.awaited, worker.start_within, worker.stop_within) == (True, 9, 12)
