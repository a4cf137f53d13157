//! A strict stand-in for AWS Secrets Manager: a real HTTP server with AWS's own limits, which moto
//! does not have (names, throttling, deletion in the background), and with faults to order.

mod rules;
mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use keycard::clock::uuid_v7;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use rules::Refusal;
use world::World;

/// What can be asked of the service; anything else is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    CreateSecret,
    DeleteSecret,
    DescribeSecret,
    GetSecretValue,
    ListSecrets,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not done: `InternalServiceError`.
    Status500,
    /// Not done: a proxy's 503, without a code.
    Status503,
    /// Not done: `ThrottlingException`.
    Throttle,
    /// Done, and then the connection is cut instead of an answer.
    LostReply,
    /// Done at once, answered late.
    Slow(Duration),
    /// Not done: this code, with a message that quotes the request's value as AWS's validation does.
    Refuse(&'static str),
}

/// A secret as the service has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    pub arn: String,
    pub value: String,
    pub version: String,
    pub tags: BTreeMap<String, String>,
}

/// One call that was answered, or done with its answer lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub operation: Operation,
    /// The secret's name, or empty.
    pub name: String,
    /// `ok`, or the error's code.
    pub outcome: String,
}

/// The server; it stops when this is dropped.
pub struct FakeSecretsManager {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    world: Mutex<World>,
    paused: watch::Sender<bool>,
    /// How many more calls a pause holds.
    to_hold: Mutex<usize>,
}

impl FakeSecretsManager {
    /// Starts a server on a port of its own, with AWS's quotas and deletions that take a minute.
    pub fn start() -> Self {
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new()),
            paused: watch::Sender::new(false),
            to_hold: Mutex::new(0),
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = serve(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address: address.recv().unwrap(),
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// For `AWS_ENDPOINT_URL_SECRETS_MANAGER`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `calls` calls go wrong.
    pub fn fail_next(&self, calls: usize, fault: Fault) {
        self.order(None, calls, fault);
    }

    /// The next `calls` calls of one operation go wrong.
    pub fn fail_next_of(&self, operation: Operation, calls: usize, fault: Fault) {
        self.order(Some(operation), calls, fault);
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.world().faults.clear();
    }

    fn order(&self, operation: Option<Operation>, calls: usize, fault: Fault) {
        self.world()
            .faults
            .extend(std::iter::repeat_n((operation, fault), calls));
    }

    /// Holds every `CreateSecret` until [`Self::resume`]; then it is done even if its client has
    /// gone.
    pub fn pause(&self) {
        self.pause_next(usize::MAX);
    }

    /// Holds the next `calls` of `CreateSecret`, as [`Self::pause`] does; those after them pass.
    pub fn pause_next(&self, calls: usize) {
        *self.shared.to_hold.lock().unwrap() = calls;
        self.shared.paused.send_replace(true);
    }

    /// Lets the held calls go on.
    pub fn resume(&self) {
        self.shared.paused.send_replace(false);
    }

    /// How many calls are held.
    pub fn held(&self) -> usize {
        self.world().held
    }

    /// How long a deleted secret's name stays unusable.
    pub fn set_deletion_takes(&self, duration: Duration) {
        self.world().deletion_takes = duration;
    }

    /// From now on it takes as many creations and deletions as come.
    pub fn lift_quotas(&self) {
        self.world().lift_quotas();
    }

    /// Listings come in pages of at most so many secrets.
    pub fn set_page(&self, secrets: usize) {
        self.world().page = secrets;
    }

    /// Listings go on showing the secrets that there are now.
    pub fn let_listings_lag(&self) {
        let mut world = self.world();
        world.listed = Some(world.secrets.clone());
    }

    /// How many calls of `operation` have arrived, whatever became of them.
    pub fn count(&self, operation: Operation) -> usize {
        *self.world().received.get(&operation).unwrap_or(&0)
    }

    /// The live secrets by name.
    pub fn secrets(&self) -> BTreeMap<String, Secret> {
        self.world().secrets.clone()
    }

    /// Every call in the order of being done.
    pub fn calls(&self) -> Vec<Call> {
        self.world().calls.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }
}

impl Drop for FakeSecretsManager {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                // A task of its own: hyper drops the service when its client hangs up, and AWS
                // does what it was asked all the same.
                let answer = tokio::spawn(answer(Arc::clone(&shared), request));
                async move { answer.await.unwrap() }
            });
            // Errors are clients that hung up, and replies lost on purpose.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Cuts the connection.
#[derive(Debug, thiserror::Error)]
#[error("the reply is lost")]
struct Lost;

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Lost> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
    let (operation, region) = match rules::signed_operation(&head) {
        Ok(known) => known,
        Err(refusal) => return Ok(response(Err(refusal))),
    };
    *shared
        .world
        .lock()
        .unwrap()
        .received
        .entry(operation)
        .or_default() += 1;
    if operation == Operation::CreateSecret {
        hold(&shared).await;
    }
    let (done, fault) = shared.world.lock().unwrap().call(operation, &region, &body);
    match fault {
        Some(Fault::LostReply) => return Err(Lost),
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::Status500 | Fault::Status503 | Fault::Throttle | Fault::Refuse(_)) | None => {}
    }
    Ok(response(done))
}

async fn hold(shared: &Shared) {
    let mut paused = shared.paused.subscribe();
    if *paused.borrow_and_update() && takes_one(&shared.to_hold) {
        shared.world.lock().unwrap().held += 1;
        let _ = paused.wait_for(|paused| !paused).await;
        shared.world.lock().unwrap().held -= 1;
    }
}

fn takes_one(left: &Mutex<usize>) -> bool {
    let mut left = left.lock().unwrap();
    let takes = *left > 0;
    *left = left.saturating_sub(1);
    takes
}

fn response(done: Result<Value, Refusal>) -> Response<Full<Bytes>> {
    let (status, body) = match done {
        Ok(value) => (StatusCode::OK, value.to_string()),
        Err(refusal) if refusal.code.is_empty() => (refusal.status, refusal.message),
        Err(refusal) => (
            refusal.status,
            // AWS writes the key of a denial's message in upper case.
            match refusal.code {
                "AccessDeniedException" => {
                    json!({"__type": refusal.code, "Message": refusal.message})
                }
                code => json!({"__type": code, "message": refusal.message}),
            }
            .to_string(),
        ),
    };
    Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amzn-requestid", uuid_v7().to_string())
        .body(Full::new(Bytes::from(body)))
        .unwrap_or_else(|error: hyper::http::Error| unreachable!("{error}"))
}
