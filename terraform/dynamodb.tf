# The pool's table. `sandbox-broker table create` creates an equal one; tests/emulated_apply.py compares them.

locals {
  indexes = {
    (var.index_names.status)      = "status"
    (var.index_names.track)       = "allocated_to_track"
    (var.index_names.idempotency) = "idempotency_key"
  }
}

resource "aws_dynamodb_table" "pool" {
  # checkov:skip=CKV_AWS_119:A customer-managed key is an option (kms_key_arn). The table holds no secret, so the default is the key that AWS manages.
  # checkov:skip=CKV2_AWS_16:On-demand billing needs no autoscaling.
  name                        = var.table_name
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "PK"
  range_key                   = "SK"
  deletion_protection_enabled = var.deletion_protection

  attribute {
    name = "PK"
    type = "S"
  }

  attribute {
    name = "SK"
    type = "S"
  }

  attribute {
    name = "allocated_at"
    type = "N"
  }

  dynamic "attribute" {
    for_each = local.indexes

    content {
      name = attribute.value
      type = "S"
    }
  }

  dynamic "global_secondary_index" {
    for_each = local.indexes

    content {
      name            = global_secondary_index.key
      hash_key        = global_secondary_index.value
      range_key       = "allocated_at"
      projection_type = "ALL"
    }
  }

  ttl {
    attribute_name = "ttl"
    enabled        = true
  }

  point_in_time_recovery {
    enabled                 = true
    recovery_period_in_days = 35
  }

  server_side_encryption {
    enabled     = true
    kms_key_arn = var.kms_key_arn
  }
}
