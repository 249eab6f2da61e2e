//! One Apache Kafka broker (KRaft, broker and controller in one process), open or with SASL over TLS.

use super::{free_ports, kafka_wire, new_folder, wait_until_ready};
use crate::process::{self, Guarded};
use crate::{Error, Result, layout};

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{env, thread};

pub use super::kafka_wire::create_topic;

/// The version whose jars `setup` installs; also in `xtask/services/kafka-pom.xml`.
pub const VERSION: &str = "4.3.1";

/// The user of a secure broker, for the mechanisms PLAIN and SCRAM-SHA-512.
pub const USER: &str = "alice";

/// The password of [`USER`]: a fixture, valid on loopback for the life of a test.
pub const PASSWORD: &str = "alice-secret";

/// How often a start is tried again when another process took one of the ports in between.
const START_ATTEMPTS: usize = 3;

/// What sort of broker.
#[derive(Clone, Copy, Debug, Default)]
pub struct KafkaOptions {
    /// Clients need TLS and a password ([`USER`], [`PASSWORD`]).
    pub secure: bool,
}

impl KafkaOptions {
    fn name(self) -> &'static str {
        if self.secure { "kafka-secure" } else { "kafka" }
    }
}

/// A running broker. Dropping it kills the broker and removes its data.
#[derive(Debug)]
pub struct Kafka {
    prepared: Prepared,
    child: Option<Guarded>,
}

impl Kafka {
    /// Starts an empty broker and waits until it takes requests.
    pub fn start(options: KafkaOptions) -> Result<Kafka> {
        let mut last_error: Error = "not started".into();
        for _ in 0..START_ATTEMPTS {
            let prepared = Prepared::new(options, &new_folder(options.name())?)?;
            let mut kafka = Kafka { prepared, child: None };
            match kafka.restart() {
                Ok(()) => return Ok(kafka),
                Err(error) if error.to_string().contains("Address already in use") => last_error = error,
                Err(error) => return Err(error),
            }
        }
        Err(last_error)
    }

    /// Starts it again on the same ports and data, after [`Kafka::kill`] or [`Kafka::stop`].
    pub fn restart(&mut self) -> Result<()> {
        self.child = None;
        let child = Guarded::start(self.prepared.command()?)?;
        self.prepared.wait_until_ready(|| child.ended().is_none())?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends it at once, as a crash would (`kill -9`).
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Ends it in good order.
    pub fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            child.stop(Duration::from_secs(20));
        }
    }

    /// `host:port` for clients.
    pub fn brokers(&self) -> &str {
        &self.prepared.brokers
    }

    /// The certificate that a client must trust, for a secure broker.
    pub fn certificate(&self) -> Option<PathBuf> {
        self.prepared.options.secure.then(|| self.prepared.folder.join("ca.pem"))
    }

    /// What a test or pipeline finds in its environment.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.prepared.environment()
    }

    /// Creates a topic with one replica a partition. It is no error if it exists.
    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) -> Result<()> {
        kafka_wire::create_topic(&self.prepared.internal, name, partitions, config)
    }

    /// Deletes a topic. The broker removes its data a minute later.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        kafka_wire::delete_topic(&self.prepared.internal, name)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.child = None;
        let _ = fs::remove_dir_all(&self.prepared.folder);
    }
}

/// The brokers of the environment (`KAFKA_BROKERS`), or else of one broker that all callers in this process share.
///
/// It is for tests: run by `cargo xtask test` they use its broker, run by `cargo test` alone they start one. That one is
/// never dropped (statics are not); it ends with the process, as every [`Guarded`] child does.
pub fn shared_kafka() -> Result<String> {
    static SHARED: Mutex<Option<Kafka>> = Mutex::new(None);
    if let Some(brokers) = env::var("KAFKA_BROKERS").ok().filter(|brokers| !brokers.is_empty()) {
        return Ok(brokers);
    }
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let kafka = match shared.take() {
        Some(kafka) => kafka,
        None => Kafka::start(KafkaOptions::default())?,
    };
    Ok(shared.insert(kafka).brokers().to_owned())
}

/// A broker's folder with its configuration, ready to run.
#[derive(Debug)]
pub(super) struct Prepared {
    options: KafkaOptions,
    folder: PathBuf,
    brokers: String,
    /// A listener without TLS or password, for our own requests.
    internal: String,
}

