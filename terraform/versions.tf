terraform {
  # Write-only arguments, which keep tokens out of the state, need 1.11.
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100, < 7"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = merge({ application = "sandbox-broker", deployment = coalesce(var.name, "sandbox-broker"), managed_by = "terraform" }, var.tags)
  }
}
