//! What the service has and does.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use keycard::clock::{monotonic_now, uuid_v7};
use serde_json::{Value, json};

use super::rules::{self, Bucket, Refusal};
use super::{Call, Fault, Operation, Secret};

/// The service's state.
pub struct World {
    pub secrets: BTreeMap<String, Secret>,
    /// Secrets whose deletion is not finished.
    deleting: BTreeMap<String, (Instant, Secret)>,
    pub deletion_takes: Duration,
    pub faults: VecDeque<(Option<Operation>, Fault)>,
    creating: Bucket,
    deletions: Bucket,
    listings: Bucket,
    /// Most secrets in a page of a listing.
    pub page: usize,
    /// What listings show instead of the secrets that there are.
    pub listed: Option<BTreeMap<String, Secret>>,
    pub received: BTreeMap<Operation, usize>,
    pub held: usize,
    pub calls: Vec<Call>,
}

impl World {
    /// Empty, with AWS's quotas and deletions that take a minute.
    pub fn new() -> Self {
        Self {
            secrets: BTreeMap::new(),
            deleting: BTreeMap::new(),
            deletion_takes: Duration::from_mins(1),
            faults: VecDeque::new(),
            creating: Bucket::new(50),
            deletions: Bucket::new(50),
            listings: Bucket::new(100),
            page: 100,
            listed: None,
            received: BTreeMap::new(),
            held: 0,
            calls: Vec::new(),
        }
    }

    pub fn lift_quotas(&mut self) {
        self.creating = Bucket::new(1_000_000);
        self.deletions = Bucket::new(1_000_000);
    }

    /// Does what a call asks for, or what was ordered to go wrong with it.
    pub fn call(
        &mut self,
        operation: Operation,
        region: &str,
        body: &[u8],
    ) -> (Result<Value, Refusal>, Option<Fault>) {
        let fault = self
            .faults
            .iter()
            .position(|(only, _)| only.is_none_or(|only| only == operation))
            .and_then(|n| self.faults.remove(n))
            .map(|(_, fault)| fault);
        let parameters = serde_json::from_slice(body).unwrap_or_default();
        let done = match fault {
            Some(Fault::Status500) => Err(Refusal::of_server("InternalServiceError")),
            Some(Fault::Status503) => Err(Refusal::of_proxy()),
            Some(Fault::Throttle) => Err(Refusal::throttled()),
            Some(Fault::Refuse(code)) => Err(rules::refused(code, operation, &parameters)),
            Some(Fault::LostReply | Fault::Slow(_)) | None => {
                self.apply(operation, region, &parameters)
            }
        };
        self.calls.push(Call {
            operation,
            name: rules::name_in(&parameters),
            outcome: match &done {
                Ok(_) => "ok".to_owned(),
                Err(refusal) => refusal.code.to_owned(),
            },
        });
        (done, fault)
    }

    fn apply(
        &mut self,
        operation: Operation,
        region: &str,
        parameters: &Value,
    ) -> Result<Value, Refusal> {
        let now = monotonic_now();
        let takes = self.deletion_takes;
        self.deleting.retain(|_, (since, _)| now < *since + takes);
        match operation {
            Operation::CreateSecret => {
                self.creating.take(now)?;
                self.create(region, &rules::Creation::parse(parameters)?)
            }
            Operation::DeleteSecret => {
                self.deletions.take(now)?;
                let name = rules::deletion(parameters)?;
                let arn = format!("arn:aws:secretsmanager:{region}:123456789012:secret:{name}");
                // Like AWS, no error when it is missing or being deleted.
                if let Some(secret) = self.secrets.remove(&name) {
                    self.deleting.insert(name.clone(), (now, secret));
                }
                Ok(json!({"ARN": arn, "Name": name, "DeletionDate": 1.7e9}))
            }
            // Unlike its value, a secret that is being deleted can be looked at.
            Operation::DescribeSecret
                if let Some((name, (_, secret))) = parameters["SecretId"]
                    .as_str()
                    .and_then(|id| self.deleting.get_key_value(id)) =>
            {
                let mut described = rules::description(name, secret);
                described["DeletedDate"] = json!(1.7e9);
                Ok(described)
            }
            Operation::DescribeSecret => {
                let (name, secret) = self.find(parameters, &["SecretId"])?;
                let mut described = rules::description(name, secret);
                described["VersionIdsToStages"] = json!({&secret.version: ["AWSCURRENT"]});
                Ok(described)
            }
            Operation::GetSecretValue => {
                let (name, secret) =
                    self.find(parameters, &["SecretId", "VersionId", "VersionStage"])?;
                match parameters["VersionId"].as_str() {
                    Some(version) if version != secret.version => Err(Refusal::missing()),
                    _ => Ok(json!({
                        "ARN": secret.arn, "Name": name, "VersionId": secret.version,
                        "SecretString": secret.value, "VersionStages": ["AWSCURRENT"],
                    })),
                }
            }
            Operation::ListSecrets => {
                self.listings.take(now)?;
                let listed = self.listed.as_ref().unwrap_or(&self.secrets);
                rules::listing(listed, self.page, parameters)
            }
        }
    }

    fn create(&mut self, region: &str, new: &rules::Creation) -> Result<Value, Refusal> {
        if self.deleting.contains_key(&new.name) {
            return Err(Refusal::new(
                "InvalidRequestException",
                "You can't create this secret because a secret with this name is already scheduled for deletion.",
            ));
        }
        if let Some(secret) = self.secrets.get(&new.name) {
            if secret.version != new.token || secret.value != new.value {
                let message = format!("The secret {} already exists.", new.name);
                return Err(Refusal::new("ResourceExistsException", message));
            }
        } else {
            let suffix = &uuid_v7().simple().to_string()[26..];
            let secret = Secret {
                arn: format!(
                    "arn:aws:secretsmanager:{region}:123456789012:secret:{}-{suffix}",
                    new.name
                ),
                value: new.value.clone(),
                version: new.token.clone(),
                tags: new.tags.clone(),
            };
            self.secrets.insert(new.name.clone(), secret);
        }
        let arn = &self.secrets[&new.name].arn;
        Ok(json!({"ARN": arn, "Name": new.name, "VersionId": new.token}))
    }

    /// By name or by ARN.
    fn find(&self, parameters: &Value, allowed: &[&str]) -> Result<(&str, &Secret), Refusal> {
        rules::only(parameters, allowed)?;
        let id = rules::text(parameters, "SecretId")?;
        if self.deleting.contains_key(id) {
            let message = "You can't perform this operation on the secret because it was marked for deletion.";
            return Err(Refusal::new("InvalidRequestException", message));
        }
        self.secrets
            .iter()
            .find(|(name, secret)| *name == id || secret.arn == id)
            .map(|(name, secret)| (name.as_str(), secret))
            .ok_or_else(Refusal::missing)
    }
}
