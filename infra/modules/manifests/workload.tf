locals {
  labels   = { "app.kubernetes.io/name" = "keycard", "app.kubernetes.io/instance" = var.name }
  metadata = { name = var.name, namespace = var.namespace, labels = local.labels }

  # Those that serve, as against the runs of a CronJob, which nobody scrapes or counts.
  worker_labels = merge(local.labels, { "app.kubernetes.io/component" = "worker" })

  kubernetes_secrets = toset([
    for password in concat([var.broker.password], [for d in values(var.databases) : d.password]) :
    password.kubernetes_secret.name if password.kubernetes_secret != null
  ])

  # What a pod mounts, always read-only.
  mounts = concat(
    [{ name = "config", path = "/etc/keycard", source = { configMap = { name = var.name } } }],
    [for ca in [var.ca_config_map] : { name = "ca", path = "/etc/keycard-ca", source = { configMap = { name = ca } } } if ca != null],
    [
      for secret in local.kubernetes_secrets : {
        name   = "secret-${substr(sha256(secret), 0, 16)}"
        path   = "${local.secrets_directory}/${secret}"
        source = { secret = { secretName = secret, defaultMode = 288 } } # 0440, for the group 65532
      }
    ],
  )

  # Of a worker that serves and of one that drains.
  container = {
    name            = "keycard"
    image           = var.image
    imagePullPolicy = "IfNotPresent"
    args            = ["--log-level", var.log_level, "--log-format", "json", "worker"]
    env             = [{ name = "AWS_REGION", value = var.store.region }]
    # No CPU limit: it would throttle revocations while the node has time to spare.
    resources = {
      requests = { cpu = var.resources.cpu, memory = var.resources.memory }
      limits   = { memory = var.resources.memory_limit }
    }
    securityContext = {
      allowPrivilegeEscalation = false
      readOnlyRootFilesystem   = true
      runAsNonRoot             = true
      capabilities             = { drop = ["ALL"] }
    }
    volumeMounts = [for mount in local.mounts : { name = mount.name, mountPath = mount.path, readOnly = true }]
  }

  serving = {
    ports = [{ name = "metrics", containerPort = local.metrics_port, protocol = "TCP" }]
    # A worker whose dependency is away is alive and goes on trying: only readiness tells.
    livenessProbe  = { httpGet = { path = "/livez", port = "metrics" }, periodSeconds = 10, timeoutSeconds = 5, failureThreshold = 6 }
    readinessProbe = { httpGet = { path = "/readyz", port = "metrics" }, periodSeconds = 10, timeoutSeconds = 5 }
  }

  pod = {
    serviceAccountName            = var.name
    automountServiceAccountToken  = false # AWS's tokens are mounted by EKS itself
    terminationGracePeriodSeconds = var.worker.shutdown_grace_seconds + 20
    securityContext = {
      runAsNonRoot   = true
      runAsUser      = 65532
      runAsGroup     = 65532
      fsGroup        = 65532
      seccompProfile = { type = "RuntimeDefault" }
    }
    volumes = [for mount in local.mounts : merge({ name = mount.name }, mount.source)]
  }

  workload = [
    {
      apiVersion                   = "v1"
      kind                         = "ServiceAccount"
      metadata                     = merge(local.metadata, { annotations = var.service_account_annotations })
      automountServiceAccountToken = false
    },
    {
      apiVersion = "v1"
      kind       = "ConfigMap"
      metadata   = local.metadata
      data       = { "keycard.toml" = local.keycard_toml }
    },
    {
      apiVersion = "apps/v1"
      kind       = "Deployment"
      metadata   = local.metadata
      spec = merge(
        { for key, count in { replicas = var.replicas } : key => count if var.scaling == null }, # else they are KEDA's
        {
          revisionHistoryLimit = 3
          selector             = { matchLabels = local.worker_labels }
          strategy             = { type = "RollingUpdate", rollingUpdate = { maxUnavailable = 0, maxSurge = 1 } }
          template = {
            metadata = {
              labels = local.worker_labels
              # Workers read keycard.toml when they start.
              annotations = { "keycard/configuration" = sha256(local.keycard_toml) }
            }
            spec = merge(local.pod, {
              containers = [merge(local.container, local.serving)]
              topologySpreadConstraints = [
                for key in ["topology.kubernetes.io/zone", "kubernetes.io/hostname"] : {
                  maxSkew           = 1
                  topologyKey       = key
                  whenUnsatisfiable = "ScheduleAnyway"
                  labelSelector     = { matchLabels = local.worker_labels }
                }
              ]
            })
          }
        },
      )
    },
    {
      apiVersion = "policy/v1"
      kind       = "PodDisruptionBudget"
      metadata   = local.metadata
      spec = {
        maxUnavailable = 1
        selector       = { matchLabels = local.worker_labels }
        # A database that is away leaves no worker ready: that must not keep nodes from being drained.
        unhealthyPodEvictionPolicy = "AlwaysAllow"
      }
    },
    {
      apiVersion = "v1"
      kind       = "Service"
      metadata   = local.metadata
      spec = {
        clusterIP = "None" # each worker's metrics are its own
        selector  = local.worker_labels
        ports     = [{ name = "metrics", port = local.metrics_port, targetPort = "metrics", protocol = "TCP" }]
        # A worker that is not ready has the more to tell.
        publishNotReadyAddresses = true
      }
    },
    local.network_policy,
  ]
}
