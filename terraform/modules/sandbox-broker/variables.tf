# Deployment

variable "name" {
  description = "Name of this deployment; part of the name of every resource."
  type        = string
  default     = "sandbox-broker"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "name takes 3 to 24 lower-case letters, digits and hyphens, starts with a letter and does not end with a hyphen."
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

variable "permissions_boundary_arn" {
  description = "ARN of the policy that bounds the roles made here; terraform/bootstrap makes one. null for none."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:[a-z-]+:iam::([0-9]{12}|aws):policy/", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn takes the ARN of an IAM policy."
  }
}

# Table

variable "table_name" {
  description = "Name of the pool's table."
  type        = string
  default     = "sandbox-broker-pool"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]{3,255}$", var.table_name))
    error_message = "table_name takes 3 to 255 letters, digits, '_', '.' and '-'."
  }
}

variable "index_names" {
  description = "Names of the table's indexes by status, track and idempotency key, at its creation."
  type = object({
    status      = optional(string, "StatusIndex")
    track       = optional(string, "TrackIndex")
    idempotency = optional(string, "IdempotencyIndex")
  })
  default  = {}
  nullable = false

  validation {
    condition = (
      alltrue([for name in values(var.index_names) : can(regex("^[A-Za-z0-9_.-]{3,255}$", name))]) &&
      length(distinct(values(var.index_names))) == 3
    )
    error_message = "index_names takes three different names of 3 to 255 letters, digits, '_', '.' and '-'."
  }
}

variable "lookup_indexes" {
  description = "Whether a new table gets the indexes by track and by idempotency key, which operators' searches use. Without them an allocation costs 6 write units instead of 8."
  type        = bool
  default     = true
  nullable    = false

  validation {
    condition     = contains([true, false], var.lookup_indexes)
    error_message = "lookup_indexes takes true or false."
  }
}

variable "status_index_form" {
  description = "Where the sharded status index is: sharded (under its own name) or beside (as `<name>Sharded`, beside the index of an older form, where `table adopt` makes it). It never changes an index of a table that exists."
  type        = string
  default     = "sharded"
  nullable    = false

  validation {
    condition     = contains(["sharded", "beside"], var.status_index_form)
    error_message = "status_index_form takes sharded or beside."
  }
}

variable "status_shards" {
  description = "Number of shards of a new table's status index; afterwards `table reshard` changes it. null for a table that was adopted or restored: it has its number."
  type        = number
  default     = 16

  validation {
    condition     = var.status_shards == null ? true : var.status_index_form == "sharded" && var.status_shards >= 1 && var.status_shards <= 512 && floor(var.status_shards) == var.status_shards
    error_message = "status_shards takes a whole number from 1 to 512, and null with status_index_form \"beside\"."
  }
}

# Tasks

variable "container_image" {
  description = "Image to run, with its tag or digest; null for image_tag in image_repository."
  type        = string
  default     = null

  validation {
    condition     = var.container_image == null || can(regex("^[^\\s]+[:@][^\\s]+$", var.container_image))
    error_message = "container_image takes an image with a tag or digest."
  }
}

variable "image_repository" {
  description = "Name of the ECR repository in this account and region that has the image; terraform/bootstrap makes it."
  type        = string
  default     = "sandbox-broker"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9._/-]{1,255}$", var.image_repository))
    error_message = "image_repository takes the name of a repository."
  }
}

variable "image_tag" {
  description = "Tag of the image in image_repository; required without container_image."
  type        = string
  default     = null

  validation {
    condition     = var.image_tag == null ? var.container_image != null : can(regex("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$", var.image_tag))
    error_message = "image_tag takes an image's tag, and is required without container_image."
  }
}

variable "cpu_architecture" {
  description = "Processor architecture of the tasks; ARM64 costs a fifth less."
  type        = string
  default     = "ARM64"
  nullable    = false

  validation {
    condition     = contains(["ARM64", "X86_64"], var.cpu_architecture)
    error_message = "cpu_architecture takes ARM64 or X86_64."
  }
}

