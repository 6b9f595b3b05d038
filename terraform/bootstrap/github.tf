# The roles of the GitHub workflows. No key is stored: each role trusts only tokens that GitHub issues to its subjects.

locals {
  github_issuer = "token.actions.githubusercontent.com"

  # Repositories made or renamed since the middle of 2026 have their ids in the subject.
  github_owner = split("/", var.github_repository)[0]
  github_name  = split("/", var.github_repository)[1]
  github_subject = (
    var.github_repository_id == null
    ? "repo:${var.github_repository}"
    : "repo:${local.github_owner}@${var.github_owner_id}/${local.github_name}@${var.github_repository_id}"
  )

  # Which runs may take which role. `*` stands only for what follows `v` in a tag.
  role_subjects = {
    plan   = ["pull_request"]
    push   = ["ref:refs/heads/main", "ref:refs/tags/v*"]
    drift  = ["ref:refs/heads/main"]
    deploy = ["environment:${var.github_environment}"]
  }

  role_policies = {
    plan   = data.aws_iam_policy_document.plan.json
    push   = data.aws_iam_policy_document.push.json
    drift  = data.aws_iam_policy_document.drift.json
    deploy = data.aws_iam_policy_document.deploy.json
  }

  repository_arn = aws_ecr_repository.broker.arn
  role_arns      = "arn:${local.partition}:iam::${local.account}:role/${local.prefix}-*"
}

resource "aws_iam_openid_connect_provider" "github" {
  count = var.create_oidc_provider ? 1 : 0

  url            = "https://${local.github_issuer}"
  client_id_list = ["sts.amazonaws.com"]
}

data "aws_iam_policy_document" "trust" {
  # checkov:skip=CKV_AWS_358:The scan cannot read subjects that variables make. Each starts with the repository; tests/emulated_modules.py checks them.
  for_each = local.role_subjects

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = ["arn:${local.partition}:iam::${local.account}:oidc-provider/${local.github_issuer}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.github_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringLike"
      variable = "${local.github_issuer}:sub"
      values   = [for subject in each.value : "${local.github_subject}:${subject}"]
    }
  }
}

resource "aws_iam_role" "github" {
  for_each = local.role_subjects

  name               = "${local.prefix}-github-${each.key}"
  description        = "The workflow that ${ { plan = "plans a pull request", push = "pushes images", drift = "looks for drift", deploy = "deploys" }[each.key]}"
  assume_role_policy = data.aws_iam_policy_document.trust[each.key].json

  depends_on = [aws_iam_openid_connect_provider.github]
}

resource "aws_iam_role_policy" "github" {
  for_each = local.role_policies

  name   = each.key
  role   = aws_iam_role.github[each.key].id
  policy = each.value
}

resource "aws_iam_role_policy_attachment" "drift" {
  role       = aws_iam_role.github["drift"].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/ReadOnlyAccess"
}

