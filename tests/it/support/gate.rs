//! A port in front of a server: refused until it is opened, and once it is shut.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// The port is taken from the beginning, so that nobody else gets it meanwhile.
pub struct Gate {
    pub port: u16,
    closed: Option<TcpSocket>,
    target: (String, u16),
    open: Option<AbortHandle>,
}

impl Gate {
    /// A port that refuses connections, for now.
    pub fn closed(host: &str, port: u16) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(any).unwrap();
        Self {
            port: socket.local_addr().unwrap().port(),
            closed: Some(socket),
            target: (host.to_owned(), port),
            open: None,
        }
    }

    /// From now on it leads to the server.
    pub fn open(&mut self) {
        let listener = self.closed.take().unwrap().listen(64).unwrap();
        let lead = lead(listener, self.target.clone());
        self.open = Some(tokio::spawn(lead).abort_handle());
    }

    /// Whoever is connected is cut off, and everybody refused.
    pub fn shut(&self) {
        if let Some(task) = &self.open {
            task.abort();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shut();
    }
}

async fn lead(listener: TcpListener, (host, port): (String, u16)) {
    // Those of a task that is aborted are as well.
    let mut connections = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        // What the server refuses while it is away, this ends.
        let Ok(mut far) = TcpStream::connect((host.as_str(), port)).await else {
            continue;
        };
        connections.spawn(async move {
            // An error is an end like any other.
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}
