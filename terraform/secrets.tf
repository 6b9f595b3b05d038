# The tokens. Their values are write-only arguments, so no state, plan or output holds them.
#
# Track and admin tokens that are not passed in are generated once, from 244 random bits. Rotation needs no Terraform;
# README.md has the steps. To write tokens that are passed in, raise tokens_version.

resource "aws_secretsmanager_secret" "token" {
  # checkov:skip=CKV_AWS_149:A customer-managed key is an option (kms_key_arn); the default is the key that AWS manages for Secrets Manager.
  # checkov:skip=CKV2_AWS_57:Rotation needs two valid tokens for some time and a change at every caller, which no schedule can do. README.md has the steps.
  for_each = {
    api   = "Tokens of the track API, comma-separated"
    admin = "Tokens of the admin API, comma-separated"
    csp   = "Token for the CSP's API"
  }

  name                    = "${var.name}/${each.key}-token"
  description             = each.value
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = 7
}

resource "aws_secretsmanager_secret_version" "api" {
  secret_id                = aws_secretsmanager_secret.token["api"].id
  secret_string_wo         = coalesce(var.api_tokens, sha256("${uuid()}${uuid()}"))
  secret_string_wo_version = var.tokens_version
}

resource "aws_secretsmanager_secret_version" "admin" {
  secret_id                = aws_secretsmanager_secret.token["admin"].id
  secret_string_wo         = coalesce(var.admin_tokens, sha256("${uuid()}${uuid()}"))
  secret_string_wo_version = var.tokens_version
}

resource "aws_secretsmanager_secret_version" "csp" {
  secret_id                = aws_secretsmanager_secret.token["csp"].id
  secret_string_wo         = var.csp_api_token
  secret_string_wo_version = var.tokens_version
}
