# The effect of the variables, on a mocked provider. terraform/tests applies them to an emulator.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  admin_cidr_blocks = ["203.0.113.0/24"]
  domain_name       = "broker.example.com"
  zone_id           = "Z0000000000000"
  image_tag         = "1.0.0"
  csp_base_url      = "https://csp.example.com/api"
  csp_api_token     = "csp-token-of-the-test"
  api_tokens        = "track-token-of-the-test-000000001"
  admin_tokens      = "admin-token-of-the-test-000000001"
}

run "plain_http_for_a_network_of_ones_own" {
  variables {
    domain_name         = null
    zone_id             = null
    allow_plain_http    = true
    allowed_cidr_blocks = ["203.0.113.0/24"]
  }

  assert {
    condition     = aws_lb_listener.http[0].default_action[0].type == "forward" && length(aws_lb_listener.https) == 0
    error_message = "there must be a plain HTTP listener"
  }

  assert {
    condition     = startswith(output.url, "http://") && length(aws_vpc_security_group_ingress_rule.alb_https) == 0
    error_message = "the URL and the open ports must match the listener"
  }

  assert {
    condition     = length(aws_wafv2_web_acl.broker) == 0 && length(aws_wafv2_web_acl_association.broker) == 0
    error_message = "the firewall must be optional"
  }
}

run "with_a_zone_the_certificate_is_made" {
  assert {
    condition = (
      aws_acm_certificate.broker[0].domain_name == "broker.example.com" &&
      aws_lb_listener.https[0].certificate_arn == aws_acm_certificate_validation.broker[0].certificate_arn &&
      aws_route53_record.broker[0].name == "broker.example.com" && output.url == "https://broker.example.com"
    )
    error_message = "certificate, address record and URL must be of the domain"
  }

  assert {
    condition = (
      aws_lb_listener.http[0].default_action[0].type == "redirect" &&
      aws_lb_listener.http[0].default_action[0].redirect[0].status_code == "HTTP_301" &&
      aws_lb_listener.http[0].default_action[0].redirect[0].protocol == "HTTPS"
    )
    error_message = "HTTP must redirect to HTTPS with 301"
  }

  assert {
    condition     = aws_lb_listener.https[0].ssl_policy == "ELBSecurityPolicy-TLS13-1-2-2021-06" && aws_lb_listener.https[0].default_action[0].type == "forward"
    error_message = "HTTPS must forward, with the modern policy"
  }

  assert {
    condition     = aws_lb.broker[0].idle_timeout > local.setting_ranges.allocate_wait_sec[1] + 10 && tonumber(aws_lb_target_group.broker.deregistration_delay) >= local.setting_ranges.allocate_wait_sec[1] + 10
    error_message = "an allocation must be able to wait as long as the broker allows"
  }

  assert {
    condition     = one([for query in aws_cloudwatch_metric_alarm.error_rate.metric_query : query.expression if query.id == "errors"]) == "FILL(by_target, 0) + FILL(by_balancer, 0) - FILL(paused, 0) - FILL(waiting, 0)"
    error_message = "503s of a paused broker and of those who wait are no errors"
  }

  assert {
    condition     = aws_lb_target_group.broker.health_check[0].path == "/healthz"
    error_message = "a store that does not answer must not replace all tasks"
  }
}

run "with_a_certificate_of_ones_own" {
  variables {
    zone_id         = null
    certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"
  }

  assert {
    condition = (
      length(aws_acm_certificate.broker) == 0 && length(aws_route53_record.broker) == 0 &&
      aws_lb_listener.https[0].certificate_arn == "arn:aws:acm:us-east-1:123456789012:certificate/00000000-0000-0000-0000-000000000000" &&
      output.url == "https://broker.example.com"
    )
    error_message = "the given certificate must be used, and the URL must match it"
  }
}

