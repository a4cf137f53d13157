variables {
  partition             = "aws"
  region                = "eu-west-1"
  account_id            = "123456789012"
  secret_prefix         = "keycard"
  password_secret_arns  = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:keycard-admin/app-AbCdEf"]
  password_kms_key_arns = ["arn:aws:kms:eu-west-1:123456789012:key/1111"]
  kms_key_arn           = "arn:aws:kms:eu-west-1:123456789012:key/2222"
  requesters            = { orders-svc = "orders-svc" }
}

run "a_worker_reads_no_credential" {
  command = plan

  assert {
    condition = [
      for s in jsondecode(output.worker).Statement : s.Resource if contains(s.Action, "secretsmanager:GetSecretValue")
    ] == [["arn:aws:secretsmanager:eu-west-1:123456789012:secret:keycard-admin/app-AbCdEf"]]
    error_message = output.worker
  }
  assert {
    condition = toset(flatten([for s in jsondecode(output.worker).Statement : s.Action])) == toset([
      "secretsmanager:CreateSecret", "secretsmanager:TagResource", "secretsmanager:DeleteSecret", "secretsmanager:DescribeSecret",
      "secretsmanager:ListSecrets", "secretsmanager:GetSecretValue", "kms:GenerateDataKey", "kms:Decrypt",
    ])
    error_message = output.worker
  }
  assert {
    condition     = [for s in jsondecode(output.worker).Statement : s.Sid if s.Resource == "*"] == ["List"]
    error_message = "Only listing has no narrower form."
  }
}

run "a_secret_of_somebody_else_is_not_deleted_and_one_that_is_gone_may_be" {
  command = plan

  assert {
    condition = [
      for s in jsondecode(output.worker).Statement : s.Condition if contains(s.Action, "secretsmanager:DeleteSecret")
    ] == [{ StringEqualsIfExists = { "aws:ResourceTag/managed-by" = "keycard" } }]
    error_message = output.worker
  }
}

run "without_keys_there_is_no_kms" {
  command = plan
  variables {
    password_kms_key_arns = []
    kms_key_arn           = null
  }

  assert {
    condition     = !strcontains("${output.worker}${output.readers["orders-svc"]}", "kms:")
    error_message = output.worker
  }
}
