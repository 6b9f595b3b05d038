# Takes over what the Python service keeps: its table with the items in it, its log group, the secrets with its tokens and,
# when the time has come, its addresses. It runs with that service's variables on the part of its state that ./take-state
# copies. Everything else of the old stack stays as it is, until it is removed with the old configuration; see README.md.

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100, < 7"
    }
  }
}

provider "aws" {
  region = var.aws_region

  default_tags {
    tags = { application = "sandbox-broker", deployment = local.name, managed_by = "terraform" }
  }
}

locals {
  # Not the old name: both stacks are there for a while, and names of roles and load balancers are unique.
  name = coalesce(var.name, "${substr(var.app_name, 0, 20)}-rs")

  minutes = { for key, schedule in { sync = var.sync_schedule, cleanup = var.cleanup_schedule, expiry = var.auto_expiry_schedule } : key => schedule == null ? null : tonumber(regex("^rate[(]([0-9]+) minutes?[)]$", schedule)[0]) }
  schedules = {
    for name, minutes in { sync_interval_sec = local.minutes.sync, cleanup_interval_sec = local.minutes.cleanup, auto_expiry_interval_sec = local.minutes.expiry } :
    name => minutes * 60 if minutes != null
  }

  # The old service ran for 48 hours unless it was told otherwise.
  settings = merge({ lab_duration_hours = 48 }, local.schedules, var.settings)
}

# The secrets' names end in characters that AWS drew.
data "aws_secretsmanager_secrets" "old" {
  for_each = { api = "broker-api-token", admin = "broker-admin-token", csp = "csp-api-token" }

  filter {
    name   = "name"
    values = ["${var.app_name}-${each.value}-"]
  }

  lifecycle {
    postcondition {
      condition     = length(self.names) == 1
      error_message = "There must be one secret whose name starts with ${var.app_name}-${each.value}-, and there are ${length(self.names)}."
    }
  }
}

# A plan fails here if the table is not where the old service has it, or has another key: nothing may replace it.
data "aws_dynamodb_table" "old" {
  name = "${var.app_name}-pool"

  lifecycle {
    postcondition {
      condition     = self.hash_key == "PK" && self.range_key == "SK"
      error_message = "The table ${var.app_name}-pool has the key ${self.hash_key} + ${self.range_key}, not PK + SK. It cannot be taken over in place."
    }
  }
}

module "broker" {
  source = "../modules/sandbox-broker"

  name                     = local.name
  deletion_protection      = true
  permissions_boundary_arn = var.permissions_boundary_arn

  vpc_cidr           = var.vpc_cidr
  availability_zones = var.availability_zones
  egress             = var.use_old_addresses ? "nat_gateway" : var.egress
  nat_gateway_count  = var.use_old_addresses ? var.old_address_count : 1
  nat_allocation_ids = var.use_old_addresses ? aws_eip.nat[*].id : []

  allowed_cidr_blocks = var.allowed_cidr_blocks
  admin_cidr_blocks   = var.admin_cidr_blocks
  domain_name         = var.domain_name
  zone_id             = var.zone_id
  certificate_arn     = var.certificate_arn == "" ? null : var.certificate_arn # The old file has an empty one.
  allow_plain_http    = var.allow_plain_http

  table_name = data.aws_dynamodb_table.old.name
  # `table adopt` makes the sharded index beside the old one, and the schema item.
  status_index_form = "beside"
  status_shards     = null

  image_tag        = var.image_tag
  image_repository = var.image_repository
  task_cpu         = var.ecs_task_cpu
  task_memory      = var.ecs_task_memory
  min_tasks        = var.ecs_autoscaling_min
  max_tasks        = var.ecs_autoscaling_max

  csp_base_url = var.csp_base_url
  settings     = local.settings

  # The values stay as they are. Rotate them afterwards, as docs/deployment.md says.
  token_versions = { api = 0, admin = 0, csp = 0 }
  secret_names   = { for key, found in data.aws_secretsmanager_secrets.old : key => one(found.names) }

  log_group_name     = "/ecs/${var.app_name}"
  log_retention_days = var.log_retention_days
  alarm_emails       = var.alarm_emails
}

# The addresses that the CSP knows. They serve the old NAT gateways until those are removed.
resource "aws_eip" "nat" {
  count = var.old_address_count

  domain = "vpc"

  lifecycle {
    # An address that is given back is lost.
    ignore_changes  = [tags, tags_all]
    prevent_destroy = true
  }
}
