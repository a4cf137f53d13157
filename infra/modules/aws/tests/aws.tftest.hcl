mock_provider "aws" {
  override_data {
    target = data.aws_partition.this
    values = { partition = "aws" }
  }
  override_data {
    target = data.aws_region.this
    values = { region = "eu-west-1" }
  }
  override_data {
    target = data.aws_caller_identity.this
    values = { account_id = "123456789012" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/keycard" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-west-1:123456789012:key/0b1c", key_id = "0b1c" }
  }
}

variables {
  namespace    = "keycard"
  cluster_name = "prod"
  requesters   = { "orders.eu" = "orders=2Eeu" }
}

run "pod_identity_is_for_one_service_account" {
  assert {
    condition = jsondecode(aws_iam_role.worker.assume_role_policy).Statement[0].Condition.StringEquals == {
      "aws:SourceAccount"                         = "123456789012"
      "aws:RequestTag/eks-cluster-name"           = "prod"
      "aws:RequestTag/kubernetes-namespace"       = "keycard"
      "aws:RequestTag/kubernetes-service-account" = "keycard"
    }
    error_message = aws_iam_role.worker.assume_role_policy
  }
  assert {
    condition     = length(aws_eks_pod_identity_association.worker) == 1 && length(output.service_account_annotations) == 0
    error_message = "Pod Identity is an association, and no annotation."
  }
  assert {
    condition     = jsondecode(aws_iam_policy.reader["orders.eu"].policy).Statement[0].Resource == "arn:aws:secretsmanager:eu-west-1:123456789012:secret:keycard/orders=2Eeu/*"
    error_message = "A service may read its own secrets and nothing else."
  }
  assert {
    condition     = length(aws_kms_key.secrets) == 0 && output.kms_key_id == null && !strcontains(aws_iam_role_policy.worker.policy, "kms:")
    error_message = "Nobody asked for a key."
  }
}

run "irsa_is_for_one_service_account" {
  variables {
    cluster_name = null
    irsa = {
      oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/ABC"
      oidc_provider     = "oidc.eks.eu-west-1.amazonaws.com/id/ABC"
    }
  }

  assert {
    condition = jsondecode(aws_iam_role.worker.assume_role_policy).Statement[0].Condition.StringEquals == {
      "oidc.eks.eu-west-1.amazonaws.com/id/ABC:aud" = "sts.amazonaws.com"
      "oidc.eks.eu-west-1.amazonaws.com/id/ABC:sub" = "system:serviceaccount:keycard:keycard"
    }
    error_message = aws_iam_role.worker.assume_role_policy
  }
  assert {
    condition     = length(aws_eks_pod_identity_association.worker) == 0 && output.service_account_annotations == { "eks.amazonaws.com/role-arn" = "arn:aws:iam::123456789012:role/keycard" }
    error_message = "IRSA is an annotation, and no association."
  }
}

run "a_key_of_its_own_is_used_through_secrets_manager_only" {
  variables {
    create_kms_key = true
  }

  assert {
    condition = [
      for s in jsondecode(aws_iam_role_policy.worker.policy).Statement : s.Condition if s.Sid == "Encrypt" && s.Resource == ["arn:aws:kms:eu-west-1:123456789012:key/0b1c"]
    ] == [{ StringEquals = { "kms:ViaService" = "secretsmanager.eu-west-1.amazonaws.com" } }]
    error_message = aws_iam_role_policy.worker.policy
  }
  assert {
    condition     = strcontains(aws_iam_policy.reader["orders.eu"].policy, "kms:EncryptionContext:SecretARN")
    error_message = "A reader may decrypt its own secrets and nothing else."
  }
}

run "databases_let_the_workers_in" {
  variables {
    worker_security_group_id = "sg-worker"
    databases                = { app = { security_group_id = "sg-app" }, billing = { security_group_id = "sg-billing", port = 6432 } }
  }

  assert {
    condition = { for name, rule in aws_vpc_security_group_ingress_rule.database : name => [rule.security_group_id, rule.referenced_security_group_id, rule.from_port, rule.to_port] } == {
      app     = ["sg-app", "sg-worker", 5432, 5432]
      billing = ["sg-billing", "sg-worker", 6432, 6432]
    }
    error_message = "Each database is opened for the workers, at its port."
  }
}

run "two_identities_are_refused" {
  command = plan
  variables {
    irsa = { oidc_provider_arn = "arn", oidc_provider = "oidc" }
  }
  expect_failures = [var.irsa]
}

run "a_pattern_of_namespaces_is_refused" {
  command = plan
  variables {
    namespace = "*"
  }
  expect_failures = [var.namespace]
}

run "a_pattern_of_password_secrets_is_refused" {
  command = plan
  variables {
    password_secret_arns = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:*"]
  }
  expect_failures = [var.password_secret_arns]
}

run "a_name_with_a_path_is_refused" {
  command = plan
  variables {
    name = "team/keycard"
  }
  expect_failures = [var.name]
}

run "a_pattern_of_service_accounts_is_refused" {
  command = plan
  variables {
    service_account = "*"
  }
  expect_failures = [var.service_account]
}

run "a_provider_with_its_scheme_is_refused" {
  command = plan
  variables {
    cluster_name = null
    irsa         = { oidc_provider_arn = "arn", oidc_provider = "https://oidc" }
  }
  expect_failures = [var.irsa]
}

run "a_prefix_that_ends_with_a_slash_is_refused" {
  command = plan
  variables {
    secret_prefix = "keycard/"
  }
  expect_failures = [var.secret_prefix]
}

run "an_alias_as_key_is_refused" {
  command = plan
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:alias/keycard"
  }
  expect_failures = [var.kms_key_arn]
}

run "two_keys_are_refused" {
  command = plan
  variables {
    create_kms_key = true
    kms_key_arn    = "arn:aws:kms:eu-west-1:123456789012:key/0b1c"
  }
  expect_failures = [var.create_kms_key]
}

run "a_requester_that_is_not_encoded_is_refused" {
  command = plan
  variables {
    requesters = { "orders.eu" = "orders.eu" }
  }
  expect_failures = [var.requesters]
}

run "the_doctor_as_requester_is_refused" {
  command = plan
  variables {
    requesters = { keycard-doctor = "keycard-doctor" }
  }
  expect_failures = [var.requesters]
}

run "a_requester_whose_policy_has_too_long_a_name_is_refused" {
  command = plan
  variables {
    requesters = { x = join("", [for i in range(120) : "x"]) }
  }
  expect_failures = [var.requesters]
}

run "databases_without_the_workers_group_are_refused" {
  command = plan
  variables {
    databases = { app = { security_group_id = "sg-app" } }
  }
  expect_failures = [var.databases]
}
