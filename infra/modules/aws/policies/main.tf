# Policies as JSON, computed without a provider: mocks leave aws_iam_policy_document empty, and so these
# can be tested, and checked by tools, as they are.

locals {
  secrets      = "arn:${var.partition}:secretsmanager:${var.region}:${var.account_id}:secret:${var.secret_prefix}"
  through      = { "kms:ViaService" = "secretsmanager.${var.region}.amazonaws.com" }
  kms_key_arns = [for arn in [var.kms_key_arn] : arn if arn != null]

  worker = {
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid       = "Put"
          Effect    = "Allow"
          Action    = ["secretsmanager:CreateSecret", "secretsmanager:TagResource"]
          Resource  = "${local.secrets}/*"
          Condition = { StringEquals = { "aws:RequestTag/managed-by" = "keycard" } }
        },
        {
          # IfExists, as keycard deletes once more what may be gone: without it AWS denies that, where
          # it should say that there is nothing, and the lease would never be closed.
          Sid       = "Delete"
          Effect    = "Allow"
          Action    = ["secretsmanager:DeleteSecret"]
          Resource  = "${local.secrets}/*"
          Condition = { StringEqualsIfExists = { "aws:ResourceTag/managed-by" = "keycard" } }
        },
        {
          Sid      = "LookAt"
          Effect   = "Allow"
          Action   = ["secretsmanager:DescribeSecret"]
          Resource = "${local.secrets}/*"
        },
        {
          # AWS has no narrower form of it.
          Sid      = "List"
          Effect   = "Allow"
          Action   = ["secretsmanager:ListSecrets"]
          Resource = "*"
        },
      ],
      [
        for arns in [var.password_secret_arns] : {
          Sid      = "OwnPasswords"
          Effect   = "Allow"
          Action   = ["secretsmanager:GetSecretValue"]
          Resource = arns
        } if length(arns) > 0
      ],
      [
        # No encryption context here: Secrets Manager tries the key with one that names no secret.
        for arns in [local.kms_key_arns] : {
          Sid       = "Encrypt"
          Effect    = "Allow"
          Action    = ["kms:GenerateDataKey", "kms:Decrypt"]
          Resource  = arns
          Condition = { StringEquals = local.through }
        } if length(arns) > 0
      ],
      [
        for arns in [var.password_kms_key_arns] : {
          Sid       = "DecryptOwnPasswords"
          Effect    = "Allow"
          Action    = ["kms:Decrypt"]
          Resource  = arns
          Condition = { StringEquals = local.through, StringLike = { "kms:EncryptionContext:SecretARN" = var.password_secret_arns } }
        } if length(arns) > 0
      ],
    )
  }

  readers = {
    for requester, name in var.requesters : requester => {
      Version = "2012-10-17"
      Statement = concat(
        [{
          Sid      = "ReadOwn"
          Effect   = "Allow"
          Action   = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"]
          Resource = "${local.secrets}/${name}/*"
        }],
        [
          for arns in [local.kms_key_arns] : {
            Sid      = "DecryptOwn"
            Effect   = "Allow"
            Action   = ["kms:Decrypt"]
            Resource = arns
            Condition = {
              StringEquals = local.through
              StringLike   = { "kms:EncryptionContext:SecretARN" = "${local.secrets}/${name}/*" }
            }
          } if length(arns) > 0
        ],
      )
    }
  }
}
