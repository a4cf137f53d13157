# What goes into keycard.toml. Names and defaults are keycard's own: see its configuration reference.
# What is null is left out, so that keycard's default applies.

variable "installation" {
  description = "Names this keycard in ledgers, secret tags and queues. Never change it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$", var.installation))
    error_message = "installation is 1 to 64 of A-Z a-z 0-9 _ . -, not beginning with . or -."
  }
}

variable "operators" {
  description = "Users of the broker that may renew and revoke any lease, and handle dead letters."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for user in var.operators : user != var.broker.username && can(regex("^[^[:cntrl:]*]{1,128}$", user))])
    error_message = "operators are users of the broker by name: no patterns, and not keycard's own user."
  }

  validation {
    condition     = !contains(var.operators, "keycard-doctor")
    error_message = "keycard-doctor is the requester of `keycard doctor`: no user of the broker has its name."
  }
}

variable "databases" {
  description = "The databases that keycard administers, by key. The password is in AWS Secrets Manager (secret: name or ARN) or in a Kubernetes secret. ca_file is a PEM file of the image or of ca_config_map; keycard's image has Amazon RDS's authorities as /etc/ssl/rds-ca.pem. connections_max, if given, is what the database can spare for all workers together, and one more while a release is rolled out."
  type = map(object({
    host     = string
    port     = optional(number, 5432)
    dbname   = string
    username = optional(string, "keycard")
    password = object({
      secret            = optional(string)
      kubernetes_secret = optional(object({ name = string, key = string }))
    })
    allowed_roles   = list(string)
    ca_file         = optional(string)
    public_host     = optional(string)
    public_port     = optional(number)
    max_connections = optional(number, 4)
    connections_max = optional(number)
  }))
  nullable = false

  validation {
    condition     = length(var.databases) > 0 && alltrue([for key in keys(var.databases) : can(regex("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$", key))])
    error_message = "databases has at least one; its keys are 1 to 64 of A-Z a-z 0-9 _ . -, not beginning with . or -."
  }

  validation {
    condition     = alltrue([for d in values(var.databases) : (d.password.secret == null) != (d.password.kubernetes_secret == null)])
    error_message = "Each database's password names either secret or kubernetes_secret."
  }

  validation {
    condition     = alltrue([for d in values(var.databases) : can(regex("^[A-Za-z0-9.-]+$", d.host)) && can(regex("^[A-Za-z0-9_.-]+$", d.dbname))])
    error_message = "A database's host is a DNS name or an IPv4 address, its dbname of A-Z a-z 0-9 _ . -: they are parts of a URL."
  }

  validation {
    condition     = alltrue([for d in values(var.databases) : d.password.kubernetes_secret == null ? true : can(regex("^[a-z0-9]([a-z0-9.-]*[a-z0-9])? [A-Za-z0-9._-]+$", "${d.password.kubernetes_secret.name} ${d.password.kubernetes_secret.key}"))])
    error_message = "A database's kubernetes_secret has the name of a Kubernetes object and a key of A-Z a-z 0-9 . _ -: they are parts of a path."
  }

  validation {
    condition     = alltrue([for d in values(var.databases) : d.ca_file == null ? true : startswith(d.ca_file, "/") && (var.ca_config_map != null || !startswith(d.ca_file, "/etc/keycard-ca/"))])
    error_message = "A database's ca_file is an absolute path; below /etc/keycard-ca/ it needs ca_config_map."
  }

  validation {
    condition     = alltrue([for d in values(var.databases) : d.max_connections >= 1 && d.max_connections <= 64 && alltrue([for port in [d.port, d.public_port] : port == null ? true : port >= 1 && port <= 65535])])
    error_message = "A database's max_connections is 1 to 64, its ports 1 to 65535."
  }

  validation {
    # One connection more, as comparing takes one of its own, and one worker more: a rollout's, or a run
    # of drain_schedule.
    condition = alltrue([
      for d in values(var.databases) :
      d.connections_max == null ? true : ((var.scaling == null ? var.replicas : var.scaling.max_replicas) + 1) * (d.max_connections + 1) <= d.connections_max
    ])
    error_message = "All workers together, and one more while a release is rolled out, would take more connections than a database's connections_max: lower scaling.max_replicas, replicas or max_connections."
  }
}

