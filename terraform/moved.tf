# Resources of a state from before the module. None is made again.

moved {
  from = aws_appautoscaling_policy.tasks
  to   = module.broker.aws_appautoscaling_policy.tasks
}

moved {
  from = aws_appautoscaling_target.tasks
  to   = module.broker.aws_appautoscaling_target.tasks
}

moved {
  from = aws_cloudwatch_dashboard.broker
  to   = module.broker.aws_cloudwatch_dashboard.broker
}

moved {
  from = aws_cloudwatch_log_group.broker
  to   = module.broker.aws_cloudwatch_log_group.broker
}

moved {
  from = aws_cloudwatch_log_metric_filter.broker
  to   = module.broker.aws_cloudwatch_log_metric_filter.broker
}

moved {
  from = aws_cloudwatch_log_metric_filter.job_completed
  to   = module.broker.aws_cloudwatch_log_metric_filter.job_completed
}

moved {
  from = aws_cloudwatch_metric_alarm.breaker_open
  to   = module.broker.aws_cloudwatch_metric_alarm.breaker_open
}

moved {
  from = aws_cloudwatch_metric_alarm.deletion_failed
  to   = module.broker.aws_cloudwatch_metric_alarm.deletion_failed
}

moved {
  from = aws_cloudwatch_metric_alarm.error_rate
  to   = module.broker.aws_cloudwatch_metric_alarm.error_rate
}

moved {
  from = aws_cloudwatch_metric_alarm.job_overdue
  to   = module.broker.aws_cloudwatch_metric_alarm.job_overdue
}

moved {
  from = aws_cloudwatch_metric_alarm.latency
  to   = module.broker.aws_cloudwatch_metric_alarm.latency
}

moved {
  from = aws_cloudwatch_metric_alarm.pool_low
  to   = module.broker.aws_cloudwatch_metric_alarm.pool_low
}

moved {
  from = aws_cloudwatch_metric_alarm.throttled
  to   = module.broker.aws_cloudwatch_metric_alarm.throttled
}

moved {
  from = aws_cloudwatch_metric_alarm.utilization
  to   = module.broker.aws_cloudwatch_metric_alarm.utilization
}

moved {
  from = aws_default_security_group.closed
  to   = module.broker.aws_default_security_group.closed[0]
}

moved {
  from = aws_dynamodb_table.pool
  to   = module.broker.aws_dynamodb_table.pool
}

moved {
  from = aws_ecs_cluster.main
  to   = module.broker.aws_ecs_cluster.main
}

moved {
  from = aws_ecs_service.broker
  to   = module.broker.aws_ecs_service.broker
}

moved {
  from = aws_ecs_task_definition.broker
  to   = module.broker.aws_ecs_task_definition.broker
}

moved {
  from = aws_eip.nat
  to   = module.broker.aws_eip.nat
}

moved {
  from = aws_iam_role.execution
  to   = module.broker.aws_iam_role.execution
}

moved {
  from = aws_iam_role.task
  to   = module.broker.aws_iam_role.task
}

moved {
  from = aws_iam_role_policy.execution
  to   = module.broker.aws_iam_role_policy.execution
}

moved {
  from = aws_iam_role_policy.task
  to   = module.broker.aws_iam_role_policy.task
}

moved {
  from = aws_internet_gateway.main
  to   = module.broker.aws_internet_gateway.main[0]
}

moved {
  from = aws_lb.broker
  to   = module.broker.aws_lb.broker[0]
}

moved {
  from = aws_lb_listener.http
  to   = module.broker.aws_lb_listener.http[0]
}

moved {
  from = aws_lb_listener.https
  to   = module.broker.aws_lb_listener.https
}

moved {
  from = aws_lb_target_group.broker
  to   = module.broker.aws_lb_target_group.broker
}

moved {
  from = aws_nat_gateway.main
  to   = module.broker.aws_nat_gateway.main
}

moved {
  from = aws_route.internet
  to   = module.broker.aws_route.internet[0]
}

moved {
  from = aws_route.nat
  to   = module.broker.aws_route.nat
}

moved {
  from = aws_route_table.private
  to   = module.broker.aws_route_table.private
}

moved {
  from = aws_route_table.public
  to   = module.broker.aws_route_table.public[0]
}

moved {
  from = aws_route_table_association.private
  to   = module.broker.aws_route_table_association.private
}

moved {
  from = aws_route_table_association.public
  to   = module.broker.aws_route_table_association.public
}

moved {
  from = aws_secretsmanager_secret.token
  to   = module.broker.aws_secretsmanager_secret.token
}

moved {
  from = aws_secretsmanager_secret_version.admin
  to   = module.broker.aws_secretsmanager_secret_version.admin[0]
}

moved {
  from = aws_secretsmanager_secret_version.api
  to   = module.broker.aws_secretsmanager_secret_version.api[0]
}

moved {
  from = aws_secretsmanager_secret_version.csp
  to   = module.broker.aws_secretsmanager_secret_version.csp[0]
}

moved {
  from = aws_security_group.alb
  to   = module.broker.aws_security_group.alb[0]
}

moved {
  from = aws_security_group.endpoints
  to   = module.broker.aws_security_group.endpoints[0]
}

moved {
  from = aws_security_group.tasks
  to   = module.broker.aws_security_group.tasks
}

moved {
  from = aws_sns_topic.alarms
  to   = module.broker.aws_sns_topic.alarms
}

moved {
  from = aws_sns_topic_subscription.email
  to   = module.broker.aws_sns_topic_subscription.email
}

moved {
  from = aws_subnet.private
  to   = module.broker.aws_subnet.private
}

moved {
  from = aws_subnet.public
  to   = module.broker.aws_subnet.public
}

moved {
  from = aws_vpc.main
  to   = module.broker.aws_vpc.main[0]
}

moved {
  from = aws_vpc_endpoint.gateway
  to   = module.broker.aws_vpc_endpoint.gateway
}

moved {
  from = aws_vpc_endpoint.interface
  to   = module.broker.aws_vpc_endpoint.interface
}

moved {
  from = aws_vpc_security_group_egress_rule.tasks
  to   = module.broker.aws_vpc_security_group_egress_rule.tasks
}

moved {
  from = aws_vpc_security_group_ingress_rule.alb_http
  to   = module.broker.aws_vpc_security_group_ingress_rule.alb_http
}

moved {
  from = aws_vpc_security_group_ingress_rule.alb_https
  to   = module.broker.aws_vpc_security_group_ingress_rule.alb_https
}

moved {
  from = aws_vpc_security_group_ingress_rule.endpoints_from_vpc
  to   = module.broker.aws_vpc_security_group_ingress_rule.endpoints_from_vpc[0]
}

moved {
  from = aws_wafv2_web_acl.broker
  to   = module.broker.aws_wafv2_web_acl.broker
}

moved {
  from = aws_wafv2_web_acl_association.broker
  to   = module.broker.aws_wafv2_web_acl_association.broker
}

moved {
  from = aws_vpc_security_group_egress_rule.alb_to_tasks
  to   = module.broker.aws_vpc_security_group_egress_rule.alb_to_tasks["8080"]
}

moved {
  from = aws_vpc_security_group_ingress_rule.tasks_from_alb
  to   = module.broker.aws_vpc_security_group_ingress_rule.tasks_from_alb["8080"]
}

# terraform/bootstrap makes the repository now; import it there.
removed {
  from = aws_ecr_repository.broker

  lifecycle {
    destroy = false
  }
}

removed {
  from = aws_ecr_lifecycle_policy.broker

  lifecycle {
    destroy = false
  }
}
