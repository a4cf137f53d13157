data "aws_partition" "this" {}
data "aws_region" "this" {}
data "aws_caller_identity" "this" {}

locals {
  trust = var.irsa == null ? {
    Effect    = "Allow"
    Principal = { Service = "pods.eks.amazonaws.com" }
    Action    = ["sts:AssumeRole", "sts:TagSession"]
    Condition = {
      StringEquals = {
        "aws:SourceAccount"                         = data.aws_caller_identity.this.account_id
        "aws:RequestTag/eks-cluster-name"           = var.cluster_name
        "aws:RequestTag/kubernetes-namespace"       = var.namespace
        "aws:RequestTag/kubernetes-service-account" = var.service_account
      }
    }
    } : {
    Effect    = "Allow"
    Principal = { Federated = var.irsa.oidc_provider_arn }
    Action    = ["sts:AssumeRoleWithWebIdentity"]
    Condition = {
      StringEquals = {
        "${var.irsa.oidc_provider}:aud" = "sts.amazonaws.com"
        "${var.irsa.oidc_provider}:sub" = "system:serviceaccount:${var.namespace}:${var.service_account}"
      }
    }
  }
  kms_key_arn = var.create_kms_key ? aws_kms_key.secrets[0].arn : var.kms_key_arn
}

module "policies" {
  source = "./policies"

  partition             = data.aws_partition.this.partition
  region                = data.aws_region.this.region
  account_id            = data.aws_caller_identity.this.account_id
  secret_prefix         = var.secret_prefix
  password_secret_arns  = var.password_secret_arns
  password_kms_key_arns = var.password_kms_key_arns
  kms_key_arn           = local.kms_key_arn
  requesters            = var.requesters
}

resource "aws_iam_role" "worker" {
  name                 = var.name
  description          = "keycard's workers: puts credentials into Secrets Manager and takes them away."
  assume_role_policy   = jsonencode({ Version = "2012-10-17", Statement = [local.trust] })
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_role_policy" "worker" {
  name   = "secrets"
  role   = aws_iam_role.worker.name
  policy = module.policies.worker
}

resource "aws_eks_pod_identity_association" "worker" {
  count = var.irsa == null ? 1 : 0

  cluster_name    = var.cluster_name
  namespace       = var.namespace
  service_account = var.service_account
  role_arn        = aws_iam_role.worker.arn
  tags            = var.tags
}

resource "aws_iam_policy" "reader" {
  for_each = var.requesters

  name        = "${var.name}-reader-${each.value}"
  description = "Reads the credentials that keycard has issued to this requester."
  policy      = module.policies.readers[each.key]
  tags        = var.tags
}

resource "aws_kms_key" "secrets" {
  count = var.create_kms_key ? 1 : 0

  description         = "Credentials that keycard has issued."
  enable_key_rotation = true
  # Who may use it is said by IAM policies of this account.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Account"
      Effect    = "Allow"
      Principal = { AWS = "arn:${data.aws_partition.this.partition}:iam::${data.aws_caller_identity.this.account_id}:root" }
      Action    = "kms:*"
      Resource  = "*"
    }]
  })
  tags = var.tags
}

resource "aws_kms_alias" "secrets" {
  count = var.create_kms_key ? 1 : 0

  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.secrets[0].key_id
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  for_each = var.databases

  description                  = "keycard's workers"
  security_group_id            = each.value.security_group_id
  referenced_security_group_id = var.worker_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  tags                         = var.tags
}
