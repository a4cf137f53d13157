//! Checks objects of KEDA, the Prometheus operator, External Secrets and the Secrets Store CSI driver
//! against their definitions: reads a JSON list of objects, says what is wrong with each, and fails.
//!
//! What is free text in a definition, such as a trigger's metadata, is not looked into.

use std::io;
use std::process::ExitCode;

use kcr_external_secrets_io::v1::externalsecrets::ExternalSecret;
use kcr_external_secrets_io::v1::secretstores::SecretStore;
use kcr_keda_sh::v1alpha1::scaledobjects::ScaledObject;
use kcr_keda_sh::v1alpha1::triggerauthentications::TriggerAuthentication;
use kcr_monitoring_coreos_com::v1::prometheusrules::PrometheusRule;
use kcr_monitoring_coreos_com::v1::servicemonitors::ServiceMonitor;
use kcr_secrets_store_csi_x_k8s_io::v1::secretproviderclasses::SecretProviderClass;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn main() -> ExitCode {
    let objects: Vec<Value> = match serde_json::from_reader(io::stdin()) {
        Ok(objects) => objects,
        Err(error) => {
            eprintln!("standard input is no JSON list: {error}");
            return ExitCode::FAILURE;
        }
    };
    if objects.is_empty() {
        eprintln!("standard input is an empty list: nothing was checked");
        return ExitCode::FAILURE;
    }
    let mut right = true;
    for object in &objects {
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or("without name");
        let kind = object["kind"].as_str().unwrap_or("without kind");
        match check(object) {
            Ok(()) => println!("{kind} {name}: as its definition says"),
            Err(problem) => {
                eprintln!("{kind} {name}: {problem}");
                right = false;
            }
        }
    }
    if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What is wrong with an object, if anything.
fn check(object: &Value) -> Result<(), String> {
    let of = |key: &str| object[key].as_str().unwrap_or_default();
    match (of("apiVersion"), of("kind")) {
        ("keda.sh/v1alpha1", "ScaledObject") => fits::<ScaledObject>(object),
        ("keda.sh/v1alpha1", "TriggerAuthentication") => fits::<TriggerAuthentication>(object),
        ("monitoring.coreos.com/v1", "ServiceMonitor") => fits::<ServiceMonitor>(object),
        ("monitoring.coreos.com/v1", "PrometheusRule") => fits::<PrometheusRule>(object),
        ("external-secrets.io/v1", "SecretStore") => fits::<SecretStore>(object),
        ("external-secrets.io/v1", "ExternalSecret") => fits::<ExternalSecret>(object),
        ("secrets-store.csi.x-k8s.io/v1", "SecretProviderClass") => {
            fits::<SecretProviderClass>(object)
        }
        (version, kind) => Err(format!(
            "no definition of {kind} in {version} is known here"
        )),
    }
}

/// Everything is there that has to be, with the right type, and nothing that is unknown.
fn fits<T: DeserializeOwned>(object: &Value) -> Result<(), String> {
    let mut unknown = Vec::new();
    serde_ignored::deserialize::<_, _, T>(object, |path| unknown.push(path.to_string()))
        .map_err(|error| error.to_string())?;
    // What chose the type, which has no such fields.
    unknown.retain(|path| path != "apiVersion" && path != "kind");
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(format!("unknown: {}", unknown.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scaled_object() -> Value {
        json!({
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": { "name": "keycard" },
            "spec": {
                "scaleTargetRef": { "name": "keycard" },
                "minReplicaCount": 0,
                "triggers": [{ "type": "cron", "metadata": { "desiredReplicas": "1" } }],
            },
        })
    }

    #[test]
    fn what_its_definition_says_is_right() {
        assert_eq!(check(&scaled_object()), Ok(()));
    }

    #[test]
    fn what_is_misspelt_missing_or_of_another_type_is_told() {
        let mut unknown = scaled_object();
        unknown["spec"]["minReplicas"] = json!(1);
        let mut missing = scaled_object();
        missing["spec"]["scaleTargetRef"] = json!({});
        let mut number = scaled_object();
        number["spec"]["triggers"][0]["metadata"]["desiredReplicas"] = json!(1);
        let mut kind = scaled_object();
        kind["kind"] = json!("ScaledJob");
        for (object, problem) in [
            (unknown, "unknown: spec.minReplicas"),
            (missing, "missing field `name`"),
            (number, "invalid type: integer `1`, expected a string"),
            (
                kind,
                "no definition of ScaledJob in keda.sh/v1alpha1 is known here",
            ),
        ] {
            assert_eq!(check(&object), Err(problem.to_owned()));
        }
    }
}
