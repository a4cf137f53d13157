//! Where Prometheus and Kubernetes read: `GET` of `/metrics`, `/livez` and `/readyz` over plain HTTP,
//! and nothing else.
//!
//! Anybody may be at the other end. Few are heard at a time, each for seconds and with one request
//! of a few kilobytes, so that nobody costs the worker memory or sockets that it needs; and nobody
//! keeps others waiting, as Kubernetes restarts a worker that does not say in time that it lives.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Readiness;

/// Readers at a time; one more takes the place of the oldest.
const READERS_MAX: usize = 16;

/// How long one reader may take, from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest head of a request, the shortest limit that hyper has; Prometheus sends some 300 bytes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Answers whoever connects, for ever.
pub(super) async fn listen(
    listener: TcpListener,
    metrics: PrometheusHandle,
    readiness: Arc<Readiness>,
) {
    let mut readers = VecDeque::<AbortHandle>::new();
    let mut server = http1::Builder::new();
    server.keep_alive(false).max_buf_size(REQUEST_BYTES_MAX);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Sockets may have run out: trying at once would only spin.
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        readers.retain(|reader| !reader.is_finished());
        if readers.len() == READERS_MAX
            && let Some(oldest) = readers.pop_front()
        {
            oldest.abort();
        }
        let (metrics, readiness) = (metrics.clone(), Arc::clone(&readiness));
        let answer = service_fn(move |request: Request<_>| {
            let (method, path) = (request.method(), request.uri().path());
            let response = respond(method, path, &metrics, &readiness);
            async { Ok::<_, Infallible>(response) }
        });
        let conversation = server.serve_connection(TokioIo::new(stream), answer);
        let reader = tokio::spawn(async move {
            // Whoever is too slow or goes away is nobody to tell.
            let _ = timeout(PATIENCE, conversation).await;
        });
        readers.push_back(reader.abort_handle());
    }
}

fn respond(
    method: &Method,
    path: &str,
    metrics: &PrometheusHandle,
    readiness: &Readiness,
) -> Response<String> {
    const PLAIN: (HeaderName, &str) = (CONTENT_TYPE, "text/plain; charset=utf-8");
    match (method, path) {
        (&Method::GET, "/metrics") => whole(
            StatusCode::OK,
            (CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"),
            metrics.render(),
        ),
        (&Method::GET, "/livez") => whole(StatusCode::OK, PLAIN, "alive\n".to_owned()),
        (&Method::GET, "/readyz") => {
            let out_of_reach = readiness.out_of_reach();
            if out_of_reach.is_empty() {
                whole(StatusCode::OK, PLAIN, "ready\n".to_owned())
            } else {
                let lines = out_of_reach.join("\n") + "\n";
                whole(StatusCode::SERVICE_UNAVAILABLE, PLAIN, lines)
            }
        }
        (_, "/metrics" | "/livez" | "/readyz") => whole(
            StatusCode::METHOD_NOT_ALLOWED,
            (ALLOW, "GET"),
            "only GET is answered\n".to_owned(),
        ),
        _ => whole(
            StatusCode::NOT_FOUND,
            PLAIN,
            "there are /metrics, /livez and /readyz, and nothing else\n".to_owned(),
        ),
    }
}

fn whole(
    status: StatusCode,
    (name, value): (HeaderName, &'static str),
    body: String,
) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(name, HeaderValue::from_static(value));
    response
}
