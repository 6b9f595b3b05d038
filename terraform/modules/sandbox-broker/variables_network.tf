# Network and load balancer

variable "egress" {
  description = "How tasks reach the CSP and AWS: public_ip (tasks with public addresses, which change, and no way in but the load balancer) or nat_gateway (tasks in private subnets; the CSP sees fixed addresses)."
  type        = string
  default     = "public_ip"
  nullable    = false

  validation {
    condition     = contains(["public_ip", "nat_gateway"], var.egress)
    error_message = "egress takes public_ip or nat_gateway."
  }
}

variable "vpc" {
  description = "A network that exists: its VPC, two public subnets for the load balancer, and with egress \"nat_gateway\" the private subnets of the tasks, which have a route to the internet. null makes one."
  type = object({
    id                 = string
    public_subnet_ids  = list(string)
    private_subnet_ids = optional(list(string), [])
  })
  default = null

  validation {
    condition = var.vpc == null ? true : (
      startswith(var.vpc.id, "vpc-") && length(var.vpc.public_subnet_ids) >= 2 &&
      (var.egress == "public_ip" || length(var.vpc.private_subnet_ids) >= 1)
    )
    error_message = "vpc takes a VPC's id, two or more public subnets, and with egress \"nat_gateway\" the private subnets of the tasks."
  }
}

variable "interface_endpoints" {
  description = "AWS services that tasks reach through interface endpoints, each billed by the hour and zone, such as secretsmanager, ecr.api, ecr.dkr and logs; the last three and the first together let tasks start and log without the internet."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for service in var.interface_endpoints : can(regex("^[a-z0-9.-]+$", service))])
    error_message = "interface_endpoints takes names of services, such as secretsmanager."
  }
}

variable "vpc_cidr" {
  description = "Address range of the VPC, from /16 to /22; each of the four subnets gets a sixteenth of it."
  type        = string
  default     = "10.60.0.0/16"
  nullable    = false

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && try(tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 22, false)
    error_message = "vpc_cidr takes an IPv4 range from /16 to /22, such as 10.60.0.0/16."
  }
}

variable "availability_zones" {
  description = "The two availability zones of the subnets; null for the region's first two."
  type        = list(string)
  default     = null

  validation {
    condition     = var.availability_zones == null ? true : length(distinct(var.availability_zones)) == 2 && length(var.availability_zones) == 2
    error_message = "availability_zones takes two different zones, such as [\"eu-central-1a\", \"eu-central-1b\"]."
  }
}

variable "nat_gateway_count" {
  description = "Number of NAT gateways: 1 costs less; with 2 the loss of a zone does not cut the other zone off from the CSP. Allocation needs neither."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = contains([1, 2], var.nat_gateway_count)
    error_message = "nat_gateway_count takes 1 or 2."
  }
}

variable "nat_allocation_ids" {
  description = "Allocation ids of elastic addresses that exist, one for each NAT gateway; empty makes new ones."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = length(var.nat_allocation_ids) == 0 || (length(var.nat_allocation_ids) == var.nat_gateway_count && alltrue([for id in var.nat_allocation_ids : startswith(id, "eipalloc-")]))
    error_message = "nat_allocation_ids takes one allocation id (eipalloc-…) for each NAT gateway."
  }
}

variable "allowed_cidr_blocks" {
  description = "IPv4 ranges that may reach the load balancer."
  type        = set(string)
  default     = ["0.0.0.0/0"]
  nullable    = false

  validation {
    condition     = length(var.allowed_cidr_blocks) > 0 && alltrue([for block in var.allowed_cidr_blocks : can(cidrnetmask(block))])
    error_message = "allowed_cidr_blocks takes one or more IPv4 ranges, such as 203.0.113.0/24."
  }

  validation {
    condition     = !var.allow_plain_http || alltrue([for block in var.allowed_cidr_blocks : try(tonumber(split("/", block)[1]) >= 8, true)])
    error_message = "With allow_plain_http, allowed_cidr_blocks takes your own networks, none larger than /8."
  }
}

variable "admin_cidr_blocks" {
  description = "IPv4 ranges that may reach the admin API, the console and the metrics through the load balancer, 40 at most; others get 404. An empty set hides them from all."
  type        = set(string)

  validation {
    condition     = length(var.admin_cidr_blocks) <= 40 && alltrue([for block in var.admin_cidr_blocks : can(cidrnetmask(block))])
    error_message = "admin_cidr_blocks takes up to 40 IPv4 ranges, such as 203.0.113.0/24."
  }
}

