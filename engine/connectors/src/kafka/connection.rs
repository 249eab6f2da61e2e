//! The connection `kafka`: where the brokers are and how they are spoken to.
//!
//! Everything is checked when the pipeline is planned, without a network: what goes together, whether files of
//! certificates are there, and each option against librdkafka itself. What a client says while it runs goes through
//! [`Context`]: passing troubles to the log, and a refusal to let us in to whoever uses the client, as a fault.

use super::native;
use engine_base::codes::{spec as spec_codes, system as codes};
use engine_base::{Diagnostic, Diagnostics, Span};
use engine_plan::{ConnectionKind, Cx};
use engine_spec::value::Secret;
use engine_spec::{Component, Files, Node};
use indexmap::IndexMap;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The registry line.
pub const KIND: ConnectionKind = ConnectionKind {
    name: "kafka",
    summary: "Brokers of an Apache Kafka cluster, or of anything that speaks its protocol.",
    config_schema: |generator| ConnectionKeys::json_schema(generator),
    check: |cx| {
        let component = cx.component;
        read(component, &cx.config, cx.files, cx.diagnostics);
    },
};

/// How often the same passing trouble is logged.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// The keys of a `kafka` connection.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConnectionKeys {
    /// Addresses of brokers, `host:port`: a list, or one text with commas. One that can be reached is enough to find the
    /// others.
    brokers: Brokers,
    /// How the brokers are spoken to. In plain text and without a password unless said.
    security: Option<SecurityKeys>,
    /// Properties of librdkafka, passed on as they are, such as `socket.keepalive.enable: true`. Those that carry the engine's
    /// guarantees can't be set.
    #[serde(default)]
    options: IndexMap<String, OptionValue>,
}

/// Addresses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "an address such as `127.0.0.1:9092`, or a list of them")]
enum Brokers {
    /// One, or several with commas.
    One(String),
    /// A list.
    Many(Vec<String>),
}

/// The value of a property.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, a number, `true` or `false`")]
enum OptionValue {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
}

/// How brokers are spoken to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SecurityKeys {
    /// The protocol of the brokers' listener.
    protocol: Protocol,
    /// Who we are, for `SASL_PLAINTEXT` and `SASL_SSL`.
    sasl: Option<SaslKeys>,
    /// Certificates, for `SSL` and `SASL_SSL`. The system's authorities are trusted unless said.
    tls: Option<TlsKeys>,
}

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
enum Protocol {
    /// Neither encrypted nor authenticated.
    #[serde(rename = "PLAINTEXT", alias = "plaintext")]
    Plaintext,
    /// TLS.
    #[serde(rename = "SSL", alias = "ssl")]
    Ssl,
    /// A password, not encrypted.
    #[serde(rename = "SASL_PLAINTEXT", alias = "sasl_plaintext")]
    SaslPlaintext,
    /// A password over TLS.
    #[serde(rename = "SASL_SSL", alias = "sasl_ssl")]
    SaslSsl,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Protocol::Plaintext => "PLAINTEXT",
            Protocol::Ssl => "SSL",
            Protocol::SaslPlaintext => "SASL_PLAINTEXT",
            Protocol::SaslSsl => "SASL_SSL",
        }
    }

    fn has_sasl(self) -> bool {
        matches!(self, Protocol::SaslPlaintext | Protocol::SaslSsl)
    }

    fn has_tls(self) -> bool {
        matches!(self, Protocol::Ssl | Protocol::SaslSsl)
    }
}

/// Who we are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SaslKeys {
    /// How the password is shown to the brokers.
    mechanism: Mechanism,
    /// The user.
    username: Option<Secret>,
    /// The password: `${secret:NAME}`.
    password: Option<Secret>,
}

/// How a password is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
enum Mechanism {
    /// As it is: over TLS only.
    #[serde(rename = "PLAIN")]
    Plain,
    /// As a salted hash.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// As a salted hash.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// Kerberos. Not built yet.
    #[serde(rename = "GSSAPI")]
    Gssapi,
    /// A token. Not built yet.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::Gssapi => "GSSAPI",
            Mechanism::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// Certificates. All files are PEM; their paths are relative to this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TlsKeys {
    /// The authorities that are trusted. Those of the system unless said.
    ca: Option<String>,
    /// Our own certificate, where the brokers ask for one.
    certificate: Option<String>,
    /// The key of our certificate.
    key: Option<String>,
    /// The password of the key, if it has one: `${secret:NAME}`.
    key_password: Option<Secret>,
    /// Whether a broker's certificate must be for the name that it is called by.
    #[serde(default = "yes")]
    verify_hostname: bool,
}