variable "roles" {
  description = "What may be asked for, by name, and by which users of the broker. TTLs are written 90s, 15m, 1h30m, 7d."
  type = map(object({
    database              = string
    requesters            = list(string)
    groups                = optional(list(string))
    creation_statements   = optional(list(string))
    renew_statements      = optional(list(string))
    revocation_statements = optional(list(string))
    reassign_owned_to     = optional(string)
    drop_owned            = optional(bool)
    connection_limit      = optional(number)
    default_ttl           = optional(string)
    max_ttl               = optional(string)
    min_ttl               = optional(string)
    scram_iterations      = optional(number)
    max_leases            = optional(number)
  }))
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.roles) : can(regex("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$", name))])
    error_message = "Names of roles are 1 to 64 of A-Z a-z 0-9 _ . -, not beginning with . or -."
  }

  validation {
    condition     = alltrue([for role in values(var.roles) : contains(keys(var.databases), role.database)])
    error_message = "Each role's database is a key of databases."
  }

  validation {
    condition = alltrue([
      for name, role in var.roles : anytrue([
        for pattern in try(var.databases[role.database].allowed_roles, ["*"]) : can(regex("^${replace(replace(pattern, ".", "\\."), "*", ".*")}$", name))
      ])
    ])
    error_message = "Each role is among the allowed_roles of its database: nobody could ask for it."
  }

  validation {
    condition     = alltrue([for role in values(var.roles) : role.groups != null || role.creation_statements != null])
    error_message = "Each role has groups or creation_statements."
  }

  validation {
    condition = alltrue(flatten([
      for role in values(var.roles) : [
        for ttl in [role.default_ttl, role.max_ttl, role.min_ttl] : ttl == null ? true : can(regex("^([0-9]+[smhd])+$", ttl))
      ]
    ]))
    error_message = "TTLs are written 90s, 15m, 1h30m or 7d."
  }

  validation {
    condition = alltrue(flatten([
      for role in values(var.roles) : [
        for number in [role.max_leases, role.connection_limit, role.scram_iterations] : number == null ? true : number >= 1 && floor(number) == number
      ]
    ]))
    error_message = "max_leases, connection_limit and scram_iterations are whole numbers from 1 on."
  }

  validation {
    condition = alltrue([
      for user in flatten([for role in values(var.roles) : role.requesters]) :
      user != var.broker.username && can(regex("^[^[:cntrl:]*]{1,128}$", user))
    ])
    error_message = "requesters are users of the broker by name: no patterns, and not keycard's own user."
  }

  validation {
    condition     = !contains(flatten([for role in values(var.roles) : role.requesters]), "keycard-doctor")
    error_message = "keycard-doctor is the requester of `keycard doctor`: no user of the broker has its name."
  }
}

variable "broker" {
  description = "RabbitMQ, always over TLS: where it is and keycard's own user."
  type = object({
    host     = string
    port     = optional(number, 5671)
    vhost    = optional(string, "keycard")
    username = optional(string, "keycard")
    password = object({
      secret            = optional(string)
      kubernetes_secret = optional(object({ name = string, key = string }))
    })
    ca_file  = optional(string)
    prefetch = optional(number)
  })
  nullable = false

  validation {
    condition     = (var.broker.password.secret == null) != (var.broker.password.kubernetes_secret == null)
    error_message = "broker.password names either secret or kubernetes_secret."
  }

  validation {
    condition     = var.broker.password.kubernetes_secret == null ? true : can(regex("^[a-z0-9]([a-z0-9.-]*[a-z0-9])? [A-Za-z0-9._-]+$", "${var.broker.password.kubernetes_secret.name} ${var.broker.password.kubernetes_secret.key}"))
    error_message = "broker's kubernetes_secret has the name of a Kubernetes object and a key of A-Z a-z 0-9 . _ -: they are parts of a path."
  }

  validation {
    condition     = can(regex("^[A-Za-z0-9.-]+$", var.broker.host))
    error_message = "broker.host is a DNS name or an IPv4 address, without scheme and port."
  }

  validation {
    condition     = var.broker.port >= 1 && var.broker.port <= 65535 && (var.broker.prefetch == null ? true : var.broker.prefetch >= 2 && var.broker.prefetch <= 2000)
    error_message = "broker.port is 1 to 65535, broker.prefetch 2 to 2000."
  }

  validation {
    condition     = var.broker.vhost != "" && var.broker.username != ""
    error_message = "broker.vhost and broker.username have names; the default vhost is \"/\"."
  }

  validation {
    condition     = var.broker.ca_file == null ? true : startswith(var.broker.ca_file, "/") && (var.ca_config_map != null || !startswith(var.broker.ca_file, "/etc/keycard-ca/"))
    error_message = "broker.ca_file is an absolute path; below /etc/keycard-ca/ it needs ca_config_map."
  }
}

