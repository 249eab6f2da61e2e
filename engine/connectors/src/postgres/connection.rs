//! The connection `postgres`: where the server is, who we are, and whether what is said is encrypted.
//!
//! What is shown of it is host, port and database; a URL or password that can't be used is described, never quoted.

use crate::common::chain;
use crate::database::Fault;
use crate::delivery::Health;
use engine_base::codes::{spec, system as codes};
use engine_base::{Diagnostic, Diagnostics};
use engine_plan::{ConnectionKind, Cx};
use engine_spec::value::Secret;
use engine_spec::{Component, Files, Node};
use native_tls::{Certificate, TlsConnector};
use postgres_native_tls::MakeTlsConnector;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};

/// The registry line.
pub const KIND: ConnectionKind = ConnectionKind {
    name: "postgres",
    summary: "A PostgreSQL server, or anything that speaks its protocol.",
    config_schema: |generator| ConnectionKeys::json_schema(generator),
    check: |cx| {
        let component = cx.component;
        read(component, &cx.config, cx.files, cx.diagnostics);
    },
};

/// How long a connection may take to come about.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A connection on which nothing is said is looked after this often.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The keys of a `postgres` connection: `url`, or its parts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConnectionKeys {
    /// All in one, as `postgresql://user:password@host:5432/database`. It is never shown: `url: "${secret:DATABASE_URL}"`.
    url: Option<Secret>,
    /// The server's name or address, or the folder of its socket.
    host: Option<String>,
    /// Its port; 5432 unless said.
    port: Option<u16>,
    /// Who we are.
    user: Option<Secret>,
    /// The password: `${secret:NAME}`.
    password: Option<Secret>,
    /// The database; the one with the user's name unless said.
    database: Option<String>,
    /// Whether what is said is encrypted: `prefer` unless said here or in the URL.
    tls: Option<Tls>,
    /// The authorities that are trusted, as a PEM file relative to this one, for `tls: require`. Those of the system unless
    /// said.
    ca: Option<String>,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Tls {
    /// Never.
    Disable,
    /// Where the server offers it. Its certificate is not checked.
    Prefer,
    /// Always. The server's certificate must be of a trusted authority, and for the name that it is called by.
    Require,
}

/// A checked connection.
#[derive(Clone)]
pub struct Connection {
    /// What may be shown.
    pub(crate) shown: String,
    config: Config,
    ca: Option<PathBuf>,
}

/// The settings hold secrets.
impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("to", &self.shown).finish_non_exhaustive()
    }
}

impl Connection {
    /// The connection that a sink names. A problem within it has been noted where it stands.
    pub(super) fn find(cx: &mut Cx<'_>, name: &str) -> Option<Connection> {
        let files = cx.files;
        let connection = cx.connection(&["connection"], name, KIND.name)?;
        // What is wrong with it is told where it is declared.
        read(connection, &connection.node, files, &mut Diagnostics::new())
    }

    /// Connects. The task that serves the connection ends with its client.
    pub(super) async fn client(&self) -> Result<Client, Fault> {
        let stop = |reason: String| Fault::Stop(format!("{}: {reason}", self.shown));
        let mut tls = TlsConnector::builder();
        if self.config.get_ssl_mode() == SslMode::Require {
            if let Some(path) = &self.ca {
                let pem = std::fs::read(path).map_err(|error| stop(format!("`{}`: {error}", path.display())))?;
                for certificate in certificates(&pem) {
                    let read = Certificate::from_pem(&certificate);
                    tls.add_root_certificate(read.map_err(|error| stop(format!("`{}`: {error}", path.display())))?);
                }
            }
        } else {
            tls.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
        }
        let tls = tls.build().map_err(|error| stop(error.to_string()))?;
        let (client, connection) = self
            .config
            .connect(MakeTlsConnector::new(tls))
            .await
            .map_err(|error| fault(&error).about(&format!("{} can't be reached", self.shown)))?;
        tokio::spawn(async move {
            // Whoever uses the client hears of its end.
            let _ = connection.await;
        });
        Ok(client)
    }
}

