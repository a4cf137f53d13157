variable "region" {
  description = "AWS region."
  type        = string
}

variable "cluster_name" {
  description = "EKS cluster, with the Pod Identity agent."
  type        = string
}

variable "image" {
  description = "The worker's image, by digest."
  type        = string
}

variable "database_host" {
  description = "The database's host."
  type        = string
}

variable "database_security_group_id" {
  description = "The database's security group."
  type        = string
}

variable "worker_security_group_id" {
  description = "Security group of the nodes, or of the pods if they have their own."
  type        = string
}

variable "database_password_arn" {
  description = "Secret with the password of keycard's user in the database."
  type        = string
}

variable "broker_password_arn" {
  description = "Secret with the password of keycard's user in the broker."
  type        = string
}

variable "password_hashes" {
  description = "RabbitMQ's password hashes by user, for the definitions."
  type        = map(string)
  default     = {}
  sensitive   = true
}

variable "broker_host" {
  description = "The existing RabbitMQ, with TLS on 5671 and the management API on 15671."
  type        = string
}

variable "broker_security_group_id" {
  description = "Its security group; null if it needs no rules."
  type        = string
  default     = null
}