variable "admin_port" {
  description = "A port of its own for admin API, console and metrics (BROKER_ADMIN_PORT); null serves them on the broker's one port."
  type        = number
  default     = null

  validation {
    condition     = var.admin_port == null ? true : var.admin_port >= 1024 && var.admin_port <= 65535 && var.admin_port != 8080 && floor(var.admin_port) == var.admin_port
    error_message = "admin_port takes a port from 1024 to 65535 other than 8080."
  }
}

variable "domain_name" {
  description = "Domain name of the broker, such as broker.example.com; null only with allow_plain_http."
  type        = string
  default     = null

  validation {
    condition     = var.domain_name == null ? var.zone_id == null && var.certificate_arn == null && var.shared_listener == null : can(regex("^[a-z0-9-]+([.][a-z0-9-]+)+$", var.domain_name))
    error_message = "domain_name takes a name such as broker.example.com, and is required with zone_id, certificate_arn and shared_listener."
  }
}

variable "zone_id" {
  description = "Route 53 zone of domain_name. It gets the address record and, without certificate_arn, a certificate is made and validated through it."
  type        = string
  default     = null

  validation {
    condition     = var.zone_id == null || can(regex("^[A-Z0-9]{1,32}$", var.zone_id))
    error_message = "zone_id takes the id of a hosted zone."
  }
}

variable "certificate_arn" {
  description = "ARN of an ACM certificate for domain_name; null makes one, which needs zone_id."
  type        = string
  default     = null

  validation {
    condition     = var.certificate_arn == null || can(regex("^arn:[a-z-]+:(acm|iam):", var.certificate_arn))
    error_message = "certificate_arn takes the ARN of a certificate."
  }
}

variable "allow_plain_http" {
  description = "Whether the load balancer may serve plain HTTP, where tokens are readable on the way; for trials on a network of your own."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = var.allow_plain_http != (var.certificate_arn != null || var.zone_id != null || var.shared_listener != null)
    error_message = "Give domain_name with zone_id or certificate_arn. For a trial without a certificate, set allow_plain_http = true and allowed_cidr_blocks to your own network."
  }
}

variable "shared_listener" {
  description = "An HTTPS listener that exists, of a load balancer in the VPC, to use instead of a load balancer of its own: rules for domain_name are added with 82 priorities from first_priority on. Its certificate must cover domain_name, and the idle timeout of its load balancer must be above 50 s, because allocations may wait."
  type = object({
    arn               = string
    load_balancer_arn = string
    security_group_id = string
    first_priority    = optional(number, 1000)
  })
  default = null

  validation {
    condition = var.shared_listener == null ? true : (
      var.vpc != null && startswith(var.shared_listener.security_group_id, "sg-") &&
      var.shared_listener.first_priority >= 1 && var.shared_listener.first_priority <= 49900
    )
    error_message = "shared_listener takes the ARNs of a listener and its load balancer and a security group, needs vpc, and a first_priority from 1 to 49900."
  }
}

variable "access_logs" {
  description = "Whether the load balancer's access logs are kept, in a bucket that is made for them."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = !var.access_logs || var.shared_listener == null
    error_message = "access_logs needs a load balancer of its own."
  }
}

variable "waf_enabled" {
  description = "Whether a web application firewall (WAF) protects the load balancer."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = !var.waf_enabled || var.shared_listener == null
    error_message = "waf_enabled needs a load balancer of its own."
  }
}

variable "waf_rate_limit" {
  description = "Requests per five minutes without a plausible token that the firewall allows from one address; more get 503 with Retry-After."
  type        = number
  default     = 3000
  nullable    = false

  validation {
    condition     = var.waf_rate_limit >= 10 && var.waf_rate_limit <= 2000000000 && floor(var.waf_rate_limit) == var.waf_rate_limit
    error_message = "waf_rate_limit takes a whole number from 10 to 2000000000."
  }
}

variable "waf_exempt_cidr_blocks" {
  description = "IPv4 ranges that the firewall lets through without a look, such as those of load testers."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for block in var.waf_exempt_cidr_blocks : can(cidrnetmask(block)) && !endswith(block, "/0")])
    error_message = "waf_exempt_cidr_blocks takes IPv4 ranges, but not the whole internet."
  }
}
