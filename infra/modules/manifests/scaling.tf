# Scaled to zero, something has to run a worker though nobody sends anything: a message may be lost.
# KEDA's cron trigger runs one that serves, and so reconciles and shows its metrics as well; where there
# is no KEDA, a CronJob runs one that drains.

locals {
  # keycard.expiry is why this works with no worker at all: a lease that is due is a message there.
  queues = ["keycard.requests", "keycard.leases", "keycard.expiry"]

  scaling = [
    for scaling in [var.scaling] : [
      {
        apiVersion = "keda.sh/v1alpha1"
        kind       = "TriggerAuthentication"
        metadata   = local.metadata
        spec       = { secretTargetRef = [{ parameter = "host", name = scaling.broker_secret.name, key = scaling.broker_secret.key }] }
      },
      {
        apiVersion = "keda.sh/v1alpha1"
        kind       = "ScaledObject"
        metadata   = local.metadata
        spec = {
          scaleTargetRef  = { name = var.name }
          minReplicaCount = scaling.min_replicas
          maxReplicaCount = scaling.max_replicas
          pollingInterval = scaling.polling_interval_seconds
          cooldownPeriod  = scaling.cooldown_seconds
          # The broker cannot be asked: keep what runs, and have one at least.
          fallback = { failureThreshold = 3, replicas = max(1, scaling.min_replicas), behavior = "currentReplicasIfHigher" }
          triggers = concat(
            [
              for queue in local.queues : {
                type = "rabbitmq"
                # Over HTTP the length counts what workers hold unacknowledged as well, so that none is
                # scaled away for having taken a message.
                metadata = {
                  protocol  = "http"
                  mode      = "QueueLength"
                  queueName = queue
                  value     = tostring(scaling.messages_per_replica)
                }
                useCachedMetrics  = true
                authenticationRef = { name = var.name }
              }
            ],
            [
              for cron in [scaling.cron] : {
                type     = "cron"
                metadata = { timezone = cron.timezone, start = cron.start, end = cron.end, desiredReplicas = "1" }
              } if scaling.min_replicas == 0
            ],
          )
        }
      },
    ] if scaling != null
  ]

  draining = [
    for schedule in [var.drain_schedule] : {
      apiVersion = "batch/v1"
      kind       = "CronJob"
      metadata   = merge(local.metadata, { name = "${var.name}-drain" })
      spec = {
        schedule                   = schedule
        timeZone                   = "Etc/UTC"
        concurrencyPolicy          = "Forbid" # a run that waits for a broker is as good as the next
        startingDeadlineSeconds    = 300
        successfulJobsHistoryLimit = 1
        failedJobsHistoryLimit     = 3
        jobTemplate = {
          spec = {
            backoffLimit            = 0 # the schedule tries again
            activeDeadlineSeconds   = 1800
            ttlSecondsAfterFinished = 86400
            template = {
              metadata = { labels = merge(local.labels, { "app.kubernetes.io/component" = "drain" }) }
              spec = merge(local.pod, {
                restartPolicy = "Never"
                containers    = [merge(local.container, { args = concat(local.container.args, ["--drain"]) })]
              })
            }
          }
        }
      }
    } if schedule != null
  ]
}
