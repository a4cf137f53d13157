mock_provider "helm" {}

variables {
  namespace = "keycard"
  manifests = [{ apiVersion = "v1", kind = "ConfigMap", metadata = { name = "keycard", namespace = "keycard" }, data = { "keycard.toml" = "url = \"{{username}}\"" } }]
}

run "what_was_given_is_released_as_it_is" {
  assert {
    condition     = yamldecode(helm_release.keycard.values[0]).manifests[0].data["keycard.toml"] == "url = \"{{username}}\""
    error_message = helm_release.keycard.values[0]
  }
  assert {
    condition     = helm_release.keycard.atomic && fileexists("${helm_release.keycard.chart}/templates/manifests.yaml")
    error_message = "A release is whole or not at all."
  }
}

run "nothing_is_refused" {
  command = plan
  variables {
    manifests = []
  }
  expect_failures = [var.manifests]
}

run "another_namespace_is_refused" {
  command = plan
  variables {
    namespace = "other"
  }
  expect_failures = [var.manifests]
}

run "a_release_with_capitals_is_refused" {
  command = plan
  variables {
    name = "Keycard"
  }
  expect_failures = [var.name]
}

run "no_time_at_all_is_refused" {
  command = plan
  variables {
    timeout_seconds = 1
  }
  expect_failures = [var.timeout_seconds]
}