run "operators_come_from_their_networks" {
  variables {
    admin_cidr_blocks = ["198.51.100.0/24", "203.0.113.0/24", "203.0.114.0/24"]
    admin_port        = 8081
  }

  assert {
    condition = (
      [for rule in aws_lb_listener_rule.admin : rule.priority] == [1, 2] &&
      toset(flatten([for rule in aws_lb_listener_rule.admin : [for condition in rule.condition : [for source in condition.source_ip : source.values]]])) == var.admin_cidr_blocks
    )
    error_message = "each network must be in a rule"
  }

  # A rule of AWS takes five.
  assert {
    condition     = alltrue([for rule in aws_lb_listener_rule.admin : sum([for condition in rule.condition : sum([length(flatten(condition.source_ip[*].values)), length(flatten(condition.path_pattern[*].values))])]) <= 5])
    error_message = "a rule must not have more than five values"
  }

  assert {
    condition     = aws_lb_listener_rule.hidden.action[0].fixed_response[0].status_code == "404" && aws_lb_listener_rule.hidden.priority > 40
    error_message = "others must get 404"
  }

  assert {
    condition = (
      aws_lb_target_group.admin[0].port == 8081 && aws_lb_target_group.admin[0].health_check[0].port == "8080" &&
      contains(jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].environment, { name = "BROKER_ADMIN_PORT", value = "8081" }) &&
      toset(keys(aws_vpc_security_group_ingress_rule.tasks_from_alb)) == toset(["8080", "8081"])
    )
    error_message = "operators must reach the admin port"
  }
}

run "without_operators_networks_the_admin_api_is_hidden" {
  variables {
    admin_cidr_blocks = []
  }

  assert {
    condition     = length(aws_lb_listener_rule.admin) == 0 && length(aws_lb_target_group.admin) == 0
    error_message = "no rule may forward admin paths"
  }
}

run "on_a_shared_listener_in_an_existing_network" {
  variables {
    zone_id           = null
    admin_cidr_blocks = ["198.51.100.0/24", "203.0.113.0/24"]
    vpc = {
      id                = "vpc-1"
      public_subnet_ids = ["subnet-1", "subnet-2"]
    }
    shared_listener = {
      arn               = "arn:aws:elasticloadbalancing:us-east-1:123456789012:listener/app/shared/1/1"
      load_balancer_arn = "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/shared/1"
      security_group_id = "sg-1"
    }
  }

  assert {
    condition     = length(aws_lb.broker) == 0 && length(aws_vpc.main) == 0 && length(aws_vpc_endpoint.gateway) == 0
    error_message = "nothing that is there may be made again"
  }

  assert {
    condition = (
      aws_vpc_security_group_ingress_rule.tasks_from_alb["8080"].referenced_security_group_id == "sg-1" &&
      toset(aws_ecs_service.broker.network_configuration[0].subnets) == toset(["subnet-1", "subnet-2"]) &&
      [for rule in aws_lb_listener_rule.admin : rule.priority] == [1000, 1001] && aws_lb_listener_rule.broker[0].priority == 1081
    )
    error_message = "the tasks must be behind the shared load balancer"
  }

  assert {
    condition     = alltrue([for rule in concat(aws_lb_listener_rule.admin, [aws_lb_listener_rule.hidden], aws_lb_listener_rule.broker) : anytrue([for condition in rule.condition : length(condition.host_header) > 0])])
    error_message = "rules on a shared listener must name the host"
  }
}

run "with_the_firewall" {
  variables {
    waf_enabled            = true
    waf_rate_limit         = 500
    waf_exempt_cidr_blocks = ["203.0.113.0/24"]
  }

  assert {
    condition = (
      length(aws_wafv2_web_acl_association.broker) == 1 &&
      toset(aws_wafv2_web_acl.broker[0].rule[*].name) == toset(["common", "exempt", "rate"])
    )
    error_message = "the firewall must have the common rules and a rate rule, and protect the load balancer"
  }

  assert {
    condition = [
      for rule in aws_wafv2_web_acl.broker[0].rule : rule.action[0].block[0].custom_response[0].response_code if rule.name == "rate"
    ] == [503]
    error_message = "scripts repeat 503, and take others for final"
  }

  assert {
    condition = (
      endswith(one([for query in aws_cloudwatch_metric_alarm.error_rate.metric_query : query.expression if query.id == "errors"]), " - FILL(by_firewall, 0)") &&
      contains([for query in aws_cloudwatch_metric_alarm.error_rate.metric_query : query.id], "by_firewall")
    )
    error_message = "what the firewall refuses is no error"
  }
}

run "the_default_has_no_nat_gateway" {
  assert {
    condition = (
      length(aws_nat_gateway.main) == 0 && length(aws_subnet.private) == 0 && length(aws_vpc_endpoint.interface) == 0 &&
      aws_ecs_service.broker.network_configuration[0].assign_public_ip && aws_ecs_cluster.main.setting != null &&
      one(aws_ecs_cluster.main.setting).value == "disabled"
    )
    error_message = "the default must be the cheapest sound profile"
  }

  assert {
    condition = (
      [for rule in values(aws_vpc_security_group_ingress_rule.tasks_from_alb) : rule.referenced_security_group_id] == [aws_security_group.alb[0].id] &&
      alltrue([for rule in values(aws_vpc_security_group_ingress_rule.tasks_from_alb) : rule.cidr_ipv4 == null])
    )
    error_message = "only the load balancer may reach the tasks"
  }
}

