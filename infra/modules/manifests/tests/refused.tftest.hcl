# What each validation refuses: one run for every one of them.

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

run "an_installation_of_other_letters" {
  command = plan
  variables {
    installation = "prod/1"
  }
  expect_failures = [var.installation]
}

run "keycards_own_user_as_operator" {
  command = plan
  variables {
    operators = ["keycard"]
  }
  expect_failures = [var.operators]
}

run "the_doctor_as_operator" {
  command = plan
  variables {
    operators = ["keycard-doctor"]
  }
  expect_failures = [var.operators]
}

run "no_database" {
  command = plan
  variables {
    databases = {}
    roles     = {}
  }
  expect_failures = [var.databases]
}

run "a_database_without_password" {
  command = plan
  variables {
    databases = { app = { host = "a", dbname = "a", password = {}, allowed_roles = ["*"] } }
  }
  expect_failures = [var.databases]
}

run "a_host_with_a_port" {
  command = plan
  variables {
    databases = { app = { host = "a:5432", dbname = "a", password = { secret = "a" }, allowed_roles = ["*"] } }
  }
  expect_failures = [var.databases]
}

run "a_path_as_key_of_a_kubernetes_secret" {
  command = plan
  variables {
    databases = { app = { host = "a", dbname = "a", password = { kubernetes_secret = { name = "a", key = "../b" } }, allowed_roles = ["*"] } }
  }
  expect_failures = [var.databases]
}

run "authorities_that_nothing_mounts" {
  command = plan
  variables {
    databases = { app = { host = "a", dbname = "a", password = { secret = "a" }, allowed_roles = ["*"], ca_file = "/etc/keycard-ca/a.pem" } }
  }
  expect_failures = [var.databases]
}

run "too_many_connections_of_one_worker" {
  command = plan
  variables {
    databases = { app = { host = "a", dbname = "a", password = { secret = "a" }, allowed_roles = ["*"], max_connections = 65 } }
  }
  expect_failures = [var.databases]
}

run "more_connections_than_a_database_has" {
  command = plan
  variables {
    databases = { app = { host = "a", dbname = "a", password = { secret = "a" }, allowed_roles = ["*"], connections_max = 24 } }
    scaling   = { broker_secret = { name = "keycard-keda" } }
  }
  expect_failures = [var.databases]
}

run "a_roles_name_of_other_letters" {
  command = plan
  variables {
    roles = { "app role" = { database = "app", groups = ["g"], requesters = ["orders-svc"] } }
  }
  expect_failures = [var.roles]
}

run "a_role_without_its_database" {
  command = plan
  variables {
    roles = { app-role = { database = "nowhere", groups = ["g"], requesters = ["orders-svc"] } }
  }
  expect_failures = [var.roles]
}

run "a_role_that_its_database_does_not_allow" {
  command = plan
  variables {
    databases = { app = { host = "a", dbname = "a", password = { secret = "a" }, allowed_roles = ["app.*"] } }
    roles     = { app-role = { database = "app", groups = ["g"], requesters = ["orders-svc"] } }
  }
  expect_failures = [var.roles]
}

run "a_role_without_groups_and_statements" {
  command = plan
  variables {
    roles = { app-role = { database = "app", requesters = ["orders-svc"] } }
  }
  expect_failures = [var.roles]
}

run "a_ttl_in_words" {
  command = plan
  variables {
    roles = { app-role = { database = "app", groups = ["g"], requesters = ["orders-svc"], max_ttl = "1 day" } }
  }
  expect_failures = [var.roles]
}

run "no_lease_at_all" {
  command = plan
  variables {
    roles = { app-role = { database = "app", groups = ["g"], requesters = ["orders-svc"], max_leases = 0 } }
  }
  expect_failures = [var.roles]
}

run "keycards_own_user_as_requester" {
  command = plan
  variables {
    roles = { app-role = { database = "app", groups = ["g"], requesters = ["keycard"] } }
  }
  expect_failures = [var.roles]
}

run "the_doctor_as_requester" {
  command = plan
  variables {
    roles = { app-role = { database = "app", groups = ["g"], requesters = ["keycard-doctor"] } }
  }
  expect_failures = [var.roles]
}

run "a_password_in_two_places" {
  command = plan
  variables {
    broker = { host = "b", password = { secret = "a", kubernetes_secret = { name = "a", key = "b" } } }
  }
  expect_failures = [var.broker]
}

run "a_kubernetes_secret_that_is_no_name" {
  command = plan
  variables {
    broker = { host = "b", password = { kubernetes_secret = { name = "A/B", key = "b" } } }
  }
  expect_failures = [var.broker]
}

