"""The faster peer: FastAPI and taskiq on Redis streams, with their defaults, the image in object storage."""

import asyncio
import io
import os
import uuid
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Form, UploadFile
from minio import Minio
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

REDIS = os.environ["PEER_REDIS_URL"]
BUCKET = "tileq"

results: Any = RedisAsyncResultBackend(redis_url=REDIS)
broker: Any = RedisStreamBroker(url=REDIS).with_result_backend(results)
app = FastAPI(on_startup=[broker.startup], on_shutdown=[broker.shutdown])
objects = Minio(
    os.environ["PEER_S3"], os.environ["PEER_S3_KEY"], os.environ["PEER_S3_SECRET"], secure=False, region="us-east-1"
)


def _fetch(key: str) -> int:
    response = objects.get_object(BUCKET, key)
    try:
        return len(response.read())
    finally:
        response.close()
        response.release_conn()


@broker.task(task_name="answer")  # type: ignore[untyped-decorator]
async def answer(key: str, prompt: str) -> dict[str, str]:
    """Fetch the image and do what a model that does nothing does."""
    size = await asyncio.to_thread(_fetch, key)
    await asyncio.sleep(float(os.environ.get("PEER_SECONDS", "0")))
    with Path(os.environ["PEER_RUNS"]).open("a") as runs:
        runs.write(key + "\n")
    return {"text": f"{prompt}: {size} bytes"}


@app.post("/jobs", status_code=202)
async def submit(image: UploadFile, prompt: str = Form()) -> dict[str, str]:
    """Store the image, publish the task."""
    key, data = uuid.uuid4().hex, await image.read()
    await asyncio.to_thread(objects.put_object, BUCKET, key, io.BytesIO(data), len(data), "image/jpeg")
    task = await answer.kiq(key, prompt)
    return {"id": task.task_id}


@app.get("/jobs/{id}")
async def result(id: str) -> dict[str, str]:
    """What is known of a job."""
    return {"state": "succeeded" if await results.is_result_ready(id) else "pending"}
