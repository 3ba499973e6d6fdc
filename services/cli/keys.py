"""`tileq keys`: API keys. Reads and writes the job store directly, so it runs where the store can be reached."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import output
from services.cli.audit import audit
from services.cli.environment import settings, use_local_service
from services.cli.errors import CommandError, UsageError
from services.cli.options import AsJson, Data
from shared.errors import QueueUnavailable
from shared.jobs import Priority
from shared.keys import ApiKey, Scope, digest, new_key, tenant_problem
from shared.limits import LimitOverride
from shared.store import keys
from shared.store import limits as tenant_limits
from shared.views import moment

if TYPE_CHECKING:
    from shared.store.client import Store

app = typer.Typer(
    no_args_is_help=True, help="API keys, each of a tenant. From the first key on the service requires one."
)

_ID_CHARS = 12  # of a key's SHA-256
_DAY_S = 86_400


@app.command()
def create(  # noqa: PLR0917  # typer reads the options from it
    tenant: Annotated[str, typer.Argument(help="Owner of the key; it sees no jobs of other tenants.")],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires; default: never.")] = None,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What the key may do; repeat it for several. Default: everything.")
    ] = None,
    max_priority: Annotated[
        Priority | None, typer.Option(help="Highest priority of its jobs. Default: TILEQ_MAX_PRIORITY.")
    ] = None,
    data: Data = None,
) -> None:
    """Make a key and print it once; only its SHA-256 is stored."""
    if problem := tenant_problem(tenant):
        raise UsageError(problem)
    with open_store(data) as store:
        count, now = store.run(keys.count_keys()), store.run(keys.server_time())
        key, scopes = new_key(), tuple(one.value for one in scope or ())
        expires = now + days * _DAY_S if days is not None else 0
        store.run(keys.put(digest(key), ApiKey(tenant, name, now, expires, scopes=scopes, max_priority=max_priority)))
    audit("key.create", _id(key), tenant=tenant, scopes=[one.value for one in scope or []])
    print(key)
    output.note("the key is not shown again; send it as `Authorization: Bearer tq_…`, or set TILEQ_API_KEY")
    if count == 0:
        output.note("this is the first key: within seconds the service requires a key of every caller")


@app.command("list")
def listing(data: Data = None, json: AsJson = False) -> None:
    """List the keys by the first characters of their SHA-256."""
    with open_store(data) as store:
        now = store.run(keys.server_time())
        found = sorted(store.run(keys.list_all()).items(), key=lambda entry: entry[1].created)
    if json:
        for hashed, key in found:
            times = {name: moment(getattr(key, name)) for name in ("created", "expires", "revoked")}
            output.as_json(
                {"id": hashed[:_ID_CHARS], "tenant": key.tenant, "name": key.name, "live": key.live(now)}
                | {"scopes": sorted(key.rights), "max_priority": key.max_priority}
                | times
            )
        return
    rows = (
        (
            hashed[:_ID_CHARS],
            key.tenant,
            key.name,
            ",".join(key.scopes) or "all",
            key.max_priority or "",
            moment(key.created),
            moment(key.expires) or "never",
            _state(key, now),
        )
        for hashed, key in found
    )
    output.table(("id", "tenant", "name", "scopes", "priority", "created", "expires", "state"), rows)


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="The id that `tileq keys list` shows, or the key itself.")],
    data: Data = None,
) -> None:
    """Revoke a key; the service refuses it within seconds (TILEQ_KEY_CACHE)."""
    wanted = digest(id) if id.startswith("tq_") else id.lower()
    with open_store(data) as store:
        now = store.run(keys.server_time())
        found = [(hashed, key) for hashed, key in store.run(keys.list_all()).items() if hashed.startswith(wanted)]
        if len(found) != 1:
            raise CommandError(_no_single_key(id, len(found)))
        ((hashed, key),) = found
        if not key.revoked:
            store.run(keys.put(hashed, replace(key, revoked=now)))
    audit("key.revoke", hashed[:_ID_CHARS], "already_revoked" if key.revoked else "done", tenant=key.tenant)
    print(f"{hashed[:_ID_CHARS]} of {key.tenant} {'was already revoked' if key.revoked else 'revoked'}")


@app.command()
def limits(  # noqa: PLR0917  # typer reads the options from it
    tenant: Annotated[str, typer.Argument(help="Owner of the keys that share the limits.")],
    requests: Annotated[int | None, typer.Option(min=0, help="Requests in a minute; 0: no limit.")] = None,
    queued: Annotated[int | None, typer.Option(min=0, help="Queued jobs; 0: no limit.")] = None,
    bytes: Annotated[int | None, typer.Option(min=0, help="Bytes of images stored in a day; 0: no limit.")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="Tokens generated in a day; 0: no limit.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the settings, TILEQ_LIMIT_….")] = False,
    data: Data = None,
    json: AsJson = False,
) -> None:
    """Show what a tenant may use and has used today, or set other limits for it than the settings."""
    if problem := tenant_problem(tenant):
        raise UsageError(problem)
    asked = LimitOverride(requests=requests, queued=queued, bytes=bytes, tokens=tokens).given()
    with open_store(data) as store:
        override, used = store.run(tenant_limits.get(tenant))
        if asked or reset:
            override = LimitOverride.model_validate(({} if reset or not override else override.given()) | asked)
            store.run(tenant_limits.put(tenant, override))
            audit("limits.set", tenant, limits=override.given())
    own = override.given() if override else {}
    effective = asdict(settings().tenant_limits.overridden(override))
    counted = dict[str, int](used.items())
    rows = [(name, value, "own" if name in own else "settings", counted.get(name)) for name, value in effective.items()]
    if json:
        names = ("limit", "value", "from", "used")
        output.as_json({"tenant": tenant, "limits": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    output.table(
        ("limit", "value", "from", "used"),
        ((name, str(value or "none"), source, "" if now is None else str(now)) for name, value, source, now in rows),
    )


def _id(key: str) -> str:
    return digest(key)[:_ID_CHARS]


def _no_single_key(prefix: str, found: int) -> str:
    if not found:
        return "no such key; `tileq keys list` shows them"
    return f"{prefix} is a prefix of {found} keys; give more characters of the id"


def _state(key: ApiKey, now: float) -> str:
    if key.revoked:
        return f"revoked {moment(key.revoked)}"
    return "live" if key.live(now) else "expired"


@contextmanager
def open_store(data: Data) -> Iterator["Store"]:
    """Open the job store that `data` or the environment names. Raises `CommandError` where it does not answer."""
    from shared.connections.redis_client import connect  # noqa: PLC0415  # see local_commands.py
    from shared.store.client import Store, syncs_on_demand  # noqa: PLC0415

    use_local_service(data)
    found = settings()
    client = connect(found.store_endpoint)
    try:
        yield Store(client, found.redis_prefix, wait_aof=syncs_on_demand(client))
    except QueueUnavailable as error:
        raise CommandError(f"{error.detail}; TILEQ_REDIS_URL or --data selects another store") from None
    finally:
        client.close()
