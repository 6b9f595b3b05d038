# The variables of modules/sandbox-broker, whose descriptions and checks hold here too, and those of the provider. null
# leaves the module's default.

variable "region" {
  description = "AWS region."
  type        = string

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

variable "settings" {
  description = "Settings of the broker by the names of its environment variables in lower case; see docs/reference/settings.md."
  type        = any
  default     = {}
}

variable "name" {
  description = "Name of this deployment; part of the name of every resource."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether table, load balancer and images are protected against `terraform destroy`; false for trials."
  type        = bool
  default     = null
}

variable "kms_key_arn" {
  description = "ARN of a customer-managed KMS key for table, secrets, images, log and alarms; null for the keys that AWS manages. The key's policy must allow these services to use it."
  type        = string
  default     = null
}

variable "permissions_boundary_arn" {
  description = "ARN of the policy that bounds the roles made here; terraform/bootstrap makes one. null for none."
  type        = string
  default     = null
}

variable "egress" {
  description = "How tasks reach the CSP and AWS: public_ip (tasks with public addresses, which change, and no way in but the load balancer) or nat_gateway (tasks in private subnets; the CSP sees fixed addresses)."
  type        = string
  default     = null
}

variable "vpc" {
  description = "A network that exists: its VPC, two public subnets for the load balancer, and with egress \"nat_gateway\" the private subnets of the tasks, which have a route to the internet. null makes one."
  type = object({
    id                 = string
    public_subnet_ids  = list(string)
    private_subnet_ids = optional(list(string), [])
  })
  default = null
}

variable "interface_endpoints" {
  description = "AWS services that tasks reach through interface endpoints, each billed by the hour and zone, such as secretsmanager, ecr.api, ecr.dkr and logs; the last three and the first together let tasks start and log without the internet."
  type        = set(string)
  default     = null
}

variable "vpc_cidr" {
  description = "Address range of the VPC, from /16 to /22; each of the four subnets gets a sixteenth of it."
  type        = string
  default     = null
}

variable "availability_zones" {
  description = "The two availability zones of the subnets; null for the region's first two."
  type        = list(string)
  default     = null
}

variable "nat_gateway_count" {
  description = "Number of NAT gateways: 1 costs less; with 2 the loss of a zone does not cut the other zone off from the CSP. Allocation needs neither."
  type        = number
  default     = null
}

variable "nat_allocation_ids" {
  description = "Allocation ids of elastic addresses that exist, one for each NAT gateway; empty makes new ones."
  type        = list(string)
  default     = null
}

variable "allowed_cidr_blocks" {
  description = "IPv4 ranges that may reach the load balancer."
  type        = set(string)
  default     = null
}

variable "admin_cidr_blocks" {
  description = "IPv4 ranges that may reach the admin API, the console and the metrics through the load balancer, 40 at most; others get 404. An empty set hides them from all."
  type        = set(string)
}

variable "admin_port" {
  description = "A port of its own for admin API, console and metrics (BROKER_ADMIN_PORT); null serves them on the broker's one port."
  type        = number
  default     = null
}

variable "domain_name" {
  description = "Domain name of the broker, such as broker.example.com; null only with allow_plain_http."
  type        = string
  default     = null
}

variable "zone_id" {
  description = "Route 53 zone of domain_name. It gets the address record and, without certificate_arn, a certificate is made and validated through it."
  type        = string
  default     = null
}

variable "certificate_arn" {
  description = "ARN of an ACM certificate for domain_name; null makes one, which needs zone_id."
  type        = string
  default     = null
}

variable "allow_plain_http" {
  description = "Whether the load balancer may serve plain HTTP, where tokens are readable on the way; for trials on a network of your own."
  type        = bool
  default     = null
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
}

variable "access_logs" {
  description = "Whether the load balancer's access logs are kept, in a bucket that is made for them."
  type        = bool
  default     = null
}

variable "waf_enabled" {
  description = "Whether a web application firewall (WAF) protects the load balancer."
  type        = bool
  default     = null
}

variable "waf_rate_limit" {
  description = "Requests per five minutes without a plausible token that the firewall allows from one address; more get 503 with Retry-After."
  type        = number
  default     = null
}

variable "waf_exempt_cidr_blocks" {
  description = "IPv4 ranges that the firewall lets through without a look, such as those of load testers."
  type        = set(string)
  default     = null
}

variable "table_name" {
  description = "Name of the pool's table."
  type        = string
  default     = null
}

variable "index_names" {
  description = "Names of the table's indexes by status, track and idempotency key, at its creation."
  type = object({
    status      = optional(string, "StatusIndex")
    track       = optional(string, "TrackIndex")
    idempotency = optional(string, "IdempotencyIndex")
  })
  default = null
}

variable "lookup_indexes" {
  description = "Whether a new table gets the indexes by track and by idempotency key, which operators' searches use. Without them an allocation costs 6 write units instead of 8."
  type        = bool
  default     = null
}

variable "status_index_form" {
  description = "Where the sharded status index is: sharded (under its own name) or beside (as `<name>Sharded`, beside the index of an older form, where `table adopt` makes it). It never changes an index of a table that exists."
  type        = string
  default     = null
}

variable "status_shards" {
  description = "Number of shards of a new table's status index; afterwards `table reshard` changes it. null for a table that was adopted or restored: it has its number."
  type        = number
  default     = 16
}

variable "container_image" {
  description = "Image to run, with its tag or digest; null for image_tag in image_repository."
  type        = string
  default     = null
}

variable "image_repository" {
  description = "Name of the ECR repository in this account and region that has the image; terraform/bootstrap makes it."
  type        = string
  default     = null
}

variable "image_tag" {
  description = "Tag of the image in image_repository; required without container_image."
  type        = string
  default     = null
}

variable "cpu_architecture" {
  description = "Processor architecture of the tasks; ARM64 costs a fifth less."
  type        = string
  default     = null
}

variable "task_cpu" {
  description = "CPU units of a task; 1024 units are one core."
  type        = number
  default     = null
}

variable "task_memory" {
  description = "Memory of a task in MiB: two to eight times task_cpu."
  type        = number
  default     = null
}

variable "min_tasks" {
  description = "Least number of tasks. Two tasks run in two zones."
  type        = number
  default     = null
}

variable "max_tasks" {
  description = "Largest number of tasks that autoscaling starts."
  type        = number
  default     = null
}

variable "spot_share" {
  description = "Share of the tasks beyond the first that run on Spot, in percent. Spot costs about a third and may be taken away with two minutes' notice."
  type        = number
  default     = null
}

variable "container_insights" {
  description = "Whether Container Insights collects metrics of each task. The alarms do not need it."
  type        = bool
  default     = null
}

variable "requests_per_task" {
  description = "Requests per minute and task that autoscaling aims for."
  type        = number
  default     = null
}

variable "otel_collector_enabled" {
  description = "Whether a collector next to each broker receives its traces over OTLP and sends them to X-Ray."
  type        = bool
  default     = null
}

variable "otel_collector_image" {
  description = "Image of the collector."
  type        = string
  default     = null
}

variable "csp_base_url" {
  description = "Base URL of the CSP's API; required unless settings.csp_mode is sim."
  type        = string
  default     = null
}

variable "cors_allowed_origins" {
  description = "Origins that browsers may call from, each as scheme://host:port."
  type        = list(string)
  default     = null
}

variable "api_tokens" {
  description = "Tokens of the track API, comma-separated, at least 32 visible characters each; null generates one."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true
}

variable "admin_tokens" {
  description = "Tokens of the admin API, comma-separated, at least 32 visible characters each; null generates one."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true
}

variable "csp_api_token" {
  description = "Token for the CSP's API; required when it is written: at first, and when token_versions.csp is raised."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true
}

variable "token_versions" {
  description = "A counter for each secret. Raise one to write the value given in api_tokens, admin_tokens or csp_api_token, which restarts the tasks; until then Secrets Manager keeps what it has. 0 leaves the value to others."
  type = object({
    api   = optional(number, 1)
    admin = optional(number, 1)
    csp   = optional(number, 1)
  })
  default = null
}

variable "secret_names" {
  description = "Names of secrets that exist and are taken over; null for `<name>/api-token` and so on."
  type = object({
    api   = optional(string)
    admin = optional(string)
    csp   = optional(string)
  })
  default = null
}

variable "more_secrets" {
  description = "Secrets that exist and reach the broker, by environment variable: BROKER_TRACK_TOKENS, BROKER_VIEWER_TOKEN or NIOSXAAS_PASSWORD, each with its ARN. They are encrypted with kms_key_arn or the key that AWS manages."
  type        = map(string)
  default     = null
}

variable "log_group_name" {
  description = "Name of the log group; null for `/ecs/<name>`."
  type        = string
  default     = null
}

variable "log_retention_days" {
  description = "Retention of the log in days."
  type        = number
  default     = null
}

variable "alarm_emails" {
  description = "E-mail addresses that receive every alarm. Each must confirm the message that AWS sends."
  type        = set(string)
  default     = null
}

variable "monthly_budget_usd" {
  description = "Cost of the account in US dollars a month above whose forecast AWS writes to alarm_emails; null for no budget."
  type        = number
  default     = null
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
  default = null
}
