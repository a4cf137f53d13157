mock_provider "aws" {
  mock_data "aws_eks_cluster" {
    defaults = { endpoint = "https://eks.example.com", certificate_authority = [{ data = "" }] }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/keycard" }
  }
}
mock_provider "helm" {}

variables {
  region                     = "eu-west-1"
  cluster_name               = "prod"
  image                      = "registry.example.com/keycard@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  database_host              = "app.example.com"
  database_security_group_id = "sg-app"
  worker_security_group_id   = "sg-workers"
  database_password_arn      = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:keycard-admin/app-AbCdEf"
  broker_password_arn        = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:keycard-broker-AbCdEf"
  broker_host                = "broker.example.com"
}

run "the_modules_fit_together" {
  assert {
    condition     = keys(output.reader_policy_arns) == ["orders-svc", "platform-ops"]
    error_message = "Each requester has a policy."
  }
  assert {
    condition     = toset([for m in module.manifests.manifests : m.kind if endswith(m.kind, "ScaledObject") || m.kind == "Deployment"]) == toset(["Deployment", "ScaledObject"])
    error_message = "There is a worker, and KEDA scales it."
  }
  assert {
    condition     = output.management_url == "https://broker.example.com:15671"
    error_message = output.management_url
  }
}
