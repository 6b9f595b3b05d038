locals {
  is_https = var.certificate_arn != null
}

resource "aws_security_group" "alb" {
  name        = "${var.name}-alb"
  description = "Load balancer: HTTP and HTTPS from the world, requests to the tasks"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${var.name}-alb" }
}

resource "aws_vpc_security_group_ingress_rule" "alb_http" {
  # checkov:skip=CKV_AWS_260:Labs run on any network, and with a certificate this port only redirects. allowed_cidr_blocks narrows it.
  for_each = var.allowed_cidr_blocks

  security_group_id = aws_security_group.alb.id
  description       = local.is_https ? "HTTP, redirected to HTTPS" : "HTTP"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
}

resource "aws_vpc_security_group_ingress_rule" "alb_https" {
  for_each = var.allowed_cidr_blocks

  security_group_id = aws_security_group.alb.id
  description       = "HTTPS"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "alb_to_tasks" {
  security_group_id            = aws_security_group.alb.id
  description                  = "Requests and health checks to the tasks"
  referenced_security_group_id = aws_security_group.tasks.id
  ip_protocol                  = "tcp"
  from_port                    = local.container_port
  to_port                      = local.container_port
}

resource "aws_lb" "broker" {
  # checkov:skip=CKV_AWS_91:Access logs are an option (access_logs_bucket), because they need a bucket of the operator.
  # checkov:skip=CKV_AWS_150:Deletion protection is a variable (deletion_protection), on by default.
  # checkov:skip=CKV2_AWS_76:Log4j is a Java library; this program is written in Rust.
  # checkov:skip=CKV2_AWS_28:The firewall is an option (waf_enabled); the broker has its own rate limits.
  # checkov:skip=CKV2_AWS_20:With a certificate, HTTP is redirected; without one, this is a trial.
  name                       = var.name
  load_balancer_type         = "application"
  security_groups            = [aws_security_group.alb.id]
  subnets                    = aws_subnet.public[*].id
  drop_invalid_header_fields = true
  enable_deletion_protection = var.deletion_protection
  # Less than the broker's 75 s, so that the broker never closes a connection first.
  idle_timeout = 60

  dynamic "access_logs" {
    for_each = var.access_logs_bucket[*]

    content {
      bucket  = access_logs.value
      prefix  = var.name
      enabled = true
    }
  }

  # A public load balancer needs the internet gateway from its creation to its deletion.
  depends_on = [aws_internet_gateway.main]
}

resource "aws_lb_target_group" "broker" {
  # checkov:skip=CKV_AWS_378:TLS ends at the load balancer. Behind it are a private network and one security group.
  name                 = var.name
  vpc_id               = aws_vpc.main.id
  target_type          = "ip"
  protocol             = "HTTP"
  port                 = local.container_port
  deregistration_delay = 30

  health_check {
    path                = "/readyz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "http" {
  # checkov:skip=CKV_AWS_2:With a certificate, this listener only redirects; without one, this is a trial.
  # checkov:skip=CKV_AWS_103:This listener does not use TLS, for the same reason.
  load_balancer_arn = aws_lb.broker.arn
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
  count = local.is_https ? 1 : 0

  load_balancer_arn = aws_lb.broker.arn
  protocol          = "HTTPS"
  port              = 443
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.broker.arn
  }
}
