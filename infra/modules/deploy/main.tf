# The chart prints what it is given. Helm and not kubernetes_manifest, which needs the cluster and
# KEDA's and Prometheus's definitions when it plans; and a failed release is rolled back as a whole.
resource "helm_release" "keycard" {
  name        = var.name
  namespace   = var.namespace
  chart       = "${path.module}/chart"
  values      = [yamlencode({ manifests = var.manifests })]
  atomic      = true
  wait        = true
  timeout     = var.timeout_seconds
  max_history = 10
}
