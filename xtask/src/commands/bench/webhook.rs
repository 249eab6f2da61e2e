//! A receiver of webhooks: answers 200 to every POST and notes when it came, and its body.
//!
//! HTTP/1.1 on loopback, as much of it as the engine's client speaks: a thread a connection, bodies with a `Content-Length`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};
use xtask::Result;

/// A body and when it was there, in microseconds since 1970.
pub(super) type Received = (f64, Vec<u8>);

/// A receiver. It listens until the process ends.
pub(super) struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// Listens on a free port of loopback.
    pub(super) fn start() -> Result<Receiver> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let receiver = Receiver { address: listener.local_addr()?, received: Arc::default() };
        let received = Arc::clone(&receiver.received);
        thread::Builder::new().name("webhook".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let received = Arc::clone(&received);
                // A client that goes away ends its thread; what it had sent was noted.
                thread::spawn(move || drop(serve(&stream, &received)));
            }
        })?;
        Ok(receiver)
    }

    /// Where to send webhooks.
    pub(super) fn url(&self) -> String {
        format!("http://{}/alert", self.address)
    }

    /// What came so far, which is then forgotten here.
    pub(super) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(mut stream: &TcpStream, received: &Mutex<Vec<Received>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        received.lock().unwrap_or_else(PoisonError::into_inner).push((at as f64, body));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_noted_on_a_connection_that_stays() {
        let receiver = Receiver::start().unwrap();
        let mut client = TcpStream::connect(receiver.address).unwrap();
        for body in ["{\"a\":1}", "{}"] {
            let length = body.len();
            write!(client, "POST /alert HTTP/1.1\r\nHost: x\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
            let mut answer = [0; 38];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        let bodies: Vec<Vec<u8>> = receiver.take().into_iter().map(|(_, body)| body).collect();
        assert_eq!(bodies, [b"{\"a\":1}".to_vec(), b"{}".to_vec()]);
        assert!(receiver.take().is_empty() && receiver.url().ends_with("/alert"));
    }
}
