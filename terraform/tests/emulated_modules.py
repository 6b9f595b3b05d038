#!/usr/bin/env python3
"""Applies to an AWS emulator what emulated_apply.py does not: `bootstrap`; the module twice with for_each, in its default
profile; and `migrate` on a state, variables and a table like those of the Python service.

Usage: emulated_modules.py <sandbox-broker>, with moto and boto3 installed.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import boto3
from account import REGION, expect, step
from emulated_apply import Replica, table_command
from harness import CONFIGURATION, Terraform, emulated_account, free_port, repeat

FIXTURE = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "python-broker-table.jsonl"
OLD_TRACK_TOKEN = "track-token-of-the-old-service-0001"
OLD_ADMIN_TOKEN = "admin-token-of-the-old-service-0001"


def main() -> None:
    broker = str(Path(sys.argv[1]).resolve())
    with emulated_account() as (cleanup, work, environment):
        bootstrap(work, environment)
        twice(work, environment)
        migrate(cleanup, work, environment, broker)
    print("emulated modules: all good")


def bootstrap(work: Path, environment: dict[str, str]) -> None:
    step("bootstrap: bucket, repository, roles that only their workflows may take")
    terraform = Terraform(work, environment, "bootstrap")
    terraform.init()
    ids = {"github_owner_id": "1001", "github_repository_id": "2002"}
    variables = {"region": REGION, "state_bucket": "state-of-the-emulated-apply", "github_repository": "owner/name", "trial": True}
    terraform.write_variables({**variables, **ids})
    outputs = terraform.apply()
    expect(terraform.changes(), {})
    found = outputs["github_variables"]
    expect(set(found), {"AWS_REGION", "ECR_REPOSITORY", "TF_STATE_BUCKET", *(f"AWS_{role}_ROLE_ARN" for role in ("PLAN", "PUSH", "DRIFT", "DEPLOY"))})
    expect(boto3.client("s3").get_bucket_versioning(Bucket=found["TF_STATE_BUCKET"])["Status"], "Enabled")
    subject = "repo:owner@1001/name@2002"
    expect(subjects(), {
        "plan": [f"{subject}:pull_request"],
        "push": [f"{subject}:ref:refs/heads/main", f"{subject}:ref:refs/tags/v*"],
        "drift": [f"{subject}:ref:refs/heads/main"],
        "deploy": [f"{subject}:environment:production"],
    })  # fmt: skip
    lifecycle = json.loads(boto3.client("ecr").get_lifecycle_policy(repositoryName=found["ECR_REPOSITORY"])["lifecyclePolicyText"])
    expect([rule["selection"].get("tagPatternList") for rule in lifecycle["rules"]], [["deployed-*"], ["*"], None])
    # What deploy makes, it makes within the boundary.
    deploy = boto3.client("iam").get_role_policy(RoleName="sandbox-broker-github-deploy", PolicyName="deploy")["PolicyDocument"]
    (bounded,) = [one for one in deploy["Statement"] if "iam:CreateRole" in one["Action"]]
    expect(bounded["Condition"], {"StringEquals": {"iam:PermissionsBoundary": outputs["permissions_boundary_arn"]}})
    check_boundary(outputs["permissions_boundary_arn"])
    step("bootstrap: an older repository")
    terraform.write_variables(variables)
    terraform.apply()
    expect(subjects()["deploy"], ["repo:owner/name:environment:production"])
    terraform.run("destroy", "-auto-approve")


def check_boundary(arn: str) -> None:
    """The boundary admits every action that the policies of the module's roles may name."""
    iam = boto3.client("iam")
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    admitted = {action for statement in document["Statement"] for action in listed(statement["Action"])}
    policies = (CONFIGURATION / "modules" / "sandbox-broker" / "iam.tf").read_text()
    needed = {action for actions in re.findall(r"actions\s*= \[([^]]*)\]", policies) for action in re.findall(r'"([^"]+)"', actions)} - {"sts:AssumeRole"}
    expect((needed - admitted, len(needed) > 10), (set(), True))


