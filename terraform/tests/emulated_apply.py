#!/usr/bin/env python3
"""Applies the whole configuration, with every option on, to an AWS emulator (moto) on this machine, and checks that

- everything is created (see account.py) and the outputs are right;
- a second plan has no changes, also after two rotations of a token, and when only the CSP's token is renewed, only that
  is written and the tasks are restarted;
- neither the state nor a plan holds a token;
- the table equals the one that `sandbox-broker table create` creates;
- the broker runs on that table with the environment and the tokens of its task definition, and allocates;
- the metric filters match the log lines that the broker writes, also with an open circuit breaker;
- the table is restored into a second one, as docs/deployment.md says, and the broker serves it;
- destroy leaves nothing, so that the same can be applied again.

Usage: emulated_apply.py <sandbox-broker>, with moto and boto3 installed.

The emulator only records tasks, targets, alarms and policies. It does not show that ECS starts the tasks, that the load
balancer reaches them, that alarms fire, or that IAM refuses what the policies do not allow. tests/terraform.rs compares
the operations of the adapter with the policy of the task.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import boto3
from account import DOMAIN, REGION, check_built, check_nothing_left, check_outputs, expect, step
from harness import CONFIGURATION, TIMEOUT, Terraform, call, emulated_account, free_port, repeat, start, until, until_answers

CSP_TOKEN = "csp-token-of-the-emulated-apply"
RENEWED_CSP_TOKEN = "csp-token-that-was-renewed"
TRACK_TOKEN = "track-token-passed-in-0000000000001"
SECOND_TRACK_TOKEN = "track-token-put-beside-it-00000000002"


def main() -> None:
    broker = str(Path(sys.argv[1]).resolve())
    with emulated_account() as (cleanup, work, environment):
        terraform = Terraform(work, environment)
        terraform.init()
        variables = every_option()
        terraform.write_variables(variables)
        step("apply")
        outputs = terraform.apply()
        check_outputs(outputs)
        check_built(outputs)
        check_priced(outputs)
        rotate_twice(terraform, outputs)
        renew_csp_token(terraform, outputs, variables)
        check_no_token(terraform)
        check_tables(outputs, broker, environment)
        check_broker(cleanup, outputs, broker, environment, work)
        restore(cleanup, terraform, outputs, variables, broker, environment, work)
        step("destroy leaves nothing, and the same can be applied again")
        destroy(terraform)
        terraform.write_variables(only_required(variables))
        terraform.apply()
        expect(terraform.changes(), {})
        destroy(terraform)
    print("emulated apply: all good")


def check_priced(outputs: dict) -> None:
    step("terraform/cost counts what there is")
    amounts = json.loads((CONFIGURATION / "prices.json").read_text())["amounts"]
    cloudwatch = boto3.client("cloudwatch")
    metrics = 0
    for alarm in cloudwatch.describe_alarms(AlarmNamePrefix=f"{outputs['service_name']}-")["MetricAlarms"]:
        metrics += max(1, sum("MetricStat" in query for query in alarm.get("Metrics", [])))
    # Autoscaling makes two alarms for each policy. The firewall adds one metric to an alarm, and is not in the tables.
    metrics += 2 * len(boto3.client("application-autoscaling").describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"]) - 1
    filters = boto3.client("logs").describe_metric_filters(logGroupName=outputs["log_group_name"])["metricFilters"]
    found = {"secrets": len(outputs["token_secret_arns"]), "log_metrics": len(filters), "alarm_metrics": metrics}
    expect({name: amounts[name] for name in found}, found)


def destroy(terraform: Terraform) -> None:
    terraform.run("destroy", "-auto-approve")
    expect(json.loads((terraform.directory / "terraform.tfstate").read_text())["resources"], [])
    check_nothing_left()


def every_option() -> dict:
    """Variables that turn on all options. An operator provides the zone and the key."""
    zone = boto3.client("route53").create_hosted_zone(Name="example.com", CallerReference="1")["HostedZone"]["Id"].removeprefix("/hostedzone/")
    key = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
    return {
        "region": REGION,
        "deletion_protection": False,
        "domain_name": DOMAIN,
        "zone_id": zone,
        "admin_cidr_blocks": ["198.51.100.0/24", "203.0.113.0/24", "203.0.114.0/24"],
        "admin_port": 8081,
        "access_logs": True,
        "kms_key_arn": key,
        "egress": "nat_gateway",
        "nat_gateway_count": 2,
        "interface_endpoints": ["secretsmanager", "ecr.api", "ecr.dkr", "logs"],
        "waf_enabled": True,
        "waf_exempt_cidr_blocks": ["192.0.2.0/24"],
        "container_insights": True,
        "spot_share": 50,
        "otel_collector_enabled": True,
        "alarm_emails": ["on-call@example.com"],
        "image_tag": "1.0.0",
        "csp_base_url": "https://csp.example.com/api",
        "csp_api_token": CSP_TOKEN,
        # Terraform generates the admin token.
        "api_tokens": TRACK_TOKEN,
        "settings": {"lab_duration_hours": 2, "circuit_breaker_threshold": 1},
    }


def only_required(variables: dict) -> dict:
    """The default profile, under the same names."""
    names = ("region", "deletion_protection", "domain_name", "zone_id", "image_tag", "csp_base_url", "csp_api_token", "settings")
    return {"admin_cidr_blocks": [], **{name: variables[name] for name in names}}


def rotate_twice(terraform: Terraform, outputs: dict) -> None:
    """Puts a second track token beside the first, then a third value, as docs/deployment.md describes. Secrets Manager
    (and emulator.py) then removes versions that have no label."""
    step("two rotations, and a plan changes nothing")
    secrets = boto3.client("secretsmanager")
    secret = outputs["token_secret_arns"]["api"]
    for value in (SECOND_TRACK_TOKEN, f"{SECOND_TRACK_TOKEN},{TRACK_TOKEN}"):
        secrets.put_secret_value(SecretId=secret, SecretString=value)
    expect(terraform.changes(), {})
    stages = secrets.list_secret_version_ids(SecretId=secret)["Versions"]
    expect(sorted(stage for version in stages for stage in version["VersionStages"]), ["AWSCURRENT", "AWSPREVIOUS", "terraform-v1"])

    step("a version that is gone is not made again with another value")
    (written,) = [version["VersionId"] for version in stages if "terraform-v1" in version["VersionStages"]]
    secrets.update_secret_version_stage(SecretId=secret, VersionStage="terraform-v1", RemoveFromVersionId=written)
    terraform.write_variables({name: value for name, value in read(terraform).items() if name != "api_tokens"})
    refused = terraform.attempt("plan")
    expect((refused.returncode, "Give api_tokens" in " ".join(refused.stderr.split())), (1, True))
    secrets.update_secret_version_stage(SecretId=secret, VersionStage="terraform-v1", MoveToVersionId=written)
    expect(terraform.changes(), {})
    expect(secrets.get_secret_value(SecretId=secret)["SecretString"], f"{SECOND_TRACK_TOKEN},{TRACK_TOKEN}")


def read(terraform: Terraform) -> dict:
    return json.loads((terraform.directory / "terraform.tfvars.json").read_text())


def renew_csp_token(terraform: Terraform, outputs: dict, variables: dict) -> None:
    step("a renewed CSP token is written alone, and restarts the tasks")
    without_value = {**variables, "token_versions": {"csp": 2}}
    del without_value["csp_api_token"]
    terraform.write_variables(without_value)
    refused = terraform.attempt("plan")
    expect((refused.returncode, "Give csp_api_token" in " ".join(refused.stderr.split())), (1, True))

    before = values(outputs)
    terraform.write_variables({**without_value, "csp_api_token": RENEWED_CSP_TOKEN})
    changed = {address for address in terraform.changes()}
    service = {"module.broker.aws_ecs_service.broker", "module.broker.aws_ecs_task_definition.broker"}
    expect(changed, {"module.broker.aws_secretsmanager_secret_version.csp[0]", *service})
    renewed = terraform.apply()
    expect(values(outputs), {**before, "csp": RENEWED_CSP_TOKEN})
    expect(renewed["task_definition_arn"] != outputs["task_definition_arn"], True)
    # The revision before stays, so that ECS can roll back.
    expect(len(boto3.client("ecs").list_task_definitions(status="ACTIVE")["taskDefinitionArns"]), 2)
    # The value is not needed again.
    terraform.write_variables(without_value)
    expect(terraform.changes(), {})


def values(outputs: dict) -> dict[str, str]:
    secrets = boto3.client("secretsmanager")
    return {name: secrets.get_secret_value(SecretId=arn)["SecretString"] for name, arn in outputs["token_secret_arns"].items()}


def check_no_token(terraform: Terraform) -> None:
    step("no token in state or plan")
    made = boto3.client("secretsmanager").get_secret_value(SecretId="sandbox-broker/admin-token")["SecretString"]
    expect(len(made) >= 32, True)
    # The raw files, because `show` masks secrets. A plan is a zip archive.
    kept = [(terraform.directory / "terraform.tfstate").read_bytes()]
    with zipfile.ZipFile(terraform.directory / "last.plan") as plan:
        kept += [plan.read(name) for name in plan.namelist()]
    for token in (made, TRACK_TOKEN, SECOND_TRACK_TOKEN, CSP_TOKEN, RENEWED_CSP_TOKEN):
        expect([text for text in kept if token.encode() in text], [])


def check_tables(outputs: dict, broker: str, environment: dict[str, str]) -> None:
    step("`table create` creates an equal table")
    other = "created-by-the-broker"
    table_command(broker, environment, other, "create")
    expect(shape(other), shape(outputs["table_name"]))
    boto3.client("dynamodb").delete_table(TableName=other)


def table_command(broker: str, environment: dict[str, str], table: str, *arguments: str) -> None:
    settings = {"BROKER_STORE": "dynamodb", "DDB_TABLE_NAME": table, "AWS_REGION": REGION, "DDB_ENDPOINT_URL": environment["AWS_ENDPOINT_URL"]}
    subprocess.run([broker, "table", *arguments], check=True, stdout=subprocess.DEVNULL, env={**environment, **settings})


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
        "items": dynamodb.scan(TableName=table)["Items"],
    }


class Replica:
    """The broker with the environment and the tokens of its task definition. Only addresses differ from AWS."""

    def __init__(self, cleanup: contextlib.ExitStack, outputs: dict, broker: str, environment: dict[str, str], log: Path, csp: str):
        task = boto3.client("ecs").describe_task_definition(taskDefinition=outputs["service_name"])["taskDefinition"]
        container = next(container for container in task["containerDefinitions"] if container["name"] == "broker")
        secrets = boto3.client("secretsmanager")
        self.settings = {variable["name"]: variable["value"] for variable in container["environment"]}
        self.settings |= {secret["name"]: secrets.get_secret_value(SecretId=secret["valueFrom"])["SecretString"] for secret in container["secrets"]}
        port, admin_port = free_port(), free_port()
        self.settings |= {
            "DDB_ENDPOINT_URL": environment["AWS_ENDPOINT_URL"],
            "CSP_BASE_URL": csp,
            "BROKER_HOST": "127.0.0.1",
            "BROKER_PORT": str(port),
        }
        if "BROKER_ADMIN_PORT" in self.settings:
            self.settings["BROKER_ADMIN_PORT"] = str(admin_port)
        self.url = f"http://127.0.0.1:{port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}" if "BROKER_ADMIN_PORT" in self.settings else self.url
        self.admin = {"Authorization": f"Bearer {self.settings['BROKER_ADMIN_TOKEN']}"}
        self.broker, self.log = broker, log
        self.process = start(cleanup, [broker], {**environment, **self.settings}, log)
        until_answers(f"{self.url}/readyz")

    def allocate(self, track: str) -> tuple[int, dict]:
        headers = {"Authorization": f"Bearer {TRACK_TOKEN}", "X-Track-ID": track, "Prefer": "wait=0"}
        return call("POST", f"{self.url}/v1/allocate", headers)

    def ctl(self, *arguments: str) -> None:
        token = {"BROKER_ADMIN_TOKEN": self.settings["BROKER_ADMIN_TOKEN"]}
        subprocess.run([self.broker, "ctl", "--url", self.admin_url, *arguments], check=True, stdout=subprocess.DEVNULL, env={**os.environ, **token})

    def stop(self) -> None:
        self.process.terminate()
        expect(self.process.wait(TIMEOUT), 0)


def check_broker(cleanup: contextlib.ExitStack, outputs: dict, broker: str, environment: dict[str, str], work: Path) -> None:
    step("the broker runs with the environment of its task definition, and allocates")
    csp = simulate_csp(cleanup, broker, environment, work / "csp.log")
    csp_token = {"Authorization": f"Token {RENEWED_CSP_TOKEN}"}
    replica = Replica(cleanup, outputs, broker, environment, work / "broker.log", csp)
    subprocess.run([broker, "healthcheck"], env={**environment, **replica.settings}, check=True)
    track, rotated = ({"Authorization": f"Bearer {token}", "X-Track-ID": "student-1"} for token in (TRACK_TOKEN, SECOND_TRACK_TOKEN))
    admin, url, admin_url = replica.admin, replica.url, replica.admin_url
    until(lambda: call("GET", f"{admin_url}/v1/admin/stats", admin)[1].get("available") == 20, "the sync fills the pool")
    status, sandbox = repeat("POST", f"{url}/v1/allocate", track)
    expect(status, 201)
    expect(sandbox["expires_at"] - sandbox["allocated_at"], 2 * 3600)
    expect(repeat("POST", f"{url}/v1/allocate", rotated), (200, sandbox))
    item = boto3.client("dynamodb").get_item(TableName=outputs["table_name"], Key={"PK": {"S": f"SBX#{sandbox['sandbox_id']}"}, "SK": {"S": "META"}})["Item"]
    expect((item["status"]["S"], item["allocated_to_track"]["S"]), ("allocated", "student-1"))
    expect(repeat("POST", f"{url}/v1/sandboxes/{sandbox['sandbox_id']}/mark-for-deletion", track)[0], 200)
    step("who finds none waits, which is no error of the service")
    nothing_fits = {**track, "X-Track-ID": "student-2", "X-Sandbox-Name-Prefix": "none-of-these-", "Prefer": "wait=0"}
    expect(repeat("POST", f"{url}/v1/allocate", nothing_fits)[0], 409)
    expect(replica.settings["ALLOCATE_WAIT_SEC"], "20")
    waits = {**nothing_fits, "Prefer": "wait=1"}
    until(lambda: code(call("POST", f"{url}/v1/allocate", waits)) == "WAITING", "the place in the queue is told")
    step("a pause is no error of the service")
    expect(repeat("POST", f"{admin_url}/v1/admin/actors/pool-manager/pause", admin, {"reason": "test"})[0], 200)
    paused = {**track, "X-Track-ID": "student-3", "Prefer": "wait=0"}
    until(lambda: code(call("POST", f"{url}/v1/allocate", paused)) == "BROKER_PAUSED", "the pause is seen")
    step("the circuit breaker opens while the CSP fails")
    expect(call("PUT", f"{csp}/sim/faults", csp_token, {"error_rate": 1.0})[0], 200)
    expect(call("POST", f"{admin_url}/v1/admin/sync", admin)[0] >= 500, True)
    until(lambda: '"circuit_breaker":"open"' in replica.log.read_text(), "the pool stats show the open breaker")
    check_metric_filters(outputs, replica.log)
    replica.stop()


def simulate_csp(cleanup: contextlib.ExitStack, broker: str, environment: dict[str, str], log: Path) -> str:
    port = free_port()
    start(cleanup, [broker, "csp-sim", "--port", str(port), "--sandboxes", "20"], {**environment, "CSP_API_TOKEN": RENEWED_CSP_TOKEN}, log)
    return f"http://127.0.0.1:{port}"


def code(answer: tuple[int, dict]) -> str | None:
    return answer[1].get("error", {}).get("code")


def check_metric_filters(outputs: dict, log: Path) -> None:
    step("the metric filters match the lines that the broker writes")
    filters = boto3.client("logs").describe_metric_filters(logGroupName=outputs["log_group_name"])["metricFilters"]
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    for found in filters:
        conditions = re.findall(r'\$\.(\w+) = ("[^"]*"|\d+)', found["filterPattern"])
        absent = re.findall(r"\$\.(\w+) NOT EXISTS", found["filterPattern"])
        # Every condition of the pattern is one that is tried here.
        expect(len(conditions) + len(absent), found["filterPattern"].count("$."))
        matches = [
            line
            for line in lines
            if all(json.dumps(line.get(field)) == value for field, value in conditions) and not any(field in line for field in absent)
        ]
        value = found["metricTransformations"][0]["metricValue"]
        is_number = lambda line: not value.startswith("$.") or isinstance(line.get(value[2:]), (int, float))
        if not matches or not all(map(is_number, matches)):
            sys.exit(f"no log line matches the metric filter {found['filterName']}: {found['filterPattern']}, value {value}")


def restore(
    cleanup: contextlib.ExitStack, terraform: Terraform, outputs: dict, variables: dict, broker: str, environment: dict[str, str], work: Path
) -> None:
    """The runbook of docs/deployment.md."""
    step("a restored table takes the place of the first")
    csp = simulate_csp(cleanup, broker, environment, work / "restore-csp.log")
    replica = Replica(cleanup, outputs, broker, environment, work / "before.log", csp)
    held = []
    replica.ctl("resume", "pool-manager")
    until(lambda: held.append(replica.allocate("student-4")) or held[-1][0] in (200, 201), "student-4 has a sandbox")
    for actor in ("pool-manager", "cleanup"):
        replica.ctl("pause", actor, "--reason", "restore")
    replica.stop()

    dynamodb = boto3.client("dynamodb")
    restored = f"{outputs['table_name']}-restored"
    dynamodb.restore_table_to_point_in_time(SourceTableName=outputs["table_name"], TargetTableName=restored, UseLatestRestorableTime=True)
    for address in ("module.broker.aws_dynamodb_table.pool", "module.broker.aws_dynamodb_table_item.schema[0]"):
        terraform.run("state", "rm", address)
    new = {**variables, "token_versions": {"csp": 2}, "table_name": restored, "status_shards": None}
    terraform.write_variables(new)
    terraform.run("import", "module.broker.aws_dynamodb_table.pool", restored)
    expect({address: {"create", "delete"} & change for address, change in terraform.changes().items() if "dynamodb" in address}, {"module.broker.aws_dynamodb_table.pool": set()})
    outputs = {**terraform.apply(), "old_table": outputs["table_name"]}
    # The emulator does not encrypt a table that exists, and the task's policy waits for what would change of the table.
    left = {address: change - {"update"} for address, change in terraform.changes().items()}
    forgotten = {"module.broker.aws_dynamodb_table.pool": {"server_side_encryption"}, "module.broker.aws_iam_role_policy.task": {"policy"}}
    expect(left if left != forgotten else {}, {})
    # TTL and point-in-time recovery came with the apply; the items, the schema among them, with the restore.
    expect({**shape(restored), "items": None}, {**shape(outputs["old_table"]), "items": None})
    expect(sorted(map(str, shape(restored)["items"])), sorted(map(str, shape(outputs["old_table"])["items"])))
    table_command(broker, environment, restored, "check")
    table_command(broker, environment, restored, "check", "--yes")
    dynamodb.delete_table(TableName=outputs["old_table"])

    step("the broker serves the restored table once it is resumed")
    replica = Replica(cleanup, outputs, broker, environment, work / "restored.log", csp)
    expect(replica.settings["DDB_TABLE_NAME"], restored)
    until(lambda: code(replica.allocate("student-5")) == "BROKER_PAUSED", "the pause came with the restore")
    replica.ctl("sync")
    for actor in ("pool-manager", "cleanup"):
        replica.ctl("resume", actor)
    until(lambda: replica.allocate("student-5")[0] == 201, "student-5 gets a sandbox")
    status, sandbox = replica.allocate("student-4")
    expect((status, sandbox["sandbox_id"]), (200, held[-1][1]["sandbox_id"]))
    replica.stop()


if __name__ == "__main__":
    main()
