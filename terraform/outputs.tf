output "url" {
  description = "URL of the broker."
  value       = module.broker.url

  precondition {
    condition     = length(setsubtract(keys(var.settings), module.broker.setting_names)) == 0
    error_message = "settings has names that no setting has: ${join(", ", setsubtract(keys(var.settings), module.broker.setting_names))}. docs/reference/settings.md lists them; what has a variable of its own is not among them."
  }
}

output "load_balancer_dns_name" {
  description = "DNS name of the load balancer. Point a CNAME record at it where no zone_id is given."
  value       = module.broker.load_balancer_dns_name
}

output "nat_addresses" {
  description = "Source addresses of calls to the CSP, for its allow list; empty with egress \"public_ip\"."
  value       = module.broker.nat_addresses
}

output "table_name" {
  description = "Name of the pool's table."
  value       = module.broker.table_name
}

output "image_repository" {
  description = "Name of the image's ECR repository; null if the image is elsewhere."
  value       = module.broker.image_repository
}

output "image_tag" {
  description = "Tag of the image in that repository."
  value       = module.broker.image_tag
}

output "cluster_name" {
  description = "Name of the ECS cluster."
  value       = module.broker.cluster_name
}

output "service_name" {
  description = "Name of the ECS service."
  value       = module.broker.service_name
}

output "token_secret_arns" {
  description = "ARNs of the secrets that hold the track, admin and CSP tokens."
  value       = module.broker.token_secret_arns
}

output "log_group_name" {
  description = "Name of the broker's CloudWatch log group."
  value       = module.broker.log_group_name
}

output "alarm_topic_arn" {
  description = "ARN of the SNS topic that receives every alarm."
  value       = module.broker.alarm_topic_arn
}

output "dashboard_name" {
  description = "Name of the CloudWatch dashboard."
  value       = module.broker.dashboard_name
}

output "task_definition_arn" {
  description = "ARN of the task definition that the service should run; await-rollout waits for it."
  value       = module.broker.task_definition_arn
}