def listed(one_or_more: str | list[str]) -> list[str]:
    return [one_or_more] if isinstance(one_or_more, str) else one_or_more


def subjects() -> dict[str, list[str]]:
    iam = boto3.client("iam")
    found = {}
    for role in ("plan", "push", "drift", "deploy"):
        document = iam.get_role(RoleName=f"sandbox-broker-github-{role}")["Role"]["AssumeRolePolicyDocument"]
        (statement,) = document["Statement"]
        named = statement["Condition"]["StringLike"]["token.actions.githubusercontent.com:sub"]
        found[role] = sorted(listed(named))
        expect(statement["Condition"]["StringEquals"], {"token.actions.githubusercontent.com:aud": "sts.amazonaws.com"})
    return found


def twice(work: Path, environment: dict[str, str]) -> None:
    step("the module twice with for_each, in its default profile")
    terraform = Terraform(work, environment, "twice")
    (terraform.directory / "main.tf").write_text("""
        provider "aws" {
          region = "us-east-1"
        }

        module "broker" {
          source   = "../modules/sandbox-broker"
          for_each = { east = "10.61.0.0/16", west = "10.62.0.0/16" }

          name                = "broker-${each.key}"
          table_name          = "pool-${each.key}"
          vpc_cidr            = each.value
          deletion_protection = false
          admin_cidr_blocks   = []
          allow_plain_http    = true
          allowed_cidr_blocks = ["203.0.113.0/24"]
          image_tag           = "1.0.0"
          csp_base_url        = "https://csp.example.com/api"
          csp_api_token       = "csp-token"
          settings            = { lab_duration_hours = 4 }
        }
    """)
    terraform.init()
    terraform.apply()
    expect(terraform.changes(), {})
    ec2 = boto3.client("ec2")
    expect([gateway for gateway in ec2.describe_nat_gateways()["NatGateways"] if gateway["State"] != "deleted"], [])
    endpoints = [endpoint for endpoint in ec2.describe_vpc_endpoints()["VpcEndpoints"] if endpoint["State"] != "deleted"]
    expect({endpoint["VpcEndpointType"] for endpoint in endpoints}, {"Gateway"})
    expect(all(endpoint["RouteTableIds"] for endpoint in endpoints), True)
    for name in ("broker-east", "broker-west"):
        (service,) = boto3.client("ecs").describe_services(cluster=name, services=[name])["services"]
        network = service["networkConfiguration"]["awsvpcConfiguration"]
        expect(network["assignPublicIp"], "ENABLED")
        groups = {group["GroupId"]: group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]}
        expect([groups[group] for group in network["securityGroups"]], [f"{name}-tasks"])
        rules = [rule for rule in ec2.describe_security_group_rules()["SecurityGroupRules"] if rule["GroupId"] in network["securityGroups"] and not rule["IsEgress"]]
        expect([groups[rule["ReferencedGroupInfo"]["GroupId"]] for rule in rules], [f"{name}-alb"])
    terraform.run("destroy", "-auto-approve")


