variables {
  issuer = "https://0b1c2d3e.tokens.sts.global.api.aws"
}

run "a_role_of_iam_stands_for_its_scopes" {
  command = plan

  assert {
    condition = strcontains(output.rabbitmq_conf, join("\n", [
      "auth_oauth2.scope_aliases.2.alias = arn:aws:iam::123456789012:role/orders-svc",
      "auth_oauth2.scope_aliases.2.scope = ${join(" ", [
        "rabbitmq/configure:keycard/arn=3Aaws=3Aiam=3A=3A123456789012=3Arole=2Forders-svc.*",
        "rabbitmq/read:keycard/arn=3Aaws=3Aiam=3A=3A123456789012=3Arole=2Forders-svc.*",
        "rabbitmq/read:keycard/keycard.events/arn=3Aaws=3Aiam=3A=3A123456789012=3Arole=2Forders-svc.*",
        "rabbitmq/write:keycard/arn=3Aaws=3Aiam=3A=3A123456789012=3Arole=2Forders-svc.*",
        "rabbitmq/write:keycard/keycard.requests",
        "rabbitmq/write:keycard/keycard.leases",
      ])}",
    ]))
    error_message = output.rabbitmq_conf
  }
  assert {
    condition     = strcontains(output.keycard_toml, "url = \"amqps://arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fkeycard@b-1234.mq.eu-west-1.on.aws:5671/keycard\"")
    error_message = "keycard's own messages are known by the name that the broker gives it."
  }
}

run "an_issuer_of_somebody_else_is_refused" {
  command = plan
  variables {
    issuer = "https://example.com"
  }
  expect_failures = [var.issuer]
}
