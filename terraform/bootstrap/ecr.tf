resource "aws_ecr_repository" "broker" {
  # checkov:skip=CKV_AWS_136:The image holds no secret, so AES-256 with the registry's key is enough.
  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  force_delete         = var.trial

  image_scanning_configuration {
    scan_on_push = true
  }
}

# An image for two processors is an index and its manifests; the index is tagged, and its manifests stay as long as it
# does. An image to which two rules apply follows the first, so what was deployed outlives what was only built.
resource "aws_ecr_lifecycle_policy" "broker" {
  repository = aws_ecr_repository.broker.name

  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "Keep what was deployed: await-rollout adds this tag"
        selection    = { tagStatus = "tagged", tagPatternList = ["deployed-*"], countType = "imageCountMoreThan", countNumber = var.deployed_image_count }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "Keep the newest builds"
        selection    = { tagStatus = "tagged", tagPatternList = ["*"], countType = "imageCountMoreThan", countNumber = var.image_count }
        action       = { type = "expire" }
      },
      {
        rulePriority = 3
        description  = "Delete what no tag names any more"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
        action       = { type = "expire" }
      },
    ]
  })
}
