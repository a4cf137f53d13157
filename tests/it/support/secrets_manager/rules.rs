//! What AWS accepts: signatures, parameters, quotas, and how it says no.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::{Operation, Secret};

/// An error answer.
#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    /// Empty when somebody other than the service answers.
    pub code: &'static str,
    pub message: String,
}

impl Refusal {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code,
            message: message.into(),
        }
    }

    pub fn of_server(code: &'static str) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            ..Self::new(code, "An error occurred on the server side.")
        }
    }

    pub fn of_proxy() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ..Self::new("", "<html>503 Service Unavailable</html>")
        }
    }

    pub fn throttled() -> Self {
        Self::new("ThrottlingException", "Rate exceeded")
    }

    pub fn missing() -> Self {
        Self::new(
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret.",
        )
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }
}

/// A refusal to order, in the words that AWS has for it.
pub fn refused(code: &'static str, operation: Operation, parameters: &Value) -> Refusal {
    let name = name_in(parameters);
    match code {
        "AccessDeniedException" => Refusal::new(
            code,
            format!(
                "User: arn:aws:sts::123456789012:assumed-role/worker is not authorized to perform: secretsmanager:{operation:?} on resource: {name} because no identity-based policy allows it"
            ),
        ),
        _ => Refusal::new(
            code,
            format!(
                "1 validation error detected: Value '{}' at 'secretString' failed to satisfy constraint",
                parameters["SecretString"].as_str().unwrap_or_default()
            ),
        ),
    }
}

/// A quota: so many calls at once, refilled every second.
pub struct Bucket {
    per_second: u32,
    /// When the bucket was or will be full.
    full_at: Option<Instant>,
}

impl Bucket {
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second,
            full_at: None,
        }
    }

    pub fn take(&mut self, now: Instant) -> Result<(), Refusal> {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now))
            + Duration::from_secs(1) / self.per_second;
        if full_at > now + Duration::from_secs(1) {
            return Err(Refusal::throttled());
        }
        self.full_at = Some(full_at);
        Ok(())
    }
}

/// The operation that a request asks for, and the region it is signed for.
pub fn signed_operation(head: &Parts) -> Result<(Operation, String), Refusal> {
    let header = |name: &str| {
        head.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    if head.method != "POST" || header("content-type") != "application/x-amz-json-1.1" {
        return Err(Refusal::new(
            "SerializationException",
            "Not AWS JSON 1.1 by POST",
        ));
    }
    // AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/secretsmanager/aws4_request, ...
    let scope: Vec<&str> = header("authorization")
        .strip_prefix("AWS4-HMAC-SHA256 Credential=")
        .and_then(|rest| rest.split(',').next())
        .map(|scope| scope.split('/').collect())
        .unwrap_or_default();
    let [_, _, region, "secretsmanager", "aws4_request"] = scope[..] else {
        return Err(Refusal::new(
            "MissingAuthenticationTokenException",
            "Missing Authentication Token",
        ));
    };
    let operation = match header("x-amz-target").strip_prefix("secretsmanager.") {
        Some("CreateSecret") => Operation::CreateSecret,
        Some("DeleteSecret") => Operation::DeleteSecret,
        Some("DescribeSecret") => Operation::DescribeSecret,
        Some("GetSecretValue") => Operation::GetSecretValue,
        Some("ListSecrets") => Operation::ListSecrets,
        _ => return Err(Refusal::new("UnknownOperationException", "")),
    };
    Ok((operation, region.to_owned()))
}

/// The secret that a call names, if it names one.
pub fn name_in(parameters: &Value) -> String {
    let id = parameters["Name"]
        .as_str()
        .or(parameters["SecretId"].as_str());
    id.unwrap_or_default().to_owned()
}

/// Refuses parameters that a call does not have here.
pub fn only(parameters: &Value, allowed: &[&str]) -> Result<(), Refusal> {
    let given = parameters
        .as_object()
        .ok_or_else(|| Refusal::new("SerializationException", "Not a JSON object"))?;
    match given.keys().find(|key| !allowed.contains(&key.as_str())) {
        Some(unknown) => Err(Refusal::invalid(format!("Unknown parameter {unknown}"))),
        None => Ok(()),
    }
}

/// A parameter that has to be there.
pub fn text<'a>(parameters: &'a Value, key: &str) -> Result<&'a str, Refusal> {
    parameters[key]
        .as_str()
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Refusal::new("InvalidParameterException", format!("{key} is missing")))
}

/// The parameters of `CreateSecret`.
pub struct Creation {
    pub name: String,
    pub token: String,
    pub value: String,
    pub tags: BTreeMap<String, String>,
}