run "one_gateway_or_two" {
  variables {
    egress              = "nat_gateway"
    nat_gateway_count   = 2
    interface_endpoints = ["secretsmanager", "ecr.api", "ecr.dkr", "logs"]
  }

  assert {
    condition     = length(aws_nat_gateway.main) == 2 && length(aws_eip.nat) == 2 && length(aws_route.nat) == 2
    error_message = "each zone must have its own gateway"
  }

  assert {
    condition     = !aws_ecs_service.broker.network_configuration[0].assign_public_ip && length(aws_vpc_endpoint.interface) == 4
    error_message = "the tasks must be in private subnets, with the endpoints"
  }
}

run "addresses_that_exist" {
  variables {
    egress             = "nat_gateway"
    nat_allocation_ids = ["eipalloc-1"]
  }

  assert {
    condition     = length(aws_eip.nat) == 0 && aws_nat_gateway.main[0].allocation_id == "eipalloc-1"
    error_message = "the CSP must see the address that it allows"
  }
}

run "some_tasks_on_spot" {
  variables {
    spot_share = 50
  }

  assert {
    condition = toset([for strategy in aws_ecs_service.broker.capacity_provider_strategy : "${strategy.capacity_provider} ${coalesce(strategy.base, 0)} ${strategy.weight}"]) == toset([
      "FARGATE 1 50", "FARGATE_SPOT 0 50",
    ])
    error_message = "one task must always be on demand"
  }
}

run "the_table_is_of_the_sharded_form" {
  assert {
    condition = toset([for index in aws_dynamodb_table.pool.global_secondary_index : "${index.name} ${index.hash_key} ${index.range_key}"]) == toset([
      "StatusIndex status_shard shard_at", "TrackIndex allocated_to_track allocated_at", "IdempotencyIndex idempotency_key allocated_at",
    ])
    error_message = "the indexes must be those of table create"
  }

  assert {
    condition     = jsondecode(aws_dynamodb_table_item.schema[0].item).shards.N == "16"
    error_message = "a new table must have its number of shards"
  }
}

# The indexes count at the creation of a table only, so this run has a state of its own.
run "without_lookup_indexes" {
  state_key = "without_lookup_indexes"

  variables {
    lookup_indexes = false
    status_shards  = 256
  }

  assert {
    condition     = [for index in aws_dynamodb_table.pool.global_secondary_index : index.name] == ["StatusIndex"] && jsondecode(aws_dynamodb_table_item.schema[0].item).shards.N == "256"
    error_message = "the lookup indexes must be optional"
  }
}

# The indexes count at the creation of a table only, so this run has a state of its own.
run "an_adopted_table" {
  state_key = "an_adopted_table"

  variables {
    status_index_form = "beside"
    status_shards     = null
  }

  assert {
    condition     = length(aws_dynamodb_table_item.schema) == 0 && contains([for index in aws_dynamodb_table.pool.global_secondary_index : index.name], "StatusIndexSharded")
    error_message = "adoption has written the schema item"
  }
}

run "tokens_of_others" {
  variables {
    token_versions = { api = 0, admin = 0, csp = 0 }
    secret_names   = { api = "old/api" }
  }

  assert {
    condition = (
      length(aws_secretsmanager_secret_version.api) + length(aws_secretsmanager_secret_version.admin) + length(aws_secretsmanager_secret_version.csp) == 0 &&
      aws_secretsmanager_secret.token["api"].name == "old/api"
    )
    error_message = "Terraform must not write these tokens"
  }
}

