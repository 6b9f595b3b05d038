# The tokens. Their values are write-only arguments, so no state, plan or output holds them.
#
# Terraform writes a value once for each number in token_versions, and labels it `terraform-v<number>`. The label keeps
# Secrets Manager from removing that version after rotations by `put-secret-value`, so that no later apply takes it for
# missing and writes another one. docs/deployment.md has the steps of a rotation.

locals {
  secrets = {
    api   = "Tokens of the track API, comma-separated"
    admin = "Tokens of the admin API, comma-separated"
    csp   = "Token for the CSP's API"
  }

  # 0: the value is written by others.
  written_secrets = toset([for key, version in var.token_versions : key if version > 0])
  secret_labels   = { for key in local.written_secrets : key => "terraform-v${var.token_versions[key]}" }

}

resource "aws_secretsmanager_secret" "token" {
  # checkov:skip=CKV_AWS_149:A customer-managed key is an option (kms_key_arn); the default is the key that AWS manages for Secrets Manager.
  # checkov:skip=CKV2_AWS_57:Rotation needs two valid tokens for some time and a change at every caller, which no schedule can do. docs/deployment.md has the steps.
  for_each = local.secrets

  name        = coalesce(var.secret_names[each.key], "${var.name}/${each.key}-token")
  description = each.value
  kms_key_id  = var.kms_key_arn
  # Without deletion protection, the same name is free again at once.
  recovery_window_in_days = var.deletion_protection ? 7 : 0
}

# The versions of each secret, without their values.
data "aws_secretsmanager_secret_versions" "token" {
  for_each = local.written_secrets

  secret_id = aws_secretsmanager_secret.token[each.key].id
}

locals {
  # The provider answers null for none.
  secret_versions = { for key, found in data.aws_secretsmanager_secret_versions.token : key => found.versions == null ? [] : found.versions }

  # Whether the value of this number was written. If not, it must be given; the first track and admin tokens of a new
  # secret may be generated.
  token_is_written = {
    for key in local.written_secrets : key => anytrue([
      for version in local.secret_versions[key] : contains(version.version_stages, local.secret_labels[key])
    ])
  }
  token_may_be_generated = {
    for key in local.written_secrets : key => key != "csp" && length(local.secret_versions[key]) == 0
  }
}

resource "aws_secretsmanager_secret_version" "api" {
  count = contains(local.written_secrets, "api") ? 1 : 0

  secret_id                = aws_secretsmanager_secret.token["api"].id
  secret_string_wo         = coalesce(var.api_tokens, sha256("${uuid()}${uuid()}"))
  secret_string_wo_version = var.token_versions.api
  version_stages           = ["AWSCURRENT", local.secret_labels.api]

  lifecycle {
    ignore_changes = [version_stages]

    precondition {
      condition     = local.token_is_written.api || local.token_may_be_generated.api || var.api_tokens != null
      error_message = local.token_missing.api
    }
  }
}

resource "aws_secretsmanager_secret_version" "admin" {
  count = contains(local.written_secrets, "admin") ? 1 : 0

  secret_id                = aws_secretsmanager_secret.token["admin"].id
  secret_string_wo         = coalesce(var.admin_tokens, sha256("${uuid()}${uuid()}"))
  secret_string_wo_version = var.token_versions.admin
  version_stages           = ["AWSCURRENT", local.secret_labels.admin]

  lifecycle {
    ignore_changes = [version_stages]

    precondition {
      condition     = local.token_is_written.admin || local.token_may_be_generated.admin || var.admin_tokens != null
      error_message = local.token_missing.admin
    }
  }
}

resource "aws_secretsmanager_secret_version" "csp" {
  count = contains(local.written_secrets, "csp") ? 1 : 0

  secret_id = aws_secretsmanager_secret.token["csp"].id
  # The provider wants a value in every plan, and uses it only to write, for which the precondition demands one.
  secret_string_wo         = coalesce(var.csp_api_token, "not given")
  secret_string_wo_version = var.token_versions.csp
  version_stages           = ["AWSCURRENT", local.secret_labels.csp]

  lifecycle {
    ignore_changes = [version_stages]

    precondition {
      condition     = local.token_is_written.csp || var.csp_api_token != null
      error_message = local.token_missing.csp
    }
  }
}

locals {
  token_variables = { api = "api_tokens", admin = "admin_tokens", csp = "csp_api_token" }
  token_missing = {
    for key in local.written_secrets : key =>
    "Give ${local.token_variables[key]}: the secret ${aws_secretsmanager_secret.token[key].name} has no version with the label ${local.secret_labels[key]}, and Terraform must not make up another value."
  }
}
