variable "name" {
  description = "Name of the role, and first part of the policies' names."
  type        = string
  default     = "keycard"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,40}$", var.name))
    error_message = "name is 1 to 40 of A-Z a-z 0-9 _ -."
  }
}

variable "namespace" {
  description = "Kubernetes namespace of the workers."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace is a DNS label: a-z, 0-9 and -; a pattern would let other namespaces in."
  }
}

variable "service_account" {
  description = "Kubernetes service account of the workers: `name` of modules/manifests."
  type        = string
  default     = "keycard"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.service_account))
    error_message = "service_account is a DNS label: a-z, 0-9 and -; a pattern would let other pods in."
  }
}

variable "cluster_name" {
  description = "EKS cluster whose Pod Identity gives the workers their role; null with irsa."
  type        = string
  default     = null
}

variable "irsa" {
  description = "IAM roles for service accounts in place of Pod Identity: the cluster's OIDC provider, its URL without https://."
  type        = object({ oidc_provider_arn = string, oidc_provider = string })
  default     = null

  validation {
    condition     = (var.irsa == null) != (var.cluster_name == null)
    error_message = "Give cluster_name (Pod Identity) or irsa, not both."
  }

  validation {
    condition     = var.irsa == null ? true : !strcontains(var.irsa.oidc_provider, "://")
    error_message = "irsa.oidc_provider is written without https://."
  }
}

variable "secret_prefix" {
  description = "First part of every secret's name: store.prefix of modules/manifests."
  type        = string
  default     = "keycard"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$", var.secret_prefix))
    error_message = "secret_prefix is made of A-Z a-z 0-9 _ . - with single slashes between, no part beginning with '.'."
  }
}

variable "password_secret_arns" {
  description = "ARNs of the secrets that hold keycard's own passwords, which it reads and nothing else reads through it."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for arn in var.password_secret_arns : can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[^*]+(-[?]{6})?$", arn))])
    error_message = "password_secret_arns are whole ARNs of secrets, without *."
  }
}

variable "password_kms_key_arns" {
  description = "KMS keys of those secrets, where it is not the account's own aws/secretsmanager."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "kms_key_arn" {
  description = "KMS key for the credentials' secrets; null for the account's own aws/secretsmanager, or for one made here (create_kms_key)."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null ? true : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.kms_key_arn))
    error_message = "kms_key_arn is the ARN of a key, not of an alias: policies see through no alias."
  }
}

variable "create_kms_key" {
  description = "Whether a KMS key for the credentials' secrets is made here."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = !(var.create_kms_key && var.kms_key_arn != null)
    error_message = "Give kms_key_arn or create_kms_key, not both."
  }
}

variable "requesters" {
  description = "Requesters by name, with the name as it stands in secrets' paths: the output of modules/manifests. Each gets a policy to attach to its own role."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in values(var.requesters) : can(regex("^[A-Za-z0-9_=-]+$", name))])
    error_message = "The values of requesters are encoded names: A-Z a-z 0-9 _ - and =XX; take the output of modules/manifests."
  }

  validation {
    condition     = !contains(values(var.requesters), "keycard-doctor")
    error_message = "keycard-doctor is the requester of `keycard doctor`: nobody else reads what it rehearses with."
  }

  validation {
    condition     = alltrue([for name in values(var.requesters) : length("${var.name}-reader-${name}") <= 128])
    error_message = "A requester's policy has a name of more than 128 characters: name is too long, or the requester's."
  }
}

variable "worker_security_group_id" {
  description = "Security group of the pods or their nodes; null if this module shall make no rules."
  type        = string
  default     = null
}

variable "databases" {
  description = "Databases' security groups and ports that the workers are let into, by any name."
  type        = map(object({ security_group_id = string, port = optional(number, 5432) }))
  default     = {}
  nullable    = false

  validation {
    condition     = length(var.databases) == 0 || var.worker_security_group_id != null
    error_message = "Rules for databases need worker_security_group_id."
  }
}

variable "permissions_boundary_arn" {
  description = "Permissions boundary of the worker's role, if the account asks for one."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything made here."
  type        = map(string)
  default     = {}
  nullable    = false
}