run "the_task" {
  variables {
    otel_collector_enabled = true
    settings               = { lab_duration_hours = 1.5, rate_limit_rps = 0 }
    cors_allowed_origins   = ["https://one.example.com", "https://two.example.com"]
  }

  assert {
    condition = alltrue([
      for container in jsondecode(aws_ecs_task_definition.broker.container_definitions) :
      container.readonlyRootFilesystem && container.user == "65532:65532" && container.linuxParameters.capabilities.drop == ["ALL"]
    ])
    error_message = "no container may write to its disk, run as root or have a capability"
  }

  assert {
    condition = toset([
      for variable in jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].environment : "${variable.name}=${variable.value}"
      if contains(["ALLOCATE_WAIT_SEC", "BROKER_STORE", "CORS_ALLOWED_ORIGINS", "CSP_BASE_URL", "LAB_DURATION_HOURS", "OTEL_EXPORTER_OTLP_ENDPOINT", "RATE_LIMIT_RPS", "TRUSTED_PROXIES"], variable.name)
      ]) == toset([
      "ALLOCATE_WAIT_SEC=20",
      "BROKER_STORE=dynamodb",
      "CORS_ALLOWED_ORIGINS=https://one.example.com,https://two.example.com",
      "CSP_BASE_URL=https://csp.example.com/api",
      "LAB_DURATION_HOURS=1.5",
      "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318",
      "RATE_LIMIT_RPS=0",
      "TRUSTED_PROXIES=1",
    ])
    error_message = "settings must reach the broker"
  }

  # The emulator does not report it.
  assert {
    condition = alltrue([
      for safeguard in [aws_ecs_service.broker.deployment_circuit_breaker[0], aws_ecs_service.broker.alarms[0]] : safeguard.enable && safeguard.rollback
    ])
    error_message = "a failed deployment must roll back"
  }

  assert {
    condition     = toset([for secret in jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].secrets : secret.name]) == toset(["BROKER_ADMIN_TOKEN", "BROKER_API_TOKEN", "CSP_API_TOKEN"])
    error_message = "ECS must inject the tokens"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].image == "123456789012.dkr.ecr.us-east-1.amazonaws.com/sandbox-broker:1.0.0" && output.image_repository == "sandbox-broker"
    error_message = "the image must come from this account's repository"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].logConfiguration.options.mode == "non-blocking"
    error_message = "a log that is not taken must not stop the broker"
  }

  assert {
    condition     = !can(regex("of-the-test", aws_ecs_task_definition.broker.container_definitions))
    error_message = "the task definition must not hold a token"
  }

  assert {
    condition     = length(jsondecode(aws_ecs_task_definition.broker.container_definitions)) == 2
    error_message = "the collector must run next to the broker"
  }
}

run "secrets_that_exist_reach_the_broker" {
  variables {
    more_secrets = {
      BROKER_TRACK_TOKENS = "arn:aws:secretsmanager:us-east-1:123456789012:secret:broker/tracks-AbCdEf"
      BROKER_VIEWER_TOKEN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:broker/viewer-AbCdEf"
      NIOSXAAS_PASSWORD   = "arn:aws:secretsmanager:us-east-1:123456789012:secret:niosxaas-AbCdEf"
    }
  }

  assert {
    condition = alltrue([
      for name, arn in var.more_secrets : contains(jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].secrets, { name = name, valueFrom = arn })
    ])
    error_message = "ECS must inject the secrets"
  }

  assert {
    condition = anytrue([
      for statement in data.aws_iam_policy_document.execution.statement : statement.sid == "ReadTheTokens" && length(setsubtract(values(var.more_secrets), statement.resources)) == 0
    ])
    error_message = "ECS must be allowed to read the secrets"
  }

  assert {
    condition     = length(jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].secrets) == 6
    error_message = "the tokens that the module makes must stay"
  }
}

run "what_the_tasks_call_on_other_ports" {
  variables {
    csp_base_url = "http://csp.example.com:8443/api"
    settings = {
      niosxaas_base_url           = "https://niosxaas.example.com:9443"
      otel_exporter_otlp_endpoint = "http://collector.example.com:4318"
    }
  }

  assert {
    condition     = toset(keys(aws_vpc_security_group_egress_rule.tasks)) == toset(["443", "4318", "8443", "9443"])
    error_message = "the tasks must reach the CSP, NIOSXaaS and the collector"
  }
}

run "rare_jobs_have_no_alarm_that_cloudwatch_refuses" {
  variables {
    settings = { stale_interval_sec = 604800, sync_interval_sec = 90 }
  }

  assert {
    condition     = toset(keys(aws_cloudwatch_metric_alarm.job_overdue)) == toset(["cleanup", "csp-sync", "expiry-reaper"])
    error_message = "an alarm cannot look back three weeks"
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.job_overdue["csp-sync"].period == 120
    error_message = "the period of an alarm must be a whole number of minutes, not shorter than the interval"
  }
}

run "an_image_from_elsewhere_needs_no_tag" {
  command = plan

  variables {
    image_tag       = null
    container_image = "registry.example.com/sandbox-broker:1.0.0"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.broker.container_definitions)[0].image == "registry.example.com/sandbox-broker:1.0.0"
    error_message = "the task must run the given image"
  }

  assert {
    condition     = output.image_repository == null
    error_message = "the image is not in ECR"
  }
}
