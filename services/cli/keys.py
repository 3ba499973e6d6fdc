"""`tileq keys`: who may ask. Talks to the job store, so it runs where the service runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import show
from services.cli.environment import joined, settings
from services.cli.failure import Failure, Usage
from services.cli.options import AsJson, Data
from shared.errors import QueueUnavailable
from shared.keys import ApiKey, digest, new_key, tenant_problem
from shared.store import keys
from shared.views import moment

if TYPE_CHECKING:
    from shared.store.client import Store

app = typer.Typer(
    no_args_is_help=True, help="API keys, each of a tenant. With the first key the service asks everybody."
)

_SHOWN = 12  # characters of a digest that name a key
_DAY = 86_400


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Whose key; jobs of another tenant are not seen.")],
    name: Annotated[str, typer.Option(help="What it is for, to know it again.")] = "",
    days: Annotated[float | None, typer.Option(min=0, help="Valid for so long; default: until revoked.")] = None,
    data: Data = None,
) -> None:
    """Make a key and print it, once; only its SHA-256 is kept."""
    if problem := tenant_problem(tenant):
        raise Usage(problem)
    with _store(data) as store:
        _, count, now = store.run(keys.get(""))
        key = new_key()
        expires = now + days * _DAY if days is not None else 0
        store.run(keys.put(digest(key), ApiKey(tenant, name, now, expires)))
    print(key)
    show.note("this is the only time it is shown; send it as `Authorization: Bearer tq_…`, or set TILEQ_API_KEY")
    if count == 0:
        show.note("it is the first key: within seconds the service asks everybody for one")


@app.command("list")
def listing(data: Data = None, json: AsJson = False) -> None:
    """List the keys by the first characters of their SHA-256."""
    with _store(data) as store:
        _, _, now = store.run(keys.get(""))
        found = sorted(store.run(keys.list_all()).items(), key=lambda entry: entry[1].created)
    if json:
        for hashed, key in found:
            times = {name: moment(getattr(key, name)) for name in ("created", "expires", "revoked")}
            show.as_json({"id": hashed[:_SHOWN], "tenant": key.tenant, "name": key.name, "live": key.live(now)} | times)
        return
    rows = (
        (hashed[:_SHOWN], key.tenant, key.name, moment(key.created), moment(key.expires) or "never", _state(key, now))
        for hashed, key in found
    )
    show.table(("id", "tenant", "name", "created", "expires", "state"), rows)


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="The id that `tileq keys list` shows, or the key itself.")],
    data: Data = None,
) -> None:
    """Make a key worthless; the service forgets it within seconds (TILEQ_KEY_CACHE)."""
    wanted = digest(id) if id.startswith("tq_") else id.lower()
    with _store(data) as store:
        _, _, now = store.run(keys.get(""))
        found = [(hashed, key) for hashed, key in store.run(keys.list_all()).items() if hashed.startswith(wanted)]
        if len(found) != 1:
            raise Failure("no such key; `tileq keys list` shows them" if not found else f"{id} begins {len(found)} ids")
        ((hashed, key),) = found
        if not key.revoked:
            store.run(keys.put(hashed, ApiKey(key.tenant, key.name, key.created, key.expires, now)))
    print(f"{hashed[:_SHOWN]} of {key.tenant} {'was already revoked' if key.revoked else 'revoked'}")


def _state(key: ApiKey, now: float) -> str:
    if key.revoked:
        return f"revoked {moment(key.revoked)}"
    return "live" if key.live(now) else "expired"


@contextmanager
def _store(data: Data) -> Iterator["Store"]:
    from shared.store.client import Store, connect  # noqa: PLC0415  # see here.py

    joined(data)
    found = settings()
    client = connect(found.redis_url, found)
    try:
        yield Store(client, found.redis_prefix)
    except QueueUnavailable as error:
        raise Failure(f"{error.detail}; TILEQ_REDIS_URL or --data names another store") from None
    finally:
        client.close()