variable "task_cpu" {
  description = "CPU units of a task; 1024 units are one core."
  type        = number
  default     = 256
  nullable    = false

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096], var.task_cpu)
    error_message = "task_cpu takes 256, 512, 1024, 2048 or 4096."
  }
}

variable "task_memory" {
  description = "Memory of a task in MiB: two to eight times task_cpu."
  type        = number
  default     = 512
  nullable    = false

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
  nullable    = false

  validation {
    condition     = var.min_tasks >= 1 && floor(var.min_tasks) == var.min_tasks
    error_message = "min_tasks takes a whole number of 1 or more."
  }
}

variable "max_tasks" {
  description = "Largest number of tasks that autoscaling starts."
  type        = number
  default     = 10
  nullable    = false

  validation {
    condition     = var.max_tasks >= var.min_tasks && var.max_tasks <= 100 && floor(var.max_tasks) == var.max_tasks
    error_message = "max_tasks takes a whole number from min_tasks to 100."
  }
}

variable "spot_share" {
  description = "Share of the tasks beyond the first that run on Spot, in percent. Spot costs about a third and may be taken away with two minutes' notice."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.spot_share >= 0 && var.spot_share <= 100 && floor(var.spot_share) == var.spot_share
    error_message = "spot_share takes a whole number from 0 to 100."
  }
}

variable "container_insights" {
  description = "Whether Container Insights collects metrics of each task. The alarms do not need it."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = contains([true, false], var.container_insights)
    error_message = "container_insights takes true or false."
  }
}

variable "requests_per_task" {
  description = "Requests per minute and task that autoscaling aims for."
  type        = number
  default     = 6000
  nullable    = false

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
  nullable    = false

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
  nullable    = false

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
  description = "Token for the CSP's API; required when it is written: at first, and when token_versions.csp is raised."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.csp_api_token == null || can(regex("^[!-~]+$", var.csp_api_token))
    error_message = "csp_api_token takes the CSP's token, in visible ASCII characters."
  }
}

variable "token_versions" {
  description = "A counter for each secret. Raise one to write the value given in api_tokens, admin_tokens or csp_api_token, which restarts the tasks; until then Secrets Manager keeps what it has. 0 leaves the value to others."
  type = object({
    api   = optional(number, 1)
    admin = optional(number, 1)
    csp   = optional(number, 1)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for version in values(var.token_versions) : version >= 0 && floor(version) == version])
    error_message = "token_versions takes whole numbers of 0 or more."
  }
}

variable "secret_names" {
  description = "Names of secrets that exist and are taken over; null for `<name>/api-token` and so on."
  type = object({
    api   = optional(string)
    admin = optional(string)
    csp   = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in values(var.secret_names) : name == null || can(regex("^[A-Za-z0-9/_+=.@-]{1,512}$", name))])
    error_message = "secret_names takes names of secrets, not their ARNs."
  }
}

# Alarms

variable "log_group_name" {
  description = "Name of the log group; null for `/ecs/<name>`."
  type        = string
  default     = null

  validation {
    condition     = var.log_group_name == null || can(regex("^[A-Za-z0-9_./#-]{1,512}$", var.log_group_name))
    error_message = "log_group_name takes the name of a log group."
  }
}

variable "log_retention_days" {
  description = "Retention of the log in days."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "log_retention_days takes a retention that CloudWatch supports, such as 14, 30 or 90."
  }
}

variable "alarm_emails" {
  description = "E-mail addresses that receive every alarm. Each must confirm the message that AWS sends."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@\\s]+@[^@\\s]+$", address))])
    error_message = "alarm_emails takes e-mail addresses."
  }
}

variable "monthly_budget_usd" {
  description = "Cost of the account in US dollars a month above whose forecast AWS writes to alarm_emails; null for no budget."
  type        = number
  default     = null

  validation {
    condition     = var.monthly_budget_usd == null ? true : var.monthly_budget_usd > 0 && length(var.alarm_emails) > 0
    error_message = "monthly_budget_usd takes a number greater than 0, and needs alarm_emails."
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
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for threshold in values(var.alarm_thresholds) : threshold > 0])
    error_message = "alarm_thresholds takes numbers greater than 0."
  }
}
