# No provider and no cloud: `terraform output -raw yaml` is what Argo CD or Flux takes.

terraform {
  required_version = ">= 1.9"
}

module "manifests" {
  source = "../../modules/manifests"

  namespace    = "keycard"
  image        = var.image
  installation = "prod"
  operators    = ["platform-ops"]

  databases = {
    app = {
      host            = "app.db.example.internal"
      dbname          = "app"
      password        = { kubernetes_secret = { name = "keycard-passwords", key = "app" } }
      ca_file         = "/etc/keycard-ca/databases.pem"
      allowed_roles   = ["app-*"]
      connections_max = 50
    }
  }

  roles = {
    app-readwrite = {
      database    = "app"
      groups      = ["app_readwrite"]
      requesters  = ["orders-svc", "billing-svc"]
      default_ttl = "1h"
      max_ttl     = "24h"
      max_leases  = 20
    }
    app-report = {
      database   = "app"
      groups     = ["app_readonly"]
      requesters = ["reports-svc"]
    }
  }

  broker = {
    host     = "rabbitmq.example.internal"
    password = { kubernetes_secret = { name = "keycard-passwords", key = "broker" } }
    ca_file  = "/etc/keycard-ca/broker.pem"
  }

  store         = { region = "eu-west-1" }
  ca_config_map = "keycard-authorities"

  # Nobody works where nobody asks: KEDA wakes workers, or else a CronJob does what has come together.
  scaling        = var.keda ? { broker_secret = { name = "keycard-keda" }, min_replicas = 0, max_replicas = 8 } : null
  replicas       = var.keda ? 2 : 0
  drain_schedule = var.keda ? null : "*/5 * * * *"
  scaler_user    = "keycard-keda"

  worker     = { otlp_endpoint = "http://collector.monitoring:4318" }
  network    = { collector_namespace = "monitoring" }
  monitoring = { runbook_url = "https://git.example.com/keycard/infra/RUNBOOK.md", labels = { release = "prometheus" } }

  # IRSA, where the role was made elsewhere.
  service_account_annotations = { "eks.amazonaws.com/role-arn" = "arn:aws:iam::123456789012:role/keycard" }
  password_hashes             = var.password_hashes
}
