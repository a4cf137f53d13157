variable "name" {
  description = "Name of every object and the prefix of those that need another."
  type        = string
  default     = "keycard"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", var.name))
    error_message = "name is a DNS label of at most 40 characters: a-z, 0-9 and -, beginning with a letter."
  }
}

variable "namespace" {
  description = "Namespace of every object. It has to exist; the pods fit the restricted Pod Security Standard."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace is a DNS label: a-z, 0-9 and -."
  }
}

variable "image" {
  description = "The worker's image, by digest: REGISTRY/keycard@sha256:..."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[^@[:space:]]+@sha256:[0-9a-f]{64}$", var.image))
    error_message = "image names a digest (NAME@sha256: and 64 hexadecimal digits): a tag can be moved."
  }
}

variable "service_account_annotations" {
  description = "Annotations of the service account, such as eks.amazonaws.com/role-arn for IRSA. EKS Pod Identity needs none."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "replicas" {
  description = "How many workers run where KEDA does not scale them; 0 needs drain_schedule."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = var.replicas >= 0 && floor(var.replicas) == var.replicas
    error_message = "replicas is a whole number from 0 on."
  }

  validation {
    condition     = var.replicas > 0 || var.scaling != null || var.drain_schedule != null
    error_message = "With replicas = 0, without scaling and without drain_schedule nobody would ever do anything."
  }
}

variable "drain_schedule" {
  description = "When a CronJob runs `keycard worker --drain`, which does what waits, ends what is due, and exits: for clusters without KEDA where nobody minds waiting for the next run. Five fields, in UTC; null for no CronJob."
  type        = string
  default     = null

  validation {
    condition     = var.drain_schedule == null ? true : can(regex("^[0-9*/,-]+( [0-9A-Za-z*/,-]+){4}$", var.drain_schedule))
    error_message = "drain_schedule has the five fields of cron: */5 * * * *."
  }
}

variable "resources" {
  description = "What a worker asks for and may use. A hostile message can take 64 MiB of stack for a moment: leave room for it."
  type = object({
    cpu          = optional(string, "100m")
    memory       = optional(string, "128Mi")
    memory_limit = optional(string, "512Mi")
  })
  default  = {}
  nullable = false

  validation {
    condition = can(regex("^([0-9]+m|[0-9]+([.][0-9]+)?)$", var.resources.cpu)) && alltrue([
      for memory in [var.resources.memory, var.resources.memory_limit] : can(regex("^[0-9]+(Ki|Mi|Gi|k|M|G)?$", memory))
    ])
    error_message = "resources are quantities as Kubernetes writes them: cpu 100m or 0.5, memory 128Mi or 1Gi."
  }
}

variable "log_level" {
  description = "Level of the workers' logs, which are JSON."
  type        = string
  default     = "info"
  nullable    = false

  validation {
    condition     = contains(["error", "warn", "info", "debug", "trace"], var.log_level)
    error_message = "log_level is error, warn, info, debug or trace."
  }
}

variable "network" {
  description = "Whom the workers may reach and who may read their metrics. Everything else is denied. The broker and the databases are in the address ranges given; aws_cidrs (port 443) are Secrets Manager's, and with IRSA those of STS, narrower with VPC endpoints. DNS is in kube-system or in dns_cidrs, by default the node's own cache; on EKS Auto Mode it is a process of the node: add the cluster's DNS address, such as 172.20.0.10/32. A broker in this cluster, and the collector of worker.otlp_endpoint, may be named by their namespaces, as many networks know pods by no address."
  type = object({
    broker_cidrs         = optional(list(string), ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])
    database_cidrs       = optional(list(string), ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])
    aws_cidrs            = optional(list(string), ["0.0.0.0/0"])
    dns_cidrs            = optional(list(string), ["169.254.20.10/32"])
    broker_namespace     = optional(string)
    collector_cidrs      = optional(list(string), [])
    collector_namespace  = optional(string)
    monitoring_namespace = optional(string, "monitoring")
  })
  default  = {}
  nullable = false

  validation {
    condition = alltrue([
      for cidr in concat(var.network.broker_cidrs, var.network.database_cidrs, var.network.aws_cidrs, var.network.collector_cidrs, var.network.dns_cidrs) : can(cidrnetmask(cidr))
    ])
    error_message = "network holds IPv4 ranges such as 10.0.0.0/16."
  }

  validation {
    condition     = length(var.network.broker_cidrs) > 0 && length(var.network.database_cidrs) > 0 && length(var.network.aws_cidrs) > 0
    error_message = "network needs at least one range each: an empty list would mean every address."
  }

  validation {
    condition     = var.worker.otlp_endpoint == null || var.network.collector_namespace != null || length(var.network.collector_cidrs) > 0
    error_message = "worker.otlp_endpoint is out of reach: say where it is, by network.collector_namespace or collector_cidrs."
  }
}

variable "monitoring" {
  description = "Objects for the Prometheus operator and Grafana's sidecar, each on its own. labels are those that the operator selects monitors and rules by; runbook_url is the page that alerts point into."
  type = object({
    service_monitor = optional(bool, true)
    rules           = optional(bool, true)
    dashboard       = optional(bool, true)
    labels          = optional(map(string), {})
    dashboard_label = optional(string, "grafana_dashboard")
    runbook_url     = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.monitoring.runbook_url == null ? true : can(regex("^https?://[^#[:space:]]+$", var.monitoring.runbook_url))
    error_message = "monitoring.runbook_url is an http:// or https:// URL; # and the alert's name come after it."
  }
}

variable "scaling" {
  description = "Scaling by KEDA on the queues' length; null leaves `replicas` workers. broker_secret is a Kubernetes secret whose key holds https://USER:PASSWORD@HOST:PORT/VHOST of a broker user with the tag management; KEDA's operator has to trust the broker's authority by its own configuration. With min_replicas 0 the cron runs a worker now and then, as a lost message would wake nobody."
  type = object({
    broker_secret            = object({ name = string, key = optional(string, "host") })
    min_replicas             = optional(number, 1)
    max_replicas             = optional(number, 4)
    messages_per_replica     = optional(number, 100)
    polling_interval_seconds = optional(number, 60)
    cooldown_seconds         = optional(number, 300)
    cron = optional(object({
      timezone = optional(string, "UTC")
      start    = optional(string, "0 * * * *")
      end      = optional(string, "5 * * * *")
    }), {})
  })
  default = null

  validation {
    condition     = var.scaling == null ? true : var.scaling.min_replicas >= 0 && var.scaling.max_replicas >= 1 && var.scaling.min_replicas <= var.scaling.max_replicas
    error_message = "scaling.min_replicas is at least 0 and at most max_replicas, which is at least 1."
  }

  validation {
    condition     = var.scaling == null ? true : var.scaling.messages_per_replica >= 1 && var.scaling.polling_interval_seconds >= 5 && var.scaling.cooldown_seconds >= 0
    error_message = "scaling.messages_per_replica is at least 1, polling_interval_seconds at least 5, cooldown_seconds at least 0."
  }

  validation {
    condition     = var.scaling == null ? true : var.scaling.cron.start != var.scaling.cron.end && alltrue([for time in [var.scaling.cron.start, var.scaling.cron.end] : can(regex("^[0-9*/,-]+( [0-9A-Za-z*/,-]+){4}$", time))])
    error_message = "scaling.cron.start and end have the five fields of cron, and differ."
  }
}
