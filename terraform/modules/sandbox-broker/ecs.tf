locals {
  container_port = 8080
  image_registry = "${local.account}.dkr.ecr.${local.region}.${data.aws_partition.current.dns_suffix}"
  image          = var.container_image != null ? var.container_image : "${local.image_registry}/${var.image_repository}:${var.image_tag}"

  # The ARN of the image's repository, if it is in ECR.
  ecr_image          = try(regex("^([0-9]{12})[.]dkr[.]ecr[.]([a-z0-9-]+)[.][a-z.]+/([^:@]+)", local.image), null)
  ecr_repository_arn = local.ecr_image == null ? null : "arn:${data.aws_partition.current.partition}:ecr:${local.ecr_image[1]}:${local.ecr_image[0]}:repository/${local.ecr_image[2]}"

  collector_endpoint = var.otel_collector_enabled ? "http://127.0.0.1:4318" : null

  # The last map wins. It holds what the rest of this configuration determines: the port of the load balancer's target
  # group, the table, and the form of the log that the metric filters read. BROKER_REPLICA_ID stays random, because it
  # must differ between tasks. BROKER_DATA_DIR has no effect with DynamoDB.
  environment = merge(
    { for name, value in var.settings : upper(name) => tostring(value) if value != null },
    var.csp_base_url == null ? {} : { CSP_BASE_URL = var.csp_base_url },
    length(var.cors_allowed_origins) == 0 ? {} : { CORS_ALLOWED_ORIGINS = join(",", var.cors_allowed_origins) },
    local.collector_endpoint == null ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = local.collector_endpoint },
    var.admin_port == null ? {} : { BROKER_ADMIN_PORT = tostring(var.admin_port) },
    {
      AWS_REGION     = local.region
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

  secret_variables = merge(var.more_secrets, {
    BROKER_API_TOKEN   = aws_secretsmanager_secret.token["api"].arn
    BROKER_ADMIN_TOKEN = aws_secretsmanager_secret.token["admin"].arn
    CSP_API_TOKEN      = aws_secretsmanager_secret.token["csp"].arn
  })

  # A log that CloudWatch does not take must not stop the program, so lines wait in a buffer, and are lost when it is full.
  log_options = {
    awslogs-group   = aws_cloudwatch_log_group.broker.name
    awslogs-region  = local.region
    mode            = "non-blocking"
    max-buffer-size = "25m"
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
    portMappings     = [for port in local.target_ports : { containerPort = port, hostPort = port, protocol = "tcp" }]
    environment      = [for name in sort(keys(local.environment)) : { name = name, value = local.environment[name] }]
    secrets          = [for name in sort(keys(local.secret_variables)) : { name = name, valueFrom = local.secret_variables[name] }]
    ulimits          = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    stopTimeout      = var.settings.shutdown_grace_sec + 5
    logConfiguration = { logDriver = "awslogs", options = merge(local.log_options, { awslogs-stream-prefix = "broker" }) }
    # ECS restarts the tasks when Terraform writes a token, because a task reads its tokens when it starts.
    dockerLabels = { tokens = join(",", [for key in sort(keys(local.secrets)) : "${key}=${var.token_versions[key]}"]) }
    healthCheck = {
      command     = ["CMD", "/sandbox-broker", "healthcheck"]
      interval    = 10
      timeout     = 10
      retries     = 5
      startPeriod = 10
    }
  })

  collector_container = merge(local.hardening, {
    name = "collector"
    # A failure of the collector must not stop the broker.
    essential        = false
    image            = var.otel_collector_image
    command          = ["--config=/etc/ecs/ecs-xray.yaml"]
    environment      = [{ name = "AWS_REGION", value = local.region }]
    secrets          = []
    portMappings     = []
    logConfiguration = { logDriver = "awslogs", options = merge(local.log_options, { awslogs-stream-prefix = "collector" }) }
  })

  # The ports of what the tasks call: AWS, the CSP, NIOSXaaS, a collector elsewhere, another DynamoDB.
  called_urls = compact([
    var.csp_base_url, var.settings.niosxaas_base_url, var.settings.otel_exporter_otlp_endpoint, var.settings.ddb_endpoint_url,
  ])
  called_ports = distinct(concat([443], [
    for url in local.called_urls : try(tonumber(regex("^https?://[^/]*:([0-9]+)", url)[0]), startswith(url, "http://") ? 80 : 443)
  ]))
}

