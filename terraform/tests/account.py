"""Checks of what exists in an account, as AWS reports it: everything that the configuration builds, and nothing after
destroy."""

import json
from pathlib import Path

import boto3

NAME = "sandbox-broker"
DOMAIN = "broker.example.com"
OWN = [{"Name": "tag:application", "Values": [NAME]}]
REGION = "us-east-1"
DEPLOYMENT = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"

ALARMS = {
    "error-rate", "p99-latency", "pool-low", "deletion-failed", "breaker-open", "throttled", "CPUUtilization",
    "MemoryUtilization", "queue-stands", "csp-sync-overdue", "cleanup-overdue", "expiry-reaper-overdue", "stale-collector-overdue",
}  # fmt: skip


def check_outputs(outputs: dict) -> None:
    step("outputs")
    balancer = boto3.client("elbv2").describe_load_balancers(Names=[NAME])["LoadBalancers"][0]
    expect(outputs["url"], f"https://{DOMAIN}")
    expect(outputs["load_balancer_dns_name"], balancer["DNSName"])
    expect(outputs["table_name"], "sandbox-broker-pool")
    addresses = boto3.client("ec2").describe_addresses(Filters=OWN)["Addresses"]
    expect(sorted(outputs["nat_addresses"]), sorted(address["PublicIp"] for address in addresses))
    expect((outputs["image_repository"], outputs["image_tag"]), (NAME, "1.0.0"))
    service = boto3.client("ecs").describe_services(cluster=outputs["cluster_name"], services=[outputs["service_name"]])["services"][0]
    expect(outputs["task_definition_arn"], service["taskDefinition"])
    secrets = boto3.client("secretsmanager")
    names = {name: secrets.describe_secret(SecretId=arn)["Name"] for name, arn in outputs["token_secret_arns"].items()}
    expect(names, {name: f"{NAME}/{name}-token" for name in ("admin", "api", "csp")})
    expect(len(boto3.client("logs").describe_log_groups(logGroupNamePrefix=outputs["log_group_name"])["logGroups"]), 1)
    expect([topic["TopicArn"] for topic in boto3.client("sns").list_topics()["Topics"]], [outputs["alarm_topic_arn"]])
    expect([board["DashboardName"] for board in boto3.client("cloudwatch").list_dashboards()["DashboardEntries"]], [outputs["dashboard_name"]])


def check_built(outputs: dict) -> None:
    step("everything that production needs")
    check_network()
    check_table(outputs["table_name"])
    check_tasks(outputs)
    check_balancer()
    check_domain()
    check_permissions(outputs["table_name"])
    check_alarms(outputs)


def check_network() -> None:
    ec2 = boto3.client("ec2")
    (vpc,) = ec2.describe_vpcs(Filters=OWN)["Vpcs"]
    for attribute in ("enableDnsSupport", "enableDnsHostnames"):
        found = ec2.describe_vpc_attribute(VpcId=vpc["VpcId"], Attribute=attribute)
        expect(found[attribute[0].upper() + attribute[1:]], {"Value": True})
    zones = {subnet["SubnetId"]: subnet["AvailabilityZone"] for subnet in ec2.describe_subnets(Filters=OWN)["Subnets"]}
    routes = []
    for table in ec2.describe_route_tables(Filters=OWN)["RouteTables"]:
        (default,) = [route for route in table["Routes"] if route.get("DestinationCidrBlock") == "0.0.0.0/0"]
        target = "NAT" if "NatGatewayId" in default else "internet"
        routes += [(zones[association["SubnetId"]], target) for association in table["Associations"] if "SubnetId" in association]
    first, second = sorted(set(zones.values()))
    expect(sorted(routes), [(first, "NAT"), (first, "internet"), (second, "NAT"), (second, "internet")])
    endpoints = ec2.describe_vpc_endpoints(Filters=OWN)["VpcEndpoints"]
    services = {(endpoint["VpcEndpointType"], endpoint["ServiceName"].removeprefix(f"com.amazonaws.{REGION}.")) for endpoint in endpoints}
    interfaces = {("Interface", service) for service in ("secretsmanager", "ecr.api", "ecr.dkr", "logs")}
    expect(services, interfaces | {("Gateway", "dynamodb"), ("Gateway", "s3")})
    groups = {group["GroupId"]: group["GroupName"] for group in ec2.describe_security_groups(Filters=OWN)["SecurityGroups"]}
    open_ports = set()
    for rule in ec2.describe_security_group_rules()["SecurityGroupRules"]:
        if rule["GroupId"] in groups and not rule["IsEgress"]:
            source = rule.get("CidrIpv4") or groups[rule["ReferencedGroupInfo"]["GroupId"]]
            expect(rule["FromPort"], rule["ToPort"])
            open_ports.add((groups[rule["GroupId"]], source, rule["FromPort"]))
    expect(open_ports, {
        (f"{NAME}-tasks", f"{NAME}-alb", 8081),
        (f"{NAME}-alb", "0.0.0.0/0", 80), (f"{NAME}-alb", "0.0.0.0/0", 443),
        (f"{NAME}-tasks", f"{NAME}-alb", 8080), (f"{NAME}-endpoints", vpc["CidrBlock"], 443),
    })  # fmt: skip


