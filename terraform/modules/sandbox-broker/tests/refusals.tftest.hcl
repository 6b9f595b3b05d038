# What the variables refuse, on a mocked provider.

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

run "without_a_certificate_the_apply_is_refused" {
  command = plan

  variables {
    domain_name = null
    zone_id     = null
  }

  expect_failures = [var.allow_plain_http]
}

run "plain_http_is_not_for_the_world" {
  command = plan

  variables {
    domain_name         = null
    zone_id             = null
    allow_plain_http    = true
    allowed_cidr_blocks = ["0.0.0.0/1", "128.0.0.0/1"]
  }

  expect_failures = [var.allowed_cidr_blocks]
}

run "a_certificate_without_its_domain_is_refused" {
  command = plan

  variables {
    domain_name     = null
    zone_id         = null
    certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"
  }

  expect_failures = [var.domain_name]
}

run "bad_values_are_refused" {
  command = plan

  variables {
    name                     = "Not A Name"
    kms_key_arn              = "alias/mine"
    vpc_cidr                 = "10.0.0.0/28"
    availability_zones       = ["zone-a", "zone-a"]
    nat_gateway_count        = 3
    admin_cidr_blocks        = ["everyone"]
    admin_port               = 8080
    zone_id                  = "a zone"
    certificate_arn          = "a certificate"
    permissions_boundary_arn = "a policy"
    egress                   = "pigeon"
    interface_endpoints      = ["All Of Them"]
    waf_exempt_cidr_blocks   = ["0.0.0.0/0"]
    status_index_form        = "round"
    image_repository         = "Not A Repository"
    spot_share               = 101
    secret_names             = { api = "a name with spaces" }
    log_group_name           = "a log group"
    waf_rate_limit           = 1
    table_name               = "a table"
    index_names              = { status = "Same", track = "Same" }
    container_image          = "without-a-tag"
    cpu_architecture         = "MIPS"
    task_cpu                 = 100
    min_tasks                = 0
    requests_per_task        = 0
    otel_collector_image     = "without-a-tag"
    api_tokens               = "short"
    admin_tokens             = "long-enough-000000000000000000000001, after-a-space-000000000000001"
    csp_api_token            = "with a space"
    token_versions           = { api = -1 }
    log_retention_days       = 31
    alarm_emails             = ["nobody"]
    alarm_thresholds         = { pool_available = 0 }
    csp_base_url             = "csp.example.com"
    cors_allowed_origins     = ["https://labs.example.com/with-a-path"]
  }

  expect_failures = [
    var.name, var.kms_key_arn, var.vpc_cidr, var.availability_zones, var.nat_gateway_count,
    var.admin_cidr_blocks, var.admin_port, var.zone_id, var.certificate_arn,
    var.permissions_boundary_arn, var.egress, var.interface_endpoints,
    var.waf_exempt_cidr_blocks, var.status_index_form, var.image_repository,
    var.spot_share, var.secret_names, var.log_group_name, var.waf_rate_limit, var.table_name,
    var.index_names, var.container_image, var.cpu_architecture, var.task_cpu, var.min_tasks,
    var.requests_per_task, var.otel_collector_image, var.api_tokens, var.admin_tokens,
    var.csp_api_token, var.token_versions, var.log_retention_days, var.alarm_emails, var.alarm_thresholds,
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

    allowed_cidr_blocks = ["all"]
    domain_name         = "https://broker.example.com"
    nat_allocation_ids  = ["203.0.113.1"]
    status_shards       = 513
    monthly_budget_usd  = 0
  }

  expect_failures = [
    var.task_memory, var.max_tasks, var.image_tag, var.allowed_cidr_blocks, var.domain_name, var.nat_allocation_ids,
    var.status_shards, var.monthly_budget_usd,
  ]
}

run "an_existing_network_needs_subnets" {
  command = plan

  variables {
    vpc = { id = "vpc-1", public_subnet_ids = ["subnet-1"] }
  }

  expect_failures = [var.vpc]
}

run "a_shared_listener_needs_a_network" {
  command = plan

  variables {
    zone_id         = null
    shared_listener = { arn = "one", load_balancer_arn = "its", security_group_id = "none" }
  }

  expect_failures = [var.shared_listener]
}

run "an_own_certificate_is_not_plain_http" {
  command = plan

  variables {
    allow_plain_http    = true
    allowed_cidr_blocks = ["203.0.113.0/24"]
  }

  expect_failures = [var.allow_plain_http]
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

run "the_csp_is_required" {
  command = plan

  variables {
    csp_base_url = null
  }

  expect_failures = [var.csp_base_url]
}
