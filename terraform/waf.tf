# Optional: rules against well-known attacks, and a rate limit for each address.

resource "aws_wafv2_web_acl" "broker" {
  count = var.waf_enabled ? 1 : 0

  # checkov:skip=CKV_AWS_192:Log4j is a Java library; this program is written in Rust.
  # checkov:skip=CKV2_AWS_31:Sampled requests and metrics are on. Full logs are billed by the gigabyte.
  name        = var.name
  description = "Common attacks and floods"
  scope       = "REGIONAL"

  default_action {
    allow {}
  }

  rule {
    name     = "common"
    priority = 1

    override_action {
      none {}
    }

    statement {
      managed_rule_group_statement {
        vendor_name = "AWS"
        name        = "AWSManagedRulesCommonRuleSet"

        # Lab scripts may send no User-Agent.
        rule_action_override {
          name = "NoUserAgent_HEADER"

          action_to_use {
            count {}
          }
        }
      }
    }

    visibility_config {
      metric_name                = "${var.name}-common"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = true
    }
  }

  rule {
    name     = "rate"
    priority = 2

    action {
      block {}
    }

    statement {
      rate_based_statement {
        limit                 = var.waf_rate_limit
        evaluation_window_sec = 300
        aggregate_key_type    = "IP"
      }
    }

    visibility_config {
      metric_name                = "${var.name}-rate"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = true
    }
  }

  visibility_config {
    metric_name                = var.name
    cloudwatch_metrics_enabled = true
    sampled_requests_enabled   = true
  }
}

resource "aws_wafv2_web_acl_association" "broker" {
  count = var.waf_enabled ? 1 : 0

  resource_arn = aws_lb.broker.arn
  web_acl_arn  = aws_wafv2_web_acl.broker[0].arn
}
