variable "image" {
  description = "The worker's image, by digest."
  type        = string
  default     = "registry.example.com/keycard@sha256:0000000000000000000000000000000000000000000000000000000000000000"
}

variable "password_hashes" {
  description = "RabbitMQ's password hashes by user, for the definitions."
  type        = map(string)
  default     = {}
  sensitive   = true
}

variable "keda" {
  description = "Whether the cluster has KEDA."
  type        = bool
  default     = true
}
