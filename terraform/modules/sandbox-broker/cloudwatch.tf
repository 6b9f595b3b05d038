# Log, alarms, dashboard. Metrics that only the broker knows come from its log: each task writes one line of pool stats
# per minute, one line per job run and one line per request. The filters read the field `event`.

resource "aws_cloudwatch_log_group" "broker" {
  # checkov:skip=CKV_AWS_158:A customer-managed key is an option (kms_key_arn). The log holds no secret.
  # checkov:skip=CKV_AWS_338:The requirement is 30 days. log_retention_days changes it.
  name              = coalesce(var.log_group_name, "/ecs/${var.name}")
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = var.kms_key_arn
  # checkov:skip=CKV_AWS_26:CloudWatch cannot publish with the key that AWS manages; kms_key_arn sets one that it can use. An alarm's text holds no secret.
}

resource "aws_sns_topic_subscription" "email" {
  for_each = var.alarm_emails

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.value
}

locals {
  metric_namespace = "SandboxBroker/${var.name}"

  # For each metric, the log lines that match and the value that they add.
  log_metrics = {
    PoolAvailable       = { pattern = "{ $.event = \"pool_stats\" }", value = "$.available" }
    PoolAllocated       = { pattern = "{ $.event = \"pool_stats\" }", value = "$.allocated" }
    PoolPendingDeletion = { pattern = "{ $.event = \"pool_stats\" }", value = "$.pending_deletion" }
    PoolStale           = { pattern = "{ $.event = \"pool_stats\" }", value = "$.stale" }
    PoolDeletionFailed  = { pattern = "{ $.event = \"pool_stats\" }", value = "$.deletion_failed" }
    BreakerOpen         = { pattern = "{ $.event = \"pool_stats\" && $.circuit_breaker = \"open\" }", value = "1" }
    Allocations         = { pattern = "{ $.event = \"request\" && $.action = \"allocate\" && $.status = 201 }", value = "1" }
    # A student who finds none free, by lab in the saved queries.
    NoneAvailable = { pattern = "{ $.event = \"request\" && $.code = \"NO_SANDBOXES_AVAILABLE\" }", value = "1" }
    # The alarm for errors leaves out two kinds of 503: those of students who wait in the queue, and those of a broker that
    # an operator paused.
    Waiting = { pattern = "{ $.event = \"request\" && $.code = \"WAITING\" }", value = "1" }
    Paused  = { pattern = "{ $.event = \"request\" && $.code = \"BROKER_PAUSED\" }", value = "1" }
    # Whoever waits in the queue does not wait for the broker.
    AllocateLatency = { pattern = "{ $.event = \"request\" && $.action = \"allocate\" && $.status = 201 && $.waited_ms NOT EXISTS }", value = "$.latency_ms" }
  }

  # An alarm fires when a job has not succeeded for three intervals. CloudWatch looks back at most seven days, so a job
  # with an interval of more than 56 hours has no such alarm.
  longest_watched_interval = floor(604800 / 3)
  job_intervals = {
    csp-sync        = var.settings.sync_interval_sec
    cleanup         = var.settings.cleanup_interval_sec
    expiry-reaper   = var.settings.auto_expiry_interval_sec
    stale-collector = var.settings.stale_interval_sec
  }
  watched_jobs = { for job, interval in local.job_intervals : job => ceil(interval / 60) * 60 if interval <= local.longest_watched_interval }

  # The throttle metrics of the table and of each index.
  throttle_metrics = merge([
    for index in concat([null], sort(keys(local.indexes))) : {
      for kind in ["Read", "Write"] : lower("${kind}_${index == null ? "table" : local.indexes[index].hash}") => {
        metric     = "${kind}ThrottleEvents"
        dimensions = merge({ TableName = aws_dynamodb_table.pool.name }, index == null ? {} : { GlobalSecondaryIndexName = index })
      }
    }
  ]...)

  # The firewall's 503s may count as the load balancer's, and a flood must neither page nor roll back. Without tasks, when
  # the load balancer answers 503 itself, pool-low fires.
  no_errors = concat(["paused", "waiting"], var.waf_enabled ? ["by_firewall"] : [])

  alb_dimensions     = { LoadBalancer = local.alb_arn_suffix }
  service_dimensions = { ClusterName = aws_ecs_cluster.main.name, ServiceName = aws_ecs_service.broker.name }
}

