# Login to Amazon MQ by IAM: users of the broker are roles of IAM, named by their ARNs, and what they
# may do comes from the same list of requesters as always. No provider: `terraform output -raw
# rabbitmq_conf` is the broker's configuration.

terraform {
  required_version = ">= 1.9"
}

variable "issuer" {
  description = "The account's issuer of tokens: https://ID.tokens.sts.global.api.aws, as `aws iam enable-outbound-web-identity-federation` says."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^https://[a-z0-9-]+[.]tokens[.]sts[.]global[.]api[.]aws$", var.issuer))
    error_message = "issuer is https://ID.tokens.sts.global.api.aws, without a slash at its end."
  }
}

module "manifests" {
  source = "../../modules/manifests"

  namespace    = "keycard"
  image        = "registry.example.com/keycard@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  installation = "prod"
  operators    = ["arn:aws:iam::123456789012:role/platform-ops"]

  databases = {
    app = {
      host          = "app.example.com"
      dbname        = "app"
      password      = { secret = "keycard-admin/app" }
      ca_file       = "/etc/ssl/rds-ca.pem"
      allowed_roles = ["app-*"]
    }
  }
  roles = {
    app-readwrite = { database = "app", groups = ["app_readwrite"], requesters = ["arn:aws:iam::123456789012:role/orders-svc"] }
  }
  broker = {
    host     = "b-1234.mq.eu-west-1.on.aws"
    username = "arn:aws:iam::123456789012:role/keycard"
    # The token, which something else renews.
    password = { kubernetes_secret = { name = "keycard-broker-token", key = "token" } }
  }
  store = { region = "eu-west-1" }
}

locals {
  users = keys(module.manifests.rabbitmq_scopes)

  # AWS's tokens carry no scopes that RabbitMQ could read: their subject, the role, stands for them.
  rabbitmq_conf = concat(
    [
      "auth_backends.1 = oauth2",
      "auth_backends.2 = internal",                                 # the administrator, and KEDA's user
      "auth_oauth2.jwks_uri = ${var.issuer}/.well-known/jwks.json", # jwks_url before RabbitMQ 4
      "auth_oauth2.https.hostname_verification = wildcard",
      "auth_oauth2.resource_server_id = rabbitmq",
      "auth_oauth2.scope_prefix = rabbitmq/",
      "auth_oauth2.additional_scopes_key = sub",
      "auth_oauth2.preferred_username_claims.1 = sub",
    ],
    flatten([
      for index, user in local.users : [
        "auth_oauth2.scope_aliases.${index + 1}.alias = ${user}",
        "auth_oauth2.scope_aliases.${index + 1}.scope = ${join(" ", [for scope in module.manifests.rabbitmq_scopes[user] : "rabbitmq/${scope}"])}",
      ]
    ]),
  )
}

output "rabbitmq_conf" {
  description = "For `aws mq update-configuration`: who may log in, and what they may do."
  value       = join("\n", concat(local.rabbitmq_conf, [""]))
}

output "keycard_toml" {
  description = "The configuration, for `keycard config check`."
  value       = module.manifests.keycard_toml
}
