"""The same work done by hand: storage, one fsynced write, one Celery message; no records, no promises.

`python -m tests.bench.bare` is the bare worker: GET the image, PUT a result, say that it is done.
"""

import io
import json
from typing import Any

import redis
from celery import Celery

from shared.broker import make_celery, queue
from shared.environment import read_settings
from shared.s3_storage import S3Storage
from shared.settings.roles import Settings

QUEUE, TASK = "bare", "bare.run"
SLOTS = 32


class Bare:
    """A client that does by hand what intake does for a job."""

    def __init__(self, settings: Settings) -> None:
        self.objects = S3Storage(settings)
        self.redis = redis.Redis.from_url(settings.redis_url)
        self.app = make_celery(settings, QUEUE)

    def accept(self, id: str, image: bytes, manifest: bytes) -> None:
        """PUT image, PUT manifest, one Redis write (the server syncs it), one Celery publish."""
        self.objects.put(f"bare/{id}/image", io.BytesIO(image), "image/jpeg", len(image))
        self.objects.put(f"bare/{id}/request.json", manifest, "application/json")
        self.redis.hset(f"bare:{id}", mapping={"state": "queued", "request": manifest})
        self.app.send_task(TASK, args=(id,), queue=queue(QUEUE), retry=False)

    def wait(self, id: str) -> None:
        """Block until the bare worker has done `id`."""
        if self.redis.blpop([f"bare:done:{id}"], timeout=60) is None:
            raise TimeoutError(id)

    def done(self) -> int:
        """How many jobs the bare worker has done."""
        return int(self.redis.get("bare:count") or 0)


def main() -> None:
    """Work until SIGTERM."""
    settings = read_settings()
    objects, client = S3Storage(settings), redis.Redis.from_url(settings.redis_url)
    app: Celery = make_celery(settings, QUEUE)

    @app.task(name=TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def run(id: str) -> None:
        image = objects.get(f"bare/{id}/image")
        result: dict[str, Any] = {"output": {"text": f"{len(image)} bytes", "finish_reason": "stop"}}
        objects.put(f"bare/{id}/result.json", json.dumps(result).encode(), "application/json")
        with client.pipeline(transaction=False) as pipe:
            pipe.incr("bare:count")
            pipe.rpush(f"bare:done:{id}", 1)
            pipe.expire(f"bare:done:{id}", 60)
            pipe.execute()

    app.worker_main(["worker", "--pool=threads", f"--concurrency={SLOTS}", "--loglevel=WARNING", "--without-gossip",
                     "--without-mingle", "--without-heartbeat"])  # fmt: skip


if __name__ == "__main__":
    main()
