variable "existing" {
  description = "A broker that is there already, with TLS; null makes an Amazon MQ cluster. With security_group_id the clients are let into it."
  type = object({
    host              = string
    port              = optional(number, 5671)
    management_port   = optional(number, 443)
    security_group_id = optional(string)
  })
  default = null

  validation {
    condition     = var.existing == null ? true : can(regex("^[A-Za-z0-9.-]+$", var.existing.host))
    error_message = "existing.host is a DNS name or an IPv4 address, without scheme and port."
  }

  validation {
    condition     = var.existing == null ? true : alltrue([for port in [var.existing.port, var.existing.management_port] : port >= 1 && port <= 65535])
    error_message = "existing.port and management_port are 1 to 65535."
  }
}

variable "name" {
  description = "Name of the Amazon MQ broker and what belongs to it."
  type        = string
  default     = "keycard"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,50}$", var.name))
    error_message = "name is 1 to 50 of A-Z a-z 0-9 _ -."
  }
}

variable "vpc_id" {
  description = "VPC of the Amazon MQ broker."
  type        = string
  default     = null

  validation {
    condition     = var.existing != null || var.vpc_id != null
    error_message = "An Amazon MQ broker needs vpc_id."
  }
}

variable "subnet_ids" {
  description = "Private subnets of the Amazon MQ broker, in different availability zones."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = var.existing != null || length(var.subnet_ids) >= 2
    error_message = "An Amazon MQ cluster needs subnets in at least two availability zones."
  }
}

variable "client_security_group_ids" {
  description = "Security groups that may speak AMQPS with the broker and call its management API: keycard's workers, KEDA and the services, by any name. None for an existing broker without security_group_id."
  type        = map(string)
  nullable    = false

  validation {
    condition     = var.existing == null ? true : var.existing.security_group_id != null || length(var.client_security_group_ids) == 0
    error_message = "client_security_group_ids are let into existing.security_group_id, which is not given: name that, or no clients."
  }
}

variable "engine_version" {
  description = "RabbitMQ's version at Amazon MQ; patches are installed by themselves."
  type        = string
  default     = "4.2"
  nullable    = false

  validation {
    condition     = can(regex("^(3[.]13|4[.]([2-9]|[1-9][0-9]))$", var.engine_version))
    error_message = "engine_version is 3.13, or 4.2 and later."
  }
}

variable "instance_type" {
  description = "Amazon MQ instance type; RabbitMQ 4 runs on mq.m7g only."
  type        = string
  default     = "mq.m7g.large"
  nullable    = false

  validation {
    condition     = startswith(var.instance_type, "mq.m7g.") || startswith(var.engine_version, "3.")
    error_message = "RabbitMQ 4 runs on mq.m7g instances only."
  }
}

variable "administrator" {
  description = "Amazon MQ's first user, which loads the definitions. It comes to stand in Terraform's state: keep that encrypted, and change the password in the broker afterwards."
  type        = object({ username = string, password = string })
  default     = null
  sensitive   = true

  validation {
    condition     = var.administrator == null ? true : can(regex("^[A-Za-z0-9._~-]{2,100}$", var.administrator.username)) && var.administrator.username != "guest"
    error_message = "administrator.username is 2 to 100 of A-Z a-z 0-9 . _ ~ -, and not guest: Amazon MQ takes no other."
  }

  validation {
    condition     = var.existing != null || (var.administrator == null ? false : can(regex("^[^,:=[:space:]]{12,250}$", var.administrator.password)))
    error_message = "An Amazon MQ broker needs administrator, with a password of 12 to 250 characters without comma, colon, equals sign and space."
  }
}

variable "kms_key_arn" {
  description = "KMS key of the broker's storage; null for one that AWS owns."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything made here."
  type        = map(string)
  default     = {}
  nullable    = false
}
