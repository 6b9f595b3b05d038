#!/usr/bin/env python3
"""Applies the whole configuration, with every option on, to an AWS emulator (moto) on this machine, and checks that

- everything is created (see account.py) and the outputs are right;
- a second plan has no changes, also after the rotation of a token;
- neither the state nor a plan holds a token;
- the table equals the one that `sandbox-broker table create` creates;
- the broker runs on that table with the environment and the tokens of its task definition, and allocates;
- the metric filters match the log lines that the broker writes, also with an open circuit breaker;
- destroy leaves nothing except the tokens, for seven days.

Usage: emulated_apply.py <sandbox-broker>, with moto and boto3 installed. TF_PLUGIN_DIR names a directory with the AWS
provider; without it Terraform uses its registry.

The emulator only records tasks, targets, alarms and policies. It does not show that ECS starts the tasks, that the load
balancer reaches them, that alarms fire, or that IAM refuses what the policies do not allow. tests/terraform.rs compares
the operations of the adapter with the policy of the task.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import boto3
from account import REGION, check_built, check_nothing_left, check_outputs, expect, step

CONFIGURATION = Path(__file__).resolve().parent.parent
# Seconds. The broker counts its pool once a minute.
TIMEOUT = 120
TERRAFORM_TIMEOUT = 900
CSP_TOKEN = "csp-token-of-the-emulated-apply"
TRACK_TOKEN = "track-token-passed-in-0000000000001"
SECOND_TRACK_TOKEN = "track-token-put-beside-it-00000000002"
ACCESS_LOGS_BUCKET = "emulated-access-logs"

# Attributes that the emulator accepts and does not return, so that a plan would set them again. Nothing else may differ.
FORGOTTEN_BY_THE_EMULATOR = {
    "aws_ecs_service.broker": {"availability_zone_rebalancing", "health_check_grace_period_seconds"},
    # Descriptions of rules that refer to another security group.
    "aws_vpc_security_group_egress_rule.alb_to_tasks": {"description"},
    "aws_vpc_security_group_ingress_rule.tasks_from_alb": {"description"},
}


def main() -> None:
    broker = str(Path(sys.argv[1]).resolve())
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
            "TF_IN_AUTOMATION": "1",
        }
        os.environ.update(environment)
        emulator = [sys.executable, str(Path(__file__).with_name("emulator.py")), "-H", "127.0.0.1", "-p", str(port)]
        start(cleanup, emulator, environment, work / "emulator.log")
        until_answers(f"{endpoint}/moto-api/")

        terraform = Terraform(work, environment)
        terraform.write_variables(prepare_account())
        step("apply")
        terraform.run("apply", "-auto-approve")
        outputs = {name: output["value"] for name, output in terraform.json("output", "-json").items()}
        check_outputs(outputs)
        check_built(outputs, ACCESS_LOGS_BUCKET)
        rotate_track_token(outputs)
        check_second_plan(terraform)
        check_no_token(terraform)
        check_tables(outputs, broker, environment)
        check_broker(cleanup, outputs, broker, environment, work)
        step("destroy leaves nothing")
        terraform.run("destroy", "-auto-approve")
        expect(terraform.json("show", "-json").get("values"), None)
        check_nothing_left()
    print("emulated apply: all good")


class Terraform:
    """A copy of the configuration in a temporary directory, so that no state is left behind."""

    def __init__(self, work: Path, environment: dict[str, str]):
        self.directory = work / "terraform"
        self.directory.mkdir()
        for file in CONFIGURATION.glob("*.tf"):
            shutil.copy(file, self.directory)
        self.environment = environment
        plugins = os.environ.get("TF_PLUGIN_DIR")
        self.run("init", *([f"-plugin-dir={plugins}"] if plugins else []))

    def write_variables(self, variables: dict) -> None:
        (self.directory / "terraform.tfvars.json").write_text(json.dumps(variables))

    def run(self, command: str, *arguments: str) -> str:
        line = ["terraform", command, "-no-color", *(["-input=false"] if command in ("init", "plan", "apply") else []), *arguments]
        done = subprocess.run(line, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=TERRAFORM_TIMEOUT)
        if done.returncode != 0:
            sys.exit(f"terraform {command} failed with exit code {done.returncode}:\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}")
        return done.stdout

    def json(self, command: str, *arguments: str):
        return json.loads(self.run(command, *arguments))


def prepare_account() -> dict:
    """Creates what an operator provides, and turns on all options."""
    certificate = boto3.client("acm").request_certificate(DomainName="broker.example.com")["CertificateArn"]
    boto3.client("s3").create_bucket(Bucket=ACCESS_LOGS_BUCKET)
    key = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
    return {
        "region": REGION,
        "deletion_protection": False,
        "certificate_arn": certificate,
        "access_logs_bucket": ACCESS_LOGS_BUCKET,
        "kms_key_arn": key,
        "nat_gateway_count": 2,
        "waf_enabled": True,
        "otel_collector_enabled": True,
        "alarm_emails": ["on-call@example.com"],
        "image_tag": "1.0.0",
        "csp_base_url": "https://csp.example.com/api",
        "csp_api_token": CSP_TOKEN,
        # Terraform generates the admin token.
        "api_tokens": TRACK_TOKEN,
        "settings": {"lab_duration_hours": 2, "circuit_breaker_threshold": 1},
    }


def rotate_track_token(outputs: dict) -> None:
    """Adds a second track token, as docs/deployment.md describes. The broker runs with both."""
    boto3.client("secretsmanager").put_secret_value(SecretId=outputs["token_secret_arns"]["api"], SecretString=f"{TRACK_TOKEN},{SECOND_TRACK_TOKEN}")


def check_second_plan(terraform: Terraform) -> None:
    step("a second plan changes nothing")
    terraform.run("plan", "-out=second.plan")
    changed = {}
    for resource in terraform.json("show", "-json", "second.plan").get("resource_changes", []):
        change = resource["change"]
        if change["actions"] not in (["no-op"], ["read"]):
            before, after = change["before"] or {}, change["after"] or {}
            changed[resource["address"]] = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    expect(changed, FORGOTTEN_BY_THE_EMULATOR)


def check_no_token(terraform: Terraform) -> None:
    step("no token in state or plan")
    made = boto3.client("secretsmanager").get_secret_value(SecretId="sandbox-broker/admin-token")["SecretString"]
    expect(len(made) >= 32, True)
    # The raw files, because `show` masks secrets. A plan is a zip archive.
    kept = [(terraform.directory / "terraform.tfstate").read_bytes()]
    with zipfile.ZipFile(terraform.directory / "second.plan") as plan:
        kept += [plan.read(name) for name in plan.namelist()]
    for token in (made, TRACK_TOKEN, SECOND_TRACK_TOKEN, CSP_TOKEN):
        expect([text for text in kept if token.encode() in text], [])


def check_tables(outputs: dict, broker: str, environment: dict[str, str]) -> None:
    step("`table create` creates an equal table")
    other = "created-by-the-broker"
    subprocess.run(
        [broker, "table", "create"], check=True, stdout=subprocess.DEVNULL,
        env={**environment, "BROKER_STORE": "dynamodb", "DDB_TABLE_NAME": other, "AWS_REGION": REGION, "DDB_ENDPOINT_URL": environment["AWS_ENDPOINT_URL"]},
    )
    expect(shape(other), shape(outputs["table_name"]))
    boto3.client("dynamodb").delete_table(TableName=other)


def shape(table: str) -> dict:
    """The properties of a table that the broker needs."""
    dynamodb = boto3.client("dynamodb")
    found = dynamodb.describe_table(TableName=table)["Table"]
    backups = dynamodb.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
    return {
        "keys": found["KeySchema"],
        "attributes": sorted((attribute["AttributeName"], attribute["AttributeType"]) for attribute in found["AttributeDefinitions"]),
        "indexes": sorted((index["IndexName"], json.dumps(index["KeySchema"]), json.dumps(index["Projection"])) for index in found["GlobalSecondaryIndexes"]),
        "billing": found["BillingModeSummary"]["BillingMode"],
        "ttl": dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"],
        "recovery": backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"],
    }


def check_broker(cleanup: contextlib.ExitStack, outputs: dict, broker: str, environment: dict[str, str], work: Path) -> None:
    step("the broker runs with the environment of its task definition, and allocates")
    csp_port, port = free_port(), free_port()
    csp = f"http://127.0.0.1:{csp_port}"
    start(cleanup, [broker, "csp-sim", "--port", str(csp_port), "--sandboxes", "20"], {**environment, "CSP_API_TOKEN": CSP_TOKEN}, work / "csp.log")
    task = boto3.client("ecs").describe_task_definition(taskDefinition=outputs["service_name"])["taskDefinition"]
    container = next(container for container in task["containerDefinitions"] if container["name"] == "broker")
    secrets = boto3.client("secretsmanager")
    settings = {variable["name"]: variable["value"] for variable in container["environment"]}
    settings |= {secret["name"]: secrets.get_secret_value(SecretId=secret["valueFrom"])["SecretString"] for secret in container["secrets"]}
    # Only addresses differ from AWS.
    settings |= {
        "DDB_ENDPOINT_URL": environment["AWS_ENDPOINT_URL"],
        "CSP_BASE_URL": csp,
        "BROKER_HOST": "127.0.0.1",
        "BROKER_PORT": str(port),
    }
    log = work / "broker.log"
    process = start(cleanup, [broker], {**environment, **settings}, log)
    url = f"http://127.0.0.1:{port}"
    until_answers(f"{url}/readyz")
    subprocess.run([broker, "healthcheck"], env={**environment, **settings}, check=True)
    track, rotated = ({"Authorization": f"Bearer {token}", "X-Track-ID": "student-1"} for token in (TRACK_TOKEN, SECOND_TRACK_TOKEN))
    admin = {"Authorization": f"Bearer {settings['BROKER_ADMIN_TOKEN']}"}
    until(lambda: call("GET", f"{url}/v1/admin/stats", admin)[1]["available"] == 20, "the sync fills the pool")
    status, sandbox = call("POST", f"{url}/v1/allocate", track)
    expect(status, 201)
    expect(sandbox["expires_at"] - sandbox["allocated_at"], 2 * 3600)
    expect(call("POST", f"{url}/v1/allocate", rotated), (200, sandbox))
    item = boto3.client("dynamodb").get_item(TableName=outputs["table_name"], Key={"PK": {"S": f"SBX#{sandbox['sandbox_id']}"}, "SK": {"S": "META"}})["Item"]
    expect((item["status"]["S"], item["allocated_to_track"]["S"]), ("allocated", "student-1"))
    expect(call("POST", f"{url}/v1/sandboxes/{sandbox['sandbox_id']}/mark-for-deletion", track)[0], 200)
    step("the circuit breaker opens while the CSP fails")
    expect(call("PUT", f"{csp}/sim/faults", {"Authorization": f"Token {CSP_TOKEN}"}, {"error_rate": 1.0})[0], 200)
    expect(call("POST", f"{url}/v1/admin/sync", admin)[0] >= 500, True)
    until(lambda: '"circuit_breaker":"open"' in log.read_text(), "the pool stats show the open breaker")
    check_metric_filters(outputs, log)
    process.terminate()
    expect(process.wait(TIMEOUT), 0)


def check_metric_filters(outputs: dict, log: Path) -> None:
    step("the metric filters match the lines that the broker writes")
    filters = boto3.client("logs").describe_metric_filters(logGroupName=outputs["log_group_name"])["metricFilters"]
    expect(len(filters), 12)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    for found in filters:
        conditions = re.findall(r'\$\.(\w+) = ("[^"]*"|\d+)', found["filterPattern"])
        expect(bool(conditions), True)
        matches = [line for line in lines if all(json.dumps(line.get(field)) == value for field, value in conditions)]
        value = found["metricTransformations"][0]["metricValue"]
        is_number = lambda line: not value.startswith("$.") or isinstance(line.get(value[2:]), (int, float))
        if not matches or not all(map(is_number, matches)):
            sys.exit(f"no log line matches the metric filter {found['filterName']}: {found['filterPattern']}, value {value}")


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


main()