def migrate(cleanup, work: Path, environment: dict[str, str], broker: str) -> None:
    step("migrate: a stack like the Python service's")
    old = Terraform(work, environment, "old")
    (old.directory / "main.tf").write_text((Path(__file__).with_name("old_stack.tf.txt")).read_text())
    old.init()
    old.apply()
    put_old_items()
    before = boto3.client("dynamodb").describe_table(TableName="sandbox-broker-pool")["Table"]

    new = Terraform(work, environment, "migrate")
    subprocess.run([new.directory / "take-state", old.directory / "terraform.tfstate"], check=True, stdout=subprocess.DEVNULL)
    new.init()
    old_file = {
        "aws_region": REGION, "app_name": "sandbox-broker", "environment": "prod", "ecs_task_cpu": 1024, "ecs_task_memory": 2048,
        "certificate_arn": "", "enable_https": False, "container_image": "sandbox-broker-api:latest", "broker_api_token": OLD_TRACK_TOKEN,
        "csp_base_url": "https://csp.example.com/v2", "sync_schedule": "rate(10 minutes)",
    }  # fmt: skip
    new.write_variables({**old_file, "image_tag": "1.0.0", "admin_cidr_blocks": [], "allow_plain_http": True, "allowed_cidr_blocks": ["203.0.113.0/24"]})
    refused = new.attempt("plan")
    expect(refused.returncode, 1)
    for name in ("environment", "enable_https", "container_image", "broker_api_token"):
        expect((name, f"Remove {name}:" in " ".join(refused.stderr.split())), (name, True))
        del old_file[name]

    step("migrate: the plan takes over, and destroys nothing")
    new.write_variables({**old_file, "image_tag": "1.0.0", "admin_cidr_blocks": [], "allow_plain_http": True, "allowed_cidr_blocks": ["203.0.113.0/24"]})
    planned = {resource["address"]: resource["change"]["actions"] for resource in new.planned()}
    expect({address: actions for address, actions in planned.items() if "delete" in actions}, {})
    expect(planned["module.broker.aws_dynamodb_table.pool"], ["update"])
    for address in ("aws_eip.nat[0]", "module.broker.aws_cloudwatch_log_group.broker", 'module.broker.aws_secretsmanager_secret.token["api"]'):
        expect((address, planned.get(address, ["no-op"]) in (["no-op"], ["update"])), (address, True))
    outputs = new.apply()
    expect(new.changes(), {})
    after = boto3.client("dynamodb").describe_table(TableName="sandbox-broker-pool")["Table"]
    expect((after["CreationDateTime"], after["ItemCount"]), (before["CreationDateTime"], before["ItemCount"]))
    expect(after["DeletionProtectionEnabled"], True)

    step("migrate: the broker allocates from the same items")
    table_command(broker, {**environment, "LAB_DURATION_HOURS": "48"}, "sandbox-broker-pool", "adopt", "--yes")
    expect(new.changes(), {})
    csp = f"http://127.0.0.1:{free_port()}"
    replica = Replica(cleanup, outputs, broker, environment, work / "migrated.log", csp)
    expect(replica.settings["SYNC_INTERVAL_SEC"], "600")
    track = {"Authorization": f"Bearer {OLD_TRACK_TOKEN}"}
    status, sandbox = repeat("POST", f"{replica.url}/v1/allocate", {**track, "X-Track-ID": "a-new-student"})
    expect(status, 201)
    expect(sandbox["sandbox_id"] in {item["sandbox_id"] for item in old_items()}, True)
    replica.stop()

    step("migrate: the rest of the old stack goes, what was taken stays")
    for address in old.run("state", "list").split():
        if address.split("[")[0] in {"aws_dynamodb_table.sandbox_pool", "aws_cloudwatch_log_group.app", "aws_eip.nat"} or address.startswith("aws_secretsmanager_secret."):
            old.run("state", "rm", address)
    old.run("destroy", "-auto-approve")
    expect(boto3.client("dynamodb").list_tables()["TableNames"], ["sandbox-broker-pool"])


def old_items() -> list[dict]:
    return [json.loads(line) for line in FIXTURE.read_text().splitlines() if '"SBX#' in line]


def put_old_items() -> None:
    """The items of the fixture, as if they had been written just now."""
    items = old_items()
    written = max(item.get("allocated_at", 0) for item in items)
    shift = int(time.time()) - written
    table = boto3.resource("dynamodb").Table("sandbox-broker-pool")
    for item in items:
        times = ("allocated_at", "created_at", "updated_at", "last_synced", "deletion_requested_at")
        moved = {name: item[name] + shift for name in times if isinstance(item.get(name), int) and item[name] > 0}
        table.put_item(Item={**item, **moved})


if __name__ == "__main__":
    main()
