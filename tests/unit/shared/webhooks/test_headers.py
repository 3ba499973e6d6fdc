"""Headers that a client adds to its webhooks."""

import pytest

from shared.webhooks.headers import MAX_HEADERS, MAX_VALUE_CHARS, headers_problem, redacted


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer s3cret"},
        {"x-api-key": "a b\tc", "X-Tenant_1": "~!"},
        {f"x-{n}": "1" for n in range(MAX_HEADERS)},
        {"x": "y" * MAX_VALUE_CHARS},
    ],
)
def test_usual_headers_are_sendable(headers: dict[str, str]) -> None:
    assert headers_problem(headers) is None


REFUSED = {
    "a name with a space": {"x y": "s3cret"},
    "no name": {"": "s3cret"},
    "a name with a colon": {"x:y": "s3cret"},
    "a name in Cyrillic": {"х": "s3cret"},
    "a long name": {"x" * 101: "s3cret"},
    "the host": {"Host": "s3cret"},
    "the signature": {"Webhook-Signature": "s3cret"},
    "the length": {"content-length": "s3cret"},
    "the coding": {"Transfer-Encoding": "s3cret"},
    "the proxy's": {"Proxy-Authorization": "s3cret"},
    "the connection": {"Connection": "s3cret"},
    "an injected line": {"x": "s3cret\r\nwebhook-id: 1"},
    "a lone CR": {"x": "s3cret\r"},
    "a NUL": {"x": "s3\0cret"},
    "white space at the end": {"x": "s3cret "},
    "no value": {"x": ""},
    "a value beyond ASCII": {"x": "s3crét"},
    "a long value": {"x": "s3cret" * MAX_VALUE_CHARS},
    "one name twice": {"X-Key": "s3cret", "x-key": "s3cret"},
    "too many": {f"x-{n}": "s3cret" for n in range(MAX_HEADERS + 1)},
}


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named_and_its_value_is_not(headers: dict[str, str]) -> None:
    problem = headers_problem(headers)
    assert problem is not None
    assert problem.isprintable()
    assert "s3c" not in problem


def test_values_are_redacted_longest_first() -> None:
    headers = {"a": "token", "b": "token-2"}
    assert redacted("got token-2 and token", headers) == "got [redacted] and [redacted]"
