"""An HTTP server that stands in for S3, STS and the container credentials of AWS, and records what it is asked."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EXPIRY = "2099-01-01T00:00:00Z"


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


#: Status, headers and body for a request.
Respond = Callable[[Request], tuple[int, Mapping[str, str], bytes]]


class S3Stub:
    """Takes every object, unless `respond` says otherwise."""

    def __init__(self, port: int, scheme: str) -> None:
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.requests: list[Request] = []


def takes_everything(request: Request) -> tuple[int, Mapping[str, str], bytes]:
    """Answer 200 to a PUT."""
    return 200, {"ETag": '"0"'}, b""


def refusal(status: int, code: str) -> tuple[int, Mapping[str, str], bytes]:
    """Return an error as S3 writes it."""
    body = f"<Error><Code>{code}</Code><Message>{code} by the stub</Message><RequestId>1</RequestId></Error>"
    return status, {"Content-Type": "application/xml"}, body.encode()


def role_credentials(request: Request) -> tuple[int, Mapping[str, str], bytes]:
    """Answer as the Security Token Service and as the container credentials of AWS do."""
    if request.method == "POST":
        body = (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            "<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ROLEKEY</AccessKeyId>"
            "<SecretAccessKey>role-secret</SecretAccessKey><SessionToken>role-token</SessionToken>"
            f"<Expiration>{EXPIRY}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>"
            "</AssumeRoleWithWebIdentityResponse>"
        )
        return 200, {"Content-Type": "text/xml"}, body.encode()
    keys = {"AccessKeyId": "ROLEKEY", "SecretAccessKey": "role-secret", "Token": "role-token", "Expiration": EXPIRY}
    return 200, {"Content-Type": "application/json"}, json.dumps(keys).encode()


@contextmanager
def s3_stub(respond: Respond = takes_everything, tls: ssl.SSLContext | None = None) -> Iterator[S3Stub]:
    """Run a stub while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, dict(self.headers), body)
            stub.requests.append(request)
            status, headers, answer = respond(request)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing of clients that refuse the certificate."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    stub = S3Stub(server.server_port, "https" if tls else "http")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
