# The pool's table. `sandbox-broker table create` creates an equal one; tests/emulated_apply.py compares them.

locals {
  indexes = {
    (var.index_names.status)      = { hash = "status_shard", range = "shard_at" }
    (var.index_names.track)       = { hash = "allocated_to_track", range = "allocated_at" }
    (var.index_names.idempotency) = { hash = "idempotency_key", range = "allocated_at" }
  }

  table_attributes = merge(
    { PK = "S", SK = "S" },
    { for index in values(local.indexes) : index.hash => "S" },
    { for range in distinct(values(local.indexes)[*].range) : range => "N" },
  )
}

resource "aws_dynamodb_table" "pool" {
  # checkov:skip=CKV_AWS_119:A customer-managed key is an option (kms_key_arn). The table holds no secret, so the default is the key that AWS manages.
  # checkov:skip=CKV2_AWS_16:On-demand billing needs no autoscaling.
  name                        = var.table_name
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "PK"
  range_key                   = "SK"
  deletion_protection_enabled = var.deletion_protection

  dynamic "attribute" {
    for_each = local.table_attributes

    content {
      name = attribute.key
      type = attribute.value
    }
  }

  dynamic "global_secondary_index" {
    for_each = local.indexes

    content {
      name            = global_secondary_index.key
      hash_key        = global_secondary_index.value.hash
      range_key       = global_secondary_index.value.range
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

  lifecycle {
    # The provider changes an index's key by deleting the index, and brokers cannot work without it. The program's `table`
    # commands change the indexes of a table that exists.
    ignore_changes = [attribute, global_secondary_index]
  }
}

# The item without which no broker serves a table. A table that was adopted or restored has it already.
resource "aws_dynamodb_table_item" "schema" {
  count = var.status_shards == null ? 0 : 1

  table_name = aws_dynamodb_table.pool.name
  hash_key   = aws_dynamodb_table.pool.hash_key
  range_key  = aws_dynamodb_table.pool.range_key

  item = jsonencode({
    PK     = { S = "CTRL#schema" }
    SK     = { S = "META" }
    form   = { N = "2" }
    shards = { N = tostring(var.status_shards) }
  })

  lifecycle {
    # `table reshard` changes it.
    ignore_changes = [item]

    # With this item, brokers would serve a table whose items they cannot read.
    precondition {
      condition     = anytrue([for index in aws_dynamodb_table.pool.global_secondary_index : index.name == var.index_names.status && index.hash_key == "status_shard"])
      error_message = "The table ${var.table_name} has an older form. Stop what writes to it, run `sandbox-broker table adopt`, then set status_shards = null."
    }
  }
}
