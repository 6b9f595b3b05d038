output "url" {
  description = "URL of the broker."
  value       = var.domain_name != null ? "https://${var.domain_name}" : "http://${local.alb_dns_name}"
}

output "load_balancer_dns_name" {
  description = "DNS name of the load balancer. Point a CNAME record at it where no zone_id is given."
  value       = local.alb_dns_name
}

output "nat_addresses" {
  description = "Source addresses of calls to the CSP, for its allow list; empty with egress \"public_ip\"."
  value       = aws_nat_gateway.main[*].public_ip
}

output "table_name" {
  description = "Name of the pool's table."
  value       = aws_dynamodb_table.pool.name
}

output "image_repository" {
  description = "Name of the image's ECR repository; null if the image is elsewhere."
  value       = local.ecr_image == null ? null : local.ecr_image[2]
}

output "image_tag" {
  description = "Tag of the image in that repository."
  value       = var.image_tag
}

output "cluster_name" {
  description = "Name of the ECS cluster."
  value       = aws_ecs_cluster.main.name
}

output "service_name" {
  description = "Name of the ECS service."
  value       = aws_ecs_service.broker.name
}

output "token_secret_arns" {
  description = "ARNs of the secrets that hold the track, admin and CSP tokens."
  value       = { for name, secret in aws_secretsmanager_secret.token : name => secret.arn }
}

output "log_group_name" {
  description = "Name of the broker's CloudWatch log group."
  value       = aws_cloudwatch_log_group.broker.name
}

output "alarm_topic_arn" {
  description = "ARN of the SNS topic that receives every alarm."
  value       = aws_sns_topic.alarms.arn
}

output "dashboard_name" {
  description = "Name of the CloudWatch dashboard."
  value       = aws_cloudwatch_dashboard.broker.dashboard_name
}

output "task_definition_arn" {
  description = "ARN of the task definition that the service should run; await-rollout waits for it."
  value       = aws_ecs_task_definition.broker.arn
}

output "setting_names" {
  description = "Names that `settings` takes. Terraform drops other names of an object without a word, so callers compare."
  value       = keys(var.settings)
}
