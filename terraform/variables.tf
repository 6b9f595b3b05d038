# Deployment

variable "name" {
  description = "Name of this deployment; part of the name of every resource."
  type        = string
  default     = "sandbox-broker"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "name takes 3 to 24 lower-case letters, digits and hyphens, starts with a letter and does not end with a hyphen."
  }
}

variable "region" {
  description = "AWS region."
  type        = string
  default     = "us-east-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region takes a region's name, such as eu-central-1."
  }
}

variable "tags" {
  description = "Additional tags of every resource."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(var.tags) <= 40 && alltrue([for key, value in var.tags : length(key) <= 128 && length(value) <= 256])
    error_message = "tags takes up to 40 tags, with keys of up to 128 and values of up to 256 characters."
  }
}

variable "deletion_protection" {
  description = "Whether table, load balancer and images are protected against `terraform destroy`; false for trials."
  type        = bool
  default     = true
  nullable    = false

  validation {
    condition     = contains([true, false], var.deletion_protection)
    error_message = "deletion_protection takes true or false."
  }
}

variable "kms_key_arn" {
  description = "ARN of a customer-managed KMS key for table, secrets, images, log and alarms; null for the keys that AWS manages. The key's policy must allow these services to use it."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn takes the ARN of a key, not of an alias."
  }
}

# Network

variable "vpc_cidr" {
  description = "Address range of the VPC, from /16 to /22; each of the four subnets gets a sixteenth of it."
  type        = string
  default     = "10.60.0.0/16"

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

  validation {
    condition     = contains([1, 2], var.nat_gateway_count)
    error_message = "nat_gateway_count takes 1 or 2."
  }
}

variable "allowed_cidr_blocks" {
  description = "IPv4 ranges that may reach the load balancer."
  type        = set(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = length(var.allowed_cidr_blocks) > 0 && alltrue([for block in var.allowed_cidr_blocks : can(cidrnetmask(block))])
    error_message = "allowed_cidr_blocks takes one or more IPv4 ranges, such as 203.0.113.0/24."
  }
}

variable "certificate_arn" {
  description = "ARN of the load balancer's ACM certificate; null creates a plain HTTP listener, for trials only, because tokens are sent unencrypted."
  type        = string
  default     = null

  validation {
    condition     = var.certificate_arn == null || can(regex("^arn:[a-z-]+:(acm|iam):", var.certificate_arn))
    error_message = "certificate_arn takes the ARN of a certificate."
  }
}

variable "access_logs_bucket" {
  description = "S3 bucket for the load balancer's access logs; null for none. Its policy must allow the service to write."
  type        = string
  default     = null

  validation {
    condition     = var.access_logs_bucket == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.access_logs_bucket))
    error_message = "access_logs_bucket takes the name of a bucket."
  }
}

variable "waf_enabled" {
  description = "Whether a web application firewall (WAF) protects the load balancer."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = contains([true, false], var.waf_enabled)
    error_message = "waf_enabled takes true or false."
  }
}

variable "waf_rate_limit" {
  description = "Requests per five minutes that the firewall allows from one address. A class may share one address."
  type        = number
  default     = 30000

  validation {
    condition     = var.waf_rate_limit >= 10 && var.waf_rate_limit <= 2000000000 && floor(var.waf_rate_limit) == var.waf_rate_limit
    error_message = "waf_rate_limit takes a whole number from 10 to 2000000000."
  }
}

# Table

variable "table_name" {
  description = "Name of the pool's table."
  type        = string
  default     = "sandbox-broker-pool"

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]{3,255}$", var.table_name))
    error_message = "table_name takes 3 to 255 letters, digits, '_', '.' and '-'."
  }
}

variable "index_names" {
  description = "Names of the table's indexes by status, track and idempotency key."
  type = object({
    status      = optional(string, "StatusIndex")
    track       = optional(string, "TrackIndex")
    idempotency = optional(string, "IdempotencyIndex")
  })
  default = {}

  validation {
    condition = (
      alltrue([for name in values(var.index_names) : can(regex("^[A-Za-z0-9_.-]{3,255}$", name))]) &&
      length(distinct(values(var.index_names))) == 3
    )
    error_message = "index_names takes three different names of 3 to 255 letters, digits, '_', '.' and '-'."
  }
}

# Tasks

variable "container_image" {
  description = "Image to run; null for image_tag in this deployment's repository."
  type        = string
  default     = null

  validation {
    condition     = var.container_image == null || can(regex("^[^\\s]+[:@][^\\s]+$", var.container_image))
    error_message = "container_image takes an image with a tag or digest."
  }
}

variable "image_tag" {
  description = "Tag of the image in this deployment's repository; required without container_image. Tags are immutable."
  type        = string
  default     = null

  validation {
    condition     = var.image_tag == null ? var.container_image != null : can(regex("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$", var.image_tag))
    error_message = "image_tag takes an image's tag, and is required without container_image."
  }
}

variable "image_count" {
  description = "Number of images that the repository keeps."
  type        = number
  default     = 30

  validation {
    condition     = var.image_count >= 2 && var.image_count <= 1000 && floor(var.image_count) == var.image_count
    error_message = "image_count takes a whole number from 2 to 1000."
  }
}

variable "cpu_architecture" {
  description = "Processor architecture of the tasks; ARM64 costs a fifth less."
  type        = string
  default     = "ARM64"

  validation {
    condition     = contains(["ARM64", "X86_64"], var.cpu_architecture)
    error_message = "cpu_architecture takes ARM64 or X86_64."
  }
}

variable "task_cpu" {
  description = "CPU units of a task; 1024 units are one core."
  type        = number
  default     = 256

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096], var.task_cpu)
    error_message = "task_cpu takes 256, 512, 1024, 2048 or 4096."
  }
}

