"""`make bench-gateway`: LiteLLM's proxy, unchanged, in front of the service (`echo` engine), driven by OpenAI's SDK.

Every call is made through the proxy and to the service itself in turn. Both must answer alike; what the proxy adds to
the time is printed.
"""

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from services.cli.local.ports import free_ports
from tests.bench.accept import in_turn, jpeg, machine
from tests.bench.figures import at_least
from tests.service import service
from tests.waiting import eventually

LITELLM = Path("build/gateway-env/bin/litellm")
KEY = "sk-the-gateways-own"
MODEL, THROUGH = "tileq-demo", "vision"
START_WITHIN_S = 180
Call = Callable[[OpenAI, str], object]


def main() -> None:
    """Print one row a call; 1 if the gateway's answer differs from the service's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    if not LITELLM.exists():
        raise SystemExit("LiteLLM is not installed: `make bench-gateway` does it")
    print(f"{time.strftime('%d %B %Y')}, {machine()}, load {os.getloadavg()[0]:.1f}, {rounds} rounds\n")
    print("| call | answers | service, p50 | through LiteLLM, p50 |\n|---|---|---|---|")
    with service() as here, gateway(here.url) as url:
        direct = OpenAI(base_url=f"{here.url}/v1", api_key="EMPTY", max_retries=0)
        proxied = OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        alike = [compare(name, call, direct, proxied, rounds) for name, call in calls(jpeg()).items()]
    at_least("calls that LiteLLM's proxy answers as the service does", sum(alike), len(alike), "calls")
    sys.exit(not all(alike))


def compare(name: str, call: Call, direct: OpenAI, proxied: OpenAI, rounds: int) -> bool:
    """Print the row of a call; whether both answer alike."""
    same = call(direct, MODEL) == call(proxied, THROUGH)
    own, through = in_turn(lambda: call(direct, MODEL), lambda: call(proxied, THROUGH), rounds)
    figures = [f"{1000 * statistics.median(times):.1f} ms" for times in (own, through)]
    print(f"| {name} | {'alike' if same else 'differ'} | {' | '.join(figures)} |", flush=True)
    return same


def calls(image: bytes) -> Mapping[str, Call]:
    """The calls by name, each a function of client and model that returns what the client gets to see."""
    url = "data:image/jpeg;base64," + base64.b64encode(image).decode()
    text: Any = [{"role": "user", "content": "Is it day?"}]
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}}, {"type": "text", "text": "Is it day?"}]
    look: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    asked: Any = [{"type": "input_image", "image_url": url, "detail": "low"}, {"type": "input_text", "text": "?"}]
    items: Any = [{"role": "user", "content": asked}]

    def chat(client: OpenAI, model: str) -> object:
        found = client.chat.completions.create(model=model, messages=text, max_tokens=64, temperature=0, stop=["END"])
        return (
            found.choices[0].message.content,
            found.choices[0].finish_reason,
            found.usage and found.usage.total_tokens,
        )

    def chat_with_an_image(client: OpenAI, model: str) -> object:
        return client.chat.completions.create(model=model, messages=look).choices[0].message.content

    def stream_of_a_chat(client: OpenAI, model: str) -> object:
        chunks = client.chat.completions.create(model=model, messages=look, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    def response(client: OpenAI, model: str) -> object:
        return client.responses.create(model=model, input=items, instructions="Be brief.").output_text

    def stream_of_a_response(client: OpenAI, model: str) -> object:
        return [event.type for event in client.responses.create(model=model, input="Is it day?", stream=True)]

    def background_response_polled(client: OpenAI, model: str) -> object:
        id = client.responses.create(model=model, input=items, background=True).id
        return eventually(lambda: client.responses.retrieve(id).output_text, within=60)

    found = (chat, chat_with_an_image, stream_of_a_chat, response, stream_of_a_response, background_response_polled)
    return {call.__name__.replace("_", " "): call for call in found}


@contextmanager
def gateway(service_url: str) -> Iterator[str]:
    """Run LiteLLM's proxy in front of the service while the block runs."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    model = {"model": f"openai/{MODEL}", "api_base": f"{service_url}/v1", "api_key": "EMPTY"}
    config = {
        "model_list": [{"model_name": THROUGH, "litellm_params": model}],
        "general_settings": {"master_key": KEY},
    }
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / "config.yaml", Path(folder) / "log"
        path.write_text(json.dumps(config))  # JSON is YAML
        command = [str(LITELLM), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
        environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it is fetched from GitHub
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            eventually(lambda: _answers(process, url, log), within=START_WITHIN_S, every=0.5)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _answers(process: "subprocess.Popen[bytes]", url: str, log: Path) -> bool:
    if process.poll() is not None:
        raise SystemExit(f"LiteLLM has ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    try:
        return httpx.get(f"{url}/health/liveliness").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
