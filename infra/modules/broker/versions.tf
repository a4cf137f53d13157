terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.25, < 7, != 6.38.0" # 6.38.0 breaks RabbitMQ brokers
    }
  }
}