fn yes() -> bool {
    true
}

/// Properties that are not the user's, and the key that is instead.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "brokers"),
    ("metadata.broker.list", "brokers"),
    ("security.protocol", "security.protocol"),
    ("sasl.mechanism", "security.sasl.mechanism"),
    ("sasl.mechanisms", "security.sasl.mechanism"),
    ("sasl.username", "security.sasl.username"),
    ("sasl.password", "security.sasl.password"),
    ("ssl.ca.location", "security.tls.ca"),
    ("ssl.certificate.location", "security.tls.certificate"),
    ("ssl.key.location", "security.tls.key"),
    ("ssl.key.password", "security.tls.key_password"),
    ("ssl.endpoint.identification.algorithm", "security.tls.verify_hostname"),
    ("group.id", "group"),
    ("auto.offset.reset", "start"),
    ("message.timeout.ms", "timeout"),
    ("delivery.timeout.ms", "timeout"),
    ("group.instance.id", ""),
    ("group.protocol", ""),
    ("enable.auto.commit", ""),
    ("auto.commit.enable", ""),
    ("auto.commit.interval.ms", ""),
    ("enable.auto.offset.store", ""),
    ("offset.store.method", ""),
    ("enable.partition.eof", ""),
    ("isolation.level", ""),
    ("acks", ""),
    ("request.required.acks", ""),
    ("enable.idempotence", ""),
    ("enable.gapless.guarantee", ""),
    ("transactional.id", ""),
    ("retries", ""),
    ("message.send.max.retries", ""),
    ("delivery.report.only.error", ""),
    ("dr_cb", ""),
    ("dr_msg_cb", ""),
    ("log.queue", ""),
];

/// A checked connection.
#[derive(Clone)]
pub(super) struct Connection {
    /// What may be shown.
    pub(super) brokers: String,
    /// Who we are, for messages.
    user: Option<Secret>,
    security: Vec<(&'static str, String)>,
    options: Vec<(String, String)>,
}

/// The settings hold secrets.
impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}

impl Connection {
    /// The connection that a source or sink names. A problem within it has been noted where it stands.
    pub(super) fn find(cx: &mut Cx<'_>, name: &str) -> Option<Connection> {
        let files = cx.files;
        let connection = cx.connection(&["connection"], name, KIND.name)?;
        // What is wrong with it is told where it is declared.
        read(connection, &connection.node, files, &mut Diagnostics::new())
    }

    /// The configuration of a client: what serves speed, then the user's options, then what the engine relies on.
    pub(super) fn client(&self, speed: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config.set("client.id", "engine");
        // A broker that comes back is found soon.
        config.set("reconnect.backoff.max.ms", "2000");
        for (name, value) in speed {
            config.set(*name, *value);
        }
        for (name, value) in &self.options {
            config.set(name, value);
        }
        for (name, value) in &self.security {
            config.set(*name, value);
        }
        for (name, value) in fixed {
            config.set(*name, *value);
        }
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// What a client reports to.
    pub(super) fn context(&self, name: &Arc<str>) -> Context {
        Context { name: name.clone(), user: self.user.clone(), brokers: self.brokers.clone(), troubles: Arc::default() }
    }
}

/// Checks a connection and notes every problem.
fn read(component: &Component, node: &Node, files: &dyn Files, diagnostics: &mut Diagnostics) -> Option<Connection> {
    let keys: ConnectionKeys = node.decode(diagnostics)?;
    let mut check = Check { component, files, diagnostics, sound: true };
    let brokers = check.brokers(&keys.brokers);
    let mut security = Vec::new();
    if let Some(keys) = &keys.security {
        check.security(keys, &mut security);
    }
    let options = check.options(&keys.options);
    let user = keys.security.and_then(|security| security.sasl).and_then(|sasl| sasl.username);
    check.sound.then_some(Connection { brokers, user, security, options })
}

struct Check<'a> {
    component: &'a Component,
    files: &'a dyn Files,
    diagnostics: &'a mut Diagnostics,
    sound: bool,
}

