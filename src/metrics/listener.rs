//! Where Prometheus reads: `GET /metrics` over plain HTTP, and nothing else.
//!
//! Anybody may be at the other end. Few are heard at a time, each for seconds and with one request
//! of a few kilobytes, so that nobody costs the worker memory or sockets that it needs.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Readers at a time; the others wait to be accepted.
const READERS_MAX: usize = 16;

/// How long one reader may take, from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest request; Prometheus sends some 300 bytes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Answers whoever connects, for ever.
pub(super) async fn listen(
    listener: TcpListener,
    render: impl Fn() -> String + Send + Sync + 'static,
) {
    let render = Arc::new(render);
    let places = Arc::new(Semaphore::new(READERS_MAX));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Sockets may have run out: trying at once would only spin.
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        let render = Arc::clone(&render);
        tokio::spawn(async move {
            // Whoever is too slow or goes away is nobody to tell.
            let _ = timeout(PATIENCE, answer(stream, &*render)).await;
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, render: &impl Fn() -> String) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(1024);
    let mut reading = (&mut stream).take(REQUEST_BYTES_MAX as u64);
    while !ends(&request) {
        if reading.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let response = respond(&request, render);
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

/// Whether the head of a request is complete. What follows it is not read.
fn ends(request: &[u8]) -> bool {
    request.windows(4).any(|window| window == b"\r\n\r\n")
}

fn respond(request: &[u8], render: &impl Fn() -> String) -> String {
    if !ends(request) {
        return whole(
            "400 Bad Request",
            "",
            "this is no HTTP request, or a long one\n",
        );
    }
    let line = request.split(|byte| *byte == b'\r').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (method, target) = (words.next(), words.next());
    let path = target.and_then(|target| target.split('?').next());
    match (method, path) {
        (Some("GET"), Some("/metrics")) => whole("200 OK", "", &render()),
        (_, Some("/metrics")) => whole(
            "405 Method Not Allowed",
            "Allow: GET\r\n",
            "only GET is answered\n",
        ),
        _ => whole("404 Not Found", "", "there is /metrics, and nothing else\n"),
    }
}

fn whole(status: &str, header: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\n{header}Connection: close\r\n\r\n{body}"
    )
}
