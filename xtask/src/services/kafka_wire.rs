//! The requests of Kafka's protocol that the tooling needs, so that it builds without a client library: `Metadata` to know
//! that a broker is ready, `CreateTopics` and `DeleteTopics`.
//!
//! All are sent in their last version before compact encodings: lengths are plain big-endian integers.

use crate::Result;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const METADATA: (u16, u16) = (3, 4);
const CREATE_TOPICS: (u16, u16) = (19, 4);
const DELETE_TOPICS: (u16, u16) = (20, 3);
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// No answer of these requests comes near this; it bounds what a stranger on the port could make us allocate.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// How many brokers the cluster knows as alive. Zero while a lone broker is still starting.
pub fn broker_count(address: &str) -> Result<usize> {
    let mut body = Vec::new();
    body.extend(0_i32.to_be_bytes()); // no topics
    body.push(0); // create none
    let answer = request(address, METADATA, &body)?;
    let mut answer = Answer(&answer);
    answer.take(4)?; // throttle time
    Ok(usize::try_from(answer.i32()?).unwrap_or(0))
}

/// Creates a topic, one replica a partition. It is no error if it exists.
pub fn create_topic(address: &str, name: &str, partitions: i32, config: &[(&str, &str)]) -> Result<()> {
    let mut body = Vec::new();
    body.extend(1_i32.to_be_bytes()); // one topic
    string(&mut body, name);
    body.extend(partitions.to_be_bytes());
    body.extend(1_i16.to_be_bytes()); // replicas
    body.extend(0_i32.to_be_bytes()); // no manual assignment
    body.extend(i32::try_from(config.len())?.to_be_bytes());
    for (key, value) in config {
        string(&mut body, key);
        string(&mut body, value);
    }
    body.extend(30_000_i32.to_be_bytes()); // timeout in ms
    body.push(0); // not only a validation
    let answer = request(address, CREATE_TOPICS, &body)?;
    let mut answer = Answer(&answer);
    answer.take(4 + 4)?; // throttle time, count of topics
    answer.string()?;
    match answer.i16()? {
        0 | TOPIC_ALREADY_EXISTS => Ok(()),
        code => {
            let reason = answer.string().unwrap_or_default();
            Err(format!("topic {name} was not created: error {code} {reason}").into())
        }
    }
}

/// Deletes a topic and its data.
pub fn delete_topic(address: &str, name: &str) -> Result<()> {
    let mut body = Vec::new();
    body.extend(1_i32.to_be_bytes()); // one topic
    string(&mut body, name);
    body.extend(30_000_i32.to_be_bytes()); // timeout in ms
    let answer = request(address, DELETE_TOPICS, &body)?;
    let mut answer = Answer(&answer);
    answer.take(4 + 4)?; // throttle time, count of topics
    answer.string()?;
    match answer.i16()? {
        0 => Ok(()),
        code => Err(format!("topic {name} was not deleted: error {code}").into()),
    }
}

fn request(address: &str, (key, version): (u16, u16), body: &[u8]) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    message.extend(key.to_be_bytes());
    message.extend(version.to_be_bytes());
    message.extend(1_i32.to_be_bytes()); // correlation id
    string(&mut message, "xtask");
    message.extend(body);
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(40)))?;
    stream.write_all(&u32::try_from(message.len())?.to_be_bytes())?;
    stream.write_all(&message)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if !(4..=ANSWER_BYTES_MAX).contains(&length) {
        return Err(format!("{address} does not speak Kafka's protocol").into());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer.split_off(4)) // less the correlation id
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// Reads an answer from its front; what is missing is an error.
struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("the broker's answer is too short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into()?))
    }

    /// A string; empty where it is null.
    fn string(&mut self) -> Result<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}