resource "aws_ecs_cluster" "main" {
  # checkov:skip=CKV_AWS_65:Container Insights is an option (container_insights), because it costs more than the metrics of the alarms.
  name = var.name

  setting {
    name  = "containerInsights"
    value = var.container_insights ? "enabled" : "disabled"
  }
}

# Otherwise ECS makes it, and keeps it for ever.
resource "aws_cloudwatch_log_group" "insights" {
  count = var.container_insights ? 1 : 0

  # checkov:skip=CKV_AWS_158:It holds metrics of the tasks.
  # checkov:skip=CKV_AWS_338:It holds metrics of the tasks.
  name              = "/aws/ecs/containerinsights/${var.name}/performance"
  retention_in_days = 7
}

resource "aws_ecs_cluster_capacity_providers" "main" {
  cluster_name       = aws_ecs_cluster.main.name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

resource "aws_ecs_task_definition" "broker" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.task_cpu
  memory                   = var.task_memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  # A rollback needs the revision before.
  skip_destroy = true

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
  vpc_id      = local.vpc_id

  tags = { Name = "${var.name}-tasks" }
}

resource "aws_vpc_security_group_ingress_rule" "tasks_from_alb" {
  for_each = toset([for port in local.target_ports : tostring(port)])

  security_group_id            = aws_security_group.tasks.id
  description                  = "Requests and health checks from the load balancer"
  referenced_security_group_id = local.alb_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = tonumber(each.key)
  to_port                      = tonumber(each.key)
}

# The addresses of the CSP are not known, and DynamoDB and S3 have many, so only the ports are restricted.
resource "aws_vpc_security_group_egress_rule" "tasks" {
  for_each = toset([for port in local.called_ports : tostring(port)])

  security_group_id = aws_security_group.tasks.id
  description       = "Calls to AWS and the CSP"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = tonumber(each.key)
  to_port           = tonumber(each.key)
}

resource "aws_ecs_service" "broker" {
  # checkov:skip=CKV_AWS_333:With egress "public_ip" the tasks have public addresses instead of a NAT gateway. Their security group lets only the load balancer in.
  name            = var.name
  cluster         = aws_ecs_cluster.main.id
  task_definition = aws_ecs_task_definition.broker.arn
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

  # One task is always on demand.
  capacity_provider_strategy {
    capacity_provider = "FARGATE"
    base              = 1
    weight            = 100 - var.spot_share
  }

  dynamic "capacity_provider_strategy" {
    for_each = var.spot_share > 0 ? [var.spot_share] : []

    content {
      capacity_provider = "FARGATE_SPOT"
      weight            = capacity_provider_strategy.value
    }
  }

  network_configuration {
    subnets          = local.task_subnet_ids
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = var.egress == "public_ip"
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.broker.arn
    container_name   = local.broker_container.name
    container_port   = local.container_port
  }

  dynamic "load_balancer" {
    for_each = aws_lb_target_group.admin

    content {
      target_group_arn = load_balancer.value.arn
      container_name   = local.broker_container.name
      container_port   = load_balancer.value.port
    }
  }

  # Autoscaling controls the number of tasks.
  lifecycle {
    ignore_changes = [desired_count]
  }

  # A task needs its tokens and a route to AWS before it starts, and a listener before it is registered.
  depends_on = [
    aws_dynamodb_table_item.schema,
    aws_ecs_cluster_capacity_providers.main,
    aws_iam_role_policy.execution,
    aws_iam_role_policy.task,
    aws_lb_listener.http,
    aws_lb_listener.https,
    aws_lb_listener_rule.admin,
    aws_lb_listener_rule.broker,
    aws_lb_listener_rule.hidden,
    aws_route.internet,
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
        ? "${local.alb_arn_suffix}/${aws_lb_target_group.broker.arn_suffix}"
        : null
      )
    }
  }
}
