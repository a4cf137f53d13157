output "yaml" {
  description = "Every object, for the repository that Argo CD or Flux watches."
  value       = module.manifests.yaml
}

output "keycard_toml" {
  description = "The configuration, for `keycard config check`."
  value       = module.manifests.keycard_toml
}

output "rabbitmq_definitions" {
  description = "For the broker: rabbitmqctl import_definitions."
  value       = module.manifests.rabbitmq_definitions
  sensitive   = true
}

output "rabbitmq_scopes" {
  description = "In place of the definitions, what a user's token has to allow."
  value       = module.manifests.rabbitmq_scopes
}

output "requesters" {
  description = "Requesters, with their names as they stand in secrets' paths."
  value       = module.manifests.requesters
}
