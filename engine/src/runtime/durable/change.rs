//! A pipeline that changed, on the state of its last run: what becomes of the state of each step, and the checkpoint in which it
//! became so. It is published before anything runs, so that whatever is killed there is the one before or the one after.

use super::NamedCut;
use super::checkpointer::{input_name, named_input, told};
use super::ledger::{Chunks, Kept};
use engine_connectors::Delivered;
use engine_operators::{Conversion, conversion};
use engine_plan::{Plan, Role};
use engine_state::checkpoint::{
    Before, Checkpoints, EntryKey, Manifest, Publication, Space, StepAbout, StepId, StepManifest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// What becomes of the state of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on with it, as it had it under this name.
    Keep(String),
    /// It goes on with what it has still, as it had it under this name: what begins with nothing, and what is dropped.
    Migrate(String, Vec<String>, Vec<String>),
    /// It has none yet.
    New,
    /// It is another one than that which kept it.
    Changed,
    /// The pipeline has it no longer.
    Gone,
}

/// What the steps with state are.
pub(super) fn abouts(plan: &Plan) -> BTreeMap<String, StepAbout> {
    let of = |step: &engine_plan::Step| {
        let identity = &plan.identities[step.id.0 as usize];
        let about = StepAbout {
            kind: step.kind.to_owned(),
            format: 1,
            config_digest: identity.digest.clone(),
            schema: identity.parts.clone(),
        };
        (step.name.clone(), about)
    };
    plan.steps.iter().filter(|step| !step.is_row_wise() && matches!(step.role, Role::Operator)).map(of).collect()
}

/// What becomes of the state of each step that keeps something, now or in a checkpoint.
pub(crate) fn fates(plan: &Plan, manifest: Option<&Manifest>) -> BTreeMap<String, Fate> {
    let none = BTreeMap::new();
    let stored = manifest.map_or(&none, |manifest| &manifest.steps);
    let mut fates = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (name, about) in abouts(plan) {
        let step = plan.steps.iter().find(|step| step.name == name);
        let before = step.and_then(|step| Some((step.renamed_from.clone()?, step.id)));
        let under = |known: &String| Some((known.clone(), stored.get(known)?));
        let found = under(&name).or_else(|| under(&before.as_ref()?.0));
        let fate = match found {
            // What holds nothing goes on with nothing.
            Some((_, kept)) if kept.contents.entries == 0 => Fate::New,
            Some((known, kept)) => {
                let identity = step.map(|step| &plan.identities[step.id.0 as usize]);
                let is_same = identity
                    .is_some_and(|identity| [&identity.digest, &identity.before].contains(&&kept.about.config_digest));
                taken.insert(known.clone());
                if kept.about.kind == about.kind && kept.about.format == about.format && is_same {
                    same(known, kept, &about)
                } else {
                    Fate::Changed
                }
            }
            None => Fate::New,
        };
        fates.insert(name, fate);
    }
    for (name, kept) in stored {
        if kept.contents.entries > 0 && !taken.contains(name) {
            fates.insert(name.clone(), Fate::Gone);
        }
    }
    fates
}

fn same(known: String, kept: &StepManifest, about: &StepAbout) -> Fate {
    if kept.about.schema == about.schema {
        return Fate::Keep(known);
    }
    match conversion(&about.kind, &kept.about.schema, &about.schema) {
        Ok(Conversion { new, gone, .. }) => Fate::Migrate(known, new, gone),
        Err(_) => Fate::Changed,
    }
}

/// The checkpoint that a changed pipeline goes on from.
pub(super) struct Change<'a> {
    pub(super) plan: &'a Plan,
    pub(super) checkpoints: &'a Checkpoints,
    pub(super) manifest: &'a Manifest,
    /// What the manifest keeps, and what the journal has since.
    pub(super) kept: Kept,
    pub(super) starts: NamedCut,
    pub(super) delivered: BTreeMap<String, Delivered>,
    pub(super) sequences: BTreeMap<String, u64>,
    /// The next record of the journal: nothing before it is needed.
    pub(super) next_record: u64,
    pub(super) time_ns: i64,
}