variable "store" {
  description = "AWS Secrets Manager, where credentials are put: prefix of the secrets' names, region, KMS key."
  type = object({
    prefix     = optional(string, "keycard")
    region     = string
    kms_key_id = optional(string)
  })
  nullable = false

  validation {
    condition     = length(var.store.prefix) <= 128 && can(regex("^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$", var.store.prefix))
    error_message = "store.prefix is made of A-Z a-z 0-9 _ . - with single slashes between, no part beginning with '.', at most 128 in all."
  }

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]+$", var.store.region))
    error_message = "store.region is an AWS region such as eu-west-1."
  }
}

variable "worker" {
  description = "Intervals and retention of the worker; shutdown_grace_seconds is how long work in flight may take to finish, and Kubernetes waits 20 s longer; otlp_endpoint is the collector of traces, whom network lets the workers reach."
  type = object({
    sweep_interval         = optional(string)
    reconcile_interval     = optional(string)
    shutdown_grace_seconds = optional(number, 25)
    max_request_age        = optional(string)
    keep_closed_leases     = optional(string)
    keep_audit             = optional(string)
    otlp_endpoint          = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.worker.shutdown_grace_seconds >= 1 && var.worker.shutdown_grace_seconds <= 600
    error_message = "worker.shutdown_grace_seconds is 1 to 600."
  }

  validation {
    condition = alltrue([
      for time in [var.worker.sweep_interval, var.worker.reconcile_interval, var.worker.max_request_age, var.worker.keep_closed_leases, var.worker.keep_audit] :
      time == null ? true : can(regex("^([0-9]+[smhd])+$", time))
    ])
    error_message = "Times of worker are written 30s, 15m, 1h30m or 90d."
  }

  validation {
    condition     = var.worker.otlp_endpoint == null ? true : can(regex("^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[^@?#[:space:]]*)?$", var.worker.otlp_endpoint))
    error_message = "worker.otlp_endpoint is an http:// or https:// URL such as http://collector.monitoring:4318, without user, query and /v1/traces."
  }
}

variable "ca_config_map" {
  description = "ConfigMap with PEM files that ca_file of databases and broker may name as /etc/keycard-ca/KEY; null if the image's own authorities do: the system's, or Amazon RDS's in /etc/ssl/rds-ca.pem."
  type        = string
  default     = null
}

variable "password_hashes" {
  description = "For the definitions: RabbitMQ's hashes (rabbit_password_hashing_sha256) by user. A user without one is not made, only permitted: it has to exist, or be known to another backend."
  type        = map(string)
  default     = {}
  nullable    = false
  sensitive   = true

  validation {
    condition     = alltrue([for hash in values(var.password_hashes) : can(regex("^[A-Za-z0-9+/]{48}$", hash))])
    error_message = "password_hashes are base64 of 36 bytes, as `rabbitmqctl hash_password` prints: a salt of 4 and a SHA-256."
  }
}

variable "scaler_user" {
  description = "For the definitions: the broker user that KEDA asks as. It may look at the vhost and at nothing in it."
  type        = string
  default     = null

  validation {
    condition     = var.scaler_user == null ? true : var.scaler_user != var.broker.username && !contains(concat(tolist(var.operators), flatten([for role in values(var.roles) : role.requesters])), var.scaler_user)
    error_message = "scaler_user is a user of its own: it gets the tag management, and may read and write nothing."
  }
}
