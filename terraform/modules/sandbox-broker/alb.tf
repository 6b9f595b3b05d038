# The load balancer, or rules on a listener that is there. Admin API, console and metrics are forwarded from
# admin_cidr_blocks only; other callers get 404, as for any path that does not exist.

locals {
  makes_alb = var.shared_listener == null
  is_https  = !local.makes_alb || var.certificate_arn != null || local.makes_certificate

  makes_certificate = local.makes_alb && var.certificate_arn == null && var.zone_id != null
  certificate_arn   = local.makes_certificate ? aws_acm_certificate_validation.broker[0].certificate_arn : var.certificate_arn

  alb_arn               = local.makes_alb ? aws_lb.broker[0].arn : data.aws_lb.shared[0].arn
  alb_arn_suffix        = local.makes_alb ? aws_lb.broker[0].arn_suffix : data.aws_lb.shared[0].arn_suffix
  alb_dns_name          = local.makes_alb ? aws_lb.broker[0].dns_name : data.aws_lb.shared[0].dns_name
  alb_zone_id           = local.makes_alb ? aws_lb.broker[0].zone_id : data.aws_lb.shared[0].zone_id
  alb_security_group_id = local.makes_alb ? aws_security_group.alb[0].id : var.shared_listener.security_group_id
  listener_arn          = local.makes_alb ? one(concat(aws_lb_listener.https[*].arn, local.is_https ? [] : aws_lb_listener.http[*].arn)) : var.shared_listener.arn
  listener_host         = local.makes_alb ? null : var.domain_name

  target_ports = concat([local.container_port], var.admin_port[*])

  # The console and everything that needs an admin token. /v1/docs is public.
  admin_paths = ["/v1/admin*", "/console*", "/metrics*"]
  # A rule takes five values of conditions in all: these paths, the host of a shared listener, and what remains for
  # networks.
  admin_networks = chunklist(sort(tolist(var.admin_cidr_blocks)), local.makes_alb ? 2 : 1)
  first_priority = local.makes_alb ? 1 : var.shared_listener.first_priority
}

data "aws_lb" "shared" {
  count = local.makes_alb ? 0 : 1

  arn = var.shared_listener.load_balancer_arn
}

resource "aws_security_group" "alb" {
  count = local.makes_alb ? 1 : 0

  name        = "${var.name}-alb"
  description = "Load balancer: HTTP and HTTPS from the world, requests to the tasks"
  vpc_id      = local.vpc_id

  tags = { Name = "${var.name}-alb" }
}

resource "aws_vpc_security_group_ingress_rule" "alb_http" {
  # checkov:skip=CKV_AWS_260:Labs run on any network, and with a certificate this port only redirects. Without one, allowed_cidr_blocks refuses the world.
  for_each = local.makes_alb ? var.allowed_cidr_blocks : toset([])

  security_group_id = aws_security_group.alb[0].id
  description       = local.is_https ? "HTTP, redirected to HTTPS" : "HTTP"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
}

