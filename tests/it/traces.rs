//! What a collector of traces is told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::gate::Gate;
use crate::support::site::Site;

const VARIABLE: &str = "KEYCARD_WORKER__OTLP_ENDPOINT";
const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const PARENT: u64 = 0x00f0_67aa_0ba9_02b7;

/// Takes every batch; it ends when dropped.
struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Bytes>>>,
    serving: AbortHandle,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let serving = tokio::spawn(serve(listener, Arc::clone(&bodies)));
        Self {
            address,
            bodies,
            serving: serving.abort_handle(),
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().unwrap().clone()
    }

    fn spans(&self) -> Vec<Span> {
        let decoded = self.bodies().into_iter().map(|body| {
            let batch = ExportTraceServiceRequest::decode(body).unwrap();
            batch.resource_spans
        });
        let scopes = decoded.flatten().flat_map(|spans| spans.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, bodies: Arc<Mutex<Vec<Bytes>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let bodies = Arc::clone(&bodies);
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let bodies = Arc::clone(&bodies);
            async move {
                assert_eq!(request.uri().path(), "/v1/traces");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                bodies.lock().unwrap().push(body);
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        });
        let conversation = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // An error is an end like any other.
        tokio::spawn(async move { conversation.await.ok() });
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_for_a_request_belongs_to_its_trace() {
    let site = Site::usual().await;
    let collector = Collector::start().await;
    let mut worker = site.worker_at("trace", &[(VARIABLE, &collector.url())]);
    worker.ready().await;
    let orders = site.client("orders-svc").await;
    let ask = async |id: &str, ttl_seconds: Option<u32>, traceparent: &str| {
        let data = json!({"role": "app-role", "ttl_seconds": ttl_seconds});
        let mut request = orders.event(id, "credential.request.v1", data);
        request["traceparent"] = json!(traceparent);
        orders
            .publish("requests", request.to_string().as_bytes())
            .await;
        let answer = orders.answer(id).await;
        assert_eq!(answer.kind(), "credential.issued.v1", "{traceparent}");
        assert_eq!(answer.event["traceparent"], traceparent);
        answer
    };
    let issued = ask(
        "traced",
        Some(20),
        &format!("00-{TRACE:032x}-{PARENT:016x}-01"),
    )
    .await;
    let secret = Site::secret(issued.data());
    ask(
        "unsampled",
        None,
        &format!("00-{TRACE:032x}-{PARENT:016x}-00"),
    )
    .await;
    let hostile = [
        format!("ff-{TRACE:032x}-{PARENT:016x}-01"),
        format!("00-{:032x}-{PARENT:016x}-01", 0),
        format!("00-{TRACE:032X}-{PARENT:016X}-01"),
        format!("00-{TRACE:033x}-{PARENT:016x}-01"),
        "00-1-1-01".to_owned(),
        "-".repeat(256),
        "\u{202e}/../%00".to_owned(),
    ];
    for (number, traceparent) in hostile.iter().enumerate() {
        ask(&format!("hostile{number}"), None, traceparent).await;
    }
    let lease_id = issued.data()["lease_id"].as_str().unwrap();
    orders.notice("lease.revoked.v1", lease_id, 2 * SOON).await;
    // What is left is sent at the end.
    worker.terminate();
    assert_eq!(worker.exit(SOON).await.code(), Some(0));

    let spans = collector.spans();
    let about = |span: &&Span, what: &str| format!("{:?}", span.attributes).contains(what);
    let of = |id: &str| spans.iter().find(|span| about(span, &format!("{id:?}")));
    let command = of("traced").unwrap();
    assert_eq!(command.name, "request");
    assert_eq!(command.trace_id, TRACE.to_be_bytes());
    assert_eq!(command.parent_span_id, PARENT.to_be_bytes());
    for (name, times) in [
        ("ledger_step", 2),
        ("put_secret", 1),
        ("arm_expiry", 1),
        ("publish", 1),
    ] {
        let within = spans.iter().filter(|span| {
            span.name == name
                && span.trace_id == command.trace_id
                && span.parent_span_id == command.span_id
        });
        assert_eq!(within.count(), times, "{name}: {spans:?}");
    }
    let attributes = format!("{:?}", command.attributes);
    for told in ["traced", "orders-svc", lease_id] {
        assert!(attributes.contains(told), "{told}: {attributes}");
    }
    assert_eq!(of("unsampled"), None);
    for (number, traceparent) in hostile.iter().enumerate() {
        let span = of(&format!("hostile{number}")).unwrap();
        assert!(span.parent_span_id.is_empty(), "{traceparent}");
        assert_ne!(span.trace_id, command.trace_id);
    }
    // Nobody asked for the end; it names the request all the same, once however much was decided.
    let ends = spans
        .iter()
        .filter(|span| span.name == "expire" && about(span, lease_id));
    let links: Vec<_> = ends
        .flat_map(|span| {
            assert_ne!(span.trace_id, command.trace_id);
            assert!(span.links.len() < 2, "{span:?}");
            &span.links
        })
        .collect();
    // Nobody waits for the name of a trace.
    let too_slow = worker
        .log()
        .contains("a lease's trace could not be looked up");
    assert!(!links.is_empty() || too_slow);
    assert!(links.iter().all(|link| link.trace_id == command.trace_id));
    let password = secret["password"].as_str().unwrap();
    assert!(collector.bodies().iter().all(|body| !has(body, password)));
    assert!(collector.bodies().iter().any(|body| has(body, &site.name)));
    assert!(!worker.log().contains("otel."), "spans are no log lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_keeps_nobody_waiting() {
    let site = Site::usual().await;
    // Nobody listens there, nor takes the port.
    let nobody = Gate::closed("127.0.0.1", 0);
    let url = format!("http://127.0.0.1:{}", nobody.port);
    let mut worker = site.worker_at("info", &[(VARIABLE, &url)]);
    worker.ready().await;
    let orders = site.client("orders-svc").await;
    orders.issued("app-role", None).await;
    let lost = "the collector takes no traces; they are lost. Mend worker.otlp_endpoint";
    eventually("it is told", SOON, async || {
        worker.log().contains(lost).then_some(())
    })
    .await;
    worker.terminate();
    assert_eq!(worker.exit(SOON).await.code(), Some(0));
    assert_eq!(worker.log().matches(lost).count(), 1, "{}", worker.log());

    // The next one takes what is sent, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut worker = site.worker_at("info", &[(VARIABLE, &url)]);
    worker.ready().await;
    orders.issued("app-role", None).await;
    let _conversation = silent.accept().await.unwrap();
    orders.issued("app-role", None).await;
    worker.terminate();
    assert_eq!(worker.exit(2 * SOON).await.code(), Some(0));
}
