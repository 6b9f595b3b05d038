# The effect of the variables, on a mocked provider. emulated_apply.py creates the resources.

mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["zone-a", "zone-b", "zone-c"] }
  }

  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }

  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }

  mock_resource "aws_lb" {
    defaults = {
      arn        = "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/test/1"
      arn_suffix = "app/test/1"
    }
  }

  mock_resource "aws_lb_target_group" {
    defaults = {
      arn        = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/test/1"
      arn_suffix = "targetgroup/test/1"
    }
  }

  mock_resource "aws_lb_listener" {
    defaults = { arn = "arn:aws:elasticloadbalancing:us-east-1:123456789012:listener/app/test/1/1" }
  }

  mock_resource "aws_wafv2_web_acl" {
    defaults = { arn = "arn:aws:wafv2:us-east-1:123456789012:regional/webacl/test/1" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/test" }
  }

  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:us-east-1:123456789012:test" }
  }

  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:us-east-1:123456789012:task-definition/test:1" }
  }

  mock_resource "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:test" }
  }
}

variables {
  image_tag     = "1.0.0"
  csp_base_url  = "https://csp.example.com/api"
  csp_api_token = "csp-token-of-the-test"
  api_tokens    = "track-token-of-the-test-000000001"
  admin_tokens  = "admin-token-of-the-test-000000001"
}

run "without_a_certificate_http_is_served" {
  assert {
    condition     = aws_lb_listener.http.default_action[0].type == "forward" && length(aws_lb_listener.https) == 0
    error_message = "without a certificate there must be a plain HTTP listener"
  }

  assert {
    condition     = startswith(output.url, "http://")
    error_message = "the URL must match the listener"
  }

  assert {
    condition     = length(aws_wafv2_web_acl.broker) == 0 && length(aws_wafv2_web_acl_association.broker) == 0
    error_message = "the firewall must be optional"
  }
}

run "with_a_certificate_http_is_redirected" {
  variables {
    certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"
  }

  assert {
    condition = (
      aws_lb_listener.http.default_action[0].type == "redirect" &&
      aws_lb_listener.http.default_action[0].redirect[0].status_code == "HTTP_301" &&
      aws_lb_listener.http.default_action[0].redirect[0].protocol == "HTTPS"
    )
    error_message = "HTTP must redirect to HTTPS with 301"
  }

  assert {
    condition     = aws_lb_listener.https[0].ssl_policy == "ELBSecurityPolicy-TLS13-1-2-2021-06" && aws_lb_listener.https[0].default_action[0].type == "forward"
    error_message = "HTTPS must forward, with the modern policy"
  }

  assert {
    condition     = startswith(output.url, "https://")
    error_message = "the URL must match the listener"
  }
}

run "with_the_firewall" {
  variables {
    waf_enabled    = true
    waf_rate_limit = 500
  }

  assert {
    condition = (
      length(aws_wafv2_web_acl_association.broker) == 1 &&
      toset(aws_wafv2_web_acl.broker[0].rule[*].name) == toset(["common", "rate"])
    )
    error_message = "the firewall must have the common rules and a rate rule, and protect the load balancer"
  }
}

run "one_gateway_or_two" {
  variables {
    nat_gateway_count = 2
  }

  assert {
    condition     = length(aws_nat_gateway.main) == 2 && length(aws_eip.nat) == 2 && length(aws_route.nat) == 2
    error_message = "each zone must have its own gateway"
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
      if contains(["BROKER_STORE", "CORS_ALLOWED_ORIGINS", "CSP_BASE_URL", "LAB_DURATION_HOURS", "OTEL_EXPORTER_OTLP_ENDPOINT", "RATE_LIMIT_RPS", "TRUSTED_PROXIES"], variable.name)
      ]) == toset([
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
    condition     = !can(regex("of-the-test", aws_ecs_task_definition.broker.container_definitions))
    error_message = "the task definition must not hold a token"
  }

  assert {
    condition     = length(jsondecode(aws_ecs_task_definition.broker.container_definitions)) == 2
    error_message = "the collector must run next to the broker"
  }
}

