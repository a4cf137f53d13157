# Security groups whose ids nobody knows when it is planned.

terraform {
  required_providers {
    aws = { source = "hashicorp/aws" } # the test's, which is mocked
  }
}

resource "terraform_data" "group" {
  for_each = toset(["broker", "workers"])
}

module "broker" {
  source = "../.."

  existing                  = { host = "broker.example.com", security_group_id = terraform_data.group["broker"].id }
  client_security_group_ids = { workers = terraform_data.group["workers"].id }
}
