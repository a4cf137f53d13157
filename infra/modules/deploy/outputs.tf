output "revision" {
  description = "Helm's number of what was released."
  value       = helm_release.keycard.metadata.revision
}
