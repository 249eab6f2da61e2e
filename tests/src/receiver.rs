//! A receiver of webhooks that can fall silent and come back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Takes requests on a thread for each connection, and keeps their bodies.
pub(crate) struct Receiver {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Connections are taken, and no request is answered.
    silent: AtomicBool,
    /// Requests with these bodies are refused for good.
    refused: Mutex<Option<Refused>>,
    /// With the `Idempotency-Key` of each, where it had one.
    requests: Mutex<Vec<(Option<String>, String)>>,
}

/// Whether a body is refused.
type Refused = Box<dyn Fn(&str) -> bool + Send>;

impl Receiver {
    pub(crate) fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared::default());
        let taking = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = taking.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Receiver { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/alert", self.address)
    }

    /// From now on no request is answered, or all are again.
    pub(crate) fn fall_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// From now on requests with such bodies are refused.
    pub(crate) fn refuse(&self, refused: impl Fn(&str) -> bool + Send + 'static) {
        *self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(refused));
    }

    /// The bodies of the requests that were answered.
    pub(crate) fn bodies(&self) -> Vec<String> {
        self.requests().into_iter().map(|(_, body)| body).collect()
    }

    /// The requests that were answered: the `Idempotency-Key` of each, where it had one, and its body.
    pub(crate) fn requests(&self) -> Vec<(Option<String>, String)> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers the requests of a connection one after the other, until one comes while the receiver is silent.
fn serve(stream: TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut length, mut key) = (0, None);
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => {}
            }
            match line.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().unwrap_or_default();
                }
                Some((name, value)) if name.eq_ignore_ascii_case("idempotency-key") => {
                    key = Some(value.trim().to_owned());
                }
                _ => {}
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        if shared.silent.load(Ordering::SeqCst) {
            // Until the other side gives up: what it sends is not read, and nothing is said.
            let _ = reader.read_to_end(&mut Vec::new());
            return;
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        let is_refused = match &*shared.refused.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(refused) => refused(&body),
            None => false,
        };
        if is_refused {
            let answer = b"HTTP/1.1 422 Unprocessable Content\r\nContent-Length: 12\r\n\r\nno such card";
            if reader.get_mut().write_all(answer).is_err() {
                return;
            }
            continue;
        }
        shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push((key, body));
        if reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}
