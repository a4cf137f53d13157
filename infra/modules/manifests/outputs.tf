locals {
  manifests = concat(local.workload, local.monitoring, flatten(local.scaling), local.draining)
}

output "manifests" {
  description = "Every Kubernetes object, as data: for modules/deploy."
  value       = local.manifests
}

output "yaml" {
  description = "The same as one YAML stream, for Argo CD or Flux."
  value       = join("---\n", [for manifest in local.manifests : yamlencode(manifest)])
}

output "keycard_toml" {
  description = "The configuration that the workers get, for `keycard config check`."
  value       = local.keycard_toml
}

output "rabbitmq_definitions" {
  description = "The broker's vhost, users, permissions and topic permissions, as JSON for import_definitions or POST /api/definitions."
  value       = jsonencode(local.definitions)
  sensitive   = true
}

output "rabbitmq_scopes" {
  description = "In place of the definitions, by user, what a token has to allow: scopes of RabbitMQ's OAuth 2 plugin, without their prefix."
  value       = local.scopes
}

output "requesters" {
  description = "Every user that may ask or operate, by name, with the name as it stands in secrets' paths: for modules/aws."
  value       = local.encoded
}

output "password_secrets" {
  description = "Secrets of AWS Secrets Manager, by name or ARN, that hold keycard's own passwords: the worker has to read them."
  value       = distinct([for password in concat([var.broker.password], [for d in values(var.databases) : d.password]) : password.secret if password.secret != null])
}
