locals {
  alerts         = yamldecode(file("${path.module}/files/alerts.yaml"))
  scales_to_zero = try(var.scaling.min_replicas, 1) == 0

  # Where having no worker is usual. Runs of a CronJob are scraped by nobody.
  left_out = var.scaling == null && var.replicas == 0 ? ["KeycardNoWorker", "KeycardNotSwept"] : local.scales_to_zero ? ["KeycardNoWorker"] : []

  # Prometheus evaluates a rule on the workers of every namespace: each installation's is about its own.
  here = "and on (namespace) label_replace(vector(1), \"namespace\", \"${var.namespace}\", \"\", \"\")"

  monitoring = [
    for object in [
      {
        wanted = var.monitoring.service_monitor
        manifest = {
          apiVersion = "monitoring.coreos.com/v1"
          kind       = "ServiceMonitor"
          metadata   = merge(local.metadata, { labels = merge(local.labels, var.monitoring.labels) })
          spec = {
            selector  = { matchLabels = local.labels }
            endpoints = [{ port = "metrics", interval = "30s" }]
          }
        }
      },
      {
        wanted = var.monitoring.rules
        manifest = {
          apiVersion = "monitoring.coreos.com/v1"
          kind       = "PrometheusRule"
          metadata   = merge(local.metadata, { labels = merge(local.labels, var.monitoring.labels) })
          spec = {
            groups = [
              for group in local.alerts.groups : {
                name = group.name
                rules = [
                  for rule in group.rules : merge(rule, {
                    expr = "(${trimspace(rule.expr)}) ${local.here}"
                    annotations = merge(rule.annotations, {
                      for key, url in { runbook_url = var.monitoring.runbook_url } : key => "${url}#${lower(rule.alert)}" if url != null
                    })
                  }) if !contains(local.left_out, rule.alert)
                ]
              }
            ]
          }
        }
      },
      {
        wanted = var.monitoring.dashboard
        manifest = {
          apiVersion = "v1"
          kind       = "ConfigMap"
          metadata = {
            name      = "${var.name}-dashboard"
            namespace = var.namespace
            labels    = merge(local.labels, { (var.monitoring.dashboard_label) = "1" })
          }
          data = { "keycard.json" = file("${path.module}/files/dashboard.json") }
        }
      },
    ] : object.manifest if object.wanted
  ]
}
