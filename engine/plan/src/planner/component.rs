//! One component to its steps: its shared keys, the steps that they imply, and its kind's own `plan`.

use super::wiring::{Part, PartKind, Reference, Wiring};
use super::{Incoming, NewStep, Placed, Planner, list, needs_no_types, timed};
use crate::common::{DecodingKeys, Delivery, EncodingKeys, SetKeys, SinkKeys, SourceTimeKeys};
use crate::kinds::{
    Columns, EventTime, InputKeys, OperatorKind, Origins, Output, PlannedOperator, PlannedSource, SinkCommon, SinkKind,
    SourceCommon, SourceKind, StreamKind, StreamType, Unplanned,
};
use crate::language;
use crate::plan::{ERRORS, Edge, Role};
use crate::types;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_base::codes::{FOLLOWS, plan as codes, spec as spec_codes};
use engine_base::{Diagnostic, Diagnostics, SourceId};
use engine_expr::Scalar;
use engine_spec::Component;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Planner<'_> {
    /// Plans a component whose inputs stand before it. False where it could not be planned.
    pub(super) fn plan_part(&mut self, part: &Part<'_>) -> bool {
        match part.kind {
            PartKind::Source(kind) => self.plan_source(part, kind),
            PartKind::Operator(kind) => self.plan_operator(part, kind),
            PartKind::Sink(kind) => self.plan_sink(part, kind),
            PartKind::Unknown { .. } => false,
        }
    }

    fn plan_source(&mut self, part: &Part<'_>, kind: &'static SourceKind) -> bool {
        let component = &*part.component;
        let config = component.node.without(&part.kind.shared_keys());
        let set: Option<SetKeys> = component.node.only(&["set"]).decode(&mut self.found);
        let event_time: Option<SourceTimeKeys> = component.node.only(&["event_time"]).decode(&mut self.found);
        let (common, readable) = match kind.decodes {
            true => self.decoding(component, kind),
            false => (SourceCommon { schema: None, extra_error: false, format: None, metadata: Vec::new() }, true),
        };
        let sound = readable && !self.names_failed(component);
        let mut found = Diagnostics::new();
        let planned = (kind.plan)(&mut self.cx(component, config, &mut found), &common);
        let plans = planned.is_some() && !found.has_errors();
        self.take(found, sound);
        let planned = match planned {
            Some(planned) if readable => planned,
            _ => PlannedSource {
                schema: told_schema(&common),
                replayable: true,
                finite: true,
                planned: Arc::new(Unplanned),
            },
        };
        let mut sound = sound && plans && set.is_some();
        if self.source_count == u16::MAX {
            self.found.push(Diagnostic::error(
                spec_codes::OUT_OF_RANGE,
                component.name_span,
                format!("a pipeline has at most {} sources", u16::MAX),
            ));
            return false;
        }
        let source = SourceId(self.source_count);
        self.source_count += 1;
        let origins = Origins { sources: [source].into(), finite: planned.finite };
        let stream = StreamType { schema: planned.schema, event_time: None, kind: StreamKind::Append, origins };
        // Nobody knows what a `set` that can't be read would have set.
        let mut stream = if set.is_some() { stream } else { stream.opened() };
        sound &= self.check_columns(component, &mut stream);
        let id = self.add(NewStep {
            name: component.name.clone(),
            kind: kind.name,
            implied: false,
            role: Role::Source { source, replayable: planned.replayable, finite: planned.finite },
            inputs: Vec::new(),
            outputs: vec![Output { port: String::new(), stream: stream.clone() }],
            can_fail: true,
            planned: planned.planned,
            span: component.name_span,
        });
        self.steps[id.0 as usize].renamed_from = component.renamed_from.as_ref().map(|(before, _)| before.clone());
        let mut rows = Incoming { edge: Edge { from: id, port: 0 }, stream };
        if let Some(SetKeys { set }) = &set
            && !set.is_empty()
        {
            rows = self.imply_set(component, set, &rows);
        }
        match event_time {
            Some(SourceTimeKeys { event_time: Some(event_time) }) => {
                rows = self.imply_event_time(component, source, &event_time, &rows);
            }
            Some(SourceTimeKeys { event_time: None }) => {}
            // Wrong, and noted: what is behind may count on event time all the same.
            None => {
                sound = false;
                let stream = StreamType { event_time: Some(EventTime::default()), ..rows.stream.clone() };
                rows = self.stand_in(component, format!("{}.event_time", component.name), &rows, stream);
            }
        }
        self.placed.insert(component.name.clone(), Placed { own: id, main: rows.edge });
        sound
    }

    /// The keys that decoding sources share, and whether they are right; what is wrong is noted. A schema that can't be
    /// read is given as one without columns, so that it is not taken for missing.
    fn decoding(&mut self, component: &Component, kind: &SourceKind) -> (SourceCommon, bool) {
        let mut common = SourceCommon { schema: None, extra_error: false, format: None, metadata: Vec::new() };
        let keys: Option<DecodingKeys> = component.node.only(&["schema", "format", "metadata"]).decode(&mut self.found);
        let Some(keys) = keys else {
            common.schema = Some(Arc::new(Schema::empty()));
            return (common, false);
        };
        let mut sound = true;
        if let Some(node) = &keys.schema {
            let base_dir = component.dir(&["schema"]);
            match engine_spec::read_schema(node, base_dir, self.files, self.sources, &mut self.found) {
                Some(written) => {
                    common.extra_error = written.extra_error;
                    common.schema = Some(types::schema(&written));
                }
                None => {
                    common.schema = Some(Arc::new(Schema::empty()));
                    sound = false;
                }
            }
        }
        for (column, what) in &keys.metadata {
            let span = component.node.span_at(&["metadata", column]);
            if !kind.metadata.iter().any(|known| is_metadata(known, what)) {
                let problem = Diagnostic::error(
                    codes::UNKNOWN_METADATA,
                    span,
                    format!("a `{}` source knows no `{what}` of its records", kind.name),
                )
                .did_you_mean(what, kind.metadata.iter().copied());
                self.found.push(match kind.metadata {
                    [] => problem.help("there is no metadata for sources of this type"),
                    known => problem.help(format!("there is {}", list(known))),
                });
                sound = false;
            }
            if common.schema.as_ref().is_some_and(|schema| schema.field_with_name(column).is_ok()) {
                let entry = component.node.get("metadata").and_then(|node| node.entry(column));
                let span = entry.map_or(component.name_span, |entry| entry.key_span);
                self.found.push(
                    Diagnostic::error(
                        codes::COLUMN_TAKEN,
                        span,
                        format!("`{column}` is a column of the schema already"),
                    )
                    .help("give the metadata another name"),
                );
                sound = false;
            }
        }
        common.metadata = keys.metadata.into_iter().collect();
        common.format = keys.format;
        (common, sound)
    }

    fn plan_operator(&mut self, part: &Part<'_>, kind: &'static OperatorKind) -> bool {
        let component = &*part.component;
        let config = component.node.without(&part.kind.shared_keys());
        let (inputs, mut sound) = self.inputs(part);
        let streams: Vec<StreamType> = inputs.iter().map(|input| input.stream.clone()).collect();
        sound &= self.check_append(component, language::TAKES_CHANGELOGS.contains(&kind.name), &streams);
        for time in self.times.get(&component.name).into_iter().flatten() {
            let stream = streams.get(time.input).and_then(|stream| stream.event_time.as_ref());
            if let Some(problem) = crate::sql::check_time(time, stream) {
                self.found.push(problem);
                sound = false;
            }
        }
        let mut found = Diagnostics::new();
        let planned = (kind.plan)(&mut self.cx(component, config, &mut found), &streams);
        sound &= planned.is_some() && !found.has_errors();
        self.take(found, true);
        let mut planned = planned.unwrap_or_else(|| {
            let stream = match language::PASSES_ROWS.contains(&kind.name) {
                true => streams[0].never_null(),
                false => StreamType::unknown(),
            };
            PlannedOperator::wrong(vec![Output { port: String::new(), stream }])
        });
        sound &= self.check_ports(component, &planned.outputs);
        for output in &mut planned.outputs {
            sound &= self.check_columns(component, &mut output.stream);
        }
        if component.unnamed && planned.state.is_some() {
            let problem = self.unnamed_state(component, kind.name);
            self.found.push(problem.help("add `name:` to this step"));
        }
        for (at, key) in planned.exchange.iter().flatten().enumerate() {
            if let Some(input) = streams.get(at) {
                self.check_key(component, key, &input.schema);
            }
        }
        if sound {
            let timed = timed(&*planned.planned, &planned.outputs, &streams);
            sound = self.check_timed(component.kind_span, &format!("`{}`", component.name), timed);
        }
        let id = self.add(NewStep {
            name: component.name.clone(),
            kind: kind.name,
            implied: false,
            role: Role::Operator,
            inputs: inputs.iter().map(|input| input.edge).collect(),
            outputs: planned.outputs,
            can_fail: planned.can_fail,
            planned: planned.planned,
            span: component.name_span,
        });
        let step = &mut self.steps[id.0 as usize];
        step.renamed_from = component.renamed_from.as_ref().map(|(before, _)| before.clone());
        step.exchange = planned.exchange;
        step.state = planned.state;
        step.timed = planned.timed;
        sound
    }

    fn plan_sink(&mut self, part: &Part<'_>, kind: &'static SinkKind) -> bool {
        let component = &*part.component;
        let config = component.node.without(&part.kind.shared_keys());
        let keys: Option<SinkKeys> = component.node.only(&["where", "columns", "delivery"]).decode(&mut self.found);
        let encoding: Option<EncodingKeys> = match kind.encodes {
            true => component.node.only(&["format", "timestamps"]).decode(&mut self.found),
            false => Some(EncodingKeys::default()),
        };
        let (mut inputs, mut sound) = self.inputs(part);
        sound &= keys.is_some() && encoding.is_some();
        let mut input = inputs.pop().unwrap_or_else(Incoming::unknown);
        if let Some(SinkKeys { filter: Some(filter), .. }) = &keys {
            let name = match part.inputs.first().is_some_and(|reference| reference.filter.is_some()) {
                true => format!("{}.where.2", component.name),
                false => format!("{}.where", component.name),
            };
            input = self.imply_filter(component, name, &["where"], filter, &input);
        }
        let mut assigned = None;
        match &keys {
            Some(SinkKeys { columns: Some(columns), .. }) => {
                assigned = self.sink_columns(component, columns, &input);
                if assigned.is_none() {
                    sound = false;
                    input.stream = StreamType::unknown();
                }
            }
            Some(_) => {}
            None => input.stream = StreamType::unknown(),
        }
        sound &= self.check_append(component, kind.changelogs, std::slice::from_ref(&input.stream));
        let encoding = encoding.unwrap_or_default();
        let given = |columns: &[(Field, Option<Scalar>)]| {
            input.stream.with_columns(columns.iter().map(|(field, _)| field.clone()).collect::<Vec<_>>())
        };
        let mut columns =
            assigned.as_deref().map_or_else(|| input.stream.schema.clone(), |assigned| given(assigned).schema);
        if input.stream.kind.is_changelog() {
            columns = types::with_change(&columns);
        }
        let common = SinkCommon { format: encoding.format, timestamps: encoding.timestamps, columns: columns.clone() };
        let mut all = assigned.clone().unwrap_or_default();
        if kind.sees_all && assigned.is_some() {
            all.extend(self.columns_beside(&columns, &input));
        }
        let stream = if assigned.is_some() { given(&all) } else { input.stream.clone() };
        let mut found = Diagnostics::new();
        let planned = (kind.plan)(&mut self.cx(component, config, &mut found), &stream, &common);
        sound &= !found.has_errors();
        self.take(found, true);
        if let Some(assigned) = assigned {
            // Planned behind the sink that reads it: of the columns beside, only those that it does read are there.
            let reads = planned.as_ref().map(|planned| planned.planned.reads(&[]));
            let reads = reads.into_iter().flatten().flatten().collect::<Columns>();
            let wanted = |(field, _): &(Field, Option<Scalar>)| reads.contains(field.name());
            let beside = all.split_off(assigned.len()).into_iter().filter(wanted);
            let columns = assigned.into_iter().chain(beside).collect();
            input = self.imply_map(component, format!("{}.columns", component.name), columns, &input);
        }
        let Some(planned) = planned else { return false };
        let own = keys.as_ref().and_then(|keys| keys.delivery);
        let asked = match own {
            Some(delivery) => delivery == Delivery::ExactlyOnce,
            None => self.pipeline.delivery == engine_spec::Delivery::ExactlyOnce,
        };
        let exact = match planned.exactly_once {
            _ if !asked => None,
            crate::ExactlyOnce::By(means) => Some(means),
            crate::ExactlyOnce::No { reason, help } => {
                let (span, help) = match own {
                    Some(_) => (component.node.span_at(&["delivery"]), help.to_owned()),
                    None => (component.name_span, format!("{help}; or write `delivery: at_least_once` at this sink")),
                };
                let message = format!("`{}` can't deliver exactly once: {reason}", component.name);
                self.found.push(Diagnostic::error(codes::GUARANTEE, span, message).help(help));
                sound = false;
                None
            }
        };
        if sound {
            let timed = timed(&*planned.planned, &[], std::slice::from_ref(&input.stream));
            sound = self.check_timed(component.kind_span, &format!("`{}`", component.name), timed);
        }
        self.add(NewStep {
            name: component.name.clone(),
            kind: kind.name,
            implied: false,
            role: Role::Sink { timeout_ns: planned.timeout_ns, exact },
            inputs: vec![input.edge],
            outputs: Vec::new(),
            can_fail: planned.can_fail,
            planned: planned.planned,
            span: component.name_span,
        });
        sound
    }

    /// What a part reads, through the filters of its inputs, at least one; and whether all of it is known.
    fn inputs(&mut self, part: &Part<'_>) -> (Vec<Incoming>, bool) {
        let mut inputs = Vec::with_capacity(part.inputs.len());
        let mut complete = !part.broken;
        // A named input that is missing leaves its place.
        let named = match part.kind {
            PartKind::Operator(OperatorKind { inputs: InputKeys::Named(keys), .. }) => Some(*keys),
            _ => None,
        };
        let of_key = |(key, _): &(&str, &str)| part.inputs.iter().find(|reference| reference.path == [*key]);
        let references: Vec<Option<&Reference>> = match named {
            Some(keys) => keys.iter().map(of_key).collect(),
            None => part.inputs.iter().map(Some).collect(),
        };
        for (at, reference) in references.into_iter().enumerate() {
            let Some(reference) = reference else {
                inputs.push(Incoming::unknown());
                continue;
            };
            let mut input = match self.output(reference, part) {
                Some(edge) => self.incoming(edge),
                None => {
                    complete = false;
                    Incoming::unknown()
                }
            };
            complete &= !engine_expr::is_open(&input.stream.schema);
            if let Some(filter) = &reference.filter {
                let name = match (named, part.inputs.len()) {
                    (Some(keys), _) => format!("{}.{}.where", part.component.name, keys[at].0),
                    (None, 1) => format!("{}.where", part.component.name),
                    (None, _) => format!("{}.where.{}", part.component.name, at + 1),
                };
                let mut path: Vec<&str> = reference.path.iter().map(String::as_str).collect();
                path.push("where");
                input = self.imply_filter(&part.component, name, &path, filter, &input);
            }
            inputs.push(input);
        }
        if inputs.is_empty() {
            inputs.push(Incoming::unknown());
            complete = false;
        }
        (inputs, complete)
    }

    /// A step that keeps state and has no name: of an instance in a chain, it is the instance that has none.
    fn unnamed_state(&self, component: &Component, kind: &str) -> Diagnostic {
        let instances = &self.pipeline.instances;
        let mut unnamed = component.instance.as_ref().and_then(|name| instances.get(name)).filter(|own| own.unnamed);
        while let Some(outer) =
            unnamed.and_then(|own| instances.get(own.within.as_ref()?)).filter(|outer| outer.unnamed)
        {
            unnamed = Some(outer);
        }
        match unnamed {
            Some(instance) => {
                let message =
                    format!("this instance of the template `{}` keeps state, so it needs a name", instance.template);
                Diagnostic::error(codes::UNNAMED_STATE, instance.name_span, message)
                    .at_caret("its state is found again by its name")
                    .also(component.kind_span, format!("this `{kind}` keeps it"))
            }
            None => {
                let message = format!("this `{kind}` keeps state, so it needs a name");
                Diagnostic::error(codes::UNNAMED_STATE, component.kind_span, message)
                    .at_caret("its state is found again by its name")
            }
        }
    }

    /// Checks templates that nothing uses, as far as that is possible without the types of what they read.
    pub(super) fn check_unused_templates(&mut self) {
        let (pipeline, registries) = (self.pipeline, self.registries);
        let wiring = Wiring::unused(pipeline, registries, &mut self.keys, &mut self.found);
        for part in &wiring.parts {
            let PartKind::Operator(kind) = part.kind else { continue };
            let count = match kind.inputs {
                InputKeys::One => 1,
                InputKeys::Many => part.inputs.len().max(1),
                InputKeys::Named(keys) => keys.len(),
            };
            let component = &*part.component;
            let config = component.node.without(&part.kind.shared_keys());
            let streams = vec![StreamType::unknown(); count];
            let mut found = Diagnostics::new();
            // Only what it says of the file is of use.
            let _planned = (kind.plan)(&mut self.cx(component, config, &mut found), &streams);
            self.take(found, false);
        }
    }

    /// Adds what a kind found, but for what only follows from a problem elsewhere. What it says where its columns could not
    /// be read is taken only as far as it is true whatever they are.
    pub(super) fn take(&mut self, found: Diagnostics, complete: bool) {
        let told = |diagnostic: &&Diagnostic| diagnostic.code != FOLLOWS && (complete || needs_no_types(diagnostic));
        for diagnostic in found.iter().filter(told) {
            self.found.push(diagnostic.clone());
        }
    }

    /// Whether a component names a model or a connection that is there and wrong, which is noted where it stands.
    fn names_failed(&self, component: &Component) -> bool {
        let root = &self.pipeline.root;
        let failed = |key: &str, section: &str, is_planned: &dyn Fn(&str) -> bool| {
            let named = component.node.get(key).and_then(|node| node.as_str());
            let declared = |name: &str| root.get(section).is_some_and(|section| section.get(name).is_some());
            named.is_some_and(|name| !is_planned(name) && declared(name))
        };
        failed("model", "models", &|name| self.models.contains_key(name))
            || failed("connection", "connections", &|name| self.pipeline.connections.contains_key(name))
    }

    /// Whether a component takes what comes, which is noted where not. `takes` is whether it takes changelogs.
    fn check_append(&mut self, component: &Component, takes: bool, inputs: &[StreamType]) -> bool {
        let changelog = !takes && inputs.iter().any(|input| input.kind.is_changelog());
        if changelog {
            self.found.push(
                Diagnostic::error(
                    codes::CHANGELOG_INPUT,
                    component.kind_span,
                    format!("`{}` takes rows that stay, and its input is a changelog", component.name),
                )
                .at_caret(format!("`{}` works on append streams only", component.kind))
                .help(
                    "what takes changelogs: `filter`, `map`, `route`, `aggregate`, `distinct`, `top`, a `join` without `within` \
                     and `window`, and the sinks `file`, `stdout`, `blackhole`, `postgres` and `sqlite`",
                ),
            );
        }
        !changelog
    }

    fn check_key(&mut self, component: &Component, key: &[String], schema: &Schema) {
        for (at, column) in key.iter().enumerate() {
            let Ok(field) = schema.field_with_name(column) else { continue };
            if let Some(why) = types::unhashable(field.data_type()) {
                let at = at.to_string();
                let span = component.node.span_at(&["key", &at]);
                self.found.push(
                    Diagnostic::error(
                        codes::UNHASHABLE_KEY,
                        span,
                        format!("`{column}` is {} and can't be a key", types::column_text(field)),
                    )
                    .at_caret(why)
                    .help("use an integer, text, decimal, date or timestamp, or make one before with `map`"),
                );
            }
        }
    }

    /// Outputs of their own names, none of them `errors`.
    fn check_ports(&mut self, component: &Component, outputs: &[Output]) -> bool {
        let plain = |port: &str| port.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
        let mut seen = BTreeSet::new();
        let mut sound = true;
        for output in outputs {
            let port = output.port.as_str();
            let why = if port == ERRORS {
                "the rows that fail have it"
            } else if !seen.insert(port) {
                "another output has it"
            } else if !plain(port) {
                "it is letters, digits, `_` and `-`"
            } else {
                continue;
            };
            sound = false;
            let key_span = component.node.get("cases").and_then(|cases| cases.entry(port)).map(|entry| entry.key_span);
            self.found.push(
                Diagnostic::error(
                    codes::RESERVED_NAME,
                    key_span.unwrap_or(component.name_span),
                    format!("an output of `{}` can't be named `{port}`: {why}", component.name),
                )
                .help("choose another name"),
            );
        }
        sound
    }

    /// Columns of their own names, none of them the engine's: such a one is noted and taken out.
    pub(super) fn check_columns(&mut self, component: &Component, stream: &mut StreamType) -> bool {
        let is_reserved = |field: &Arc<Field>| field.name().starts_with('@');
        let (reserved, others): (Vec<_>, Vec<_>) = stream.schema.fields().iter().cloned().partition(is_reserved);
        let Some(field) = reserved.first() else { return true };
        *stream = stream.with_columns(others);
        let name = field.name();
        let named = ["schema", "metadata", "set", "columns", "rename", "outputs"]
            .iter()
            .find_map(|key| component.node.get(key)?.entry(name));
        self.found.push(
            Diagnostic::error(
                codes::RESERVED_NAME,
                named.map_or(component.name_span, |entry| entry.key_span),
                format!("a column can't be named `{name}`: names with `@` are the engine's own"),
            )
            .help("choose another name"),
        );
        false
    }
}

