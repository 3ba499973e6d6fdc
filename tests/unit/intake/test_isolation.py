"""Tenants are isolated: every route, called for what is its caller's own, another tenant's, unknown, and without a key.

The routes are found in the application itself: one that has no row in `CALLS` fails.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi.routing import APIRoute

from services.intake.app import ROUTERS
from shared.keys import Scope
from tests.unit.intake.app_fixture import Answer, App, problem, running_app
from tests.unit.intake.image_files import picture
from tests.unit.intake.test_auth import bearer, make_key

#: Ids of the right shape that nothing has.
UNKNOWN = {
    "job": f"job_{'0' * 36}",
    "batch": f"batch_{'0' * 36}",
    "response": f"resp_{'0' * 36}",
    "file": f"file_{'0' * 36}",
    "image": f"file_{'0' * 36}",
    "msg": f"msg_{'0' * 36}_succeeded",
    "endpoint": f"we_{'0' * 36}",
}
HOOK = {"url": "https://93.184.215.14/hook", "events": ["job.succeeded"]}


@dataclass(frozen=True)
class Call:
    """One request; `{job}`, `{batch}` and `{msg}` stand for ids, in the path and in the body."""

    method: str
    path: str
    own: int  #: status for the caller's own resource
    foreign: int | None = None  #: status for another's and for an unknown one; None: the call names no resource
    scope: Scope | None = Scope.READ  #: None: everybody may ask
    query: str = ""
    body: Mapping[str, Any] | None = field(default=None)
    form: Mapping[str, Any] | None = None  #: fields of a multipart body with a file
    file: str = "file"  #: name of its part

    def __str__(self) -> str:
        return f"{self.method} {self.path}{self.query}" + (f" {json.dumps(self.body)}" if self.body else "")

    @property
    def route(self) -> tuple[str, str]:
        return self.method, self.path.replace("{job}", "{id}").replace("{batch}", "{id}").replace(
            "/images/0", "/images/{n}"
        ).replace("{response}", "{id}").replace("{endpoint}", "{id}").replace("{file}", "{id}").replace(
            "{upload}", "{id}"
        ).replace("tileq-demo", "{id}")

    def send(self, app: App, ids: Mapping[str, str], key: str | None) -> Answer:
        """Send it about `ids` with `key`."""

        def named(text: str) -> str:
            for kind, id in ids.items():
                text = text.replace(f"{{{kind}}}", id)
            return text

        body = json.loads(named(json.dumps(self.body))) if self.body is not None else None
        headers = {"X-Request-Id": "same"} | (bearer(key) if key else {})
        files = {self.file: ("a.bin", b"0123")} if self.form is not None else None
        return app.http.request(
            self.method, named(self.path + self.query), headers=headers, json=body, data=self.form, files=files
        )


JOB, BATCH, RESPONSE = "/v1/jobs/{job}", "/v1/batches/{batch}", "/v1/responses/{response}"
FILE = "/v1/files/{file}"
UPLOAD = "/v1/uploads/{upload}"
NEW_UPLOAD = {"filename": "a.jsonl", "purpose": "batch", "bytes": 7}
ASKED = {"messages": [{"role": "user", "content": "?"}]}
FOLLOW_UP = {"input": "?", "background": True, "previous_response_id": "{response}"}
ABOUT_A_FILE = {
    "input": [{"role": "user", "content": [{"type": "input_image", "file_id": "{image}"}]}],
    "background": True,
}
ENDPOINT = "/v1/webhook_endpoints/{endpoint}"
NEW_ENDPOINT = {"name": "a", "url": HOOK["url"], "event_types": ["job.succeeded"]}
CALLS = (
    Call("GET", "/healthz", 200, scope=None),
    Call("GET", "/readyz", 200, scope=None),
    Call("GET", "/v1/models", 200),
    Call("GET", "/v1/models/tileq-demo", 200),
    Call("POST", "/v1/jobs", 202, scope=Scope.SUBMIT, body={"prompt": "?"}),
    Call("POST", "/v1/jobs", 202, 422, Scope.SUBMIT, body={"prompt": "?", "parent": "{job}"}),
    Call("GET", "/v1/jobs", 200),
    Call("GET", "/v1/jobs", 200, 200, query="?batch={batch}"),
    Call("GET", "/v1/jobs", 200, 200, query="?after={job}"),
    Call("GET", JOB, 200, 404),
    Call("GET", JOB, 200, 404, query="?wait=0.1"),
    Call("DELETE", JOB, 204, 404, Scope.CANCEL),
    Call("POST", f"{JOB}/cancel", 200, 404, Scope.CANCEL),
    Call("POST", f"{JOB}/retry", 202, 404, Scope.SUBMIT),
    Call("GET", f"{JOB}/result", 200, 404),
    Call("GET", f"{JOB}/events", 200, 404),
    Call("GET", f"{JOB}/images/0", 200, 404),
    Call("GET", f"{JOB}/images/0", 200, 404, query="?view=tiles"),
    Call("GET", f"{JOB}/deliveries", 200, 404),
    Call("POST", f"{JOB}/deliveries/{{msg}}/redeliver", 202, 404, Scope.MANAGE),
    Call("POST", "/v1/batches", 202, scope=Scope.SUBMIT, body={"jobs": [{"prompt": "?"}]}),
    Call("POST", "/v1/batches", 202, 422, Scope.SUBMIT, body={"jobs": [{"prompt": "?", "parent": "{job}"}]}),
    Call("GET", "/v1/batches", 200),
    Call("GET", "/v1/batches", 200, 200, query="?after={batch}"),
    Call("GET", BATCH, 200, 404),
    Call("GET", f"{BATCH}/jobs", 200, 404),
    Call("GET", f"{BATCH}/results", 200, 404),
    Call("POST", f"{BATCH}/cancel", 200, 404, Scope.CANCEL),
    Call("POST", "/v1/webhooks/test", 200, scope=Scope.MANAGE, body={"url": HOOK["url"]}),
    Call("POST", "/v1/webhooks/secret/rotate", 200, scope=Scope.MANAGE),
    Call("POST", "/v1/responses", 200, scope=Scope.SUBMIT, body={"input": "?", "background": True}),
    Call("POST", "/v1/responses", 200, 400, Scope.SUBMIT, body=FOLLOW_UP),
    Call("POST", "/v1/responses", 200, 400, Scope.SUBMIT, body=ABOUT_A_FILE),
    Call("POST", "/v1/jobs", 202, 422, Scope.SUBMIT, body={"prompt": "?", "images": [{"file_id": "{image}"}]}),
    Call("GET", RESPONSE, 200, 404),
    Call("GET", RESPONSE, 200, 404, query="?stream=true"),
    Call("DELETE", RESPONSE, 200, 404, Scope.CANCEL),
    Call("POST", f"{RESPONSE}/cancel", 200, 404, Scope.CANCEL),
    Call("GET", f"{RESPONSE}/input_items", 200, 404),
    Call("GET", "/v1/webhook_event_types", 200),
    Call("POST", "/v1/webhook_endpoints", 200, scope=Scope.MANAGE, body=NEW_ENDPOINT),
    Call("GET", "/v1/webhook_endpoints", 200),
    Call("GET", ENDPOINT, 200, 404),
    Call("POST", ENDPOINT, 200, 404, Scope.MANAGE, body={"name": "b"}),
    Call("DELETE", ENDPOINT, 200, 404, Scope.MANAGE),
    Call("POST", f"{ENDPOINT}/rotate_secret", 200, 404, Scope.MANAGE),
    Call("POST", f"{ENDPOINT}/test", 400, 404, Scope.MANAGE, body={"event_type": "job.failed"}),  # none answers in time
    Call("POST", "/v1/chat/completions", 504, scope=Scope.SUBMIT, body=ASKED),  # no worker answers in time
    Call("POST", "/v1/files", 200, scope=Scope.SUBMIT, form={"purpose": "batch"}),
    Call("GET", "/v1/files", 200),
    Call("GET", "/v1/files", 200, 200, query="?after={file}&order=asc"),
    Call("GET", FILE, 200, 404),
    Call("GET", f"{FILE}/content", 200, 404),
    Call("DELETE", FILE, 200, 404, Scope.CANCEL),
    Call("POST", "/v1/uploads", 200, scope=Scope.SUBMIT, body=NEW_UPLOAD),
    Call("POST", f"{UPLOAD}/complete", 200, 404, Scope.SUBMIT),
    Call("POST", f"{UPLOAD}/parts", 200, 404, Scope.SUBMIT, form={}, file="data"),
    Call("POST", f"{UPLOAD}/cancel", 200, 404, Scope.SUBMIT),
)


def names_earlier(call: Call) -> bool:
    """Tell whether the answer to a submission tells of an earlier job."""
    return any(word in call.path + str(call.body) for word in ("retry", "parent", "previous_response_id"))


def refused(answer: Answer, call: Call, status: int, code: str) -> None:
    """Hold a refusal to the format of its surface."""
    if call.path.startswith(("/v1/responses", "/v1/chat", "/v1/files", "/v1/uploads", "/v1/webhook_e")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    else:
        problem(answer, status, code)


PRIVATE = tuple(call for call in CALLS if call.scope is not None)


@dataclass(frozen=True)
class Tenants:
    """A service with two tenants, of which `acme` has one of everything."""

    app: App
    own: Mapping[str, str]  #: ids of what acme has
    acme: str
    other: str
    revoked: str


@pytest.fixture
def tenants(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenants]:
    monkeypatch.setattr("services.intake.webhook_tests.TEST_WAIT_S", 0.02)
    with running_app(response_wait=0.05, s3_public_url="https://storage.example") as app:
        acme, other = make_key(app, "acme"), make_key(app, "other")
        revoked = make_key(app, "acme", revoked=2.0)
        asked = app.submit("private?", picture("PNG"), headers=bearer(acme), webhook=HOOK, metadata={"order": "4711"})
        id = asked.json()["id"]
        app.succeed(app.claim(), "private answer")
        app.tile(id)
        app.deliver()
        batch = app.http.post("/v1/batches", json={"jobs": [{"prompt": "private?"}]}, headers=bearer(acme)).json()["id"]
        app.succeed(app.claim())
        sent = {"file": ("private.jsonl", b"private")}
        uploaded = app.http.post("/v1/files", headers=bearer(acme), data={"purpose": "batch"}, files=sent)
        file = uploaded.json()["id"]
        sent = {"file": ("private.png", picture("PNG"))}
        image = app.http.post("/v1/files", headers=bearer(acme), data={"purpose": "vision"}, files=sent).json()["id"]
        upload = app.http.post("/v1/uploads", headers=bearer(acme), json=NEW_UPLOAD).json()["id"]
        app.objects.put(f"files/file_{upload[7:]}/sent", b"private", "")
        named = {"name": "private", "url": HOOK["url"], "event_types": ["batch.failed"]}
        endpoint = app.http.post("/v1/webhook_endpoints", json=named, headers=bearer(acme)).json()["id"]
        yield Tenants(
            app,
            {
                "file": file,
                "image": image,
                "upload": upload,
                "endpoint": endpoint,
                "job": id,
                "batch": batch,
                "response": f"resp_{id[4:]}",
                "msg": f"msg_{id[4:]}_succeeded",
            },
            acme,
            other,
            revoked,
        )


def test_every_route_has_a_row() -> None:
    routes = {
        (method, route.path)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert routes == {call.route for call in CALLS}


def test_every_route_of_the_served_document_has_a_row(intake: App) -> None:
    served = intake.http.get("/openapi.json").json()["paths"]
    calls = {(method.upper(), path) for path, methods in served.items() for method in methods}
    assert calls == {call.route for call in CALLS}


@pytest.mark.parametrize("call", PRIVATE, ids=str)
def test_what_is_ones_own_is_served(tenants: Tenants, call: Call) -> None:
    answer = call.send(tenants.app, tenants.own, tenants.acme)
    assert answer.status_code == call.own, answer.text


@pytest.mark.parametrize("call", [call for call in PRIVATE if call.foreign is not None], ids=str)
def test_what_is_anothers_is_as_unknown_byte_for_byte(tenants: Tenants, call: Call) -> None:
    there = call.send(tenants.app, tenants.own, tenants.other)
    nowhere = call.send(tenants.app, UNKNOWN, tenants.other)
    assert there.status_code == nowhere.status_code == call.foreign, there.text
    assert there.content == nowhere.content
    assert dict(there.headers) == dict(nowhere.headers)


@pytest.mark.parametrize("call", PRIVATE, ids=str)
def test_no_answer_tells_another_tenant_anything(tenants: Tenants, call: Call) -> None:
    answer = call.send(tenants.app, tenants.own, tenants.other)
    told = answer.text + str(dict(answer.headers))
    assert not [secret for secret in (*tenants.own.values(), "private", "4711") if secret in told]


@pytest.mark.parametrize("call", [call for call in PRIVATE if call.foreign is not None], ids=str)
def test_another_tenant_changes_nothing(tenants: Tenants, call: Call) -> None:
    paths = (ENDPOINT, JOB, f"{JOB}/deliveries", BATCH, f"{BATCH}/jobs", FILE, f"{FILE}/content")
    reads = [Call("GET", path, 200) for path in paths]
    before = [read.send(tenants.app, tenants.own, tenants.acme).content for read in reads]
    call.send(tenants.app, tenants.own, tenants.other)
    assert [read.send(tenants.app, tenants.own, tenants.acme).content for read in reads] == before


@pytest.mark.parametrize("call", PRIVATE, ids=str)
@pytest.mark.parametrize("who", ["nobody", "revoked"])
def test_without_a_live_key_every_call_is_refused_alike(tenants: Tenants, call: Call, who: str) -> None:
    key, code = (None, "missing_key") if who == "nobody" else (tenants.revoked, "invalid_key")
    there = call.send(tenants.app, tenants.own, key)
    refused(there, call, 401, code)
    assert there.content == call.send(tenants.app, UNKNOWN, key).content


@pytest.mark.parametrize("call", [call for call in CALLS if call.scope is None], ids=str)
def test_health_asks_for_no_key_and_tells_of_no_tenant(tenants: Tenants, call: Call) -> None:
    answer = call.send(tenants.app, tenants.own, None)
    assert answer.status_code == call.own
    assert "acme" not in answer.text


def scoped_key(app: App, *scopes: Scope) -> str:
    return make_key(app, "acme", scopes=tuple(scope.value for scope in scopes))


@pytest.mark.parametrize("call", PRIVATE, ids=str)
def test_a_key_without_the_scope_is_refused_before_anything_is_looked_up(tenants: Tenants, call: Call) -> None:
    assert call.scope is not None
    key = scoped_key(tenants.app, *(scope for scope in Scope if scope is not call.scope))
    answer = call.send(tenants.app, tenants.own, key)
    refused(answer, call, 403, "insufficient_scope")
    assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{call.scope.value}"'
    assert answer.content == call.send(tenants.app, UNKNOWN, key).content


@pytest.mark.parametrize("call", PRIVATE, ids=str)
def test_a_key_with_the_scope_alone_is_served(tenants: Tenants, call: Call) -> None:
    assert call.scope is not None
    reads_too = names_earlier(call)  # the answer tells of an earlier job
    key = scoped_key(tenants.app, call.scope, *([Scope.READ] if reads_too else []))
    assert call.send(tenants.app, tenants.own, key).status_code == call.own


@pytest.mark.parametrize("call", [one for one in PRIVATE if names_earlier(one)], ids=str)
def test_a_key_that_only_submits_learns_nothing_of_earlier_jobs(tenants: Tenants, call: Call) -> None:
    answer = call.send(tenants.app, tenants.own, scoped_key(tenants.app, Scope.SUBMIT))
    refused(answer, call, 403, "insufficient_scope")


def test_scopes_of_a_newer_version_give_no_right(tenants: Tenants) -> None:
    key = make_key(tenants.app, "acme", scopes=("fly",))
    problem(tenants.app.http.get("/v1/jobs", headers=bearer(key)), 403, "insufficient_scope")
