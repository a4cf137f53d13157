output "worker" {
  description = "What a worker may do, as JSON."
  value       = jsonencode(local.worker)
}

output "readers" {
  description = "What each requester may do, as JSON by its name: read its own secrets."
  value       = { for requester, policy in local.readers : requester => jsonencode(policy) }
}