impl Incoming {
    /// Stands in for an input that is not known.
    fn unknown() -> Incoming {
        Incoming { edge: Edge { from: engine_base::StepId(0), port: 0 }, stream: StreamType::unknown() }
    }
}

/// What is known of the columns of a source that could not be planned.
fn told_schema(common: &SourceCommon) -> SchemaRef {
    match &common.schema {
        Some(schema) if !schema.fields().is_empty() => {
            let metadata = common.metadata.iter().map(|(name, _)| Arc::new(Field::new(name, DataType::Null, true)));
            Arc::new(Schema::new(schema.fields().iter().cloned().chain(metadata).collect::<Vec<_>>()))
        }
        _ => StreamType::unknown().schema,
    }
}

/// Whether `what` is the metadata that `known` describes: itself, or for `headers['...']` any header.
fn is_metadata(known: &str, what: &str) -> bool {
    let inner = |text: &str| -> Option<(String, String)> {
        let (name, rest) = text.split_once('[')?;
        let key = rest.trim().strip_suffix(']')?.trim();
        let key = key.strip_prefix('\'')?.strip_suffix('\'')?;
        (!key.is_empty()).then(|| (name.trim().to_owned(), key.to_owned()))
    };
    known == what || matches!((inner(known), inner(what)), (Some((known, _)), Some((what, _))) if known == what)
}
