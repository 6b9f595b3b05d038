locals {
  container_port = 8080
  image          = var.container_image != null ? var.container_image : "${aws_ecr_repository.broker.repository_url}:${var.image_tag}"

  collector_endpoint = var.otel_collector_enabled ? "http://127.0.0.1:4318" : null

  # The last map wins. It holds what the rest of this configuration determines: the port of the load balancer's target
  # group, the table, and the form of the log that the metric filters read. BROKER_REPLICA_ID stays random, because it
  # must differ between tasks. BROKER_DATA_DIR has no effect with DynamoDB.
  environment = merge(
    { for name, value in var.settings : upper(name) => tostring(value) if value != null },
    var.csp_base_url == null ? {} : { CSP_BASE_URL = var.csp_base_url },
    length(var.cors_allowed_origins) == 0 ? {} : { CORS_ALLOWED_ORIGINS = join(",", var.cors_allowed_origins) },
    local.collector_endpoint == null ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = local.collector_endpoint },
    {
      AWS_REGION     = var.region
      BROKER_HOST    = "0.0.0.0"
      BROKER_PORT    = tostring(local.container_port)
      BROKER_STORE   = "dynamodb"
      DDB_TABLE_NAME = aws_dynamodb_table.pool.name
      DDB_GSI1_NAME  = var.index_names.status
      DDB_GSI2_NAME  = var.index_names.track
      DDB_GSI3_NAME  = var.index_names.idempotency
      LOG_FORMAT     = "json"
    },
  )

  secrets = {
    BROKER_API_TOKEN   = aws_secretsmanager_secret.token["api"].arn
    BROKER_ADMIN_TOKEN = aws_secretsmanager_secret.token["admin"].arn
    CSP_API_TOKEN      = aws_secretsmanager_secret.token["csp"].arn
  }

  log_options = {
    awslogs-group  = aws_cloudwatch_log_group.broker.name
    awslogs-region = var.region
  }

  # No container can write to its disk, use a capability or run as root.
  hardening = {
    essential              = true
    user                   = "65532:65532"
    readonlyRootFilesystem = true
    privileged             = false
    linuxParameters        = { capabilities = { add = [], drop = ["ALL"] } }
    mountPoints            = []
    volumesFrom            = []
    systemControls         = []
  }

  broker_container = merge(local.hardening, {
    name             = "broker"
    image            = local.image
    portMappings     = [{ containerPort = local.container_port, hostPort = local.container_port, protocol = "tcp" }]
    environment      = [for name in sort(keys(local.environment)) : { name = name, value = local.environment[name] }]
    secrets          = [for name in sort(keys(local.secrets)) : { name = name, valueFrom = local.secrets[name] }]
    ulimits          = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    stopTimeout      = var.settings.shutdown_grace_sec + 5
    logConfiguration = { logDriver = "awslogs", options = merge(local.log_options, { awslogs-stream-prefix = "broker" }) }
    healthCheck = {
      command     = ["CMD", "/sandbox-broker", "healthcheck"]
      interval    = 10
      timeout     = 5
      retries     = 3
      startPeriod = 10
    }
  })

  collector_container = merge(local.hardening, {
    name = "collector"
    # A failure of the collector must not stop the broker.
    essential        = false
    image            = var.otel_collector_image
    command          = ["--config=/etc/ecs/ecs-xray.yaml"]
    environment      = [{ name = "AWS_REGION", value = var.region }]
    secrets          = []
    portMappings     = []
    logConfiguration = { logDriver = "awslogs", options = merge(local.log_options, { awslogs-stream-prefix = "collector" }) }
  })

  csp_port = try(tonumber(regex("^https?://[^/:]+:([0-9]+)", var.csp_base_url)[0]), startswith(coalesce(var.csp_base_url, "https://"), "http://") ? 80 : 443)
}

resource "aws_ecs_cluster" "main" {
  name = var.name

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_task_definition" "broker" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.task_cpu
  memory                   = var.task_memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  container_definitions = jsonencode(concat(
    [local.broker_container],
    [for container in [local.collector_container] : container if var.otel_collector_enabled],
  ))
}

resource "aws_security_group" "tasks" {
  name        = "${var.name}-tasks"
  description = "Broker tasks: requests from the load balancer; AWS and the CSP"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${var.name}-tasks" }
}

resource "aws_vpc_security_group_ingress_rule" "tasks_from_alb" {
  security_group_id            = aws_security_group.tasks.id
  description                  = "Requests and health checks from the load balancer"
  referenced_security_group_id = aws_security_group.alb.id
  ip_protocol                  = "tcp"
  from_port                    = local.container_port
  to_port                      = local.container_port
}

# The addresses of the CSP are not known, and DynamoDB and S3 have many, so only the ports are restricted.
resource "aws_vpc_security_group_egress_rule" "tasks" {
  for_each = toset([for port in distinct([443, local.csp_port]) : tostring(port)])

  security_group_id = aws_security_group.tasks.id
  description       = "Calls to AWS and the CSP"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = tonumber(each.key)
  to_port           = tonumber(each.key)
}

resource "aws_ecs_service" "broker" {
  name            = var.name
  cluster         = aws_ecs_cluster.main.id
  task_definition = aws_ecs_task_definition.broker.arn
  launch_type     = "FARGATE"
  desired_count   = var.min_tasks
  propagate_tags  = "SERVICE"

  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 30

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  # Also roll back a version that starts and then fails.
  alarms {
    enable      = true
    rollback    = true
    alarm_names = [aws_cloudwatch_metric_alarm.error_rate.alarm_name]
  }

  network_configuration {
    subnets          = aws_subnet.private[*].id
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.broker.arn
    container_name   = local.broker_container.name
    container_port   = local.container_port
  }

  # Autoscaling controls the number of tasks.
  lifecycle {
    ignore_changes = [desired_count]
  }

  # A task needs its tokens and a route to AWS before it starts, and a listener before it is registered.
  depends_on = [
    aws_iam_role_policy.execution,
    aws_iam_role_policy.task,
    aws_lb_listener.http,
    aws_lb_listener.https,
    aws_route.nat,
    aws_secretsmanager_secret_version.admin,
    aws_secretsmanager_secret_version.api,
    aws_secretsmanager_secret_version.csp,
    aws_vpc_endpoint.gateway,
    aws_vpc_endpoint.interface,
  ]
}

resource "aws_appautoscaling_target" "tasks" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.main.name}/${aws_ecs_service.broker.name}"
  min_capacity       = var.min_tasks
  max_capacity       = var.max_tasks
}

resource "aws_appautoscaling_policy" "tasks" {
  for_each = {
    ECSServiceAverageCPUUtilization    = 70
    ECSServiceAverageMemoryUtilization = 80
    ALBRequestCountPerTarget           = var.requests_per_task
  }

  name               = each.key
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.tasks.service_namespace
  scalable_dimension = aws_appautoscaling_target.tasks.scalable_dimension
  resource_id        = aws_appautoscaling_target.tasks.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = each.value
    scale_out_cooldown = 60
    scale_in_cooldown  = 300

    predefined_metric_specification {
      predefined_metric_type = each.key
      resource_label = (
        each.key == "ALBRequestCountPerTarget"
        ? "${aws_lb.broker.arn_suffix}/${aws_lb_target_group.broker.arn_suffix}"
        : null
      )
    }
  }
}
