"""A batch of a file beside the traffic: it is made, and judged by the lines of its output."""

import json

import httpx

ENDPOINT = "/v1/chat/completions"


def create(http: httpx.Client, lines: int) -> str:
    """Upload a file of `lines` requests and make a batch of it; return its id."""
    content = "\n".join(map(_line, range(lines)))
    file = _read(http.post("/v1/files", files={"file": ("lines.jsonl", content)}, data={"purpose": "batch"}))
    asked: dict[str, object] = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "1h"}
    asked["tileq"] = {"priority": "normal"}  # or its lines would wait for all of the traffic
    return str(_read(http.post("/v1/batches", json=asked))["id"])


def is_answered(http: httpx.Client, id: str, lines: int) -> bool:
    """Tell whether a batch has completed and has one answer to each of its `lines`, in their order."""
    answer = http.get(f"/v1/batches/{id}")
    if answer.is_error:  # a 503; the ledger knows of any other
        return False
    batch = answer.json()
    if batch["status"] != "completed" or batch["error_file_id"]:
        return False
    answers = http.get(f"/v1/files/{batch['output_file_id']}/content").raise_for_status().text.splitlines()
    return [json.loads(answer)["custom_id"] for answer in answers] == [str(n) for n in range(lines)]


def _line(n: int) -> str:
    body = {"messages": [{"role": "user", "content": f"What is {n}?"}]}
    return json.dumps({"custom_id": str(n), "method": "POST", "url": ENDPOINT, "body": body})


def _read(answer: httpx.Response) -> dict[str, object]:
    found: dict[str, object] = answer.raise_for_status().json()
    return found
