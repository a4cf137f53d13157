# Who may do what in the broker, from the same list of requesters as keycard.toml: what RabbitMQ takes
# as definitions (`rabbitmqctl import_definitions`, or POST /api/definitions).

locals {
  requesters = setunion(var.operators, flatten([for role in values(var.roles) : role.requesters]))

  # A name as keycard writes it in routing keys and secrets' paths: every byte outside [A-Za-z0-9_-]
  # is =XX. In a regular expression it stands for itself.
  encoded = {
    for user in local.requesters :
    user => replace(replace(replace(replace(urlencode(user), "+", "%20"), ".", "%2E"), "~", "%7E"), "%", "=")
  }

  permissions = concat(
    [{
      user      = var.broker.username
      configure = "^keycard\\."
      write     = "^(keycard\\.|amq\\.default$)"
      read      = "^keycard\\."
    }],
    [
      for user, name in local.encoded : {
        user      = user
        configure = "^${name}\\."
        write     = "^(${name}\\..*|keycard\\.(requests|leases))$"
        read      = contains(var.operators, user) ? "^(${name}\\..*|keycard\\.(events|dead-letters))$" : "^(${name}\\..*|keycard\\.events)$"
      }
    ],
    var.scaler_user == null ? [] : [{ user = var.scaler_user, configure = "^$", write = "^$", read = "^$" }],
  )

  definitions = {
    vhosts      = [{ name = var.broker.vhost }]
    permissions = [for permission in local.permissions : merge(permission, { vhost = var.broker.vhost })]
    # Without one a service could bind to the results of others.
    topic_permissions = [
      for user, name in local.encoded : {
        user     = user
        vhost    = var.broker.vhost
        exchange = "keycard.events"
        write    = "^$"
        read     = "^${name}\\."
      }
    ]
    users = [
      for permission in local.permissions : {
        name              = permission.user
        password_hash     = var.password_hashes[permission.user]
        hashing_algorithm = "rabbit_password_hashing_sha256"
        tags              = permission.user == var.scaler_user ? ["management"] : []
      } if contains(keys(var.password_hashes), permission.user)
    ]
  }
  # The same for users who log in with a token (OAuth 2, or IAM at Amazon MQ). * matches anything there.
  # The third part is a topic exchange's routing key: without one RabbitMQ 3.10 lets nobody publish there.
  scopes = {
    for user, names in merge(
      { (var.broker.username) = { configure = ["keycard.*"], write = ["keycard.*/*", "amq.default"], read = ["keycard.*/*"] } },
      {
        for user, name in local.encoded : user => {
          configure = ["${name}.*"]
          write     = ["${name}.*", "keycard.requests", "keycard.leases"]
          read      = concat(["${name}.*", "keycard.events/${name}.*"], contains(var.operators, user) ? ["keycard.dead-letters"] : [])
        }
      },
    ) : user => flatten([for permission, patterns in names : [for pattern in patterns : "${permission}:${local.broker_vhost}/${pattern}"]])
  }
}
