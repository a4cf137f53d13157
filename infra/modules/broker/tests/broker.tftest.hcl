mock_provider "aws" {
  mock_resource "aws_mq_broker" {
    defaults = {
      instances = [{
        console_url = "https://b-1.mq.eu-west-1.on.aws"
        endpoints   = ["amqps://b-1.mq.eu-west-1.on.aws:5671"]
        ip_address  = ""
      }]
    }
  }
  mock_resource "aws_security_group" {
    defaults = { id = "sg-broker" }
  }
}

variables {
  client_security_group_ids = { workers = "sg-workers", services = "sg-services" }
}

run "amazon_mq_is_private_and_over_tls" {
  variables {
    vpc_id        = "vpc-1"
    subnet_ids    = ["subnet-a", "subnet-b", "subnet-c"]
    administrator = { username = "admin", password = "only-in-this-test" }
  }

  assert {
    condition     = !aws_mq_broker.this[0].publicly_accessible && aws_mq_broker.this[0].deployment_mode == "CLUSTER_MULTI_AZ" && aws_mq_broker.this[0].logs[0].general
    error_message = "A broker is a private cluster that logs."
  }
  assert {
    condition     = output.host == "b-1.mq.eu-west-1.on.aws" && output.port == 5671 && output.management_url == "https://b-1.mq.eu-west-1.on.aws:443"
    error_message = output.host
  }
  assert {
    condition = { for key, rule in aws_vpc_security_group_ingress_rule.client : key => [rule.security_group_id, rule.referenced_security_group_id, rule.from_port, rule.to_port] } == {
      "services-443"  = ["sg-broker", "sg-services", 443, 443]
      "services-5671" = ["sg-broker", "sg-services", 5671, 5671]
      "workers-443"   = ["sg-broker", "sg-workers", 443, 443]
      "workers-5671"  = ["sg-broker", "sg-workers", 5671, 5671]
    }
    error_message = "Only TLS is open, and only for the clients."
  }
}

run "an_existing_broker_is_left_as_it_is" {
  variables {
    existing                  = { host = "broker.example.com", management_port = 15671 }
    client_security_group_ids = {}
  }

  assert {
    condition     = length(aws_mq_broker.this) == 0 && length(aws_security_group.broker) == 0 && length(aws_vpc_security_group_ingress_rule.client) == 0
    error_message = "Nothing is made for it."
  }
  assert {
    condition     = output.host == "broker.example.com" && output.management_url == "https://broker.example.com:15671"
    error_message = output.management_url
  }
}

run "an_existing_brokers_group_lets_the_clients_in" {
  variables {
    existing = { host = "broker.example.com", security_group_id = "sg-there" }
  }

  assert {
    condition     = toset([for rule in aws_vpc_security_group_ingress_rule.client : rule.security_group_id]) == toset(["sg-there"]) && length(aws_vpc_security_group_ingress_rule.client) == 4
    error_message = "The clients are not let in."
  }
}

run "its_group_and_theirs_may_be_made_by_the_same_apply" {
  command = plan
  module {
    source = "./tests/same_apply"
  }
}

run "clients_of_a_broker_without_group_are_refused" {
  command = plan
  variables {
    existing = { host = "broker.example.com" }
  }
  expect_failures = [var.client_security_group_ids]
}

run "a_weak_administrator_is_refused" {
  command = plan
  variables {
    vpc_id        = "vpc-1"
    subnet_ids    = ["subnet-a", "subnet-b"]
    administrator = { username = "admin", password = "short" }
  }
  expect_failures = [var.administrator]
}

run "rabbitmq_4_on_another_instance_is_refused" {
  command = plan
  variables {
    vpc_id        = "vpc-1"
    subnet_ids    = ["subnet-a", "subnet-b"]
    administrator = { username = "admin", password = "only-in-this-test" }
    instance_type = "mq.m5.large"
  }
  expect_failures = [var.instance_type]
}

run "a_name_with_spaces_is_refused" {
  command = plan
  variables {
    vpc_id        = "vpc-1"
    subnet_ids    = ["subnet-a", "subnet-b"]
    administrator = { username = "admin", password = "only-in-this-test" }
    name          = "the broker"
  }
  expect_failures = [var.name]
}

run "a_broker_without_network_is_refused" {
  command = plan
  variables {
    subnet_ids    = ["subnet-a", "subnet-b"]
    administrator = { username = "admin", password = "only-in-this-test" }
  }
  expect_failures = [var.vpc_id]
}

run "one_zone_is_refused" {
  command = plan
  variables {
    vpc_id        = "vpc-1"
    subnet_ids    = ["subnet-a"]
    administrator = { username = "admin", password = "only-in-this-test" }
  }
  expect_failures = [var.subnet_ids]
}

run "a_version_that_amazon_mq_does_not_have_is_refused" {
  command = plan
  variables {
    vpc_id         = "vpc-1"
    subnet_ids     = ["subnet-a", "subnet-b"]
    administrator  = { username = "admin", password = "only-in-this-test" }
    engine_version = "4.1"
  }
  expect_failures = [var.engine_version]
}

run "an_administrator_whom_amazon_mq_refuses_is_refused" {
  command = plan
  variables {
    vpc_id        = "vpc-1"
    subnet_ids    = ["subnet-a", "subnet-b"]
    administrator = { username = "a b", password = "only-in-this-test" }
  }
  expect_failures = [var.administrator]
}

run "a_url_as_host_is_refused" {
  command = plan
  variables {
    existing = { host = "amqps://broker.example.com", security_group_id = "sg-there" }
  }
  expect_failures = [var.existing]
}

run "a_port_out_of_range_is_refused" {
  command = plan
  variables {
    existing = { host = "broker.example.com", port = 0, security_group_id = "sg-there" }
  }
  expect_failures = [var.existing]
}
