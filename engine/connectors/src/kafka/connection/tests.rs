//! The connection in every form that its keys allow, good and bad.

use super::*;
use crate::testing::plan;
use std::collections::HashSet;
use std::io::Write;

#[test]
fn addresses() {
    for good in ["127.0.0.1:9092", "kafka", "kafka:9092", "a.b-c.example.com:1", "[::1]:9092", "[::1]"] {
        assert_eq!(wrong_address(good), None, "{good}");
    }
    for bad in [
        "",
        "kafka:",
        ":9092",
        "kafka:port",
        "kafka:70000",
        "kafka:0",
        "PLAINTEXT://kafka:9092",
        "a b",
        "::1",
        "kafka/9092",
    ] {
        assert!(wrong_address(bad).is_some(), "{bad}");
    }
}

#[test]
fn properties_are_librdkafkas() {
    assert_eq!(native::check_property("socket.keepalive.enable", "true"), Ok(()));
    assert_eq!(native::check_property("socket.keepalive", "true"), Err(native::BadProperty::Unknown));
    assert!(matches!(native::check_property("linger.ms", "soon"), Err(native::BadProperty::Value(_))));
    let names = native::property_names();
    assert!(names.iter().any(|name| name == "socket.keepalive.enable") && names.len() > 50, "{names:?}");
    let distinct: HashSet<_> = RESERVED.iter().map(|(name, _)| name).collect();
    assert_eq!(distinct.len(), RESERVED.len());
}

fn problems(connection: &str) -> Vec<String> {
    let yaml = format!(
        "connections:\n  bank:\n    type: kafka\n{connection}\
         sources:\n  rows: {{ type: kafka, connection: bank, topic: a, schema: {{ id: int64 }} }}\n\
         sinks:\n  out: {{ type: blackhole, input: rows }}\n"
    );
    plan(&yaml).map_or_else(|problems| problems, |_| Vec::new())
}

#[test]
fn what_goes_together_and_what_does_not() {
    let check = |connection: &str, expected: &[&str]| assert_eq!(problems(connection), expected, "{connection}");
    let with = |keys: &str| format!("    brokers: kafka:9092\n    security:\n{keys}");
    let sasl = "      sasl: { mechanism: PLAIN, username: a, password: \"${secret:TOKEN}\" }\n";
    check("    brokers: \"a:1, b:2\"\n", &[]);
    check("    brokers: [\"a:1\", \"b:2\"]\n", &[]);
    check("    brokers: [\"a:1\", \"b:x\"]\n", &["E0451 `b:x` is not the address of a broker"]);
    check("    brokers: []\n", &["E0451 there is no broker in this list"]);
    check(&with(&format!("      protocol: SASL_SSL\n{sasl}")), &[]);
    check(&with(&format!("      protocol: sasl_plaintext\n{sasl}")), &[]);
    check(&with(&format!("      protocol: SSL\n{sasl}")), &["E0452 `SSL` does not use `sasl`"]);
    check(&with("      protocol: SASL_SSL\n"), &["E0452 `SASL_SSL` needs `sasl`"]);
    check(
        &with("      protocol: SASL_SSL\n      sasl: { mechanism: SCRAM-SHA-512 }\n"),
        &["E0452 `SCRAM-SHA-512` needs a `username`", "E0452 `SCRAM-SHA-512` needs a `password`"],
    );
    check(&with("      protocol: SASL_SSL\n      sasl: { mechanism: GSSAPI }\n"), &["E0143 `GSSAPI` is not built yet"]);
    check(
        &with("      protocol: PLAINTEXT\n      tls: { verify_hostname: false }\n"),
        &["E0452 `PLAINTEXT` does not use `tls`"],
    );
    check("    brokers: a\n    options: { socket.keepalive.enable: true, linger.ms: 5 }\n", &[]);
    check(
        "    brokers: a\n    options: { socket.keepalive.enabled: true }\n",
        &["E0455 librdkafka has no property `socket.keepalive.enabled`"],
    );
    check(
        "    brokers: a\n    options: { enable.auto.commit: true }\n",
        &["E0456 the engine sets `enable.auto.commit` itself"],
    );
}

#[test]
fn files_of_certificates_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path.display().to_string()
    };
    let (pem, store) = (file("ca.pem", "-----BEGIN CERTIFICATE-----\n"), file("store.jks", "\u{7f}"));
    let with = |tls: &str| problems(&format!("    brokers: a\n    security:\n      protocol: SSL\n      tls: {tls}\n"));
    assert_eq!(with(&format!("{{ ca: \"{pem}\" }}")), [""; 0]);
    assert_eq!(with(&format!("{{ ca: \"{store}\" }}")), [format!("E0454 `{store}` is not PEM")]);
    assert!(with("{ ca: nowhere.pem }")[0].starts_with("E0454 `nowhere.pem` can't be read"));
    assert_eq!(with(&format!("{{ certificate: \"{pem}\" }}")), ["E0452 a `certificate` of our own needs its `key`"]);
}

#[test]
fn a_password_is_not_shown() {
    let yaml = "connections:\n  bank:\n    type: kafka\n    brokers: a\n    security:\n      protocol: SASL_SSL\n      \
                sasl: { mechanism: PLAIN, username: alice, password: \"${secret:TOKEN}\" }\n\
                sources:\n  rows: { type: kafka, connection: bank, topic: a, schema: { id: int64 } }\n\
                sinks:\n  out: { type: blackhole, input: rows }\n";
    let plan = plan(yaml).unwrap();
    let shown = format!("{:?}", plan);
    assert!(!shown.contains("s3cret"), "{shown}");
}
