locals {
  tcp = { for port in toset(concat([var.broker.port, 443, 80, 53, local.metrics_port], [for d in values(var.databases) : d.port])) : tostring(port) => { protocol = "TCP", port = port } }

  # Whatever is not named here is denied, in both directions.
  network_policy = {
    apiVersion = "networking.k8s.io/v1"
    kind       = "NetworkPolicy"
    metadata   = local.metadata
    spec = {
      podSelector = { matchLabels = local.labels }
      policyTypes = ["Ingress", "Egress"]
      ingress = [{
        from  = [{ namespaceSelector = { matchLabels = { "kubernetes.io/metadata.name" = var.network.monitoring_namespace } } }]
        ports = [local.tcp[local.metrics_port]]
      }]
      egress = [
        { # DNS: the cluster's, or the node's own cache
          to = [
            { namespaceSelector = { matchLabels = { "kubernetes.io/metadata.name" = "kube-system" } } },
            { ipBlock = { cidr = "169.254.20.10/32" } },
          ]
          ports = [{ protocol = "UDP", port = 53 }, local.tcp[53]]
        },
        {
          to    = [for cidr in var.network.broker_cidrs : { ipBlock = { cidr = cidr } }]
          ports = [local.tcp[var.broker.port]]
        },
        {
          to    = [for cidr in var.network.database_cidrs : { ipBlock = { cidr = cidr } }]
          ports = [for port in distinct([for d in values(var.databases) : d.port]) : local.tcp[port]]
        },
        {
          to    = [for cidr in var.network.aws_cidrs : { ipBlock = { cidr = cidr } }]
          ports = [local.tcp[443]]
        },
        { # EKS Pod Identity's agent: without it the credentials time out
          to    = [{ ipBlock = { cidr = "169.254.170.23/32" } }]
          ports = [local.tcp[80]]
        },
      ]
    }
  }
}
