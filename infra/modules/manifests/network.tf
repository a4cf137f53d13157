locals {
  tcp = {
    for port in toset(concat([var.broker.port, 443, 80, 53, local.metrics_port], local.collector_ports, [for d in values(var.databases) : d.port])) :
    tostring(port) => { protocol = "TCP", port = port }
  }

  # scheme and port of http://collector:4318
  collector       = [for url in [var.worker.otlp_endpoint] : regex("^(https?)://[^/:]+(?::([0-9]+))?", url) if url != null]
  collector_ports = [for parts in local.collector : parts[1] != null ? tonumber(parts[1]) : parts[0] == "https" ? 443 : 80]

  # Whom a rule is about: address ranges, and the pods of a namespace if one is named.
  blocks = {
    for whom, cidrs in {
      broker    = var.network.broker_cidrs
      databases = var.network.database_cidrs
      aws       = var.network.aws_cidrs
      collector = var.network.collector_cidrs
      dns       = var.network.dns_cidrs
      identity  = ["169.254.170.23/32"]
    } : whom => [for cidr in cidrs : { ipBlock = { cidr = cidr } }]
  }
  namespaces = {
    for whom, namespace in {
      broker     = var.network.broker_namespace
      collector  = var.network.collector_namespace
      dns        = "kube-system"
      monitoring = var.network.monitoring_namespace
    } : whom => [for name in [namespace] : { namespaceSelector = { matchLabels = { "kubernetes.io/metadata.name" = name } } } if name != null]
  }

  # Whatever is not named here is denied, in both directions.
  network_policy = {
    apiVersion = "networking.k8s.io/v1"
    kind       = "NetworkPolicy"
    metadata   = local.metadata
    spec = {
      podSelector = { matchLabels = local.labels }
      policyTypes = ["Ingress", "Egress"]
      ingress     = [{ from = local.namespaces.monitoring, ports = [local.tcp[local.metrics_port]] }]
      egress = concat(
        [
          { to = concat(local.namespaces.dns, local.blocks.dns), ports = [{ protocol = "UDP", port = 53 }, local.tcp[53]] },
          { to = concat(local.blocks.broker, local.namespaces.broker), ports = [local.tcp[var.broker.port]] },
          { to = local.blocks.databases, ports = [for port in distinct([for d in values(var.databases) : d.port]) : local.tcp[port]] },
          { to = local.blocks.aws, ports = [local.tcp[443]] },
          # EKS Pod Identity's agent: without it the credentials time out.
          { to = local.blocks.identity, ports = [local.tcp[80]] },
        ],
        [for port in local.collector_ports : { to = concat(local.blocks.collector, local.namespaces.collector), ports = [local.tcp[port]] }],
      )
    }
  }
}
