output "host" {
  description = "The broker's name, for broker.host of modules/manifests."
  value       = local.host
}

output "port" {
  description = "Port of AMQPS, for broker.port of modules/manifests."
  value       = local.amqps_port
}

output "management_url" {
  description = "The management API, over TLS: where definitions are posted and KEDA asks."
  value       = "https://${local.host}:${local.management_port}"
}

output "security_group_id" {
  description = "The broker's security group; null for an existing broker whose group is not given."
  value       = local.security_group_id
}
