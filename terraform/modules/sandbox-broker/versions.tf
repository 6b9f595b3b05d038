# Without a provider block, so that callers may use count, for_each and several regions.

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

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account = data.aws_caller_identity.current.account_id
  # `id` is the region's name in every version of the provider.
  region = data.aws_region.current.id
}
