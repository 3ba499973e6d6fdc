"""Errors that end a command: each is one message on stderr and an exit status."""

from typing import Any


class CommandError(Exception):
    """The command failed. Exit status 1."""

    status = 1


class UsageError(CommandError):
    """The command line or the environment is invalid. Exit status 2."""

    status = 2


class ApiError(CommandError):
    """The service answered with an error (application/problem+json)."""

    def __init__(self, http_status: int, problem: dict[str, Any], retry_after: float | None = None) -> None:
        self.http_status = http_status
        self.code = str(problem.get("code") or f"http_{http_status}")
        self.retryable = bool(problem.get("retryable"))
        self.retry_after = retry_after
        super().__init__(_line(self.code, problem))


class ServiceUnreachable(CommandError):
    """The service did not answer. `connected`: it accepted the connection, so it may have received the request."""

    def __init__(self, message: str, *, connected: bool = True) -> None:
        self.connected = connected
        super().__init__(message)


def _line(code: str, problem: dict[str, Any]) -> str:
    message = str(problem.get("detail") or problem.get("title") or "the service gave no reason")
    where = [f"{name} {problem[name]}" for name in ("image", "field") if problem.get(name) is not None]
    more = [str(entry.get("detail") or entry.get("msg") or entry) for entry in problem.get("errors") or [] if entry]
    more = [line for line in more if line not in message]
    request = [f"request {problem['request_id']}"] if problem.get("request_id") else []
    tail = f" ({', '.join(where + request)})" if where or request else ""
    return f"{code}: {message}{tail}" + "".join(f"\n  - {line}" for line in more)
