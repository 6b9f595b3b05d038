output "url" {
  description = "URL of the broker."
  value       = module.broker.url
}

output "load_balancer_dns_name" {
  description = "DNS name of the new load balancer."
  value       = module.broker.load_balancer_dns_name
}

output "table_name" {
  description = "Name of the table, the old one."
  value       = module.broker.table_name
}

output "cluster_name" {
  description = "Name of the ECS cluster."
  value       = module.broker.cluster_name
}

output "service_name" {
  description = "Name of the ECS service."
  value       = module.broker.service_name
}

output "task_definition_arn" {
  description = "ARN of the task definition that the service should run."
  value       = module.broker.task_definition_arn
}

output "token_secret_arns" {
  description = "ARNs of the secrets, the old ones."
  value       = module.broker.token_secret_arns
}

output "log_group_name" {
  description = "Name of the log group, the old one."
  value       = module.broker.log_group_name
}

output "image_repository" {
  description = "Name of the image's ECR repository."
  value       = module.broker.image_repository
}

output "image_tag" {
  description = "Tag of the image."
  value       = module.broker.image_tag
}
