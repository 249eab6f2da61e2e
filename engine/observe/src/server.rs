//! The HTTP server for whoever watches: `/metrics`, `/healthz`, `/readyz`.
//!
//! It runs on a thread and a small runtime of its own, so that a slow reader never holds up a worker. It listens on
//! loopback unless it is told an address, and has no way to change anything.

use crate::metrics::{Metrics, Phase};
use crate::prometheus::{CONTENT_TYPE, encode};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::oneshot;

/// Where it listens if nothing else is said.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9464";
/// How long an answer in progress may take once the server is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address`; with port 0 the system chooses one. An address that is taken or not ours is an error here.
    pub fn start(address: SocketAddr, metrics: Arc<Metrics>) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            runtime.block_on(serve(listener, metrics, stopped));
            // Connections that are still open do not hold up the end.
            runtime.shutdown_timeout(Duration::ZERO);
        };
        let thread = thread::Builder::new().name("metrics-server".into()).spawn(run)?;
        Ok(Server { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None; // the receiver's end resolves
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, metrics: Arc<Metrics>, stopped: oneshot::Receiver<()>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the metrics server did not start"),
    };
    let (started_stop, stop_started) = oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
        let _ = started_stop.send(());
    };
    let server = axum::serve(listener, routes(metrics)).with_graceful_shutdown(shutdown);
    let patience = async {
        let _ = stop_started.await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        result = server => if let Err(error) = result {
            tracing::error!(%error, "the metrics server failed");
        },
        () = patience => {}
    }
}

fn routes(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .with_state(metrics)
}

async fn show_metrics(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], encode(&metrics))
}

/// Alive unless it has failed: a restart would help no other phase.
async fn health(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let phase = metrics.phase();
    (status(phase != Phase::Failed), phase.name())
}

/// Ready only while rows flow.
async fn readiness(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let phase = metrics.phase();
    (status(phase == Phase::Ready), phase.name())
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine_base::SystemClock;
    use std::net::{Ipv4Addr, TcpStream};
    use std::time::Instant;
    use xtask::services::http_get;

    fn start() -> (Server, Arc<Metrics>) {
        let metrics = Metrics::new("p", SystemClock::shared());
        let server = Server::start((Ipv4Addr::LOCALHOST, 0).into(), Arc::clone(&metrics)).unwrap();
        (server, metrics)
    }

    #[test]
    fn it_answers_by_the_phase() {
        let (server, metrics) = start();
        assert!(server.address().ip().is_loopback() && server.address().port() != 0);
        let ask = |path: &str| http_get(&server.address().to_string(), path).unwrap();
        for (phase, healthy, ready) in [
            (Phase::Starting, 200, 503),
            (Phase::Ready, 200, 200),
            (Phase::Draining, 200, 503),
            (Phase::Failed, 503, 503),
        ] {
            metrics.set_phase(phase);
            assert_eq!(ask("/healthz"), (healthy, phase.name().into()));
            assert_eq!(ask("/readyz"), (ready, phase.name().into()));
        }
        metrics.epochs_closed.add(3);
        let (code, text) = ask("/metrics");
        assert!(code == 200 && text.contains("engine_epochs_closed_total{pipeline=\"p\"} 3\n"), "{text}");
        assert_eq!(ask("/nothing").0, 404);
    }

    #[test]
    fn it_stops_though_a_client_keeps_its_connection() {
        let (server, _) = start();
        let address = server.address();
        let idle = TcpStream::connect(address).unwrap();
        assert_eq!(http_get(&address.to_string(), "/healthz").unwrap().0, 200);
        let start = Instant::now();
        drop(server);
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(TcpStream::connect(address).is_err());
        drop(idle);
    }

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let (server, metrics) = start();
        let error = Server::start(server.address(), metrics).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn prometheus_scrapes_it() {
        if xtask::layout::find_program("prometheus").is_none() {
            assert!(std::env::var_os("CI").is_none(), "Prometheus is missing: run `cargo xtask setup`");
            return;
        }
        let (server, metrics) = start();
        metrics.step("s", "map").batch(5, 1_000_000);
        let prometheus = xtask::services::Prometheus::start(&server.address().to_string()).unwrap();
        let start = Instant::now();
        loop {
            let query = "histogram_quantile(0.5, engine_step_latency_seconds_bucket{step=\"s\"})";
            let answer = prometheus.query(query).unwrap();
            if let [(labels, seconds)] = &answer[..] {
                assert_eq!(labels["pipeline"], "p");
                assert!((0.0005..=0.001).contains(seconds), "{seconds}");
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "no scrape arrived: {answer:?}");
            thread::sleep(Duration::from_millis(200));
        }
    }
}
