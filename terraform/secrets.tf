# The tokens. Their values are write-only arguments: neither state nor plan nor output ever holds one.
#
# Without a value here the track and the admin token are made from 244 random bits, once. Rotation needs no Terraform:
# README.md tells how a second token is put beside the first. Who passes values in raises tokens_version with them.

resource "aws_secretsmanager_secret" "token" {
  # checkov:skip=CKV_AWS_149:A customer's own key is an option (kms_key_arn); by default it is the key that AWS manages for Secrets Manager.
  # checkov:skip=CKV2_AWS_57:Rotation means two valid tokens for a while and a change at every caller, which a schedule cannot know; README.md tells the steps.
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
