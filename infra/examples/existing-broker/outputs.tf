output "reader_policy_arns" {
  description = "By requester, the policy that it attaches to its own role."
  value       = module.aws.reader_policy_arns
}

output "rabbitmq_definitions" {
  description = "For the broker: POST /api/definitions."
  value       = module.manifests.rabbitmq_definitions
  sensitive   = true
}

output "management_url" {
  description = "Where the broker takes the definitions."
  value       = module.broker.management_url
}
