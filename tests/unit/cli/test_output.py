"""Lines for people."""

from services.cli import output
from services.cli.errors import ApiError
from services.cli.mosaic import mosaic, tile_diagram
from tests.encoded import encoded
from tests.unit.cli.scripted_service import JOB, job


def test_a_queued_job_tells_how_many_are_in_front() -> None:
    assert output.state_line(job("queued")) == "queued, 2 ahead"
    assert output.state_line(job("queued", queue_position=0)) == "queued"


def test_a_running_job_tells_its_stage_and_the_attempt_if_it_is_not_the_first() -> None:
    progress = {"stage": "decode", "tiles": 13, "prompt_tokens": 3365, "completion_tokens": 5}
    line = "running: decode, 13 tiles, 3365 prompt tokens"
    assert output.state_line(job("running", progress=progress)) == line
    assert output.state_line(job("running", progress=progress, attempt=2)) == f"{line}, attempt 2 of 3"


def test_one_is_counted_in_the_singular() -> None:
    progress = {"stage": "vision", "tiles": 1, "prompt_tokens": 217}
    assert output.state_line(job("running", progress=progress)) == "running: vision, 1 tile, 217 prompt tokens"


def test_an_ended_job_without_an_answer_tells_why() -> None:
    error = {"code": "undecodable_image", "message": "it is torn", "retryable": False, "image": 1}
    assert output.failure_line(job("failed", error=error)) == f"{JOB} failed: undecodable_image: it is torn (image 1)"
    assert output.failure_line(job("cancelled")) == f"{JOB} cancelled"


def test_figures_are_told_as_far_as_they_are_known() -> None:
    usage = {"prompt_tokens": 100, "image_tokens": 90, "cached_tokens": 0, "completion_tokens": 7}
    timings = {"first_token": 0.5, "total": 1.25}
    told = "100 prompt tokens (90 of images), 7 generated, first token after 0.50 s, 1.25 s in all"
    assert output.summary(job(usage=usage, timings=timings)) == told
    assert output.summary(job()) == ""


def test_a_problem_without_detail_or_code_is_still_a_line() -> None:
    assert str(ApiError(500, {})) == "http_500: the service gave no reason"


def test_the_grid_is_drawn_in_letters() -> None:
    assert tile_diagram(2, 1, thumbnail=True).splitlines() == [
        "+------+------+  +---------+",
        "|  1   |  2   |  |thumbnail|",
        "+------+------+  +---------+",
    ]
    assert "thumbnail" not in tile_diagram(1, 1, thumbnail=False)


def test_a_picture_is_drawn_with_two_pixels_a_character() -> None:
    import io

    from PIL import Image
    from rich.console import Console

    picture = Image.new("RGB", (2, 2), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 1, 2, 2))
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=20)
    with console.capture() as captured:
        console.print(mosaic(encoded(picture), 2))
    cell = "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[0m"
    assert captured.get().splitlines()[0] == cell * 2