impl Prepared {
    pub(super) fn new(options: KafkaOptions, folder: &Path) -> Result<Prepared> {
        let ports = free_ports(3)?;
        let address = |index: usize| format!("127.0.0.1:{}", ports[index]);
        let (clients, controller, internal) = (address(0), address(1), address(2));
        let logs = folder.join("logs");
        copy_folder(&template(options)?, folder)?;
        let mut config = vec![
            "process.roles=broker,controller".to_owned(),
            "node.id=1".into(),
            format!("controller.quorum.voters=1@{controller}"),
            "controller.listener.names=CONTROLLER".into(),
            format!("log.dirs={}", logs.display()),
            "num.partitions=1".into(),
            "auto.create.topics.enable=false".into(),
            // Tests write records with times of their own: none is too old.
            "log.retention.ms=-1".into(),
            // One broker has one replica of everything.
            "offsets.topic.replication.factor=1".into(),
            "offsets.topic.num.partitions=4".into(),
            "transaction.state.log.replication.factor=1".into(),
            "transaction.state.log.min.isr=1".into(),
            "transaction.state.log.num.partitions=4".into(),
            "share.coordinator.state.topic.replication.factor=1".into(),
            "share.coordinator.state.topic.min.isr=1".into(),
            // Small and quick: no wait for group members, few threads, a small cleaner.
            "group.initial.rebalance.delay.ms=0".into(),
            "broker.session.timeout.ms=3000".into(),
            "broker.heartbeat.interval.ms=500".into(),
            "num.network.threads=2".into(),
            "num.io.threads=4".into(),
            "log.cleaner.dedupe.buffer.size=16777216".into(),
        ];
        let internal = if options.secure {
            config.extend([
                format!("listeners=SASL_SSL://{clients},CONTROLLER://{controller},INTERNAL://{internal}"),
                format!("advertised.listeners=SASL_SSL://{clients},INTERNAL://{internal}"),
                "listener.security.protocol.map=CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,SASL_SSL:SASL_SSL".into(),
                "inter.broker.listener.name=INTERNAL".into(),
                "ssl.keystore.type=PEM".into(),
                format!("ssl.keystore.location={}", folder.join("keystore.pem").display()),
                "ssl.truststore.type=PEM".into(),
                format!("ssl.truststore.location={}", folder.join("ca.pem").display()),
                "listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512".into(),
                format!(
                    "listener.name.sasl_ssl.plain.sasl.jaas.config=\
                     org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";"
                ),
                "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
                 org.apache.kafka.common.security.scram.ScramLoginModule required;"
                    .into(),
            ]);
            internal
        } else {
            config.extend([
                format!("listeners=PLAINTEXT://{clients},CONTROLLER://{controller}"),
                format!("advertised.listeners=PLAINTEXT://{clients}"),
                "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".into(),
                "inter.broker.listener.name=PLAINTEXT".into(),
            ]);
            clients.clone()
        };
        fs::write(folder.join("server.properties"), config.join("\n") + "\n")?;
        Ok(Prepared { options, folder: folder.to_path_buf(), brokers: clients, internal })
    }

    pub(super) fn command(&self) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = java(&self.folder, &["-Xms256m", "-Xmx512m"])?;
        command.arg("kafka.Kafka").arg(self.folder.join("server.properties"));
        command.stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }

    pub(super) fn wait_until_ready(&self, alive: impl Fn() -> bool) -> Result<()> {
        let ready = || kafka_wire::broker_count(&self.internal).is_ok_and(|count| count > 0);
        wait_until_ready(self.options.name(), &self.log(), alive, ready)
    }

    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        if !self.options.secure {
            return vec![("KAFKA_BROKERS", self.brokers.clone())];
        }
        vec![
            ("KAFKA_SECURE_BROKERS", self.brokers.clone()),
            ("KAFKA_SECURE_CA", self.folder.join("ca.pem").display().to_string()),
            ("KAFKA_SECURE_USER", USER.into()),
            ("KAFKA_SECURE_PASSWORD", PASSWORD.into()),
        ]
    }
}

/// Where the jars are.
pub fn home() -> PathBuf {
    layout::services().join(format!("kafka-{VERSION}"))
}

/// Whether the jars are there, all of them: `setup` renames the folder into place when Maven is done.
pub fn is_installed() -> bool {
    home().join("libs").is_dir()
}

