resource "aws_ecr_repository" "broker" {
  # checkov:skip=CKV_AWS_136:The image holds no secret, so AES-256 with the registry's key is enough. kms_key_arn changes it.
  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  force_delete         = !var.deletion_protection

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = var.kms_key_arn == null ? "AES256" : "KMS"
    kms_key         = var.kms_key_arn
  }
}

resource "aws_ecr_lifecycle_policy" "broker" {
  repository = aws_ecr_repository.broker.name

  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "Delete untagged images, which pushes leave behind"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "Keep enough images to roll back"
        selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = var.image_count }
        action       = { type = "expire" }
      },
    ]
  })
}