resource "aws_cloudwatch_log_metric_filter" "broker" {
  for_each = local.log_metrics

  name           = each.key
  log_group_name = aws_cloudwatch_log_group.broker.name
  pattern        = each.value.pattern

  metric_transformation {
    namespace     = local.metric_namespace
    name          = each.key
    value         = each.value.value
    default_value = each.key == "BreakerOpen" ? "0" : null
  }
}

resource "aws_cloudwatch_log_metric_filter" "job_completed" {
  for_each = local.job_intervals

  name           = "job-completed-${each.key}"
  log_group_name = aws_cloudwatch_log_group.broker.name
  pattern        = "{ $.event = \"job_run\" && $.outcome = \"completed\" && $.job = \"${each.key}\" }"

  metric_transformation {
    namespace = local.metric_namespace
    name      = "JobCompleted-${each.key}"
    value     = "1"
  }
}

resource "aws_cloudwatch_metric_alarm" "error_rate" {
  alarm_name          = "${var.name}-error-rate"
  alarm_description   = "More than ${var.alarm_thresholds.error_rate_percent} % of the answers are 5xx, without those of a paused broker and to students who wait."
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.alarm_thresholds.error_rate_percent
  evaluation_periods  = 3
  datapoints_to_alarm = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  # RequestCount omits requests that reached no task. Without tasks there are errors but no requests.
  metric_query {
    id          = "rate"
    label       = "5xx answers, percent"
    expression  = "100 * errors / MAX([errors, FILL(requests, 0)])"
    return_data = true
  }

  metric_query {
    id         = "errors"
    expression = "FILL(by_target, 0) + FILL(by_balancer, 0) - FILL(${join(", 0) - FILL(", local.no_errors)}, 0)"
  }

  dynamic "metric_query" {
    for_each = { paused = "Paused", waiting = "Waiting" }

    content {
      id = metric_query.key

      metric {
        namespace   = local.metric_namespace
        metric_name = metric_query.value
        period      = 60
        stat        = "Sum"
      }
    }
  }

  dynamic "metric_query" {
    for_each = merge(
      {
        requests    = "RequestCount"
        by_target   = "HTTPCode_Target_5XX_Count"
        by_balancer = "HTTPCode_ELB_5XX_Count"
      },
      var.waf_enabled ? { by_firewall = "HTTPCode_ELB_503_Count" } : {},
    )

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/ApplicationELB"
        metric_name = metric_query.value
        dimensions  = local.alb_dimensions
        period      = 60
        stat        = "Sum"
      }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "latency" {
  alarm_name          = "${var.name}-p99-latency"
  alarm_description   = "The p99 of the allocations that did not wait in the queue is above ${var.alarm_thresholds.p99_seconds} s."
  namespace           = local.metric_namespace
  metric_name         = "AllocateLatency"
  extended_statistic  = "p99"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.alarm_thresholds.p99_seconds * 1000
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  depends_on = [aws_cloudwatch_log_metric_filter.broker]
}

resource "aws_cloudwatch_metric_alarm" "pool_low" {
  alarm_name          = "${var.name}-pool-low"
  alarm_description   = "Fewer than ${var.alarm_thresholds.pool_available} sandboxes are available, or no broker reports them."
  namespace           = local.metric_namespace
  metric_name         = "PoolAvailable"
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "LessThanThreshold"
  threshold           = var.alarm_thresholds.pool_available
  treat_missing_data  = "breaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  depends_on = [aws_cloudwatch_log_metric_filter.broker]
}

resource "aws_cloudwatch_metric_alarm" "queue_stands" {
  alarm_name          = "${var.name}-queue-stands"
  alarm_description   = "Students have waited for a sandbox for five minutes."
  namespace           = local.metric_namespace
  metric_name         = "Waiting"
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  depends_on = [aws_cloudwatch_log_metric_filter.broker]
}

resource "aws_cloudwatch_metric_alarm" "deletion_failed" {
  alarm_name          = "${var.name}-deletion-failed"
  alarm_description   = "Sandboxes could not be deleted at the CSP and need an operator."
  namespace           = local.metric_namespace
  metric_name         = "PoolDeletionFailed"
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  depends_on = [aws_cloudwatch_log_metric_filter.broker]
}

resource "aws_cloudwatch_metric_alarm" "breaker_open" {
  alarm_name          = "${var.name}-breaker-open"
  alarm_description   = "The circuit breaker in front of the CSP is open: syncs and deletions are suspended. Allocation continues."
  namespace           = local.metric_namespace
  metric_name         = "BreakerOpen"
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  depends_on = [aws_cloudwatch_log_metric_filter.broker]
}

resource "aws_cloudwatch_metric_alarm" "job_overdue" {
  for_each = local.watched_jobs

  alarm_name          = "${var.name}-${each.key}-overdue"
  alarm_description   = "The job ${each.key} has not succeeded for three intervals: it is paused, it fails, or no broker runs."
  namespace           = local.metric_namespace
  metric_name         = "JobCompleted-${each.key}"
  statistic           = "Sum"
  period              = each.value
  evaluation_periods  = 3
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  depends_on = [aws_cloudwatch_log_metric_filter.job_completed]
}

resource "aws_cloudwatch_metric_alarm" "throttled" {
  alarm_name          = "${var.name}-throttled"
  alarm_description   = "DynamoDB throttles the table or one of its indexes."
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 3
  datapoints_to_alarm = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  metric_query {
    id          = "throttled"
    label       = "Throttled requests"
    expression  = "SUM(METRICS())"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = local.throttle_metrics

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/DynamoDB"
        metric_name = metric_query.value.metric
        dimensions  = metric_query.value.dimensions
        period      = 60
        stat        = "Sum"
      }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "utilization" {
  for_each = {
    CPUUtilization    = var.alarm_thresholds.cpu_percent
    MemoryUtilization = var.alarm_thresholds.memory_percent
  }

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.key} of the service is above ${each.value} % despite autoscaling."
  namespace           = "AWS/ECS"
  metric_name         = each.key
  dimensions          = local.service_dimensions
  statistic           = "Average"
  period              = 60
  evaluation_periods  = 10
  datapoints_to_alarm = 8
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}

locals {
  alb_metric   = ["AWS/ApplicationELB", "LoadBalancer", local.alb_arn_suffix]
  ecs_metric   = ["AWS/ECS", "ClusterName", aws_ecs_cluster.main.name, "ServiceName", aws_ecs_service.broker.name]
  table_metric = ["AWS/DynamoDB", "TableName", aws_dynamodb_table.pool.name]

  # Each graph has a title, a statistic, and metrics as namespace, name and dimensions.
  graphs = [
    {
      title   = "Pool by status"
      stat    = "Maximum"
      metrics = [for name in ["PoolAvailable", "PoolAllocated", "PoolPendingDeletion", "PoolStale", "PoolDeletionFailed"] : [local.metric_namespace, name]]
    },
    {
      title   = "Allocations, waiting, none available, refused while paused"
      stat    = "Sum"
      metrics = [for name in ["Allocations", "Waiting", "NoneAvailable", "Paused"] : [local.metric_namespace, name]]
    },
    {
      title   = "Allocation latency, p99 (ms)"
      stat    = "p99"
      metrics = [[local.metric_namespace, "AllocateLatency"]]
    },
    {
      title   = "Answers"
      stat    = "Sum"
      metrics = [for name in ["HTTPCode_Target_2XX_Count", "HTTPCode_Target_4XX_Count", "HTTPCode_Target_5XX_Count", "HTTPCode_ELB_5XX_Count"] : concat([local.alb_metric[0], name], slice(local.alb_metric, 1, 3))]
    },
    {
      title   = "Jobs completed"
      stat    = "Sum"
      metrics = [for job in sort(keys(local.job_intervals)) : [local.metric_namespace, "JobCompleted-${job}"]]
    },
    {
      title   = "Circuit breaker open"
      stat    = "Maximum"
      metrics = [[local.metric_namespace, "BreakerOpen"]]
    },
    {
      title   = "Tasks: CPU and memory (%)"
      stat    = "Average"
      metrics = [for name in ["CPUUtilization", "MemoryUtilization"] : concat([local.ecs_metric[0], name], slice(local.ecs_metric, 1, 5))]
    },
    {
      title   = "Table: consumed capacity"
      stat    = "Sum"
      metrics = [for name in ["ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits"] : concat([local.table_metric[0], name], slice(local.table_metric, 1, 3))]
    },
    {
      title   = "Throttled: table and indexes"
      stat    = "Sum"
      metrics = [for throttled in values(local.throttle_metrics) : concat(["AWS/DynamoDB", throttled.metric], flatten([for name in sort(keys(throttled.dimensions)) : [name, throttled.dimensions[name]]]))]
    },
  ]
}

resource "aws_cloudwatch_dashboard" "broker" {
  dashboard_name = var.name

  dashboard_body = jsonencode({
    widgets = [
      for index, graph in local.graphs : {
        type   = "metric"
        x      = index % 2 * 12
        y      = floor(index / 2) * 6
        width  = 12
        height = 6
        properties = {
          title   = graph.title
          region  = local.region
          stat    = graph.stat
          period  = 60
          view    = "timeSeries"
          metrics = graph.metrics
        }
      }
    ]
  })
}

# Saved queries of Logs Insights. Each also works on the lines of one task or one lab: add a filter.
locals {
  queries = {
    "requests that failed"         = "filter event = 'request' and status >= 400 and (not ispresent(code) or code not in ['WAITING', 'BROKER_PAUSED'])\n| fields @timestamp, status, code, action, track_id, instruqt_track_id, request_id\n| sort @timestamp desc\n| limit 200"
    "waiting or none, by lab"      = "filter event = 'request' and code in ['WAITING', 'NO_SANDBOXES_AVAILABLE']\n| stats count() as answers, count_distinct(track_id) as students by instruqt_track_id, code\n| sort answers desc"
    "one student"                  = "filter event = 'request' and track_id = 'STUDENT'\n| fields @timestamp, action, status, code, sandbox_id, request_id\n| sort @timestamp asc\n| limit 1000"
    "one sandbox"                  = "filter sandbox_id = 'SANDBOX'\n| fields @timestamp, event, action, status, outcome, track_id, operator\n| sort @timestamp asc\n| limit 1000"
    "moves of one sandbox"         = "filter event = 'sandbox_changed' and sandbox_id = 'SANDBOX'\n| fields @timestamp, from, to, by\n| sort @timestamp asc\n| limit 1000"
    "allocation latency by minute" = "filter event = 'request' and action = 'allocate' and status in [200, 201]\n| fields latency_ms - coalesce(waited_ms, 0) as took_ms\n| stats count() as allocations, count(waited_ms) as waited, pct(took_ms, 50) as p50, pct(took_ms, 99) as p99 by bin(1m)"
    "job runs that failed"         = "filter event = 'job_run' and outcome != 'completed'\n| fields @timestamp, job, outcome, error\n| sort @timestamp desc\n| limit 200"
  }
}

resource "aws_cloudwatch_query_definition" "broker" {
  for_each = local.queries

  name            = "${var.name}/${each.key}"
  log_group_names = [aws_cloudwatch_log_group.broker.name]
  query_string    = each.value
}

resource "aws_budgets_budget" "month" {
  count = var.monthly_budget_usd == null ? 0 : 1

  name         = var.name
  budget_type  = "COST"
  limit_amount = tostring(var.monthly_budget_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  notification {
    comparison_operator        = "GREATER_THAN"
    notification_type          = "FORECASTED"
    threshold                  = 100
    threshold_type             = "PERCENTAGE"
    subscriber_email_addresses = var.alarm_emails
  }
}