impl Creation {
    pub fn parse(parameters: &Value) -> Result<Self, Refusal> {
        only(
            parameters,
            &[
                "Name",
                "ClientRequestToken",
                "SecretString",
                "KmsKeyId",
                "Tags",
            ],
        )?;
        let value = text(parameters, "SecretString")?;
        if value.len() > 65_536 {
            return Err(Refusal::invalid("The value has more than 65536 bytes"));
        }
        let token = text(parameters, "ClientRequestToken")?;
        if !(32..=64).contains(&token.len()) {
            return Err(Refusal::invalid(
                "ClientRequestToken has not 32 to 64 characters",
            ));
        }
        Ok(Self {
            name: name(text(parameters, "Name")?)?,
            token: token.to_owned(),
            value: value.to_owned(),
            tags: tags(&parameters["Tags"])?,
        })
    }
}

/// AWS only advises against names that end in a hyphen and six characters, as its own suffix makes
/// them ambiguous. keycard has to follow that.
fn name(name: &str) -> Result<String, Refusal> {
    let bytes = name.as_bytes();
    let spelled = (1..=512).contains(&bytes.len())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/_+=.@-".contains(byte));
    let ambiguous = bytes.len() >= 7
        && bytes[bytes.len() - 7] == b'-'
        && bytes[bytes.len() - 6..]
            .iter()
            .all(u8::is_ascii_alphanumeric);
    if spelled && !ambiguous {
        Ok(name.to_owned())
    } else {
        Err(Refusal::invalid(
            "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!",
        ))
    }
}

fn tags(tags: &Value) -> Result<BTreeMap<String, String>, Refusal> {
    let spelled = |text: &str, length| {
        text.chars().count() <= length
            && text
                .chars()
                .all(|letter| letter.is_alphanumeric() || " _.:/=+-@".contains(letter))
    };
    let mut parsed = BTreeMap::new();
    for tag in tags.as_array().into_iter().flatten() {
        only(tag, &["Key", "Value"])?;
        let (key, value) = (text(tag, "Key")?, tag["Value"].as_str().unwrap_or_default());
        if !spelled(key, 128) || !spelled(value, 256) || key.starts_with("aws:") {
            return Err(Refusal::invalid(format!("The tag {key} is not allowed")));
        }
        if parsed.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Refusal::new(
                "InvalidParameterException",
                "Duplicate tag keys",
            ));
        }
    }
    if parsed.len() > 50 {
        return Err(Refusal::new("InvalidParameterException", "Too many tags"));
    }
    Ok(parsed)
}

/// The name in a `DeleteSecret`, which has to be for good.
pub fn deletion(parameters: &Value) -> Result<String, Refusal> {
    only(parameters, &["SecretId", "ForceDeleteWithoutRecovery"])?;
    if parameters["ForceDeleteWithoutRecovery"] != true {
        return Err(Refusal::invalid(
            "Here only ForceDeleteWithoutRecovery is known",
        ));
    }
    name(text(parameters, "SecretId")?)
}

pub fn description(name: &str, secret: &Secret) -> Value {
    let tags: Vec<Value> = secret
        .tags
        .iter()
        .map(|(key, value)| json!({"Key": key, "Value": value}))
        .collect();
    json!({
        "ARN": secret.arn, "Name": name, "Tags": tags,
        "CreatedDate": 1.6e9, "LastChangedDate": 1.7e9,
    })
}

/// One page of `ListSecrets`; a filter matches the beginnings of names.
pub fn listing(
    secrets: &BTreeMap<String, Secret>,
    page: usize,
    parameters: &Value,
) -> Result<Value, Refusal> {
    only(parameters, &["Filters", "MaxResults", "NextToken"])?;
    if parameters["Filters"][0]["Key"] != "name" {
        return Err(Refusal::invalid("Here only names are filtered"));
    }
    let asked = parameters["MaxResults"].as_u64().unwrap_or(100);
    let size = usize::try_from(asked).unwrap_or(page).min(page);
    let after = parameters["NextToken"].as_str().unwrap_or_default();
    let prefix = parameters["Filters"][0]["Values"][0]
        .as_str()
        .unwrap_or_default();
    let mut rest = secrets
        .iter()
        .filter(|(name, _)| name.as_str() > after && name.starts_with(prefix));
    let page: Vec<Value> = rest
        .by_ref()
        .take(size)
        .map(|(name, secret)| description(name, secret))
        .collect();
    let mut answer = json!({"SecretList": page});
    if rest.next().is_some() {
        answer["NextToken"] = page[page.len() - 1]["Name"].clone();
    }
    Ok(answer)
}