resource "aws_vpc_security_group_ingress_rule" "alb_https" {
  for_each = local.makes_alb && local.is_https ? var.allowed_cidr_blocks : toset([])

  security_group_id = aws_security_group.alb[0].id
  description       = "HTTPS"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "alb_to_tasks" {
  for_each = local.makes_alb ? toset([for port in local.target_ports : tostring(port)]) : toset([])

  security_group_id            = aws_security_group.alb[0].id
  description                  = "Requests and health checks to the tasks"
  referenced_security_group_id = aws_security_group.tasks.id
  ip_protocol                  = "tcp"
  from_port                    = tonumber(each.key)
  to_port                      = tonumber(each.key)
}

resource "aws_lb" "broker" {
  count = local.makes_alb ? 1 : 0

  # checkov:skip=CKV_AWS_91:Access logs are an option (access_logs).
  # checkov:skip=CKV_AWS_150:Deletion protection is a variable (deletion_protection), on by default.
  # checkov:skip=CKV2_AWS_76:Log4j is a Java library; this program is written in Rust.
  # checkov:skip=CKV2_AWS_28:The firewall is an option (waf_enabled); the broker has its own rate limits.
  # checkov:skip=CKV2_AWS_20:With a certificate, HTTP is redirected; without one, this is a trial.
  name                       = var.name
  load_balancer_type         = "application"
  security_groups            = [aws_security_group.alb[0].id]
  subnets                    = local.public_subnet_ids
  drop_invalid_header_fields = true
  enable_deletion_protection = var.deletion_protection
  # More than the 50 s that an allocation may wait in the queue; less than the broker's 75 s, so that the broker never
  # closes a connection first.
  idle_timeout = 65

  dynamic "access_logs" {
    for_each = aws_s3_bucket_policy.access_logs

    content {
      bucket  = access_logs.value.bucket
      prefix  = var.name
      enabled = true
    }
  }

  # A public load balancer needs the internet gateway from its creation to its deletion.
  depends_on = [aws_internet_gateway.main]
}

resource "aws_lb_target_group" "broker" {
  # checkov:skip=CKV_AWS_378:TLS ends at the load balancer. Behind it is one security group that admits only the load balancer.
  name        = var.name
  vpc_id      = local.vpc_id
  target_type = "ip"
  protocol    = "HTTP"
  port        = local.container_port
  # A task that ends answers first those who wait in the queue, up to 50 s. ECS sends SIGTERM after this delay.
  deregistration_delay = 60

  # Not /readyz: while DynamoDB does not answer, it fails on all tasks at once, and replacing them helps nobody. Monitors
  # read it.
  health_check {
    path                = "/healthz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_target_group" "admin" {
  # checkov:skip=CKV_AWS_378:TLS ends at the load balancer, as above.
  count = var.admin_port == null ? 0 : 1

  name                 = "${var.name}-admin"
  vpc_id               = local.vpc_id
  target_type          = "ip"
  protocol             = "HTTP"
  port                 = var.admin_port
  deregistration_delay = 60

  # The probes are on the broker's first port.
  health_check {
    path                = "/healthz"
    port                = tostring(local.container_port)
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "http" {
  count = local.makes_alb ? 1 : 0

  # checkov:skip=CKV_AWS_2:With a certificate, this listener only redirects; without one, this is a trial.
  # checkov:skip=CKV_AWS_103:This listener does not use TLS, for the same reason.
  load_balancer_arn = aws_lb.broker[0].arn
  protocol          = "HTTP"
  port              = 80

  dynamic "default_action" {
    for_each = local.is_https ? ["redirect"] : []

    content {
      type = "redirect"

      redirect {
        protocol    = "HTTPS"
        port        = "443"
        status_code = "HTTP_301"
      }
    }
  }

  dynamic "default_action" {
    for_each = local.is_https ? [] : ["forward"]

    content {
      type             = "forward"
      target_group_arn = aws_lb_target_group.broker.arn
    }
  }
}

resource "aws_lb_listener" "https" {
  count = local.makes_alb && local.is_https ? 1 : 0

  load_balancer_arn = aws_lb.broker[0].arn
  protocol          = "HTTPS"
  port              = 443
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = local.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.broker.arn
  }
}

resource "aws_lb_listener_rule" "admin" {
  count = length(local.admin_networks)

  listener_arn = local.listener_arn
  priority     = local.first_priority + count.index

  action {
    type             = "forward"
    target_group_arn = one(concat(aws_lb_target_group.admin[*].arn, var.admin_port == null ? [aws_lb_target_group.broker.arn] : []))
  }

  condition {
    path_pattern {
      values = local.admin_paths
    }
  }

  condition {
    source_ip {
      values = local.admin_networks[count.index]
    }
  }

  dynamic "condition" {
    for_each = local.listener_host[*]

    content {
      host_header {
        values = [condition.value]
      }
    }
  }
}

resource "aws_lb_listener_rule" "hidden" {
  listener_arn = local.listener_arn
  priority     = local.first_priority + 80

  action {
    type = "fixed-response"

    fixed_response {
      content_type = "application/json"
      status_code  = "404"
      message_body = jsonencode({ error = { code = "NOT_FOUND", message = "There is no such path." } })
    }
  }

  condition {
    path_pattern {
      values = local.admin_paths
    }
  }

  dynamic "condition" {
    for_each = local.listener_host[*]

    content {
      host_header {
        values = [condition.value]
      }
    }
  }
}

# A shared listener forwards only this host's requests.
resource "aws_lb_listener_rule" "broker" {
  count = local.makes_alb ? 0 : 1

  listener_arn = local.listener_arn
  priority     = local.first_priority + 81

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.broker.arn
  }

  condition {
    host_header {
      values = [var.domain_name]
    }
  }
}

# The certificate and the domain's address.

resource "aws_acm_certificate" "broker" {
  count = local.makes_certificate ? 1 : 0

  domain_name       = var.domain_name
  validation_method = "DNS"

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_route53_record" "certificate" {
  count = local.makes_certificate ? 1 : 0

  zone_id         = var.zone_id
  name            = one(aws_acm_certificate.broker[0].domain_validation_options).resource_record_name
  type            = one(aws_acm_certificate.broker[0].domain_validation_options).resource_record_type
  records         = [one(aws_acm_certificate.broker[0].domain_validation_options).resource_record_value]
  ttl             = 300
  allow_overwrite = true
}

resource "aws_acm_certificate_validation" "broker" {
  count = local.makes_certificate ? 1 : 0

  certificate_arn         = aws_acm_certificate.broker[0].arn
  validation_record_fqdns = aws_route53_record.certificate[*].fqdn
}

resource "aws_route53_record" "broker" {
  count = var.zone_id == null ? 0 : 1

  # checkov:skip=CKV2_AWS_23:It is an alias of the load balancer, which may be a shared one.
  zone_id = var.zone_id
  name    = var.domain_name
  type    = "A"

  alias {
    name                   = local.alb_dns_name
    zone_id                = local.alb_zone_id
    evaluate_target_health = true
  }
}
