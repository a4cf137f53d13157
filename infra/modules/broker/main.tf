locals {
  create            = var.existing == null
  amqps_port        = local.create ? 5671 : var.existing.port
  management_port   = local.create ? 443 : var.existing.management_port
  security_group_id = local.create ? aws_security_group.broker[0].id : var.existing.security_group_id

  # amqps://b-....mq.eu-west-1.on.aws:5671
  host = local.create ? split(":", trimprefix(aws_mq_broker.this[0].instances[0].endpoints[0], "amqps://"))[0] : var.existing.host

  # Groups may be made by the same apply, so that neither keys nor their number depend on one.
  openings = {
    for opening in setproduct(keys(var.client_security_group_ids), distinct([local.amqps_port, local.management_port])) :
    "${opening[0]}-${opening[1]}" => { client = var.client_security_group_ids[opening[0]], port = opening[1] }
  }
}

resource "aws_mq_broker" "this" {
  count = local.create ? 1 : 0

  broker_name                = var.name
  engine_type                = "RabbitMQ"
  engine_version             = var.engine_version
  host_instance_type         = var.instance_type
  deployment_mode            = "CLUSTER_MULTI_AZ"
  publicly_accessible        = false
  auto_minor_version_upgrade = true
  subnet_ids                 = var.subnet_ids
  security_groups            = [aws_security_group.broker[0].id]
  tags                       = var.tags

  # The definitions make all other users, in the broker itself.
  user {
    username = var.administrator.username
    password = var.administrator.password
  }

  encryption_options {
    use_aws_owned_key = var.kms_key_arn == null
    kms_key_id        = var.kms_key_arn
  }

  logs {
    general = true
  }

  maintenance_window_start_time {
    day_of_week = "SUNDAY"
    time_of_day = "03:00"
    time_zone   = "UTC"
  }

  lifecycle {
    ignore_changes = [user] # Amazon MQ cannot change RabbitMQ's users; that is done in the broker
  }
}

resource "aws_security_group" "broker" {
  count = local.create ? 1 : 0

  name        = "${var.name}-broker"
  description = "keycard's RabbitMQ"
  vpc_id      = var.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "client" {
  for_each = local.openings

  description                  = "keycard's broker: ${each.key}"
  security_group_id            = local.security_group_id
  referenced_security_group_id = each.value.client
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  tags                         = var.tags
}
