//! The one tokio runtime of a process, with one thread: for connectors whose clients are asynchronous.

use std::sync::OnceLock;
use tokio::runtime::{Builder, Runtime};

/// The runtime, started when it is first asked for. It lives as long as the process.
pub(crate) fn shared() -> Result<&'static Runtime, String> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("connectors")
                .enable_all()
                .build()
                .map_err(|error| format!("the threads for network connections can't be started: {error}"))
        })
        .as_ref()
        .map_err(Clone::clone)
}
