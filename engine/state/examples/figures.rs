//! What the storage below exactly once costs on this machine: `cargo run --release -p engine-state --example figures FOLDER`.
//!
//! The folder is filled with some gigabytes; it should lie on the disk that state would lie on. A second argument is the
//! number of entries of about 100 bytes, 10 million unless given.

#![allow(clippy::print_stdout)]

use engine_state::checkpoint::{
    Before, CheckpointConfig, Checkpoints, EntryKey, LsmEntries, Manifest, Publication, Space, StepAbout, StepId,
};
use engine_state::cold::{ColdStore, LsmCold};
use engine_state::disk::RealDisk;
use engine_state::journal::{Journal, JournalConfig};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

const GROUPS: u16 = 256;
const VALUE_BYTES: usize = 76;
const THREADS: u64 = 2;

fn main() -> Outcome {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().ok_or("give a folder")?;
    let entries = arguments.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(10_000_000);
    let folder = Path::new(&folder);
    journal(&folder.join("journal"))?;
    checkpoints(&folder.join("checkpoints"), entries)?;
    cold(&folder.join("cold"))
}

fn journal(dir: &Path) -> Outcome {
    let (mut journal, _) = Journal::open(Arc::new(RealDisk), dir, JournalConfig::default())?;
    let mut took = Vec::new();
    for _ in 0..3_000 {
        let start = Instant::now();
        journal.append(&[7; 1024])?;
        journal.sync()?;
        took.push(start.elapsed());
    }
    println!("journal: append and sync of 1 KiB: {}", percentiles(&mut took));
    let start = Instant::now();
    let megabytes = 1024;
    for _ in 0..megabytes {
        (0..1024).try_for_each(|_| journal.append(&[7; 1024]).map(drop))?;
        journal.sync()?;
    }
    println!("journal: {:.0} MB/s in syncs of 1 MiB", f64::from(megabytes) * 1.048_576 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    let bytes: usize =
        journal.replay(journal.first())?.map(|record| record.map_or(0, |record| record.payload.len())).sum();
    println!(
        "journal: replay of {} MB at {:.0} MB/s",
        bytes / 1_000_000,
        bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
    );
    journal.truncate_before(journal.next())?;
    Ok(())
}

fn key_bytes(number: u64) -> [u8; 16] {
    let mut bytes = [b'k'; 16];
    bytes[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes
}

fn entry(step: StepId, number: u64, bytes: &[u8; 16]) -> EntryKey<'_> {
    EntryKey { space: Space::SLOTS, step, group: (number % u64::from(GROUPS)) as u16, key: bytes, slice: 0 }
}

/// Writes the entries that a function names, by two threads, and publishes.
fn write(
    checkpoints: &Checkpoints,
    numbers: impl Fn(u64) -> Box<dyn Iterator<Item = u64>> + Sync,
    round: u8,
    before: impl Fn(&[u8; 16], &EntryKey<'_>) -> Before + Sync,
) -> Result<(Arc<Manifest>, Duration), Box<dyn Error + Send + Sync>> {
    let mut draft = checkpoints.begin()?;
    let step = draft.step("slots", StepAbout::default());
    let results: Vec<Outcome> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let mut writer = draft.writer();
                let (numbers, before) = (&numbers, &before);
                scope.spawn(move || {
                    let mut value = [round; VALUE_BYTES];
                    for number in numbers(thread) {
                        let bytes = key_bytes(number);
                        value[..8].copy_from_slice(&number.to_le_bytes());
                        let key = entry(step, number, &bytes);
                        writer.put(&key, &value, before(&bytes, &key))?;
                    }
                    Ok(writer.finish()?)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    results.into_iter().collect::<Outcome>()?;
    let start = Instant::now();
    let manifest = draft.publish(Publication::default())?;
    Ok((manifest, start.elapsed()))
}

fn checkpoints(dir: &Path, entries: u64) -> Outcome {
    let open = || -> Result<Checkpoints, Box<dyn Error + Send + Sync>> {
        let store = LsmEntries::open(&dir.join("entries"))?;
        Ok(Checkpoints::open(Arc::new(RealDisk), dir, Arc::new(store), CheckpointConfig::default())?.0)
    };
    let store = open()?;
    let start = Instant::now();
    let mine = |thread: u64, step: u64| {
        Box::new((0..entries).skip(thread as usize).step_by(step as usize)) as Box<dyn Iterator<Item = u64>>
    };
    let (manifest, published) = write(&store, |thread| mine(thread, THREADS), 1, |_, _| Before::Absent)?;
    let live = manifest.contents().bytes as f64 / 1e6;
    println!(
        "checkpoint: first of {live:.0} MB ({entries} entries) at {:.0} MB/s by {THREADS} writers; publish {published:?}",
        live / start.elapsed().as_secs_f64()
    );
    println!("checkpoint: {:.0} MB on disk right after", store.bytes() as f64 / 1e6);
    load(&store, &manifest, "right after the first")?;

    let held = |bytes: &[u8; 16], key: &EntryKey<'_>, round: u8| -> Before {
        let mut value = [round; VALUE_BYTES];
        let number = u64::from_be_bytes(bytes[8..].try_into().unwrap_or_default()).wrapping_mul(0xf1de_83e1_9937_733d);
        value[..8].copy_from_slice(&number.to_le_bytes());
        Checkpoints::held(key, &value).map_or(Before::Unknown, Before::Held)
    };
    let mut took = Vec::new();
    for round in 0..20 {
        let start = Instant::now();
        // Each round changes other entries, so that all of them are still as the first one wrote them.
        let numbers = move |thread: u64| {
            Box::new(
                (0..entries / 100)
                    .map(move |at| at * 100 + round)
                    .filter(move |number| number / 100 % THREADS == thread),
            ) as Box<dyn Iterator<Item = u64>>
        };
        write(&store, numbers, 2, |bytes, key| held(bytes, key, 1))?;
        took.push(start.elapsed());
    }
    println!("checkpoint: 1 % changed, what was before is told: {}", percentiles(&mut took));
    let mut took = Vec::new();
    for round in 20..25 {
        let start = Instant::now();
        let numbers = move |thread: u64| {
            Box::new(
                (0..entries / 100)
                    .map(move |at| at * 100 + round)
                    .filter(move |number| number / 100 % THREADS == thread),
            ) as Box<dyn Iterator<Item = u64>>
        };
        write(&store, numbers, 2, |_, _| Before::Unknown)?;
        took.push(start.elapsed());
    }
    println!("checkpoint: 1 % changed, what was before is looked up: {}", percentiles(&mut took));
    println!("checkpoint: {:.0} MB on disk after 26 checkpoints", store.bytes() as f64 / 1e6);
    drop(store);

    let start = Instant::now();
    let store = open()?;
    let newest = store.newest().ok_or("no checkpoint")?;
    println!("checkpoint: opened in {:?}", start.elapsed());
    load(&store, &newest, "after 26 checkpoints")?;
    let start = Instant::now();
    let differences = store.verify(&newest)?;
    println!("checkpoint: verified in {:?}, {} differences", start.elapsed(), differences.len());
    let step = newest.step("slots").ok_or("no step")?;
    for (what, from) in [("hit", 0), ("miss", entries)] {
        let start = Instant::now();
        for at in 0..50_000 {
            let number = from + at * 7919 % entries;
            let bytes = key_bytes(number);
            let found = store.get(&newest, &entry(step, number, &bytes))?;
            assert_eq!(found.is_some(), from == 0);
        }
        println!("checkpoint: {:.0} gets/s, {what}", 50_000.0 / start.elapsed().as_secs_f64());
    }
    let start = Instant::now();
    store.compact()?;
    println!("checkpoint: compacted in {:?} to {:.0} MB on disk", start.elapsed(), store.bytes() as f64 / 1e6);
    load(&store, &newest, "compacted")
}

fn load(store: &Checkpoints, manifest: &Manifest, when: &str) -> Outcome {
    let step = manifest.step("slots").ok_or("no step")?;
    let start = Instant::now();
    let loaded: Vec<Result<u64, engine_state::StateError>> = std::thread::scope(|scope| {
        let half = GROUPS / THREADS as u16;
        let threads: Vec<_> = (0..THREADS as u16)
            .map(|thread| {
                scope.spawn(move || {
                    let mut count = 0;
                    let groups = thread * half..=(thread + 1) * half - 1;
                    store.load(manifest, Space::SLOTS, step, groups, &mut |key, value| {
                        count += u64::from(!key.key.is_empty() && value.len() == VALUE_BYTES);
                        ControlFlow::Continue(())
                    })?;
                    Ok(count)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(0))).collect()
    });
    let loaded: u64 = loaded.into_iter().sum::<Result<u64, _>>()?;
    assert_eq!(loaded, manifest.contents().entries);
    let megabytes = manifest.contents().bytes as f64 / 1e6;
    let took = start.elapsed();
    println!("checkpoint: load by {THREADS} threads {when}: {took:?}, {:.0} MB/s", megabytes / took.as_secs_f64());
    Ok(())
}

fn cold(dir: &Path) -> Outcome {
    let store = LsmCold::open(dir)?;
    let entries = 2_000_000_u64;
    let start = Instant::now();
    for from in (0..entries).step_by(10_000) {
        let batch: Vec<[u8; 16]> = (from..from + 10_000).map(key_bytes).collect();
        store.put_batch(&mut batch.iter().map(|key| (key.as_slice(), &[1; VALUE_BYTES][..])))?;
    }
    println!("cold slots: {:.0} puts/s", entries as f64 / start.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(2));
    let mut out = Vec::new();
    for (what, from) in [("hit", 0), ("miss", entries)] {
        let start = Instant::now();
        for at in 0..500_000 {
            let found = store.get(&key_bytes(from + at * 7919 % entries), &mut out)?;
            assert_eq!(found, from == 0);
        }
        println!("cold slots: {:.0} gets/s, {what}", 500_000.0 / start.elapsed().as_secs_f64());
    }
    println!("cold slots: {:.0} MB on disk for {:.0} MB", store.bytes() as f64 / 1e6, entries as f64 * 92.0 / 1e6);
    Ok(())
}

fn percentiles(took: &mut [Duration]) -> String {
    took.sort_unstable();
    let at = |share: usize| took.get((took.len() * share / 100).min(took.len() - 1)).copied().unwrap_or_default();
    format!("p50 {:?}, p99 {:?}", at(50), at(99))
}
