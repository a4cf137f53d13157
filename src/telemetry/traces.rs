//! Traces: what was done for whom and how long it took, sent to a collector by OTLP over HTTP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, ResponseExt as _};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;

use crate::fault::told_with_causes;

/// The target of what goes into traces, and into no log.
pub const TARGET: &str = "trace";

/// How long a collector may take for one batch.
const PATIENCE: Duration = Duration::from_secs(10);

/// Traces cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error(
    "traces cannot be sent to {endpoint}: {problem}; mend worker.otlp_endpoint, or take it out"
)]
pub struct TracesError {
    endpoint: String,
    problem: String,
}

/// Sends traces, a batch every five seconds. What a collector does not take is lost.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// To the collector at the base URL `endpoint`, as those of `installation`.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn to(endpoint: &str, installation: &str) -> Result<Self, TracesError> {
        let mut roots = RootCertStore::empty();
        // With none of them no https:// collector is trusted, which is told then.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let collector = Collector {
            client: HyperClient::new(connector, PATIENCE, None),
            runtime: Handle::current(),
            endpoint: endpoint.to_owned(),
            fails: AtomicBool::new(false),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(PATIENCE)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .build()
            .map_err(|error| TracesError {
                endpoint: endpoint.to_owned(),
                problem: error.to_string(),
            })?;
        let resource = Resource::builder()
            .with_service_name("keycard")
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .with_attribute(opentelemetry::KeyValue::new(
                "keycard.installation",
                installation.to_owned(),
            ))
            .build();
        Ok(Self(
            SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource)
                .build(),
        ))
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.0.tracer("keycard")
    }

    /// Sends what is left, for at most five seconds.
    pub async fn finish(self) {
        // Blocks, while the runtime sends.
        let finishing = tokio::task::spawn_blocking(move || self.0.shutdown());
        if let Ok(Err(error)) = finishing.await {
            tracing::debug!(%error, "the last traces were not sent");
        }
    }
}

/// The collector. The exporter is a thread of its own, without a runtime to send with.
#[derive(Debug)]
struct Collector {
    client: HyperClient<HttpsConnector<HttpConnector>>,
    runtime: Handle,
    /// Its base URL.
    endpoint: String,
    /// Whether the last batch was not taken.
    fails: AtomicBool,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sending = self.runtime.spawn(async move {
            let answer = client.send_bytes(request).await?;
            answer.error_for_status()
        });
        let sent = sending.await.unwrap_or_else(|error| Err(error.into()));
        let failed_before = self.fails.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) if !failed_before => {
                tracing::warn!(
                    address = self.endpoint,
                    error = told_with_causes(error.as_ref()),
                    "the collector takes no traces; they are lost. Mend worker.otlp_endpoint, or start the collector"
                );
            }
            Ok(_) if failed_before => {
                tracing::info!(address = self.endpoint, "the collector takes traces again");
            }
            Ok(_) | Err(_) => {}
        }
        sent
    }
}
