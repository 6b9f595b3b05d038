# What must exist before the first deployment: the bucket of Terraform's state, the repository of images, the roles of the
# GitHub workflows, and ECS's own role. Applied once, by hand, with the rights of an administrator; its own small state then
# moves into the bucket (`../use-state <bucket> <region> bootstrap.tfstate bootstrap`).

terraform {
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
    tags = { application = "sandbox-broker", managed_by = "terraform" }
  }
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  # The names of everything that a deployment may make start like this.
  prefix = var.name
}

# ECS needs it once in an account, and makes it with the first cluster only if the caller may.
resource "aws_iam_service_linked_role" "ecs" {
  count = var.create_service_linked_role ? 1 : 0

  aws_service_name = "ecs.amazonaws.com"
}
