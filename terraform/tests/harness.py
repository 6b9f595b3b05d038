"""An AWS emulator (moto) on this machine, and Terraform against it. TF_PLUGIN_DIR names a directory with the AWS provider;
without it Terraform uses its registry."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from account import REGION

CONFIGURATION = Path(__file__).resolve().parent.parent
# Seconds. The broker counts its pool once a minute.
TIMEOUT = 120
TERRAFORM_TIMEOUT = 900


@contextlib.contextmanager
def emulated_account() -> Iterator[tuple[contextlib.ExitStack, Path, dict[str, str]]]:
    """An empty account for the length of the block: what to clean up after it, a directory, and the environment."""
    with contextlib.ExitStack() as cleanup:
        work = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        endpoint = f"http://127.0.0.1:{port}"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_VAR_", "BROKER_"))},
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "emulated",
            "AWS_SECRET_ACCESS_KEY": "emulated",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            # The emulator answers what it does not support with 500, which the SDK would retry.
            "AWS_MAX_ATTEMPTS": "2",
            "MOTO_ACM_VALIDATION_WAIT": "1",
            "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
            "TF_IN_AUTOMATION": "1",
        }
        os.environ.update(environment)
        emulator = [sys.executable, str(Path(__file__).with_name("emulator.py")), "-H", "127.0.0.1", "-p", str(port)]
        start(cleanup, emulator, environment, work / "emulator.log")
        until_answers(f"{endpoint}/moto-api/")
        yield cleanup, work, environment


class Terraform:
    """A copy of the configuration in a temporary directory, so that no state is left behind. `root` is the directory in it
    that is applied."""

    def __init__(self, work: Path, environment: dict[str, str], root: str = "."):
        copy = work / "terraform"
        if not copy.exists():
            shutil.copytree(CONFIGURATION, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.auto.tfvars*", "tests", "*_override.tf"))
        self.directory = copy / root
        self.directory.mkdir(exist_ok=True)
        self.environment = environment

    def init(self) -> None:
        plugins = os.environ.get("TF_PLUGIN_DIR")
        self.run("init", *([f"-plugin-dir={plugins}"] if plugins else []))

    def write_variables(self, variables: dict) -> None:
        (self.directory / "terraform.tfvars.json").write_text(json.dumps(variables))

    def run(self, command: str, *arguments: str) -> str:
        done = self.attempt(command, *arguments)
        if done.returncode != 0:
            sys.exit(f"terraform {command} failed with exit code {done.returncode}:\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}")
        return done.stdout

    def attempt(self, command: str, *arguments: str) -> subprocess.CompletedProcess:
        line = ["terraform", command, *(["-no-color"] if command != "state" else []), *(["-input=false"] if command in ("init", "plan", "apply") else []), *arguments]
        return subprocess.run(line, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=TERRAFORM_TIMEOUT)

    def apply(self) -> dict:
        """Applies, and returns the outputs."""
        self.run("apply", "-auto-approve")
        return {name: output["value"] for name, output in self.json("output", "-json").items()}

    def changes(self) -> dict[str, set[str]]:
        """What a plan would change: the attributes by resource, without those that the emulator forgets."""
        changed = {}
        for resource in self.planned():
            change = resource["change"]
            before, after = change["before"] or {}, change["after"] or {}
            differing = {name for name in {*before, *after} if before.get(name) != after.get(name)}
            forgotten = FORGOTTEN_BY_THE_EMULATOR.get(f"{resource['type']}.{resource['name']}", set())
            if change["actions"] != ["update"] or not differing <= forgotten:
                changed[resource["address"]] = {*change["actions"], *differing}
        return changed

    def planned(self) -> list[dict]:
        self.run("plan", "-out=last.plan")
        changes = self.json("show", "-json", "last.plan").get("resource_changes", [])
        return [resource for resource in changes if resource["change"]["actions"] not in (["no-op"], ["read"])]

    def json(self, command: str, *arguments: str):
        return json.loads(self.run(command, *arguments))


# Attributes that the emulator accepts and does not return, so that a plan would set them again.
FORGOTTEN_BY_THE_EMULATOR = {
    "aws_ecs_service.broker": {"availability_zone_rebalancing", "health_check_grace_period_seconds"},
    # Descriptions of rules that refer to another security group.
    "aws_vpc_security_group_egress_rule.alb_to_tasks": {"description"},
    "aws_vpc_security_group_ingress_rule.tasks_from_alb": {"description"},
}


def start(cleanup: contextlib.ExitStack, command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen:
    output = cleanup.enter_context(log.open("w"))
    process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def stop() -> None:
        if process.poll() is None:
            process.kill()
            process.wait()

    cleanup.callback(stop)
    return process


def call(method: str, url: str, headers: dict[str, str], body: dict | None = None) -> tuple[int, dict]:
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as answer:
        return answer.code, json.load(answer)


def repeat(method: str, url: str, headers: dict[str, str], body: dict | None = None) -> tuple[int, dict]:
    """Calls again while the answer is 503, as callers do: a slow emulator lets requests time out."""
    answers = []

    def is_final() -> bool:
        answers.append(call(method, url, headers, body))
        return answers[-1][0] != 503

    until(is_final, f"{method} {url} is answered")
    return answers[-1]


def until_answers(url: str) -> None:
    def answers() -> bool:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return True
        except OSError:
            return False

    until(answers, f"{url} answers")


def until(condition, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {TIMEOUT} s: {what}")
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
