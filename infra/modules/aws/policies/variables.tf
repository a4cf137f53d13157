variable "partition" {
  description = "AWS partition: aws, aws-cn or aws-us-gov."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Region of the secrets."
  type        = string
  nullable    = false
}

variable "account_id" {
  description = "Account of the secrets."
  type        = string
  nullable    = false
}

variable "secret_prefix" {
  description = "First part of every secret's name: store.prefix of keycard.toml."
  type        = string
  nullable    = false
}

variable "password_secret_arns" {
  description = "ARNs of the secrets that hold keycard's own passwords."
  type        = list(string)
  nullable    = false
}

variable "kms_key_arn" {
  description = "KMS key of the secrets below the prefix; null for the account's own aws/secretsmanager."
  type        = string
}

variable "password_kms_key_arns" {
  description = "KMS keys of the passwords' secrets, if they have keys of their own."
  type        = list(string)
  nullable    = false
}

variable "requesters" {
  description = "Requesters by name, with the name as it stands in secrets' paths."
  type        = map(string)
  nullable    = false
}
