# No provider, so that everything is known: what is asserted is what a cluster and a broker get.

variables {
  namespace    = "keycard"
  image        = "registry.example.com/keycard@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  installation = "prod"
  operators    = ["platform-ops"]
  databases = {
    app = {
      host          = "app.example.com"
      dbname        = "app"
      password      = { secret = "keycard-admin/app" }
      allowed_roles = ["app-*"]
    }
    "billing.eu" = {
      host          = "billing.example.com"
      port          = 6432
      dbname        = "billing"
      password      = { kubernetes_secret = { name = "billing-admin", key = "password" } }
      allowed_roles = ["*"]
    }
  }
  roles = {
    app-role = { database = "app", groups = ["app_readwrite"], requesters = ["orders-svc", "orders.eu"] }
    billing  = { database = "billing.eu", creation_statements = ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"], requesters = ["orders-svc"], max_ttl = "12h" }
  }
  broker = { host = "broker.example.com", password = { secret = "keycard-broker" } }
  store  = { region = "eu-west-1" }
}

run "configuration" {
  command = plan

  assert {
    condition     = strcontains(output.keycard_toml, "connection_url = \"postgresql://{{username}}@app.example.com:5432/app?sslmode=verify-full\"")
    error_message = output.keycard_toml
  }
  assert {
    condition     = strcontains(output.keycard_toml, "[databases.\"billing.eu\"]") && strcontains(output.keycard_toml, "password = { file = \"/run/secrets/keycard/billing-admin/password\" }")
    error_message = output.keycard_toml
  }
  assert {
    condition     = strcontains(output.keycard_toml, "url = \"amqps://keycard@broker.example.com:5671/keycard\"")
    error_message = "The broker is reached without TLS."
  }
  assert {
    condition     = !strcontains(output.keycard_toml, "null")
    error_message = "What is not given has to be left out."
  }
  assert {
    condition     = toset(output.password_secrets) == toset(["keycard-admin/app", "keycard-broker"])
    error_message = "The worker has to read exactly these."
  }
}

run "pods_are_restricted" {
  command = plan

  assert {
    condition     = length([for m in output.manifests : m if m.kind == "Deployment"]) == 1
    error_message = "There is one Deployment."
  }
  assert {
    condition = alltrue(flatten([
      for m in output.manifests : [
        m.spec.template.spec.securityContext.runAsUser == 65532,
        m.spec.template.spec.securityContext.seccompProfile.type == "RuntimeDefault",
        [for c in m.spec.template.spec.containers : [
          c.securityContext.readOnlyRootFilesystem,
          !c.securityContext.allowPrivilegeEscalation,
          c.securityContext.capabilities.drop == ["ALL"],
          alltrue([for mount in c.volumeMounts : mount.readOnly]),
        ]],
        m.spec.template.spec.terminationGracePeriodSeconds > 25,
        m.spec.replicas == 2,
        m.spec.selector.matchLabels == m.spec.template.metadata.labels,
      ] if m.kind == "Deployment"
    ]))
    error_message = "The pod is not as the restricted standard asks."
  }
  assert {
    condition = length(flatten([
      for m in output.manifests : [
        for rule in m.spec.egress : [
          for to in rule.to : to if try(to.ipBlock.cidr, "") == "169.254.170.23/32" && rule.ports[0].port == 80
        ]
      ] if m.kind == "NetworkPolicy"
    ])) == 1
    error_message = "Without Pod Identity's agent there are no credentials."
  }
  assert {
    condition = toset(flatten([
      for m in output.manifests : [for rule in m.spec.egress : [for p in rule.ports : p.port]] if m.kind == "NetworkPolicy"
    ])) == toset([53, 80, 443, 5432, 5671, 6432])
    error_message = "Workers may reach DNS, broker, databases and AWS, and nothing else."
  }
  assert {
    condition     = toset([for m in output.manifests : m.kind]) == toset(["ServiceAccount", "ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "NetworkPolicy", "ServiceMonitor", "PrometheusRule"])
    error_message = "Without scaling there is nothing of KEDA's."
  }
}

run "scaled_to_zero_by_keda" {
  command = plan
  variables {
    scaling = { broker_secret = { name = "keycard-keda" }, min_replicas = 0 }
  }

  assert {
    condition = [
      for m in output.manifests : [for t in m.spec.triggers : try(t.metadata.queueName, t.type)] if m.kind == "ScaledObject"
    ] == [["keycard.requests", "keycard.leases", "keycard.expiry", "cron"]]
    error_message = "A due lease, and the clock, have to wake a worker."
  }
  assert {
    condition     = [for m in output.manifests : contains(keys(m.spec), "replicas") if m.kind == "Deployment"] == [false]
    error_message = "A release would undo what KEDA has scaled."
  }
  assert {
    condition = alltrue(flatten([
      for m in output.manifests : [
        !contains([for r in m.spec.groups[0].rules : r.alert], "KeycardNoWorker"),
        contains([for r in m.spec.groups[0].rules : r.alert], "KeycardNotSwept"),
      ] if m.kind == "PrometheusRule"
    ]))
    error_message = "Having no worker is usual, having none for hours is not."
  }
}

run "one_worker_at_least_needs_no_cron" {
  command = plan
  variables {
    scaling = { broker_secret = { name = "keycard-keda" } }
  }

  assert {
    condition     = [for m in output.manifests : [m.spec.minReplicaCount, length(m.spec.triggers)] if m.kind == "ScaledObject"] == [[1, 3]]
    error_message = "One worker runs always."
  }
  assert {
    condition     = [for m in output.manifests : contains([for r in m.spec.groups[0].rules : r.alert], "KeycardNoWorker") if m.kind == "PrometheusRule"] == [true]
    error_message = "Having no worker is worth a page."
  }
}

run "without_keda_a_job_drains" {
  command = plan
  variables {
    replicas       = 0
    drain_schedule = "*/5 * * * *"
  }

  assert {
    condition = [
      for m in output.manifests : [m.spec.schedule, m.spec.concurrencyPolicy, m.spec.jobTemplate.spec.template.spec.containers[0].args] if m.kind == "CronJob"
    ] == [["*/5 * * * *", "Forbid", ["--log-level", "info", "--log-format", "json", "worker", "--drain"]]]
    error_message = "A run drains, and no two at a time."
  }
  assert {
    condition = alltrue(flatten([
      for m in output.manifests : [
        for r in m.spec.groups[0].rules : !contains(["KeycardNoWorker", "KeycardNotSwept"], r.alert)
      ] if m.kind == "PrometheusRule"
    ]))
    error_message = "Having no worker is usual, and nobody scrapes a run."
  }
  assert {
    condition = alltrue(flatten([
      for m in output.manifests : [
        for c in m.spec.jobTemplate.spec.template.spec.containers : [!can(c.livenessProbe), !can(c.ports), c.securityContext.readOnlyRootFilesystem]
      ] if m.kind == "CronJob"
    ]))
    error_message = "Nobody asks a run how it is: it serves no metrics."
  }
  assert {
    condition = length(distinct(flatten([
      for m in output.manifests : [
        for selector in [try(m.spec.podSelector.matchLabels, m.spec.jobTemplate.spec.template.metadata.labels)] :
        selector["app.kubernetes.io/instance"]
      ] if contains(["CronJob", "NetworkPolicy"], m.kind)
    ]))) == 1
    error_message = "The NetworkPolicy is a run's as well."
  }
  assert {
    condition = [
      for m in output.manifests : try(m.spec.selector["app.kubernetes.io/component"], m.spec.selector.matchLabels["app.kubernetes.io/component"])
      if contains(["PodDisruptionBudget", "Service"], m.kind)
    ] == ["worker", "worker"]
    error_message = "Runs are neither scraped nor counted."
  }
}

run "traces_go_to_the_collector_and_nowhere_else" {
  command = plan
  variables {
    worker  = { otlp_endpoint = "http://collector.monitoring:4318" }
    network = { collector_namespace = "monitoring", collector_cidrs = ["10.9.0.0/24"], broker_namespace = "rabbitmq" }
  }

  assert {
    condition     = strcontains(output.keycard_toml, "otlp_endpoint = \"http://collector.monitoring:4318\"")
    error_message = output.keycard_toml
  }
  assert {
    condition = flatten([
      for m in output.manifests : [for rule in m.spec.egress : jsonencode(rule.to) if rule.ports[0].port == 4318] if m.kind == "NetworkPolicy"
    ]) == [jsonencode([{ ipBlock = { cidr = "10.9.0.0/24" } }, { namespaceSelector = { matchLabels = { "kubernetes.io/metadata.name" = "monitoring" } } }])]
    error_message = "Traces do not arrive."
  }
  assert {
    condition = anytrue(flatten([
      for m in output.manifests : [for rule in m.spec.egress : strcontains(jsonencode(rule.to), "rabbitmq") if rule.ports[0].port == 5671] if m.kind == "NetworkPolicy"
    ]))
    error_message = "A broker in the cluster is out of reach."
  }
}

run "a_collector_without_a_port_is_reached_at_its_schemes" {
  command = plan
  variables {
    worker  = { otlp_endpoint = "https://collector.example.com" }
    network = { collector_cidrs = ["10.9.0.0/24"] }
  }

  assert {
    condition = anytrue(flatten([
      for m in output.manifests : [for rule in m.spec.egress : rule.ports[0].port == 443 && strcontains(jsonencode(rule.to), "10.9.0.0/24")] if m.kind == "NetworkPolicy"
    ]))
    error_message = "https:// is port 443."
  }
}

run "dns_may_be_at_an_address" {
  command = plan
  variables {
    network = { dns_cidrs = ["172.20.0.10/32"] }
  }

  assert {
    condition = flatten([
      for m in output.manifests : [for rule in m.spec.egress : jsonencode(rule.to) if rule.ports[0].port == 53] if m.kind == "NetworkPolicy"
    ]) == [jsonencode([{ namespaceSelector = { matchLabels = { "kubernetes.io/metadata.name" = "kube-system" } } }, { ipBlock = { cidr = "172.20.0.10/32" } }])]
    error_message = "On EKS Auto Mode no name is found."
  }
}

run "monitoring_can_be_left_out" {
  command = plan
  variables {
    monitoring = { service_monitor = false, rules = false, dashboard = false }
  }

  assert {
    condition     = length([for m in output.manifests : m if strcontains(m.apiVersion, "monitoring") || endswith(m.metadata.name, "-dashboard")]) == 0
    error_message = "Clusters without the Prometheus operator refuse its objects."
  }
}

run "alerts_are_of_this_installation" {
  command = plan
  variables {
    namespace = "elsewhere"
  }

  assert {
    condition = alltrue(flatten([
      for m in output.manifests : [for r in m.spec.groups[0].rules : endswith(r.expr, ") and on (namespace) label_replace(vector(1), \"namespace\", \"elsewhere\", \"\", \"\")")]
      if m.kind == "PrometheusRule"
    ]))
    error_message = "An alert on the workers of another namespace."
  }
}

run "alerts_point_into_the_runbook" {
  command = plan
  variables {
    monitoring = { runbook_url = "https://example.com/RUNBOOK.md" }
  }

  assert {
    condition = alltrue(flatten([
      for m in output.manifests : [
        for r in m.spec.groups[0].rules : r.annotations.runbook_url == "https://example.com/RUNBOOK.md#${lower(r.alert)}"
      ] if m.kind == "PrometheusRule"
    ]))
    error_message = "An alert without its section."
  }
}

run "each_requester_has_its_own_and_nothing_else" {
  command = plan
  variables {
    scaler_user     = "keycard-keda"
    password_hashes = { orders-svc = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", keycard-keda = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" }
  }

  assert {
    condition = [for p in jsondecode(output.rabbitmq_definitions).permissions : p if p.user == "orders.eu"] == [{
      user      = "orders.eu"
      vhost     = "keycard"
      configure = "^orders=2Eeu\\."
      write     = "^(orders=2Eeu\\..*|keycard\\.(requests|leases))$"
      read      = "^(orders=2Eeu\\..*|keycard\\.events)$"
    }]
    error_message = nonsensitive(output.rabbitmq_definitions)
  }
  assert {
    condition = jsondecode(output.rabbitmq_definitions).topic_permissions == [
      for user, name in { orders-svc = "orders-svc", "orders.eu" = "orders=2Eeu", platform-ops = "platform-ops" } :
      { user = user, vhost = "keycard", exchange = "keycard.events", write = "^$", read = "^${name}\\." }
    ]
    error_message = "Whoever has no topic permission may bind to everybody's results."
  }
  assert {
    condition     = [for p in jsondecode(output.rabbitmq_definitions).permissions : p.user if strcontains(p.read, "dead-letters") || startswith(p.read, "^keycard")] == ["keycard", "platform-ops"]
    error_message = "Only operators look at dead letters."
  }
  assert {
    condition     = { for u in jsondecode(output.rabbitmq_definitions).users : u.name => u.tags } == { orders-svc = [], keycard-keda = ["management"] }
    error_message = "Users without a password hash are not made."
  }
}

run "a_token_allows_what_the_definitions_do" {
  command = plan

  assert {
    condition = output.rabbitmq_scopes["orders.eu"] == [
      "configure:keycard/orders=2Eeu.*",
      "read:keycard/orders=2Eeu.*",
      "read:keycard/keycard.events/orders=2Eeu.*",
      "write:keycard/orders=2Eeu.*",
      "write:keycard/keycard.requests",
      "write:keycard/keycard.leases",
    ]
    error_message = jsonencode(output.rabbitmq_scopes)
  }
  assert {
    condition     = [for user, scopes in output.rabbitmq_scopes : user if contains(scopes, "read:keycard/keycard.dead-letters")] == ["platform-ops"]
    error_message = "Only operators look at dead letters."
  }
}

run "a_space_is_no_plus" {
  command = plan
  variables {
    broker = { host = "broker.example.com", username = "key card", vhost = "the vhost", password = { secret = "keycard-broker" } }
  }

  assert {
    condition     = strcontains(output.keycard_toml, "url = \"amqps://key%20card@broker.example.com:5671/the%20vhost\"")
    error_message = output.keycard_toml
  }
  assert {
    condition     = contains(output.rabbitmq_scopes["orders-svc"], "write:the%20vhost/keycard.requests")
    error_message = jsonencode(output.rabbitmq_scopes)
  }
}

# With IAM a user's name is the ARN of its role.
run "a_requester_may_be_a_role_of_iam" {
  command = plan
  variables {
    broker    = { host = "broker.example.com", username = "arn:aws:iam::123456789012:role/keycard", vhost = "a/b", password = { kubernetes_secret = { name = "token", key = "token" } } }
    operators = ["arn:aws:iam::123456789012:role/ops"]
  }

  assert {
    condition     = strcontains(output.keycard_toml, "url = \"amqps://arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fkeycard@broker.example.com:5671/a%2Fb\"")
    error_message = output.keycard_toml
  }
  assert {
    condition     = contains(output.rabbitmq_scopes["arn:aws:iam::123456789012:role/ops"], "read:a%2Fb/keycard.events/arn=3Aaws=3Aiam=3A=3A123456789012=3Arole=2Fops.*")
    error_message = jsonencode(output.rabbitmq_scopes)
  }
}
