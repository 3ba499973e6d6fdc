"""The peer that most people would build: FastAPI, Celery with its defaults, Redis, the image in object storage."""

import io
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

from celery import Celery
from fastapi import FastAPI, Form, UploadFile
from minio import Minio

REDIS = os.environ["PEER_REDIS_URL"]
BUCKET = "tileq"

queue = Celery("peer", broker=REDIS, backend=REDIS)
app = FastAPI()
objects = Minio(
    os.environ["PEER_S3"], os.environ["PEER_S3_KEY"], os.environ["PEER_S3_SECRET"], secure=False, region="us-east-1"
)


@queue.task(name="answer")  # type: ignore[untyped-decorator]
def answer(key: str, prompt: str) -> str:
    """Fetch the image and do what a model that does nothing does."""
    response = objects.get_object(BUCKET, key)
    try:
        size = len(response.read())
    finally:
        response.close()
        response.release_conn()
    time.sleep(float(os.environ.get("PEER_SECONDS", "0")))  # noqa: TID251  # what the model takes
    with Path(os.environ["PEER_RUNS"]).open("a") as runs:
        runs.write(key + "\n")
    return json.dumps({"text": f"{prompt}: {size} bytes"})


@app.post("/jobs", status_code=202)
def submit(image: UploadFile, prompt: str = Form()) -> dict[str, str]:
    """Store the image, publish the task."""
    key, data = uuid.uuid4().hex, image.file.read()
    objects.put_object(BUCKET, key, io.BytesIO(data), len(data), "image/jpeg")
    return {"id": answer.apply_async((key, prompt)).id}


@app.get("/jobs/{id}")
def result(id: str) -> dict[str, Any]:
    """What is known of a job."""
    found = queue.AsyncResult(id)
    return {"state": "succeeded" if found.successful() else found.state.lower()}
