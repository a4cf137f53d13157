//! A port in front of a server, on a network that can be made bad.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Leads to the server until it is dropped.
pub struct Proxy {
    pub port: u16,
    weather: watch::Sender<Weather>,
    serving: AbortHandle,
}

#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// How often all connections were cut.
    cuts: u64,
    /// How long everything is on its way.
    delay: Duration,
}

impl Proxy {
    pub async fn start(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let weather = watch::Sender::new(Weather::default());
        let serving = tokio::spawn(serve(listener, (host.to_owned(), port), weather.clone()));
        Self {
            port: own_port,
            weather,
            serving: serving.abort_handle(),
        }
    }

    /// Ends every connection that there is.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// From now on everything takes so long, in either direction.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, target: (String, u16), weather: watch::Sender<Weather>) {
    loop {
        let (near, _) = listener.accept().await.unwrap();
        let (target, mut weather) = (target.clone(), weather.subscribe());
        tokio::spawn(async move {
            // While the server is away its port refuses, and this one hangs up.
            let Ok(far) = TcpStream::connect((target.0.as_str(), target.1)).await else {
                return;
            };
            let cuts = weather.borrow().cuts;
            let (near_reader, near_writer) = near.into_split();
            let (far_reader, far_writer) = far.into_split();
            let delay = weather.clone();
            tokio::select! {
                // Cancel-safe: an end on either side, or a cut, is the end of both.
                () = pump(near_reader, far_writer, delay.clone()) => {}
                () = pump(far_reader, near_writer, delay) => {}
                _ = weather.wait_for(|weather| weather.cuts > cuts) => {}
            }
        });
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 16 * 1024];
    // An error is an end like any other.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let delay = weather.borrow().delay;
        sleep(delay).await;
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
