variable "region" {
  description = "AWS region of bucket and repository."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region takes a region's name, such as eu-central-1."
  }
}

variable "name" {
  description = "Name of the repository, and start of the names of roles and of the deployments."
  type        = string
  default     = "sandbox-broker"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "name takes 3 to 24 lower-case letters, digits and hyphens, starts with a letter and does not end with a hyphen."
  }
}

variable "state_bucket" {
  description = "Name of the bucket of Terraform's state. Names are unique in all of AWS."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.state_bucket))
    error_message = "state_bucket takes the name of a bucket."
  }
}

variable "github_repository" {
  description = "GitHub repository whose workflows deploy, as owner/name."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "github_repository takes owner/name."
  }
}

variable "github_owner_id" {
  description = "Number of the repository's owner; see github_repository_id."
  type        = string
  default     = null

  validation {
    condition     = (var.github_owner_id == null) == (var.github_repository_id == null) && (var.github_owner_id == null || can(regex("^[0-9]+$", var.github_owner_id)))
    error_message = "github_owner_id takes a number, and goes with github_repository_id."
  }
}

variable "github_repository_id" {
  description = "Number of the repository (`gh api repos/<owner>/<name> --jq '.owner.id, .id'`). Repositories made or renamed since the middle of 2026 have both numbers in their subjects; null for older ones."
  type        = string
  default     = null

  validation {
    condition     = var.github_repository_id == null || can(regex("^[0-9]+$", var.github_repository_id))
    error_message = "github_repository_id takes a number."
  }
}

variable "github_environment" {
  description = "GitHub environment that deploys."
  type        = string
  default     = "production"

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]+$", var.github_environment))
    error_message = "github_environment takes letters, digits, '_' and '-'."
  }
}

variable "create_oidc_provider" {
  description = "Whether the account lacks GitHub's OIDC provider. An account has one."
  type        = bool
  default     = true
}

variable "create_service_linked_role" {
  description = "Whether the account lacks ECS's service-linked role. An account has one."
  type        = bool
  default     = true
}

variable "image_count" {
  description = "Number of builds that the repository keeps."
  type        = number
  default     = 30

  validation {
    condition     = var.image_count >= 2 && var.image_count <= 1000 && floor(var.image_count) == var.image_count
    error_message = "image_count takes a whole number from 2 to 1000."
  }
}

variable "deployed_image_count" {
  description = "Number of deployed images that the repository keeps, beside the builds."
  type        = number
  default     = 10

  validation {
    condition     = var.deployed_image_count >= 2 && var.deployed_image_count <= 1000 && floor(var.deployed_image_count) == var.deployed_image_count
    error_message = "deployed_image_count takes a whole number from 2 to 1000."
  }
}

variable "trial" {
  description = "Whether bucket and repository may be destroyed with what they hold."
  type        = bool
  default     = false
}
