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

variable "vpc_id" {
  description = "VPC of the broker."
  type        = string
}

variable "private_subnet_ids" {
  description = "Private subnets of the broker, in different availability zones."
  type        = list(string)
}

variable "broker_administrator" {
  description = "Amazon MQ's first user, which loads the definitions."
  type        = object({ username = string, password = string })
  sensitive   = true
}