data "aws_iam_policy_document" "state_read" {
  statement {
    sid       = "FindTheState"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.state.arn]
  }

  statement {
    sid       = "ReadTheState"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.state.arn}/*"]
  }
}

# It plans without a refresh, so that it reads neither tokens nor the account.
data "aws_iam_policy_document" "plan" {
  # checkov:skip=CKV_AWS_356:These actions support no resource.
  source_policy_documents = [data.aws_iam_policy_document.state_read.json]

  statement {
    sid       = "FindTheZones"
    actions   = ["ec2:DescribeAvailabilityZones"]
    resources = ["*"]
  }

  # Which versions a secret has, not their values.
  statement {
    sid       = "ListTheVersionsOfTokens"
    actions   = ["secretsmanager:DescribeSecret", "secretsmanager:ListSecretVersionIds"]
    resources = ["arn:${local.partition}:secretsmanager:*:${local.account}:secret:${local.prefix}*"]
  }
}

data "aws_iam_policy_document" "push" {
  # checkov:skip=CKV_AWS_356:GetAuthorizationToken supports no resource.
  statement {
    sid       = "LogInToTheRegistry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid = "PushImages"
    actions = [
      "ecr:BatchCheckLayerAvailability",
      "ecr:BatchGetImage",
      "ecr:CompleteLayerUpload",
      "ecr:DescribeImages",
      "ecr:DescribeRepositories",
      "ecr:GetDownloadUrlForLayer",
      "ecr:InitiateLayerUpload",
      "ecr:PutImage",
      "ecr:UploadLayerPart",
    ]
    resources = [local.repository_arn]
  }
}

# It may read everything that a deployment makes. A refresh reads the tokens too, so this role trusts main only.
data "aws_iam_policy_document" "drift" {
  # checkov:skip=CKV_AWS_108:A refresh compares the versions of the tokens, which reads them.
  source_policy_documents = [data.aws_iam_policy_document.state_read.json]

  statement {
    sid       = "RefreshTheTokens"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = ["arn:${local.partition}:secretsmanager:*:${local.account}:secret:${local.prefix}*"]
  }
}

data "aws_iam_policy_document" "deploy" {
  # checkov:skip=CKV_AWS_107:It writes the first tokens and reads them at a refresh.
  # checkov:skip=CKV_AWS_108:It makes and changes all of these services. What it may give to roles is bounded below.
  # checkov:skip=CKV_AWS_109:It makes and changes all of these services. What it may give to roles is bounded below.
  # checkov:skip=CKV_AWS_111:It makes and changes all of these services. What it may give to roles is bounded below.
  # checkov:skip=CKV_AWS_356:Most of these actions support no resource when something is made.
  statement {
    sid = "MakeAndChange"
    actions = [
      "acm:*",
      "application-autoscaling:*",
      "budgets:*",
      "cloudwatch:*",
      "dynamodb:*",
      "ec2:*",
      "ecr:DescribeRepositories",
      "ecs:*",
      "elasticloadbalancing:*",
      "logs:*",
      "route53:ChangeResourceRecordSets",
      "route53:Get*",
      "route53:List*",
      "secretsmanager:*",
      "sns:*",
      "wafv2:*",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "KeepTheState"
    actions   = ["s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject"]
    resources = [aws_s3_bucket.state.arn, "${aws_s3_bucket.state.arn}/*"]
  }

  statement {
    sid       = "KeepAccessLogs"
    actions   = ["s3:*"]
    resources = ["arn:${local.partition}:s3:::${local.prefix}*-access-logs-*"]
  }

  statement {
    sid       = "TagWhatIsDeployed"
    actions   = ["ecr:BatchGetImage", "ecr:DescribeImages", "ecr:PutImage"]
    resources = [local.repository_arn]
  }

  statement {
    sid       = "ReadRoles"
    actions   = ["iam:GetRole", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:ListInstanceProfilesForRole", "iam:ListRolePolicies"]
    resources = [local.role_arns]
  }

  # Roles of tasks, never wider than the boundary.
  statement {
    sid       = "MakeBoundedRoles"
    actions   = ["iam:CreateRole", "iam:DeleteRolePolicy", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy"]
    resources = [local.role_arns]

    condition {
      test     = "StringEquals"
      variable = "iam:PermissionsBoundary"
      values   = [aws_iam_policy.boundary.arn]
    }
  }

  statement {
    sid       = "ChangeBoundedRoles"
    actions   = ["iam:DeleteRole", "iam:TagRole", "iam:UntagRole", "iam:UpdateAssumeRolePolicy", "iam:UpdateRole"]
    resources = [local.role_arns]
  }

  statement {
    sid       = "GiveRolesToTasks"
    actions   = ["iam:PassRole"]
    resources = [local.role_arns]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ecs-tasks.amazonaws.com"]
    }
  }

  # Service-linked roles of the load balancer and of autoscaling, which AWS makes at their first use.
  statement {
    sid       = "MakeServiceLinkedRoles"
    actions   = ["iam:CreateServiceLinkedRole"]
    resources = ["arn:${local.partition}:iam::*:role/aws-service-role/*"]
  }

  # The workflows' own roles stay as they are.
  statement {
    sid       = "LeaveTheWorkflowsAlone"
    effect    = "Deny"
    actions   = ["iam:*"]
    resources = ["arn:${local.partition}:iam::${local.account}:role/${local.prefix}-github-*", aws_iam_policy.boundary.arn]
  }
}

# What a role made by a deployment may do at most, whatever its policy says.
resource "aws_iam_policy" "boundary" {
  name        = "${local.prefix}-boundary"
  description = "The most that roles of the broker's tasks may do"
  policy      = data.aws_iam_policy_document.boundary.json
}

data "aws_iam_policy_document" "boundary" {
  # checkov:skip=CKV_AWS_108:A boundary gives no right. It is the limit for roles that name their resources.
  # checkov:skip=CKV_AWS_111:A boundary gives no right. It is the limit for roles that name their resources.
  # checkov:skip=CKV_AWS_356:A boundary gives no right. It is the limit for roles that name their resources.
  statement {
    sid = "UseTables"
    actions = [
      "dynamodb:BatchGetItem",
      "dynamodb:ConditionCheckItem",
      "dynamodb:DeleteItem",
      "dynamodb:DescribeTable",
      "dynamodb:DescribeTimeToLive",
      "dynamodb:GetItem",
      "dynamodb:PutItem",
      "dynamodb:Query",
      "dynamodb:UpdateItem",
    ]
    resources = ["arn:${local.partition}:dynamodb:*:${local.account}:table/*"]
  }

  statement {
    sid = "StartTasks"
    actions = [
      "ecr:BatchCheckLayerAvailability",
      "ecr:BatchGetImage",
      "ecr:GetAuthorizationToken",
      "ecr:GetDownloadUrlForLayer",
      "kms:Decrypt",
      "kms:DescribeKey",
      "kms:Encrypt",
      "kms:GenerateDataKey*",
      "kms:ReEncrypt*",
      "logs:CreateLogStream",
      "logs:PutLogEvents",
      "xray:PutTelemetryRecords",
      "xray:PutTraceSegments",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "ReadTokens"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = ["arn:${local.partition}:secretsmanager:*:${local.account}:secret:*"]
  }
}
