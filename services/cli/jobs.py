"""`tileq status`, `wait`, `cancel`, `jobs`, `deliveries` and `models`: the state of jobs and workers."""

from typing import Annotated

import typer

from services.cli import output
from services.cli.ask import finish
from services.cli.client import ENDED
from services.cli.errors import CommandError, UsageError
from services.cli.options import URL, AsJson, JobId, Url, api


def status(job: JobId, url: Url = URL, json: AsJson = False) -> None:
    """Show a job as it is now."""
    with api(url) as service:
        found = service.job(job)
    if json:
        output.as_json(found)
    else:
        output.job_facts(found)


def wait(
    job: JobId,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Stop waiting after this.")] = None,
    url: Url = URL,
    json: AsJson = False,
) -> None:
    """Wait until a job has ended, and print its answer."""
    with api(url) as service:
        found = service.wait(job, timeout)
    if found["state"] not in ENDED:
        raise CommandError(f"{job} has not ended after {timeout:g} s: {output.state_line(found)}")
    finish(found, json)


def cancel(job: JobId, url: Url = URL, json: AsJson = False) -> None:
    """Stop a job, queued or running."""
    with api(url) as service:
        answer = service.post(f"/v1/jobs/{job}/cancel")
    if json:
        output.as_json(answer)
    else:
        print(f"{job} {answer['outcome']}")


def jobs(
    *,
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed, cancelled or expired.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="BATCH", help="Of this batch only.")] = None,
    metadata: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="With this metadata only.")] = [],  # noqa: B006
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: Url = URL,
    json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    query = {name: value for name, value in (("state", state), ("batch", batch)) if value}
    for entry in metadata:
        name, separator, value = entry.partition("=")
        if not separator:
            raise UsageError(f"--metadata takes KEY=VALUE, not {entry!r}")
        query[f"metadata.{name}"] = value
    with api(url) as service:
        found = list(service.pages("/v1/jobs", limit, **query))
    if json:
        for job in found:
            output.as_json(job)
        return
    columns = ("job", "state", "created", "model", "tiles", "answer")
    rows = (
        (
            job["id"],
            job["state"],
            job["created_at"],
            job["model"],
            sum(image["tiles"] or 0 for image in job.get("images") or []),
            _excerpt(job),
        )
        for job in found
    )
    output.table(columns, rows)


def deliveries(job: JobId, url: Url = URL, json: AsJson = False) -> None:
    """List the webhooks of a job, with every attempt."""
    with api(url) as service:
        found = service.get(f"/v1/jobs/{job}/deliveries")["data"]
    if json:
        for message in found:
            output.as_json(message)
        return
    for message in found:
        print(f"{message['id']}  {message['type']}  {message['state']}  {output.clean(message['url'])}")
        rows = (
            (attempt["at"], attempt["status"] or "-", f"{attempt['seconds']:.2f} s", attempt["error"] or "")
            for attempt in message["attempts"]
        )
        output.table(("  at", "status", "took", "error"), rows)
        if message.get("next_at"):
            print(f"  next attempt at {message['next_at']}")
    if not found:
        output.note(f"{job} has no webhooks")


def models(url: Url = URL, json: AsJson = False) -> None:
    """List the models, their workers and queues."""
    with api(url) as service:
        found = service.get("/v1/models")["data"]
    if json:
        for model in found:
            output.as_json(model)
        return
    columns = ("model", "parameters", "context", "tiles", "languages", "workers", "queued")
    rows = (
        (
            model["id"],
            f"{model['parameters']:,}",
            model["context"],
            "-".join(str(number) for number in dict.fromkeys(model["tiles"])),
            " ".join(model["languages"]),
            model["workers"],
            model["queued"],
        )
        for model in found
    )
    output.table(columns, rows)


def _excerpt(job: output.Json) -> str:
    if job.get("error"):
        return str(job["error"]["code"])
    text = " ".join(str((job.get("output") or {}).get("text", "")).split())
    return text if len(text) <= 60 else text[:59] + "…"
