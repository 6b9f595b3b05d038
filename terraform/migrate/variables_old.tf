# The variables of the Python service: what still has a meaning is used, the rest is refused by name.

variable "aws_region" {
  description = "Region of the old stack. It has no default, because another region has another table."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.aws_region))
    error_message = "aws_region takes a region's name, such as eu-central-1."
  }
}

variable "app_name" {
  description = "Name of the old stack; its table is `<app_name>-pool`."
  type        = string
  default     = "sandbox-broker"

  validation {
    condition     = can(regex("^[A-Za-z0-9-]{1,64}$", var.app_name))
    error_message = "app_name takes letters, digits and hyphens."
  }
}

variable "vpc_cidr" {
  description = "Address range of the new VPC; the old one stays beside it."
  type        = string
  default     = "10.60.0.0/16"
}

variable "availability_zones" {
  description = "The two zones of the new subnets; null for the region's first two."
  type        = list(string)
  default     = null
}

variable "ecs_task_cpu" {
  description = "CPU units of a task. The new default, 256, replaces the old one, 1024."
  type        = number
  default     = 256
}

variable "ecs_task_memory" {
  description = "Memory of a task in MiB."
  type        = number
  default     = 512
}

variable "ecs_autoscaling_min" {
  description = "Least number of tasks."
  type        = number
  default     = 2
}

variable "ecs_autoscaling_max" {
  description = "Largest number of tasks."
  type        = number
  default     = 10
}

variable "csp_base_url" {
  description = "Base URL of the CSP's API."
  type        = string
}

variable "certificate_arn" {
  description = "ARN of the certificate for domain_name; empty or null makes one, which needs zone_id."
  type        = string
  default     = null
}

variable "log_retention_days" {
  description = "Retention of the log in days."
  type        = number
  default     = 30
}

variable "sync_schedule" {
  description = "Time between syncs, as rate(<n> minutes); null for the broker's default. The broker runs them itself."
  type        = string
  default     = null

  validation {
    condition     = var.sync_schedule == null || can(regex("^rate[(][0-9]+ minutes?[)]$", var.sync_schedule))
    error_message = "sync_schedule takes rate(<n> minutes). For another schedule remove it and set settings.sync_interval_sec."
  }
}

variable "cleanup_schedule" {
  description = "Time between cleanups, as rate(<n> minutes); null for the broker's default. The broker runs them itself."
  type        = string
  default     = null

  validation {
    condition     = var.cleanup_schedule == null || can(regex("^rate[(][0-9]+ minutes?[)]$", var.cleanup_schedule))
    error_message = "cleanup_schedule takes rate(<n> minutes). For another schedule remove it and set settings.cleanup_interval_sec."
  }
}

variable "auto_expiry_schedule" {
  description = "Time between expiry sweeps, as rate(<n> minutes); null for the broker's default. The broker runs them itself."
  type        = string
  default     = null

  validation {
    condition     = var.auto_expiry_schedule == null || can(regex("^rate[(][0-9]+ minutes?[)]$", var.auto_expiry_schedule))
    error_message = "auto_expiry_schedule takes rate(<n> minutes). For another schedule remove it and set settings.auto_expiry_interval_sec."
  }
}

variable "environment" {
  description = "Refused: the deployment is told by its name."
  type        = any
  default     = null

  validation {
    condition     = var.environment == null
    error_message = "Remove environment: the deployment is told by its name."
  }
}

variable "ecs_desired_count" {
  description = "Refused: autoscaling starts with ecs_autoscaling_min."
  type        = any
  default     = null

  validation {
    condition     = var.ecs_desired_count == null
    error_message = "Remove ecs_desired_count: autoscaling starts with ecs_autoscaling_min."
  }
}

variable "worker_cpu" {
  description = "Refused: the broker runs its jobs itself."
  type        = any
  default     = null

  validation {
    condition     = var.worker_cpu == null
    error_message = "Remove worker_cpu: the broker runs its jobs itself."
  }
}

variable "worker_memory" {
  description = "Refused: the broker runs its jobs itself."
  type        = any
  default     = null

  validation {
    condition     = var.worker_memory == null
    error_message = "Remove worker_memory: the broker runs its jobs itself."
  }
}

variable "container_image" {
  description = "Refused: it names the Python service's image; set image_tag or image_repository."
  type        = any
  default     = null

  validation {
    condition     = var.container_image == null
    error_message = "Remove container_image: it names the Python service's image; set image_tag or image_repository."
  }
}

variable "container_port" {
  description = "Refused: the port is 8080."
  type        = any
  default     = null

  validation {
    condition     = var.container_port == null
    error_message = "Remove container_port: the port is 8080."
  }
}

variable "ddb_read_capacity" {
  description = "Refused: the table is billed by request."
  type        = any
  default     = null

  validation {
    condition     = var.ddb_read_capacity == null
    error_message = "Remove ddb_read_capacity: the table is billed by request."
  }
}

variable "ddb_write_capacity" {
  description = "Refused: the table is billed by request."
  type        = any
  default     = null

  validation {
    condition     = var.ddb_write_capacity == null
    error_message = "Remove ddb_write_capacity: the table is billed by request."
  }
}

variable "enable_https" {
  description = "Refused: a certificate is required; set domain_name and zone_id or certificate_arn."
  type        = any
  default     = null

  validation {
    condition     = var.enable_https == null
    error_message = "Remove enable_https: a certificate is required; set domain_name and zone_id or certificate_arn."
  }
}

variable "broker_api_token" {
  description = "Refused: the secret keeps its value; docs/deployment.md tells how to rotate it."
  type        = any
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.broker_api_token == null
    error_message = "Remove broker_api_token: the secret keeps its value; docs/deployment.md tells how to rotate it."
  }
}

variable "broker_admin_token" {
  description = "Refused: the secret keeps its value; docs/deployment.md tells how to rotate it."
  type        = any
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.broker_admin_token == null
    error_message = "Remove broker_admin_token: the secret keeps its value; docs/deployment.md tells how to rotate it."
  }
}

variable "csp_api_token" {
  description = "Refused: the secret keeps its value; docs/deployment.md tells how to renew it."
  type        = any
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.csp_api_token == null
    error_message = "Remove csp_api_token: the secret keeps its value; docs/deployment.md tells how to renew it."
  }
}