impl Check<'_> {
    fn error(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
        self.sound = false;
    }

    fn node(&self, path: &[&str]) -> Option<&Node> {
        self.component.node.at(path)
    }

    fn span(&self, path: &[&str]) -> Span {
        self.component.node.span_at(path)
    }

    fn is_placeholder(&self, path: &[&str]) -> bool {
        self.node(path).is_some_and(|node| node.is_placeholder())
    }

    fn brokers(&mut self, brokers: &Brokers) -> String {
        let mut all = Vec::new();
        let addresses: Vec<(Span, bool, &str)> = match brokers {
            Brokers::One(text) => {
                let (span, placeholder) = (self.span(&["brokers"]), self.is_placeholder(&["brokers"]));
                text.split(',').map(|address| (span, placeholder, address.trim())).collect()
            }
            Brokers::Many(list) => {
                let place = |at: usize| {
                    let at = at.to_string();
                    (self.span(&["brokers", &at]), self.is_placeholder(&["brokers", &at]))
                };
                let places = (0..list.len()).map(place);
                places.zip(list).map(|((span, placeholder), address)| (span, placeholder, address.trim())).collect()
            }
        };
        if addresses.is_empty() {
            let found =
                Diagnostic::error(codes::BAD_BROKERS, self.span(&["brokers"]), "there is no broker in this list");
            self.error(found.help("write at least one: `brokers: [\"127.0.0.1:9092\"]`"));
        }
        for (span, placeholder, address) in addresses {
            if !placeholder && let Some(problem) = wrong_address(address) {
                let found =
                    Diagnostic::error(codes::BAD_BROKERS, span, format!("`{address}` is not the address of a broker"));
                self.error(found.at_caret(problem).help("write `host:port`, such as `127.0.0.1:9092`"));
            }
            all.push(address);
        }
        all.join(",")
    }

    fn security(&mut self, keys: &SecurityKeys, settings: &mut Vec<(&'static str, String)>) {
        let protocol = keys.protocol;
        settings.push(("security.protocol", protocol.name().to_ascii_lowercase()));
        let mismatch = |span: Span, message: String| Diagnostic::error(codes::SECURITY, span, message);
        match &keys.sasl {
            None if protocol.has_sasl() => {
                let found = mismatch(
                    self.span(&["security", "protocol"]),
                    format!("`{}` needs `sasl`", protocol.name()),
                )
                .help(
                    "write `sasl: { mechanism: SCRAM-SHA-512, username: ..., password: \"${secret:NAME}\" }` beside it",
                );
                self.error(found);
            }
            Some(_) if !protocol.has_sasl() => {
                let with = if protocol.has_tls() { "SASL_SSL" } else { "SASL_PLAINTEXT` or `SASL_SSL" };
                let found =
                    mismatch(self.span(&["security", "sasl"]), format!("`{}` does not use `sasl`", protocol.name()))
                        .also(self.span(&["security", "protocol"]), "the protocol")
                        .help(format!("write `protocol: {with}`, or leave `sasl` out"));
                self.error(found);
            }
            None => {}
            Some(sasl) => self.sasl(sasl, settings),
        }
        match &keys.tls {
            Some(_) if !protocol.has_tls() => {
                let with = if protocol.has_sasl() { "SASL_SSL" } else { "SSL" };
                let found =
                    mismatch(self.span(&["security", "tls"]), format!("`{}` does not use `tls`", protocol.name()))
                        .also(self.span(&["security", "protocol"]), "the protocol")
                        .help(format!("write `protocol: {with}`, or leave `tls` out"));
                self.error(found);
            }
            Some(tls) => self.tls(tls, settings),
            // A static OpenSSL does not know where this system keeps its authorities.
            None if protocol.has_tls() => settings.push(("ssl.ca.location", "probe".to_owned())),
            None => {}
        }
    }

    fn sasl(&mut self, sasl: &SaslKeys, settings: &mut Vec<(&'static str, String)>) {
        if matches!(sasl.mechanism, Mechanism::Gssapi | Mechanism::OauthBearer) {
            let span = self.span(&["security", "sasl", "mechanism"]);
            let found =
                Diagnostic::error(spec_codes::NOT_BUILT, span, format!("`{}` is not built yet", sasl.mechanism.name()));
            self.error(found.help("there are `PLAIN`, `SCRAM-SHA-256` and `SCRAM-SHA-512`"));
            return;
        }
        settings.push(("sasl.mechanism", sasl.mechanism.name().to_owned()));
        for (key, property, value) in
            [("username", "sasl.username", &sasl.username), ("password", "sasl.password", &sasl.password)]
        {
            match value {
                Some(value) => settings.push((property, value.reveal().to_owned())),
                None => {
                    let span = self.span(&["security", "sasl", "mechanism"]);
                    let found = Diagnostic::error(
                        codes::SECURITY,
                        span,
                        format!("`{}` needs a `{key}`", sasl.mechanism.name()),
                    );
                    self.error(found.help(match key {
                        "password" => "write `password: \"${secret:NAME}\"`".to_owned(),
                        key => format!("add `{key}:` beside it"),
                    }));
                }
            }
        }
        self.warn_literal(&["security", "sasl", "password"], "password");
    }

    fn tls(&mut self, tls: &TlsKeys, settings: &mut Vec<(&'static str, String)>) {
        match &tls.ca {
            Some(_) => {}
            None => settings.push(("ssl.ca.location", "probe".to_owned())),
        }
        for (key, property, path) in [
            ("ca", "ssl.ca.location", &tls.ca),
            ("certificate", "ssl.certificate.location", &tls.certificate),
            ("key", "ssl.key.location", &tls.key),
        ] {
            let Some(path) = path else { continue };
            let full = self.component.dir(&["security", "tls", key]).join(path);
            self.pem(&["security", "tls", key], &full, path);
            settings.push((property, full.to_string_lossy().into_owned()));
        }
        for (one, other, has_one, has_other) in [
            ("certificate", "key", tls.certificate.is_some(), tls.key.is_some()),
            ("key", "certificate", tls.key.is_some(), tls.certificate.is_some()),
        ] {
            if has_one && !has_other {
                let span = self.span(&["security", "tls", one]);
                let found =
                    Diagnostic::error(codes::SECURITY, span, format!("a `{one}` of our own needs its `{other}`"));
                self.error(found.help(format!("add `{other}:` with the path of a PEM file")));
            }
        }
        if let Some(password) = &tls.key_password {
            settings.push(("ssl.key.password", password.reveal().to_owned()));
            self.warn_literal(&["security", "tls", "key_password"], "key_password");
        }
        let check = if tls.verify_hostname { "https" } else { "none" };
        settings.push(("ssl.endpoint.identification.algorithm", check.to_owned()));
    }

    fn pem(&mut self, at: &[&str], full: &Path, path: &str) {
        if self.is_placeholder(at) {
            return;
        }
        let problem = match self.files.read(full) {
            Ok(bytes) if memchr::memmem::find(&bytes, b"-----BEGIN ").is_some() => return,
            Ok(_) => format!("`{path}` is not PEM"),
            Err(error) => format!("`{path}` can't be read: {error}"),
        };
        let found = Diagnostic::error(codes::TLS_FILE, self.span(at), problem);
        self.error(found.help("name a PEM file, by its path relative to this file"));
    }

    fn warn_literal(&mut self, at: &[&str], key: &str) {
        if let Some(node) = self.node(at)
            && !node.substituted
        {
            let found =
                Diagnostic::warning(codes::PASSWORD_IN_FILE, node.span, format!("a `{key}` stands in the file"));
            let help = format!("write `{key}: \"${{secret:NAME}}\"` and set the secret where the engine runs");
            self.diagnostics.push(found.help(help));
        }
    }

    fn options(&mut self, options: &IndexMap<String, OptionValue>) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (name, value) in options {
            let text = match value {
                OptionValue::Bool(value) => value.to_string(),
                OptionValue::Int(value) => value.to_string(),
                OptionValue::Float(value) => value.to_string(),
                OptionValue::Text(value) => value.clone(),
            };
            let entry = self.node(&["options"]).and_then(|node| node.entry(name));
            let span = self.span(&["options"]);
            let (key_at, value_at, placeholder) = entry
                .map_or((span, span, false), |entry| (entry.key_span, entry.value.span, entry.value.is_placeholder()));
            if let Some((_, instead)) = RESERVED.iter().find(|(reserved, _)| reserved == name) {
                let found =
                    Diagnostic::error(codes::RESERVED_OPTION, key_at, format!("the engine sets `{name}` itself"));
                self.error(match *instead {
                    "" => found.help("leave it out: the engine's guarantees rest on it"),
                    instead => found.help(format!("write `{instead}` instead")),
                });
                continue;
            }
            match native::check_property(name, &text) {
                Err(native::BadProperty::Unknown) => {
                    let names = native::property_names();
                    let mut found =
                        Diagnostic::error(codes::BAD_OPTION, key_at, format!("librdkafka has no property `{name}`"))
                            .did_you_mean(name, names.iter().map(String::as_str));
                    // Half a name is a common slip: `socket.keepalive`.
                    if found.help.is_empty()
                        && let Some(longer) = names.iter().find(|longer| longer.starts_with(&format!("{name}.")))
                    {
                        found = found.help(format!("did you mean `{longer}`?"));
                    }
                    self.error(found.help("the properties are listed in librdkafka's CONFIGURATION.md"));
                }
                Err(native::BadProperty::Value(problem)) if !placeholder => {
                    let found = Diagnostic::error(codes::BAD_OPTION, value_at, format!("`{name}` can't be `{text}`"));
                    let help = "what it takes is listed in librdkafka's CONFIGURATION.md";
                    self.error(found.at_caret(format!("librdkafka: {problem}")).help(help));
                }
                _ => all.push((name.clone(), text)),
            }
        }
        all
    }
}

/// What is wrong with the address of a broker, if anything is.
fn wrong_address(address: &str) -> Option<&'static str> {
    if address.is_empty() {
        return Some("nothing stands here");
    }
    if address.contains("://") {
        return Some("the protocol is said under `security:`");
    }
    if address.chars().any(|c| c.is_whitespace() || matches!(c, '/' | '@' | ';')) {
        return Some("this is not a host and a port");
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !address.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) {
        return Some("the host is missing, or an IPv6 address is not in brackets");
    }
    match port.map(str::parse::<u16>) {
        Some(Ok(0) | Err(_)) => Some("the port is a number from 1 to 65535"),
        _ => None,
    }
}

