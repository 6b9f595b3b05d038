#!/usr/bin/env python3
"""The AWS emulator moto, with additions that this configuration needs: it keeps the tags of scalable targets and the
capacity providers of services, which the provider reads back; it saves queries of the log; it keeps a table's attributes
when an index is added; it makes a DNS record again that was deleted; and as Secrets Manager does, it moves only its own
labels when a secret gets a new version, and removes versions without a label. Takes the arguments of moto_server."""

import json
import uuid

from moto.applicationautoscaling.responses import ApplicationAutoScalingResponse as Scaling
from moto.dynamodb.models import DynamoDBBackend as DynamoDb
from moto.ecs.responses import EC2ContainerServiceResponse as Ecs
from moto.logs.responses import LogsResponse as Logs
from moto.route53.models import Route53Backend as Route53
from moto.secretsmanager.models import FakeSecret as Secret
from moto.secretsmanager.models import SecretsManagerBackend as Secrets
from moto.server import main

tags_by_arn: dict[str, dict[str, str]] = {}
register_without_tags = Scaling.register_scalable_target
create_service_without_strategy = Ecs.create_service
update_table_and_forget = DynamoDb.update_table
put_and_keep = Secrets.put_secret_value
reset_all_labels = Secret.reset_default_version
change_unless_made_before = Route53.change_resource_record_sets
queries: dict[str, dict] = {}


def register_scalable_target(self: Scaling) -> str:
    answer = register_without_tags(self)
    tags_by_arn.setdefault(json.loads(answer)["ScalableTargetARN"], {}).update(self._get_param("Tags") or {})
    return answer


def list_tags_for_resource(self: Scaling) -> str:
    return json.dumps({"Tags": tags_by_arn.get(self._get_param("ResourceARN"), {})})


def create_service(self: Ecs):
    answer = create_service_without_strategy(self)
    answer.result["service"].capacity_provider_strategy = self._get_param("capacityProviderStrategy") or []
    return answer


def update_table(self: DynamoDb, name: str, attr_definitions: list[dict], *others, **named):
    if attr_definitions:
        known = {attribute["AttributeName"]: attribute for attribute in [*self.get_table(name).attr, *attr_definitions]}
        attr_definitions = list(known.values())
    return update_table_and_forget(self, name, attr_definitions, *others, **named)


def reset_default_version(self: Secret, new: dict, version_id: str) -> None:
    labels = {version: found["version_stages"][:] for version, found in self.versions.items()}
    reset_all_labels(self, new, version_id)
    for version, before in labels.items():
        stages = self.versions[version]["version_stages"]
        stages += [label for label in before if not label.startswith("AWS") and label not in stages + new["version_stages"]]


def put_secret_value(self: Secrets, *arguments, **named) -> str:
    answer = put_and_keep(self, *arguments, **named)
    for secret in self.secrets.values():
        for version in [version for version, found in secret.versions.items() if not found["version_stages"]]:
            del secret.versions[version]
    return answer


def change_resource_record_sets(self: Route53, zoneid: str, change_list: list[dict]) -> None:
    zone = self.get_hosted_zone(zoneid)
    present = {(record.name, record.type) for record in zone.rrsets}
    zone.rr_changes[:] = [
        change
        for change in zone.rr_changes
        if (change["ResourceRecordSet"]["Name"].rstrip(".") + ".", change["ResourceRecordSet"]["Type"]) in present
    ]
    change_unless_made_before(self, zoneid, change_list)


def put_query_definition(self: Logs) -> str:
    query = self._get_param("queryDefinitionId") or str(uuid.uuid4())
    queries[query] = {name: self._get_param(name) for name in ("name", "queryString", "logGroupNames")}
    return json.dumps({"queryDefinitionId": query})


def describe_query_definitions(self: Logs) -> str:
    prefix = self._get_param("queryDefinitionNamePrefix") or ""
    found = [{"queryDefinitionId": query, **fields} for query, fields in queries.items() if fields["name"].startswith(prefix)]
    return json.dumps({"queryDefinitions": found})


def delete_query_definition(self: Logs) -> str:
    return json.dumps({"success": queries.pop(self._get_param("queryDefinitionId"), None) is not None})


Scaling.register_scalable_target = register_scalable_target
Scaling.list_tags_for_resource = list_tags_for_resource
Ecs.create_service = create_service
DynamoDb.update_table = update_table
Secret.reset_default_version = reset_default_version
Secrets.put_secret_value = put_secret_value
Route53.change_resource_record_sets = change_resource_record_sets
Logs.put_query_definition = put_query_definition
Logs.describe_query_definitions = describe_query_definitions
Logs.delete_query_definition = delete_query_definition

if __name__ == "__main__":
    main()
