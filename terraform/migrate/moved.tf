# From the addresses in the old state to the module's. The elastic addresses keep theirs.

moved {
  from = aws_dynamodb_table.sandbox_pool
  to   = module.broker.aws_dynamodb_table.pool
}

moved {
  from = aws_cloudwatch_log_group.app
  to   = module.broker.aws_cloudwatch_log_group.broker
}

moved {
  from = aws_secretsmanager_secret.broker_api_token
  to   = module.broker.aws_secretsmanager_secret.token["api"]
}

moved {
  from = aws_secretsmanager_secret.broker_admin_token
  to   = module.broker.aws_secretsmanager_secret.token["admin"]
}

moved {
  from = aws_secretsmanager_secret.csp_api_token
  to   = module.broker.aws_secretsmanager_secret.token["csp"]
}
