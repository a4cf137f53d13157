output "role_arn" {
  description = "The workers' role."
  value       = aws_iam_role.worker.arn
}

output "service_account_annotations" {
  description = "For modules/manifests: what IRSA needs on the service account; empty with Pod Identity."
  value       = { for key, arn in { "eks.amazonaws.com/role-arn" = aws_iam_role.worker.arn } : key => arn if var.irsa != null }
}

output "reader_policy_arns" {
  description = "By requester, the policy that it attaches to its own role: it may read <prefix>/<requester>/* and nothing else."
  value       = { for requester, policy in aws_iam_policy.reader : requester => policy.arn }
}

output "kms_key_id" {
  description = "For store.kms_key_id of modules/manifests; null where the account's own key is used."
  value       = local.kms_key_arn
}
