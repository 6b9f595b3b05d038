# Optional: rules against well-known attacks, and a rate limit for each address that sends no plausible token. The broker
# itself limits callers with a token, by token and student, because a class may share one address.

resource "aws_wafv2_ip_set" "exempt" {
  count = var.waf_enabled && length(var.waf_exempt_cidr_blocks) > 0 ? 1 : 0

  name               = "${var.name}-exempt"
  description        = "Networks without a rate limit"
  scope              = "REGIONAL"
  ip_address_version = "IPV4"
  addresses          = var.waf_exempt_cidr_blocks
}

resource "aws_wafv2_regex_pattern_set" "token" {
  count = var.waf_enabled ? 1 : 0

  name        = "${var.name}-token"
  description = "An Authorization header as the broker takes it"
  scope       = "REGIONAL"

  regular_expression {
    regex_string = "^[Bb]earer [!-~]{32,200}$"
  }
}

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

  # Rules in the order of their priority. What allows ends the evaluation.
  dynamic "rule" {
    for_each = aws_wafv2_ip_set.exempt

    content {
      name     = "exempt"
      priority = 0

      action {
        allow {}
      }

      statement {
        ip_set_reference_statement {
          arn = rule.value.arn
        }
      }

      visibility_config {
        metric_name                = "${var.name}-exempt"
        cloudwatch_metrics_enabled = true
        sampled_requests_enabled   = true
      }
    }
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

    # Lab scripts repeat 503, and give up on others.
    action {
      block {
        custom_response {
          response_code = 503

          response_header {
            name  = "retry-after"
            value = "10"
          }
        }
      }
    }

    statement {
      rate_based_statement {
        limit                 = var.waf_rate_limit
        evaluation_window_sec = 300
        aggregate_key_type    = "IP"

        scope_down_statement {
          not_statement {
            statement {
              regex_pattern_set_reference_statement {
                arn = aws_wafv2_regex_pattern_set.token[0].arn

                field_to_match {
                  single_header {
                    name = "authorization"
                  }
                }

                text_transformation {
                  priority = 0
                  type     = "NONE"
                }
              }
            }
          }
        }
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
  count = var.waf_enabled && local.makes_alb ? 1 : 0

  resource_arn = local.alb_arn
  web_acl_arn  = aws_wafv2_web_acl.broker[0].arn
}
