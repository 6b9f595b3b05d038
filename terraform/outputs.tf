output "url" {
  description = "Where the broker answers; behind a domain of your own, point its CNAME at load_balancer_dns_name."
  value       = "${local.is_https ? "https" : "http"}://${aws_lb.broker.dns_name}"
}

output "load_balancer_dns_name" {
  description = "DNS name of the load balancer."
  value       = aws_lb.broker.dns_name
}

output "nat_addresses" {
  description = "Addresses that the CSP sees; allow them there if it filters."
  value       = aws_eip.nat[*].public_ip
}

output "table_name" {
  description = "Name of the pool's table."
  value       = aws_dynamodb_table.pool.name
}

output "ecr_repository_url" {
  description = "Where images are pushed."
  value       = aws_ecr_repository.broker.repository_url
}

output "cluster_name" {
  description = "ECS cluster, for `aws ecs` commands."
  value       = aws_ecs_cluster.main.name
}

output "service_name" {
  description = "ECS service, for `aws ecs` commands."
  value       = aws_ecs_service.broker.name
}

output "token_secret_arns" {
  description = "ARNs (not values) of the secrets with the track, admin and CSP tokens."
  value       = { for name, secret in aws_secretsmanager_secret.token : name => secret.arn }
}

output "log_group_name" {
  description = "CloudWatch log group of the broker."
  value       = aws_cloudwatch_log_group.broker.name
}

output "alarm_topic_arn" {
  description = "SNS topic that every alarm goes to."
  value       = aws_sns_topic.alarms.arn
}

output "dashboard_name" {
  description = "CloudWatch dashboard."
  value       = aws_cloudwatch_dashboard.broker.dashboard_name
}

output "task_definition_arn" {
  description = "What the service shall run; await-rollout compares."
  value       = aws_ecs_task_definition.broker.arn
}