variable "task_memory" {
  description = "Memory of a task in MiB: two to eight times task_cpu."
  type        = number
  default     = 512

  validation {
    condition = (
      var.task_memory >= var.task_cpu * 2 && var.task_memory <= var.task_cpu * 8 &&
      (contains([512, 1024, 2048], var.task_memory) || (var.task_cpu > 256 && var.task_memory % 1024 == 0))
    )
    error_message = "task_memory takes 512, or whole GiB in MiB, from two to eight times task_cpu (256: 512, 1024, 2048)."
  }
}

variable "min_tasks" {
  description = "Least number of tasks. Two tasks run in two zones."
  type        = number
  default     = 2

  validation {
    condition     = var.min_tasks >= 1 && floor(var.min_tasks) == var.min_tasks
    error_message = "min_tasks takes a whole number of 1 or more."
  }
}

variable "max_tasks" {
  description = "Largest number of tasks that autoscaling starts."
  type        = number
  default     = 10

  validation {
    condition     = var.max_tasks >= var.min_tasks && var.max_tasks <= 100 && floor(var.max_tasks) == var.max_tasks
    error_message = "max_tasks takes a whole number from min_tasks to 100."
  }
}

variable "requests_per_task" {
  description = "Requests per minute and task that autoscaling aims for."
  type        = number
  default     = 6000

  validation {
    condition     = var.requests_per_task >= 1
    error_message = "requests_per_task takes a number of 1 or more."
  }
}

variable "otel_collector_enabled" {
  description = "Whether a collector next to each broker receives its traces over OTLP and sends them to X-Ray."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = contains([true, false], var.otel_collector_enabled)
    error_message = "otel_collector_enabled takes true or false."
  }
}

variable "otel_collector_image" {
  description = "Image of the collector."
  type        = string
  default     = "public.ecr.aws/aws-observability/aws-otel-collector:v0.43.3"

  validation {
    condition     = can(regex("^[^\\s]+[:@][^\\s]+$", var.otel_collector_image))
    error_message = "otel_collector_image takes an image with a tag or digest."
  }
}

# Broker; variables_broker.tf has its settings

variable "csp_base_url" {
  description = "Base URL of the CSP's API; required unless settings.csp_mode is sim."
  type        = string
  default     = null

  validation {
    condition     = var.csp_base_url == null ? var.settings.csp_mode == "sim" : can(regex("^https?://[^/\\s]+", var.csp_base_url))
    error_message = "csp_base_url takes an http or https URL, and is required unless settings.csp_mode is sim."
  }
}

variable "cors_allowed_origins" {
  description = "Origins that browsers may call from, each as scheme://host:port."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for origin in var.cors_allowed_origins : can(regex("^https?://[^/,\\s]+$", origin))])
    error_message = "cors_allowed_origins takes origins such as https://labs.example.com."
  }
}

# Tokens. Neither the state nor a plan holds them.

variable "api_tokens" {
  description = "Tokens of the track API, comma-separated, at least 32 visible characters each; null generates one."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.api_tokens == null || can(regex("^[!-+\\--~]{32,}(,[!-+\\--~]{32,})*$", var.api_tokens))
    error_message = "api_tokens takes tokens of at least 32 visible characters, comma-separated, without spaces."
  }
}

variable "admin_tokens" {
  description = "Tokens of the admin API, comma-separated, at least 32 visible characters each; null generates one."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.admin_tokens == null || can(regex("^[!-+\\--~]{32,}(,[!-+\\--~]{32,})*$", var.admin_tokens))
    error_message = "admin_tokens takes tokens of at least 32 visible characters, comma-separated, without spaces."
  }
}

variable "csp_api_token" {
  description = "Token for the CSP's API."
  type        = string
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = can(regex("^[!-~]+$", var.csp_api_token))
    error_message = "csp_api_token takes the CSP's token, in visible ASCII characters."
  }
}

variable "tokens_version" {
  description = "Version of the tokens that are passed in. Raise it to write them; until then Secrets Manager keeps its tokens."
  type        = number
  default     = 1

  validation {
    condition     = var.tokens_version >= 1 && floor(var.tokens_version) == var.tokens_version
    error_message = "tokens_version takes a whole number of 1 or more."
  }
}

# Alarms

variable "log_retention_days" {
  description = "Retention of the log in days."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "log_retention_days takes a retention that CloudWatch supports, such as 14, 30 or 90."
  }
}

variable "alarm_emails" {
  description = "E-mail addresses that receive every alarm. Each must confirm the message that AWS sends."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@\\s]+@[^@\\s]+$", address))])
    error_message = "alarm_emails takes e-mail addresses."
  }
}

variable "alarm_thresholds" {
  description = "Thresholds of the alarms: share of 5xx answers in percent, p99 of the response time in seconds, available sandboxes (fires below), CPU and memory in percent."
  type = object({
    error_rate_percent = optional(number, 1)
    p99_seconds        = optional(number, 0.5)
    pool_available     = optional(number, 20)
    cpu_percent        = optional(number, 85)
    memory_percent     = optional(number, 85)
  })
  default = {}

  validation {
    condition     = alltrue([for threshold in values(var.alarm_thresholds) : threshold > 0])
    error_message = "alarm_thresholds takes numbers greater than 0."
  }
}

variable "status_shards" {
  description = "Shards of the status index of a new table, 1 to 512; null for a table that was adopted or restored, which keeps its own. `table reshard` changes it later."
  type        = number
  default     = 16

  validation {
    condition     = var.status_shards == null ? true : var.status_shards >= 1 && var.status_shards <= 512 && floor(var.status_shards) == var.status_shards
    error_message = "status_shards takes a whole number from 1 to 512, or null."
  }
}