/// The certificates of a PEM file, each by itself.
fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    let text = String::from_utf8_lossy(pem);
    text.split(BEGIN).skip(1).map(|part| format!("{BEGIN}{part}").into_bytes()).collect()
}

/// Checks a connection and notes every problem.
fn read(component: &Component, node: &Node, files: &dyn Files, diagnostics: &mut Diagnostics) -> Option<Connection> {
    let keys: ConnectionKeys = node.decode(diagnostics)?;
    let span = |path: &[&str]| component.node.span_at(path);
    let is_placeholder = |key: &str| component.node.get(key).is_some_and(|node| node.is_placeholder());
    let is_literal = |key: &str| component.node.get(key).is_some_and(|node| !node.substituted);
    let mut sound = true;
    let mut config = Config::new();
    if let Some(url) = &keys.url {
        for (key, is_said) in [
            ("host", keys.host.is_some()),
            ("port", keys.port.is_some()),
            ("user", keys.user.is_some()),
            ("password", keys.password.is_some()),
            ("database", keys.database.is_some()),
        ] {
            if is_said {
                let found = Diagnostic::error(spec::BAD_VALUE, span(&[key]), format!("`{key}` is said in the `url`"))
                    .help("write the `url` alone, or leave it out and write its parts");
                diagnostics.push(found);
                sound = false;
            }
        }
        let is_url = url.reveal().starts_with("postgresql://") || url.reveal().starts_with("postgres://");
        match Config::from_str(url.reveal()) {
            Ok(read) if is_url && !read.get_hosts().is_empty() => config = read,
            _ if is_placeholder("url") => {}
            _ => {
                // What was read may hold a password, so no part of it is shown.
                let found = Diagnostic::error(codes::BAD_URL, span(&["url"]), "this is not the URL of a PostgreSQL server")
                    .help("write `postgresql://user:password@host:5432/database`; signs such as `@` or `/` in the password as `%40`, `%2F`");
                diagnostics.push(found);
                sound = false;
            }
        }
        if is_literal("url") && config.get_password().is_some() {
            let found = Diagnostic::warning(
                codes::PASSWORD_IN_FILE,
                span(&["url"]),
                "a password stands in the URL in the file",
            )
            .help("write `url: \"${secret:NAME}\"` and set the secret where the engine runs");
            diagnostics.push(found);
        }
    } else {
        match &keys.host {
            Some(host) => {
                config.host(host);
            }
            None => {
                let found = Diagnostic::error(spec::MISSING_KEY, component.kind_span, "a connection needs a `host`")
                    .help("add `host: 127.0.0.1`, or all in one with `url: \"${secret:NAME}\"`");
                diagnostics.push(found);
                sound = false;
            }
        }
        config.port(keys.port.unwrap_or(5432));
        if let Some(database) = &keys.database {
            config.dbname(database);
        }
        if let Some(password) = &keys.password {
            config.password(password.reveal());
            if is_literal("password") {
                let found = Diagnostic::warning(
                    codes::PASSWORD_IN_FILE,
                    span(&["password"]),
                    "the value of `password` stands in the file",
                )
                .help("write `password: \"${secret:NAME}\"` and set the secret where the engine runs");
                diagnostics.push(found);
            }
        }
        match &keys.user {
            Some(user) => {
                config.user(user.reveal());
            }
            None => {
                let found = Diagnostic::error(spec::MISSING_KEY, component.kind_span, "a connection needs a `user`")
                    .help("add `user:` beside `host`");
                diagnostics.push(found);
                sound = false;
            }
        }
    }
    match keys.tls {
        Some(Tls::Disable) => config.ssl_mode(SslMode::Disable),
        Some(Tls::Prefer) => config.ssl_mode(SslMode::Prefer),
        Some(Tls::Require) => config.ssl_mode(SslMode::Require),
        None => &mut config,
    };
    let ca = keys.ca.as_ref().map(|path| component.dir(&["ca"]).join(path));
    if let (Some(path), Some(written)) = (&ca, &keys.ca) {
        let problem = match files.read(path) {
            _ if is_placeholder("ca") => None,
            Ok(bytes) if !certificates(&bytes).is_empty() => None,
            Ok(_) => Some(format!("`{written}` is not PEM")),
            Err(error) => Some(format!("`{written}` can't be read: {error}")),
        };
        if let Some(problem) = problem {
            let found = Diagnostic::error(codes::TLS_FILE, span(&["ca"]), problem);
            diagnostics.push(found.help("name a file with `-----BEGIN CERTIFICATE-----` in it"));
            sound = false;
        }
        if config.get_ssl_mode() != SslMode::Require {
            let found = Diagnostic::error(codes::SECURITY, span(&["ca"]), "`ca` is used with `tls: require` only")
                .help("write `tls: require`, or leave `ca` out");
            diagnostics.push(found);
            sound = false;
        }
    }
    config.application_name("engine").connect_timeout(CONNECT_WAIT).keepalives_idle(KEEPALIVE);
    sound.then(|| Connection { shown: shown(&config), config, ca })
}