/// Copies the jars from Maven into the cache.
pub fn install(repository: &Path) -> Result<()> {
    let partial = layout::services().join(format!("kafka-{VERSION}.{}", std::process::id()));
    fs::create_dir_all(&partial)?;
    // Maven gets a copy, since it leaves a build folder beside the file that it reads.
    let pom = partial.join("pom.xml");
    fs::copy(repository.join("xtask/services/kafka-pom.xml"), &pom)?;
    let mut maven = Command::new("mvn");
    maven
        .args(["-q", "-B", "-Dstyle.color=never", "-f"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"]);
    maven.arg(format!("-DoutputDirectory={}", partial.join("libs").display()));
    process::run(&mut maven)?;
    let _ = fs::remove_dir_all(home());
    fs::rename(&partial, home())?;
    Ok(())
}

fn java(folder: &Path, memory: &[&str]) -> Result<Command> {
    if !is_installed() {
        return Err("Kafka is not installed: run `cargo xtask setup`".into());
    }
    let home_java = env::var_os("JAVA_HOME").map(|java| PathBuf::from(java).join("bin/java"));
    let mut command = Command::new(home_java.filter(|java| java.is_file()).unwrap_or_else(|| "java".into()));
    command.args(memory).args(["-XX:+UseSerialGC", "-cp"]).arg(home().join("libs/*"));
    command.arg(format!("-Dlog4j2.configurationFile=file:{}", folder.join("log4j2.yaml").display()));
    Ok(command)
}

/// A formatted, empty broker, made once and then copied: formatting takes a JVM and seconds.
fn template(options: KafkaOptions) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let done = home().join(format!("template-{}", options.name()));
    if done.is_dir() {
        return Ok(done);
    }
    let partial = home().join(format!("template-{}.{}", options.name(), std::process::id()));
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    let logging = "Configuration:\n  Appenders:\n    Console: {name: STDOUT, PatternLayout: {pattern: \"[%d] %p %m \
                   (%c)%n\"}}\n  Loggers:\n    Root: {level: WARN, AppenderRef: [{ref: STDOUT}]}\n";
    fs::write(partial.join("log4j2.yaml"), logging)?;
    // What is formatted names no ports but these, which nobody listens on, and the real configuration replaces.
    let config = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\nlisteners=\
         PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\ncontroller.listener.names=CONTROLLER\nlog.dirs={}\n",
        partial.join("logs").display()
    );
    fs::write(partial.join("server.properties"), config)?;
    let mut format = java(&partial, &["-Xmx128m"])?;
    format.args(["kafka.tools.StorageTool", "format", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c"]);
    format.arg(partial.join("server.properties"));
    if options.secure {
        format.args(["--add-scram", &format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]")]);
        certificates(&partial)?;
    }
    let output = format.output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        return Err(format!("Kafka's storage was not formatted:\n{text}").into());
    }
    if fs::rename(&partial, &done).is_err() {
        let _ = fs::remove_dir_all(&partial); // another process was first
    }
    Ok(done)
}

/// A certificate authority and a server certificate for loopback, for one day less than ten years: a fixture.
fn certificates(folder: &Path) -> Result<()> {
    let openssl = |arguments: &str| -> Result<()> {
        let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("openssl {arguments}:\n{}", String::from_utf8_lossy(&output.stderr)).into())
    };
    fs::write(folder.join("names.txt"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")?;
    openssl("req -x509 -newkey rsa:2048 -nodes -days 3649 -subj /CN=test-ca -keyout ca.key -out ca.pem")?;
    openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr")?;
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3649 -out server.pem -extfile names.txt",
    )?;
    let mut keystore = Vec::new();
    for part in ["server.key", "server.pem", "ca.pem"] {
        keystore.extend(fs::read(folder.join(part))?);
    }
    fs::write(folder.join("keystore.pem"), keystore)?;
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Waits in the background: start a broker now, ask for it later.
#[derive(Debug)]
pub struct Starting(thread::JoinHandle<Result<Kafka>>);

impl Starting {
    /// Begins to start a broker on a thread of its own.
    pub fn begin(options: KafkaOptions) -> Starting {
        Starting(thread::spawn(move || Kafka::start(options)))
    }

    /// The broker, once it is ready.
    pub fn finish(self) -> Result<Kafka> {
        self.0.join().unwrap_or_else(|_| Err("the thread that started Kafka panicked".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_starts_survives_a_crash_and_leaves_nothing() {
        let starting = Starting::begin(KafkaOptions { secure: true });
        let mut kafka = Kafka::start(KafkaOptions::default()).unwrap();
        kafka.create_topic("first", 2, &[("cleanup.policy", "compact")]).unwrap();
        kafka.create_topic("first", 2, &[]).unwrap();
        assert!(kafka.create_topic("no such name!", 1, &[]).unwrap_err().to_string().contains("no such name!"));
        kafka.kill();
        assert!(kafka.create_topic("second", 1, &[]).is_err());
        kafka.restart().unwrap();
        kafka.create_topic("second", 1, &[]).unwrap();

        let secure = starting.finish().unwrap();
        secure.create_topic("third", 1, &[]).unwrap();
        assert!(secure.certificate().unwrap().is_file() && secure.environment().len() == 4);
        // Without TLS and password its listener for clients says nothing.
        assert!(kafka_wire::broker_count(secure.brokers()).is_err());

        let folders = [kafka.prepared.folder.clone(), secure.prepared.folder.clone()];
        drop((kafka, secure));
        assert!(folders.iter().all(|folder| !folder.exists()));
    }
}
