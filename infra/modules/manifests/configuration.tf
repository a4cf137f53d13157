# keycard.toml. A JSON string, list, number or boolean is a TOML one as well.

locals {
  metrics_port      = 9464
  secrets_directory = "/run/secrets/keycard"

  # Where a password is, as a TOML value. A Kubernetes secret is a file: keycard reads it again for
  # every connection, so that a changed one needs no restart.
  passwords = {
    for path, password in merge(
      { for key, database in var.databases : "databases/${key}" => database.password },
      { broker = var.broker.password },
      ) : path => (
      password.secret != null
      ? "{ secret = ${jsonencode(password.secret)} }"
      : "{ file = ${jsonencode("${local.secrets_directory}/${password.kubernetes_secret.name}/${password.kubernetes_secret.key}")} }"
    )
  }

  # In a URL a space is %20; + is one in forms only.
  broker_username = replace(urlencode(var.broker.username), "+", "%20")
  broker_vhost    = replace(urlencode(var.broker.vhost), "+", "%20")

  database_sections = [
    for key, d in var.databases : {
      header = "databases.${jsonencode(key)}"
      lines = merge(
        {
          connection_url = jsonencode("postgresql://{{username}}@${d.host}:${d.port}/${d.dbname}?sslmode=verify-full")
          password       = local.passwords["databases/${key}"]
        },
        {
          for name, value in {
            username        = d.username
            allowed_roles   = d.allowed_roles
            ca_file         = d.ca_file
            public_host     = d.public_host
            public_port     = d.public_port
            max_connections = d.max_connections
          } : name => jsonencode(value) if value != null
        },
      )
    }
  ]

  role_sections = [
    for name, role in var.roles : {
      header = "roles.${jsonencode(name)}"
      lines  = { for key, value in role : key => jsonencode(value) if value != null }
    }
  ]

  other_sections = [
    {
      header = "queue"
      lines = merge(
        {
          kind     = jsonencode("amqp")
          url      = jsonencode("amqps://${local.broker_username}@${var.broker.host}:${var.broker.port}/${local.broker_vhost}")
          password = local.passwords.broker
        },
        {
          for name, value in {
            ca_file  = var.broker.ca_file
            prefetch = var.broker.prefetch
          } : name => jsonencode(value) if value != null
        },
      )
    },
    {
      header = "store"
      lines  = { for name, value in merge({ kind = "aws-secrets-manager" }, var.store) : name => jsonencode(value) if value != null }
    },
    {
      header = "worker"
      lines = {
        for name, value in merge(
          { for key, value in var.worker : key => value if key != "shutdown_grace_seconds" },
          {
            shutdown_grace  = "${var.worker.shutdown_grace_seconds}s"
            metrics_address = "0.0.0.0:${local.metrics_port}"
          },
        ) : name => jsonencode(value) if value != null
      }
    },
  ]

  keycard_toml = join("\n", concat(
    [
      "installation = ${jsonencode(var.installation)}",
      "operators = ${jsonencode(sort(var.operators))}",
    ],
    flatten([
      for section in concat(local.database_sections, local.role_sections, local.other_sections) :
      concat(["", "[${section.header}]"], [for key, value in section.lines : "${key} = ${value}"])
    ]),
    [""],
  ))
}
