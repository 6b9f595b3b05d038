# Names of the Python service's variables. Terraform only warns about a name that it does not know, and goes on without the
# value: in another region, with new tokens. So each is refused. terraform/migrate takes the file of the old service.

variable "aws_region" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.aws_region == null
    error_message = "aws_region is now region. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "environment" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.environment == null
    error_message = "environment is now tags. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "app_name" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.app_name == null
    error_message = "app_name is now name. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "ecs_task_cpu" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.ecs_task_cpu == null
    error_message = "ecs_task_cpu is now task_cpu. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "ecs_task_memory" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.ecs_task_memory == null
    error_message = "ecs_task_memory is now task_memory. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "ecs_desired_count" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.ecs_desired_count == null
    error_message = "ecs_desired_count is now min_tasks. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "ecs_autoscaling_min" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.ecs_autoscaling_min == null
    error_message = "ecs_autoscaling_min is now min_tasks. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "ecs_autoscaling_max" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.ecs_autoscaling_max == null
    error_message = "ecs_autoscaling_max is now max_tasks. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "worker_cpu" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.worker_cpu == null
    error_message = "worker_cpu has no successor: the broker runs its jobs itself. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "worker_memory" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.worker_memory == null
    error_message = "worker_memory has no successor: the broker runs its jobs itself. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "container_port" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.container_port == null
    error_message = "container_port has no successor: the port is 8080. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "ddb_read_capacity" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.ddb_read_capacity == null
    error_message = "ddb_read_capacity has no successor: the table is billed by request. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "ddb_write_capacity" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.ddb_write_capacity == null
    error_message = "ddb_write_capacity has no successor: the table is billed by request. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "broker_api_token" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.broker_api_token == null
    error_message = "broker_api_token is now api_tokens. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "broker_admin_token" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.broker_admin_token == null
    error_message = "broker_admin_token is now admin_tokens. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "enable_https" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.enable_https == null
    error_message = "enable_https is now domain_name with zone_id or certificate_arn. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "sync_schedule" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.sync_schedule == null
    error_message = "sync_schedule is now settings.sync_interval_sec. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "cleanup_schedule" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.cleanup_schedule == null
    error_message = "cleanup_schedule is now settings.cleanup_interval_sec. To take over the Python service's table and tokens, use terraform/migrate."
  }
}

variable "auto_expiry_schedule" {
  description = "A variable of the Python service, refused."
  type        = any
  default     = null

  validation {
    condition     = var.auto_expiry_schedule == null
    error_message = "auto_expiry_schedule is now settings.auto_expiry_interval_sec. To take over the Python service's table and tokens, use terraform/migrate."
  }
}
