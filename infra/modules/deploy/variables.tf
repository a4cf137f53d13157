variable "name" {
  description = "Name of the Helm release."
  type        = string
  default     = "keycard"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,51}[a-z0-9])?$", var.name))
    error_message = "name is a DNS label of at most 53 characters."
  }
}

variable "namespace" {
  description = "Namespace of the release and of every object."
  type        = string
  nullable    = false
}

# Any, as each object has a type of its own.
variable "manifests" {
  description = "Kubernetes objects as data: `manifests` of modules/manifests."
  type        = any
  nullable    = false

  validation {
    condition = alltrue([
      for manifest in var.manifests :
      can(manifest.apiVersion) && can(manifest.kind) && try(manifest.metadata.name, "") != "" && try(manifest.metadata.namespace, "") == var.namespace
    ])
    error_message = "Each of manifests has apiVersion, kind, metadata.name, and the release's namespace."
  }

  validation {
    condition     = length(var.manifests) > 0
    error_message = "manifests is empty: the release would remove everything."
  }
}

variable "timeout_seconds" {
  description = "How long to wait until the workers are ready, before everything is put back as it was."
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = var.timeout_seconds >= 30
    error_message = "timeout_seconds is at least 30."
  }
}