run "a_url_as_host" {
  command = plan
  variables {
    broker = { host = "amqps://b", password = { secret = "a" } }
  }
  expect_failures = [var.broker]
}

run "a_prefetch_of_one" {
  command = plan
  variables {
    broker = { host = "b", prefetch = 1, password = { secret = "a" } }
  }
  expect_failures = [var.broker]
}

run "an_empty_vhost" {
  command = plan
  variables {
    broker = { host = "b", vhost = "", password = { secret = "a" } }
  }
  expect_failures = [var.broker]
}

run "a_brokers_authorities_by_relative_path" {
  command = plan
  variables {
    broker = { host = "b", ca_file = "broker.pem", password = { secret = "a" } }
  }
  expect_failures = [var.broker]
}

run "a_prefix_that_ends_with_a_slash" {
  command = plan
  variables {
    store = { region = "eu-west-1", prefix = "keycard/" }
  }
  expect_failures = [var.store]
}

run "a_zone_as_region" {
  command = plan
  variables {
    store = { region = "eu-west-1a" }
  }
  expect_failures = [var.store]
}

run "no_grace" {
  command = plan
  variables {
    worker = { shutdown_grace_seconds = 0 }
  }
  expect_failures = [var.worker]
}

run "a_time_without_unit" {
  command = plan
  variables {
    worker = { sweep_interval = "30" }
  }
  expect_failures = [var.worker]
}

run "a_collector_by_grpc" {
  command = plan
  variables {
    worker  = { otlp_endpoint = "grpc://collector:4317" }
    network = { collector_cidrs = ["10.9.0.0/24"] }
  }
  expect_failures = [var.worker]
}

run "a_password_as_its_hash" {
  command = plan
  variables {
    password_hashes = { orders-svc = "hunter2" }
  }
  expect_failures = [var.password_hashes]
}

run "a_requester_as_scaler" {
  command = plan
  variables {
    scaler_user = "orders-svc"
  }
  expect_failures = [var.scaler_user]
}

run "a_name_with_capitals" {
  command = plan
  variables {
    name = "Keycard"
  }
  expect_failures = [var.name]
}

run "a_pattern_as_namespace" {
  command = plan
  variables {
    namespace = "*"
  }
  expect_failures = [var.namespace]
}

run "an_image_by_tag" {
  command = plan
  variables {
    image = "registry.example.com/keycard:latest"
  }
  expect_failures = [var.image]
}

run "half_a_worker" {
  command = plan
  variables {
    replicas = 0.5
  }
  expect_failures = [var.replicas]
}

run "nobody_who_works" {
  command = plan
  variables {
    replicas = 0
  }
  expect_failures = [var.replicas]
}

run "a_schedule_in_words" {
  command = plan
  variables {
    drain_schedule = "@hourly"
  }
  expect_failures = [var.drain_schedule]
}

run "memory_in_words" {
  command = plan
  variables {
    resources = { memory = "lots" }
  }
  expect_failures = [var.resources]
}

run "an_unknown_log_level" {
  command = plan
  variables {
    log_level = "verbose"
  }
  expect_failures = [var.log_level]
}

run "an_address_range_without_length" {
  command = plan
  variables {
    network = { broker_cidrs = ["10.0.0.1"] }
  }
  expect_failures = [var.network]
}

run "an_empty_list_of_ranges" {
  command = plan
  variables {
    network = { database_cidrs = [] }
  }
  expect_failures = [var.network]
}

run "a_collector_out_of_reach" {
  command = plan
  variables {
    worker = { otlp_endpoint = "http://collector:4318" }
  }
  expect_failures = [var.network]
}

run "a_runbook_without_its_scheme" {
  command = plan
  variables {
    monitoring = { runbook_url = "git.example.com/RUNBOOK.md" }
  }
  expect_failures = [var.monitoring]
}

run "fewer_workers_at_most_than_at_least" {
  command = plan
  variables {
    scaling = { broker_secret = { name = "a" }, min_replicas = 5 }
  }
  expect_failures = [var.scaling]
}

run "polling_all_the_time" {
  command = plan
  variables {
    scaling = { broker_secret = { name = "a" }, polling_interval_seconds = 1 }
  }
  expect_failures = [var.scaling]
}

run "a_cron_that_never_ends" {
  command = plan
  variables {
    scaling = { broker_secret = { name = "a" }, cron = { start = "0 * * * *", end = "0 * * * *" } }
  }
  expect_failures = [var.scaling]
}