def check_table(name: str) -> None:
    """What `table create` leaves at its default, so that the comparison of the tables does not cover it."""
    dynamodb = boto3.client("dynamodb")
    table = dynamodb.describe_table(TableName=name)["Table"]
    expect((table["SSEDescription"]["Status"], table["DeletionProtectionEnabled"]), ("ENABLED", False))
    backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    expect(backups["PointInTimeRecoveryDescription"]["RecoveryPeriodInDays"], 35)


def check_tasks(outputs: dict) -> None:
    ecs = boto3.client("ecs")
    (cluster,) = ecs.describe_clusters(clusters=[outputs["cluster_name"]], include=["SETTINGS"])["clusters"]
    expect(cluster["settings"], [{"name": "containerInsights", "value": "enabled"}])
    (service,) = ecs.describe_services(cluster=outputs["cluster_name"], services=[outputs["service_name"]])["services"]
    expect(service["desiredCount"], 2)
    strategy = {one["capacityProvider"]: (one.get("base", 0), one["weight"]) for one in service["capacityProviderStrategy"]}
    expect(strategy, {"FARGATE": (1, 50), "FARGATE_SPOT": (0, 50)})
    task = ecs.describe_task_definition(taskDefinition=outputs["task_definition_arn"])["taskDefinition"]
    expect((task["cpu"], task["memory"], task["runtimePlatform"]["cpuArchitecture"]), ("256", "512", "ARM64"))
    expect([container["name"] for container in task["containerDefinitions"]], ["broker", "collector"])
    for container in task["containerDefinitions"]:
        limits = (container["readonlyRootFilesystem"], container["linuxParameters"]["capabilities"]["drop"], container["user"])
        expect(limits, (True, ["ALL"], "65532:65532"))
    expect(task["containerDefinitions"][0]["healthCheck"]["command"], ["CMD", "/sandbox-broker", "healthcheck"])
    scaling = boto3.client("application-autoscaling")
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"]
    expect((target["MinCapacity"], target["MaxCapacity"]), (2, 10))
    policies = [policy["TargetTrackingScalingPolicyConfiguration"] for policy in scaling.describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"]]
    expect({(policy["ScaleOutCooldown"], policy["ScaleInCooldown"]) for policy in policies}, {(60, 300)})
    targets = {policy["PredefinedMetricSpecification"]["PredefinedMetricType"]: policy["TargetValue"] for policy in policies}
    expect(targets, {"ECSServiceAverageCPUUtilization": 70, "ECSServiceAverageMemoryUtilization": 80, "ALBRequestCountPerTarget": 6000})


def check_balancer() -> None:
    elb = boto3.client("elbv2")
    (balancer,) = elb.describe_load_balancers()["LoadBalancers"]
    listeners = {listener["Port"]: listener for listener in elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]}
    expect(sorted(listeners), [80, 443])
    redirect = listeners[80]["DefaultActions"][0]["RedirectConfig"]
    expect((redirect["Protocol"], redirect["StatusCode"]), ("HTTPS", "HTTP_301"))
    expect(listeners[443]["SslPolicy"], "ELBSecurityPolicy-TLS13-1-2-2021-06")
    groups = {group["TargetGroupName"]: group for group in elb.describe_target_groups()["TargetGroups"]}
    group, admin = groups[NAME], groups[f"{NAME}-admin"]
    expect((admin["HealthCheckPath"], admin["HealthCheckPort"], admin["Port"]), ("/healthz", "8080", 8081))
    expect((group["HealthCheckPath"], group["Port"]), ("/healthz", 8080))
    # An allocation may wait for 50 s.
    for waits in (group, admin):
        expect(attributes(elb.describe_target_group_attributes(TargetGroupArn=waits["TargetGroupArn"]))["deregistration_delay.timeout_seconds"], "60")
    found = attributes(elb.describe_load_balancer_attributes(LoadBalancerArn=balancer["LoadBalancerArn"]))
    expect(found["idle_timeout.timeout_seconds"], "65")
    (bucket,) = [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"] if bucket["Name"].startswith(NAME)]
    expect((found["access_logs.s3.enabled"], found["access_logs.s3.bucket"]), ("true", bucket))
    (expiry,) = boto3.client("s3").get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    expect(expiry["Expiration"]["Days"], 30)
    # Rules by priority: admin paths from admin networks, then 404 for the same paths.
    rules = elb.describe_rules(ListenerArn=listeners[443]["ListenerArn"])["Rules"]
    rules = sorted((rule for rule in rules if rule["Priority"] != "default"), key=lambda rule: int(rule["Priority"]))
    *admitted, hidden = rules
    for rule in rules:
        (paths,) = [condition["PathPatternConfig"]["Values"] for condition in rule["Conditions"] if condition["Field"] == "path-pattern"]
        expect(sorted(paths), ["/console*", "/metrics*", "/v1/admin*"])
    networks = [condition["SourceIpConfig"]["Values"] for rule in admitted for condition in rule["Conditions"] if condition["Field"] == "source-ip"]
    expect(sorted(sum(networks, [])), ["198.51.100.0/24", "203.0.113.0/24", "203.0.114.0/24"])
    expect({rule["Actions"][0]["TargetGroupArn"] for rule in admitted}, {admin["TargetGroupArn"]})
    expect(hidden["Actions"][0]["FixedResponseConfig"]["StatusCode"], "404")
    firewall = boto3.client("wafv2").get_web_acl_for_resource(ResourceArn=balancer["LoadBalancerArn"])["WebACL"]
    rules = {rule["Name"]: rule["Statement"] for rule in firewall["Rules"]}
    expect(rules["common"]["ManagedRuleGroupStatement"]["Name"], "AWSManagedRulesCommonRuleSet")
    expect(rules["rate"]["RateBasedStatement"]["AggregateKeyType"], "IP")
    (action,) = [rule["Action"] for rule in firewall["Rules"] if rule["Name"] == "rate"]
    expect(action["Block"]["CustomResponse"]["ResponseCode"], 503)


def check_domain() -> None:
    """The certificate is of the domain, and the domain's address is the load balancer."""
    (certificate,) = boto3.client("acm").list_certificates()["CertificateSummaryList"]
    expect((certificate["DomainName"], certificate["Status"]), (DOMAIN, "ISSUED"))
    route53 = boto3.client("route53")
    (zone,) = route53.list_hosted_zones()["HostedZones"]
    records = {record["Name"]: record for record in route53.list_resource_record_sets(HostedZoneId=zone["Id"])["ResourceRecordSets"]}
    balancer = boto3.client("elbv2").describe_load_balancers(Names=[NAME])["LoadBalancers"][0]
    expect(records[f"{DOMAIN}."]["AliasTarget"]["DNSName"].rstrip("."), balancer["DNSName"])
    (listener,) = [one for one in boto3.client("elbv2").describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"] if one["Port"] == 443]
    expect(listener["Certificates"][0]["CertificateArn"], certificate["CertificateArn"])


def check_permissions(table: str) -> None:
    """The resources in the policies. tests/terraform.rs compares the actions on the table with the code."""
    iam = boto3.client("iam")
    resources = {}
    for role, policy in (("execution", "start-tasks"), ("task", "use-the-pool")):
        expect(iam.list_role_policies(RoleName=f"{NAME}-{role}")["PolicyNames"], [policy])
        expect(iam.list_attached_role_policies(RoleName=f"{NAME}-{role}")["AttachedPolicies"], [])
        document = iam.get_role_policy(RoleName=f"{NAME}-{role}", PolicyName=policy)["PolicyDocument"]
        resources |= {statement["Sid"]: statement["Resource"] for statement in document["Statement"]}
    arn = boto3.client("dynamodb").describe_table(TableName=table)["Table"]["TableArn"]
    expect((resources["UseTheTable"], resources["QueryItsIndexes"]), (arn, f"{arn}/index/*"))
    # The actions in these two statements support no resource.
    expect({sid for sid, named in resources.items() if named == "*"}, {"LogInToTheRegistry", "SendTraces"})


def check_alarms(outputs: dict) -> None:
    (group,) = boto3.client("logs").describe_log_groups(logGroupNamePrefix=outputs["log_group_name"])["logGroups"]
    expect(group["retentionInDays"], 30)
    (subscription,) = boto3.client("sns").list_subscriptions_by_topic(TopicArn=outputs["alarm_topic_arn"])["Subscriptions"]
    expect(subscription["Endpoint"], "on-call@example.com")
    # Autoscaling creates its own alarms, under other names.
    cloudwatch = boto3.client("cloudwatch")
    alarms = cloudwatch.describe_alarms(AlarmNamePrefix=f"{NAME}-")["MetricAlarms"]
    actions = {alarm["AlarmName"].removeprefix(f"{NAME}-"): alarm["AlarmActions"] for alarm in alarms}
    expect(actions, dict.fromkeys(ALARMS, [outputs["alarm_topic_arn"]]))
    explained = DEPLOYMENT.read_text().partition("What to do for each alarm")[2]
    expect({alarm for alarm in ALARMS if f"`{alarm}`" not in explained}, set())
    # Alarms and graphs name exactly the metrics that the log filters make.
    filters = boto3.client("logs").describe_metric_filters(logGroupName=outputs["log_group_name"])["metricFilters"]
    made = {(made["metricNamespace"], made["metricName"]) for found in filters for made in found["metricTransformations"]}
    dashboard = json.loads(cloudwatch.get_dashboard(DashboardName=outputs["dashboard_name"])["DashboardBody"])
    named = {(metric[0], metric[1]) for widget in dashboard["widgets"] for metric in widget["properties"]["metrics"]}
    named |= {(alarm["Namespace"], alarm["MetricName"]) for alarm in alarms if "MetricName" in alarm}
    expect({metric for metric in named if metric[0].startswith("SandboxBroker/")}, made)


def check_nothing_left() -> None:
    ec2 = boto3.client("ec2")
    elb = boto3.client("elbv2")
    ecs = boto3.client("ecs")
    scaling = boto3.client("application-autoscaling")
    left = {
        "VPCs": ec2.describe_vpcs(Filters=OWN)["Vpcs"],
        "subnets": ec2.describe_subnets(Filters=OWN)["Subnets"],
        "route tables": ec2.describe_route_tables(Filters=OWN)["RouteTables"],
        "internet gateways": ec2.describe_internet_gateways(Filters=OWN)["InternetGateways"],
        "security groups": ec2.describe_security_groups(Filters=OWN)["SecurityGroups"],
        "addresses": ec2.describe_addresses(Filters=OWN)["Addresses"],
        "NAT gateways": [gateway for gateway in ec2.describe_nat_gateways()["NatGateways"] if gateway["State"] != "deleted"],
        "endpoints": [endpoint for endpoint in ec2.describe_vpc_endpoints()["VpcEndpoints"] if endpoint["State"] != "deleted"],
        "tables": boto3.client("dynamodb").list_tables()["TableNames"],
        "load balancers": elb.describe_load_balancers()["LoadBalancers"],
        "target groups": elb.describe_target_groups()["TargetGroups"],
        "clusters": [cluster for cluster in ecs.describe_clusters(clusters=ecs.list_clusters()["clusterArns"])["clusters"] if cluster["status"] != "INACTIVE"],
        "scaling targets": scaling.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"],
        "scaling policies": scaling.describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"],
        "roles": [role["RoleName"] for role in boto3.client("iam").list_roles()["Roles"] if role["RoleName"].startswith(NAME)],
        "secrets": boto3.client("secretsmanager").list_secrets()["SecretList"],
        "log groups": boto3.client("logs").describe_log_groups()["logGroups"],
        "alarms": boto3.client("cloudwatch").describe_alarms()["MetricAlarms"],
        "dashboards": boto3.client("cloudwatch").list_dashboards()["DashboardEntries"],
        "topics": boto3.client("sns").list_topics()["Topics"],
        "firewalls": boto3.client("wafv2").list_web_acls(Scope="REGIONAL")["WebACLs"],
    }
    left["buckets"] = [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"] if bucket["Name"].startswith(NAME)]
    left["certificates"] = boto3.client("acm").list_certificates()["CertificateSummaryList"]
    left["saved queries"] = boto3.client("logs").describe_query_definitions()["queryDefinitions"]
    expect({kind: found for kind, found in left.items() if found}, {})
    # Without deletion protection nothing keeps the names of the secrets.
    expect(boto3.client("secretsmanager").list_secrets(IncludePlannedDeletion=True)["SecretList"], [])


def attributes(answer: dict) -> dict[str, str]:
    return {attribute["Key"]: attribute["Value"] for attribute in answer["Attributes"]}


def expect(found, expected) -> None:
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")


def step(what: str) -> None:
    print(f"   {what}", flush=True)
