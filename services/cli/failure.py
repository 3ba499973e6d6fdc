"""What ends a command early: one clear line and an exit status."""

from typing import Any


class Failure(Exception):
    """The command could not do it. Exit status 1."""

    status = 1


class Usage(Failure):
    """The command line or the environment asks for something that can't be. Exit status 2."""

    status = 2


class Refused(Failure):
    """The service answered with an error (application/problem+json)."""

    def __init__(self, http_status: int, problem: dict[str, Any], retry_after: float | None = None) -> None:
        self.http_status = http_status
        self.code = str(problem.get("code") or f"http_{http_status}")
        self.retryable = bool(problem.get("retryable"))
        self.retry_after = retry_after
        super().__init__(_line(self.code, problem))


class Unreachable(Failure):
    """The service did not answer. `connected`: it took the connection, so it may have taken the request."""

    def __init__(self, said: str, *, connected: bool = True) -> None:
        self.connected = connected
        super().__init__(said)


def _line(code: str, problem: dict[str, Any]) -> str:
    said = str(problem.get("detail") or problem.get("title") or "the service gave no reason")
    where = [f"{name} {problem[name]}" for name in ("image", "field") if problem.get(name) is not None]
    more = [str(entry.get("detail") or entry.get("msg") or entry) for entry in problem.get("errors") or [] if entry]
    more = [line for line in more if line not in said]
    request = [f"request {problem['request_id']}"] if problem.get("request_id") else []
    tail = f" ({', '.join(where + request)})" if where or request else ""
    return f"{code}: {said}{tail}" + "".join(f"\n  - {line}" for line in more)