/// What a client reports to: the log, and the fault that it can't recover from.
#[derive(Clone)]
pub(super) struct Context {
    name: Arc<str>,
    user: Option<Secret>,
    brokers: String,
    troubles: Arc<Mutex<Troubles>>,
}

#[derive(Default)]
struct Troubles {
    fault: Option<String>,
    fatal: bool,
    logged: HashMap<String, Instant>,
}

impl Context {
    /// The brokers, for messages.
    pub(super) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// What keeps the client from working, for good: a sentence.
    pub(super) fn fault(&self) -> Option<String> {
        self.troubles().fault.clone()
    }

    /// Notes what keeps the client from working. The first one counts.
    pub(super) fn fail(&self, reason: String) {
        self.troubles().fault.get_or_insert(reason);
    }

    /// Whether the client has reported that it is broken.
    pub(super) fn is_fatal(&self) -> bool {
        self.troubles().fatal
    }

    /// Logs a trouble that may pass, the same one not too often.
    pub(super) fn trouble(&self, what: &str, reason: &str) {
        let now = Instant::now();
        let mut troubles = self.troubles();
        if troubles.logged.get(what).is_some_and(|at| now.duration_since(*at) < LOG_EVERY) {
            return;
        }
        troubles.logged.insert(what.to_owned(), now);
        drop(troubles);
        tracing::warn!(name = &*self.name, brokers = self.brokers, reason, "kafka: {what}");
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // A property for consumers in a producer's configuration: `options` are those of a connection, for both.
            _ if facility == "CONFWARN" => tracing::debug!(name = &*self.name, facility, "librdkafka: {message}"),
            // What these lines tell comes as an error too, and is logged from there.
            _ if matches!(facility, "FAIL" | "ERROR") => {
                tracing::debug!(name = &*self.name, facility, "librdkafka: {message}");
            }
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::error!(name = &*self.name, facility, "librdkafka: {message}");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(name = &*self.name, facility, "librdkafka: {message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(name = &*self.name, facility, "librdkafka: {message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(name = &*self.name, facility, "librdkafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Authentication) => {
                let who = self.user.as_ref().map_or_else(|| "us".to_owned(), |user| format!("`{}`", user.reveal()));
                self.fail(format!("the brokers at {} don't let {who} in: {reason}", self.brokers));
            }
            // Anything else of TLS may be a broker that is starting or stopping.
            Some(RDKafkaErrorCode::SSL) if reason.contains("certificate") => {
                self.fail(format!("no TLS connection with the brokers at {}: {reason}", self.brokers));
            }
            Some(RDKafkaErrorCode::Fatal) => self.troubles().fatal = true,
            Some(RDKafkaErrorCode::AllBrokersDown) => self.trouble("no broker can be reached; trying again", reason),
            _ => self.trouble("a broker can't be reached; trying again", reason),
        }
    }
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            self.trouble("offsets can't be stored for monitoring", &error.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