run "a_csp_on_another_port" {
  variables {
    csp_base_url = "http://csp.example.com:8443/api"
  }

  assert {
    condition     = toset(keys(aws_vpc_security_group_egress_rule.tasks)) == toset(["443", "8443"])
    error_message = "the tasks must reach the CSP"
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

run "bad_values_are_refused" {
  command = plan

  variables {
    name                 = "Not A Name"
    region               = "everywhere"
    tags                 = { long = join("", [for digit in range(257) : "x"]) }
    kms_key_arn          = "alias/mine"
    vpc_cidr             = "10.0.0.0/28"
    availability_zones   = ["zone-a", "zone-a"]
    nat_gateway_count    = 3
    allowed_cidr_blocks  = ["all"]
    certificate_arn      = "a certificate"
    access_logs_bucket   = "No Bucket"
    waf_rate_limit       = 1
    table_name           = "a table"
    index_names          = { status = "Same", track = "Same" }
    status_shards        = 0
    container_image      = "without-a-tag"
    image_count          = 1
    cpu_architecture     = "MIPS"
    task_cpu             = 100
    min_tasks            = 0
    requests_per_task    = 0
    otel_collector_image = "without-a-tag"
    api_tokens           = "short"
    admin_tokens         = "long-enough-000000000000000000000001, after-a-space-000000000000001"
    csp_api_token        = "with a space"
    tokens_version       = 0
    log_retention_days   = 31
    alarm_emails         = ["nobody"]
    alarm_thresholds     = { pool_available = 0 }
    csp_base_url         = "csp.example.com"
    cors_allowed_origins = ["https://labs.example.com/with-a-path"]
  }

  expect_failures = [
    var.name, var.region, var.tags, var.kms_key_arn, var.vpc_cidr, var.availability_zones, var.nat_gateway_count,
    var.allowed_cidr_blocks, var.certificate_arn, var.access_logs_bucket, var.waf_rate_limit, var.table_name,
    var.index_names, var.status_shards, var.container_image, var.image_count, var.cpu_architecture, var.task_cpu, var.min_tasks,
    var.requests_per_task, var.otel_collector_image, var.api_tokens, var.admin_tokens,
    var.csp_api_token, var.tokens_version, var.log_retention_days, var.alarm_emails, var.alarm_thresholds,
    var.csp_base_url, var.cors_allowed_origins,
  ]
}

run "values_that_do_not_fit_to_others_are_refused" {
  command = plan

  variables {
    task_cpu    = 256
    task_memory = 4096
    min_tasks   = 3
    max_tasks   = 2
    image_tag   = "a tag"
  }

  expect_failures = [var.task_memory, var.max_tasks, var.image_tag]
}

run "settings_out_of_range_are_refused" {
  command = plan

  variables {
    settings = { control_poll_sec = 5 }
  }

  expect_failures = [var.settings]
}

run "a_mode_that_does_not_exist_is_refused" {
  command = plan

  variables {
    settings = { csp_mode = "imaginary" }
  }

  expect_failures = [var.settings]
}

run "a_log_level_that_cannot_be_read_is_refused" {
  command = plan

  variables {
    settings = { log_level = "very loud" }
  }

  expect_failures = [var.settings]
}

run "settings_that_are_no_urls_are_refused" {
  command = plan

  variables {
    settings = { ddb_endpoint_url = "somewhere" }
  }

  expect_failures = [var.settings]
}

run "settings_that_are_no_whole_numbers_are_refused" {
  command = plan

  variables {
    settings = { max_in_flight = 1.5 }
  }

  expect_failures = [var.settings]
}

run "settings_that_do_not_fit_together_are_refused" {
  command = plan

  variables {
    settings = { backoff_base_ms = 6000 }
  }

  expect_failures = [var.settings]
}

run "an_image_is_required" {
  command = plan

  variables {
    image_tag = null
  }

  expect_failures = [var.image_tag]
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
}

run "the_csp_is_required" {
  command = plan

  variables {
    csp_base_url = null
  }

  expect_failures = [var.csp_base_url]
}
