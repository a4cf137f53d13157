module "aws" {
  source = "../../modules/aws"

  namespace                = "keycard"
  cluster_name             = var.cluster_name
  create_kms_key           = true
  password_secret_arns     = [var.database_password_arn, var.broker_password_arn]
  requesters               = module.manifests.requesters
  worker_security_group_id = var.worker_security_group_id
  databases                = { app = { security_group_id = var.database_security_group_id } }
}

module "broker" {
  source = "../../modules/broker"

  existing = {
    host              = var.broker_host
    management_port   = 15671
    security_group_id = var.broker_security_group_id
  }
  client_security_group_ids = var.broker_security_group_id == null ? {} : { workers = var.worker_security_group_id }
}

module "manifests" {
  source = "../../modules/manifests"

  namespace                   = "keycard"
  image                       = var.image
  service_account_annotations = module.aws.service_account_annotations
  installation                = "prod"
  operators                   = ["platform-ops"]

  databases = {
    app = {
      host          = var.database_host
      dbname        = "app"
      password      = { secret = var.database_password_arn }
      ca_file       = "/etc/ssl/rds-ca.pem" # Amazon RDS's authorities, in keycard's image
      allowed_roles = ["app-*"]
    }
  }
  roles = {
    app-readwrite = { database = "app", groups = ["app_readwrite"], requesters = ["orders-svc"] }
  }
  broker = {
    host     = module.broker.host
    port     = module.broker.port
    password = { secret = var.broker_password_arn }
  }
  store = { region = var.region, kms_key_id = module.aws.kms_key_id }

  scaling         = { broker_secret = { name = "keycard-keda" } }
  scaler_user     = "keycard-keda"
  password_hashes = var.password_hashes
}

module "deploy" {
  source = "../../modules/deploy"

  namespace  = "keycard"
  manifests  = module.manifests.manifests
  depends_on = [module.aws] # the workers' first look at their secrets should succeed
}