impl Change<'_> {
    /// Makes it. Steps that changed or are gone have no state in it.
    pub(super) fn publish(mut self, fates: &BTreeMap<String, Fate>) -> Result<(Arc<Manifest>, Kept), String> {
        let begun = Instant::now();
        let mut draft = self.checkpoints.begin().map_err(told)?;
        for (name, fate) in fates {
            match fate {
                Fate::Changed | Fate::Gone => {
                    // A step that changed may have been renamed too.
                    let step = self.plan.steps.iter().find(|step| step.name == *name);
                    let before = step.and_then(|step| step.renamed_from.clone());
                    for name in [Some(name.clone()), before].into_iter().flatten() {
                        draft.delete_step(&name).map_err(told)?;
                        self.kept.watermarks_ns.remove(&name);
                        self.kept.inputs.retain(|input, _| named_input(input).is_none_or(|(step, _)| *step != *name));
                    }
                }
                Fate::Keep(before) | Fate::Migrate(before, ..) if before != name => {
                    // What holds nothing stands in the way.
                    draft.delete_step(name).map_err(told)?;
                    draft.rename_step(before, name);
                    self.rename_step(before, name);
                }
                _ => {}
            }
        }
        let mut converted = 0;
        for (name, about) in abouts(self.plan) {
            let id = draft.step(&name, about.clone());
            if let Some(Fate::Migrate(before, ..)) = fates.get(&name)
                && let Some(kept) = self.manifest.steps.get(before)
            {
                let change = conversion(&about.kind, &kept.about.schema, &about.schema)?;
                let mut writer = draft.writer();
                converted +=
                    self.convert(id, &change, &mut writer).map_err(|reason| format!("step `{name}`: {reason}"))?;
                writer.finish().map_err(told)?;
            }
        }
        self.rename_sources();
        self.kept.plan = self.plan.logic.clone();
        for (source, marks) in std::mem::take(&mut self.starts) {
            let known = self.kept.marks.entry(source).or_default();
            for (partition, mark) in marks {
                known.entry(partition).or_insert(mark);
            }
        }
        self.kept.delivered = std::mem::take(&mut self.delivered);
        self.kept.sequences = std::mem::take(&mut self.sequences);
        let publication = Publication {
            journal_id: self.manifest.journal_id,
            journal_sequence: self.next_record,
            epoch: self.manifest.epoch,
            time_ns: self.time_ns,
            blobs: BTreeMap::new(),
            extra: serde_json::to_value(&self.kept).map_err(|error| error.to_string())?,
        };
        let manifest = draft.publish(publication).map_err(told)?;
        tracing::info!(
            checkpoint = manifest.checkpoint,
            converted,
            took_ms = begun.elapsed().as_millis() as u64,
            "the pipeline changed: its state is as `engine plan` tells"
        );
        Ok((manifest, self.kept))
    }

    /// Writes the slots of a step anew. How many there are.
    fn convert(
        &self,
        step: StepId,
        change: &Conversion,
        writer: &mut engine_state::checkpoint::Writer,
    ) -> Result<u64, String> {
        let mut count = 0;
        // By group, so that they are never all in memory.
        for group in 0..engine_dataflow::exchange::GROUPS {
            let mut slots = Vec::new();
            let mut problem = None;
            let visit = &mut |key: EntryKey<'_>, value: &[u8]| {
                let held = Checkpoints::held(&key, value).map_err(told);
                match held.and_then(|held| Ok((held, change.convert(value)?))) {
                    Ok((held, new)) => slots.push((key.key.to_vec(), key.slice, held, new)),
                    Err(reason) => {
                        problem = Some(reason);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            };
            self.checkpoints.load(self.manifest, Space::SLOTS, step, group..=group, visit).map_err(told)?;
            if let Some(reason) = problem {
                return Err(format!("its state can't be converted: {reason}"));
            }
            count += slots.len() as u64;
            for (key, slice, held, new) in slots {
                let place = EntryKey { space: Space::SLOTS, step, group, key: &key, slice };
                writer.put(&place, &new, Before::Held(held)).map_err(told)?;
            }
        }
        Ok(count)
    }

    fn rename_step(&mut self, before: &str, name: &str) {
        if let Some(reached) = self.kept.watermarks_ns.remove(before) {
            self.kept.watermarks_ns.insert(name.to_owned(), reached);
        }
        let inputs: BTreeMap<String, Chunks> = std::mem::take(&mut self.kept.inputs);
        let renamed = |(input, chunks): (String, Chunks)| match named_input(&input) {
            Some((step, at)) if step == before => (input_name(name, at), chunks),
            _ => (input, chunks),
        };
        self.kept.inputs = inputs.into_iter().map(renamed).collect();
    }

    fn rename_sources(&mut self) {
        for step in self.plan.sources() {
            let Some(before) = &step.renamed_from else { continue };
            rename(&mut self.kept.marks, before, &step.name);
            rename(&mut self.kept.standings, before, &step.name);
            rename(&mut self.kept.reached_ns, before, &step.name);
            rename(&mut self.starts, before, &step.name);
        }
    }
}

fn rename<T>(of: &mut BTreeMap<String, T>, before: &str, name: &str) {
    if !of.contains_key(name)
        && let Some(held) = of.remove(before)
    {
        of.insert(name.to_owned(), held);
    }
}