/// Host, port and database.
fn shown(config: &Config) -> String {
    let port = |at: usize| config.get_ports().get(at).or(config.get_ports().first()).copied().unwrap_or(5432);
    let hosts = config.get_hosts().iter().enumerate().map(|(at, host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(at)),
        Host::Unix(path) => format!("{}:{}", path.display(), port(at)),
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    match config.get_dbname() {
        Some(database) => format!("{hosts}/{database}"),
        None => hosts,
    }
}

/// What an error of the server or of the way to it means for what is to be done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is about the rows.
    Refused(String),
    /// About everything else.
    Fault(Fault),
}

impl Trouble {
    /// The same with what was done before it.
    pub(super) fn about(self, what: &str) -> Fault {
        match self {
            Trouble::Refused(reason) => Fault::Stop(format!("{what}: {reason}")),
            Trouble::Fault(Fault::Stop(reason)) => Fault::Stop(format!("{what}: {reason}")),
            Trouble::Fault(Fault::Retry { reason, health }) => {
                Fault::Retry { reason: format!("{what}: {reason}"), health }
            }
        }
    }
}

/// Sorts an error.
pub(super) fn fault(error: &tokio_postgres::Error) -> Trouble {
    let reason = sentence(error);
    let retry = |health| Trouble::Fault(Fault::Retry { reason: reason.clone(), health });
    let Some(state) = error.code() else {
        let never = ["server does not support TLS", "certificate verify failed", "password missing", "user missing"];
        let is_config = never.iter().any(|text| reason.contains(text));
        return if is_config { Trouble::Fault(Fault::Stop(reason)) } else { retry(Health::Down) };
    };
    match (state.code(), state.code().get(..2).unwrap_or_default()) {
        // Another transaction was in the way.
        ("55P03" | "57014", _) | (_, "40") => retry(Health::Busy),
        // The server ends, starts, stands by, or has no room now.
        ("25006", _) | (_, "08" | "53" | "57" | "58") => retry(Health::Down),
        // Values, constraints, checks of views, exceptions of triggers, and limits such as the size of an index's row.
        ("21000", _) | (_, "22" | "23" | "44" | "54" | "P0") => Trouble::Refused(reason),
        (_, "XX") => retry(Health::Faulty),
        // A statement that was prepared on another connection of a pool.
        _ if *state == SqlState::INVALID_SQL_STATEMENT_NAME => retry(Health::Down),
        _ => Trouble::Fault(Fault::Stop(reason)),
    }
}

/// An error as a sentence, with its detail.
fn sentence(error: &tokio_postgres::Error) -> String {
    if let Some(found) = error.as_db_error() {
        let mut text = found.message().to_owned();
        if let Some(detail) = found.detail() {
            text.push_str(": ");
            text.push_str(detail);
        }
        return text;
    }
    chain(error)
}
