output "github_variables" {
  description = "Variables to set in the GitHub repository."
  value = {
    AWS_REGION          = var.region
    ECR_REPOSITORY      = aws_ecr_repository.broker.name
    TF_STATE_BUCKET     = aws_s3_bucket.state.bucket
    AWS_PLAN_ROLE_ARN   = aws_iam_role.github["plan"].arn
    AWS_PUSH_ROLE_ARN   = aws_iam_role.github["push"].arn
    AWS_DRIFT_ROLE_ARN  = aws_iam_role.github["drift"].arn
    AWS_DEPLOY_ROLE_ARN = aws_iam_role.github["deploy"].arn
  }
}

output "repository_url" {
  description = "URL of the image repository."
  value       = aws_ecr_repository.broker.repository_url
}

output "permissions_boundary_arn" {
  description = "Value of the deployment's variable permissions_boundary_arn, without which the deploy role may make no role."
  value       = aws_iam_policy.boundary.arn
}
