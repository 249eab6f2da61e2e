//! One component to its steps: its shared keys, the steps that they imply, and its kind's own `plan`.

use super::wiring::{Part, PartKind, Reference};
use super::{Incoming, NewStep, Placed, Planner, list, needs_no_types, no_event_time, reads_event_time, visible};
use crate::common::{DecodingKeys, Delivery, EncodingKeys, SetKeys, SinkKeys, SourceTimeKeys};
use crate::kinds::{
    EventTime, OperatorKind, Output, SinkCommon, SinkKind, SourceCommon, SourceKind, StreamKind, StreamType,
};
use crate::plan::{ERRORS, Edge, Role};
use crate::types;
use arrow::datatypes::{Field, Schema};
use engine_base::codes::{plan as codes, spec as spec_codes};
use engine_base::{Diagnostic, Diagnostics, SourceId};
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
        let (common, sound) = match kind.decodes {
            true => self.decoding(component, kind),
            false => (SourceCommon { schema: None, extra_error: false, format: None, metadata: Vec::new() }, true),
        };
        let sound = sound && !self.names_failed(component);
        let mut found = Diagnostics::new();
        let planned = (kind.plan)(&mut self.cx(component, config, &mut found), &common);
        self.take(found, sound);
        let (Some(planned), Some(SetKeys { set }), true) = (planned, set, sound) else { return false };
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
        let stream = StreamType { schema: planned.schema, event_time: None, kind: StreamKind::Append };
        if !self.check_columns(component, &stream.schema) {
            return false;
        }
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
        let mut rows = Incoming { edge: Edge { from: id, port: 0 }, stream };
        if !set.is_empty() {
            match self.imply_set(component, &set, &rows) {
                Some(set) => rows = set,
                None => return false,
            }
        }
        match event_time {
            Some(SourceTimeKeys { event_time: Some(event_time) }) => {
                rows = self.imply_event_time(component, &event_time, &rows);
            }
            Some(SourceTimeKeys { event_time: None }) => {}
            // Wrong, and noted: what is behind may count on event time all the same.
            None => {
                self.failed.insert(component.name.clone());
                self.steps[id.0 as usize].outputs[0].stream.event_time = Some(EventTime { max_delay_ns: 0 });
            }
        }
        self.placed.insert(component.name.clone(), Placed { own: id, main: rows.edge });
        true
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
            let base_dir = &component.base_dir;
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
        let inputs = self.inputs(part);
        let complete = inputs.is_some() && !self.names_failed(component);
        let inputs = inputs.unwrap_or_else(|| part.inputs.iter().map(|_| Incoming::unknown()).collect());
        let streams: Vec<StreamType> = inputs.iter().map(|input| input.stream.clone()).collect();
        if complete && !self.check_append(component, &streams) {
            return false;
        }
        if streams.is_empty() {
            return false;
        }
        let mut found = Diagnostics::new();
        let planned = (kind.plan)(&mut self.cx(component, config, &mut found), &streams);
        self.take(found, complete);
        let (Some(planned), true) = (planned, complete) else {
            // Whatever is wrong with a filter, its rows are those of its input: what reads it can be checked.
            if complete && crate::language::PASSES_ROWS.contains(&kind.name) {
                self.guess(component, kind, &inputs);
            }
            return false;
        };
        let mut sound = self.check_ports(component, &planned.outputs);
        for output in &planned.outputs {
            sound &= self.check_columns(component, &output.stream.schema);
        }
        if component.unnamed && planned.state.is_some() {
            self.found.push(
                Diagnostic::error(
                    codes::UNNAMED_STATE,
                    component.kind_span,
                    format!("this `{}` keeps state, so it needs a name", kind.name),
                )
                .at_caret("its state is found again by its name")
                .help("add `name:` to this step"),
            );
        }
        for (at, key) in planned.exchange.iter().flatten().enumerate() {
            if let Some(input) = streams.get(at) {
                self.check_key(component, key, &input.schema);
            }
        }
        if reads_event_time(&*planned.planned, &planned.outputs, &streams) {
            self.found.push(no_event_time(component.kind_span, &format!("`{}`", component.name)));
            sound = false;
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
        step.exchange = planned.exchange;
        step.state = planned.state;
        step.look_back_ns = planned.look_back_ns;
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
        if keys.as_ref().is_some_and(|keys| keys.delivery == Some(Delivery::ExactlyOnce)) {
            self.found.push(
                Diagnostic::error(
                    codes::GUARANTEE,
                    component.node.span_at(&["delivery"]),
                    format!("`{}` can't deliver exactly once: that is not built yet", component.name),
                )
                .help("write `delivery: at_least_once`, and make a row that comes twice harmless where it goes"),
            );
        }
        let mut rows = self.inputs(part).and_then(|mut inputs| inputs.pop());
        if let (Some(SinkKeys { filter: Some(filter), .. }), Some(input)) = (&keys, &rows) {
            let name = match part.inputs[0].filter {
                Some(_) => format!("{}.where.2", component.name),
                None => format!("{}.where", component.name),
            };
            rows = Some(self.imply_filter(component, name, &["where"], filter, input));
        }
        if let (Some(SinkKeys { columns: Some(columns), .. }), Some(input)) = (&keys, &rows) {
            rows = self.imply_columns(component, columns, input);
        }
        let complete = rows.is_some() && keys.is_some() && encoding.is_some() && !self.names_failed(component);
        let input = rows.unwrap_or_else(Incoming::unknown);
        if complete && !self.check_append(component, std::slice::from_ref(&input.stream)) {
            return false;
        }
        let encoding = encoding.unwrap_or_default();
        let common = SinkCommon { format: encoding.format, timestamps: encoding.timestamps };
        let mut found = Diagnostics::new();
        let planned = (kind.plan)(&mut self.cx(component, config, &mut found), &input.stream, &common);
        self.take(found, complete);
        let (Some(planned), true) = (planned, complete) else { return false };
        let mut sound = true;
        if reads_event_time(&*planned.planned, &[], std::slice::from_ref(&input.stream)) {
            self.found.push(no_event_time(component.kind_span, &format!("`{}`", component.name)));
            sound = false;
        }
        self.add(NewStep {
            name: component.name.clone(),
            kind: kind.name,
            implied: false,
            role: Role::Sink { timeout_ns: planned.timeout_ns },
            inputs: vec![input.edge],
            outputs: Vec::new(),
            can_fail: planned.can_fail,
            planned: planned.planned,
            span: component.name_span,
        });
        sound
    }

    /// What a part reads, through the filters of its inputs; `None` where that can't be told.
    fn inputs(&mut self, part: &Part<'_>) -> Option<Vec<Incoming>> {
        let mut inputs = Vec::with_capacity(part.inputs.len());
        let mut complete = !part.broken;
        for (at, reference) in part.inputs.iter().enumerate() {
            let Some(edge) = self.output(reference, part) else {
                complete = false;
                continue;
            };
            let mut input = self.incoming(edge);
            if let Some(filter) = &reference.filter {
                let name = match part.inputs.len() {
                    1 => format!("{}.where", part.component.name),
                    _ => format!("{}.where.{}", part.component.name, at + 1),
                };
                let mut path: Vec<&str> = reference.path.iter().map(String::as_str).collect();
                path.push("where");
                input = self.imply_filter(&part.component, name, &path, filter, &input);
            }
            inputs.push(input);
        }
        complete.then_some(inputs)
    }

    /// The output that a reference names. `None` where its owner could not be planned, or has no such output (noted).
    fn output(&mut self, reference: &Reference, part: &Part<'_>) -> Option<Edge> {
        reference.owner?;
        let owner = match reference.rest.as_str() {
            "" => {
                let main = self.placed.get(&reference.from)?.main;
                let step = &self.steps[main.from.0 as usize];
                if step.outputs.get(main.port).is_some_and(|output| output.port.is_empty()) {
                    return Some(main);
                }
                let readable: Vec<String> = (0..step.outputs.len()).map(|port| step.output_name(port)).collect();
                let readable: Vec<&str> = readable.iter().map(String::as_str).collect();
                let name = &reference.from;
                let problem = Diagnostic::error(
                    codes::UNKNOWN_OUTPUT,
                    reference.span,
                    format!("`{name}` has no one output: each row goes to one of several"),
                );
                self.found.push(problem.help(format!("read one of {}", list(&readable))));
                return None;
            }
            rest => &reference.from[..reference.from.len() - rest.len() - 1],
        };
        // An implied step, `transactions.set`, is read like any other.
        if let Some(placed) = self.placed.get(&reference.from) {
            return Some(placed.main);
        }
        let (step, port) = reference.from.rsplit_once('.')?;
        if let Some(placed) = self.placed.get(step) {
            let outputs = &self.steps[placed.own.0 as usize].outputs;
            if let Some(at) = outputs.iter().position(|output| output.port == port) {
                return Some(Edge { from: placed.own, port: at });
            }
        }
        let placed = self.placed.get(owner)?;
        // A step that failed is only guessed at, and its outputs are not known.
        if self.failed.contains(owner) || part.component.name == owner {
            return None;
        }
        let outputs = &self.steps[placed.own.0 as usize].outputs;
        let readable: Vec<String> = outputs
            .iter()
            .map(|output| match output.port.as_str() {
                "" => owner.to_owned(),
                port => format!("{owner}.{port}"),
            })
            .collect();
        let readable: Vec<&str> = readable.iter().map(String::as_str).collect();
        let wrong = &reference.rest;
        let mut problem =
            Diagnostic::error(codes::UNKNOWN_OUTPUT, reference.span, format!("`{owner}` has no output `{wrong}`"));
        if wrong == ERRORS {
            problem = problem.at_caret("no row can fail in it");
        } else {
            let near = engine_base::suggest::nearest(wrong, outputs.iter().map(|output| output.port.as_str()));
            if let Some(near) = near.filter(|near| !near.is_empty()) {
                problem = problem.help(format!("did you mean `{owner}.{near}`?"));
            }
        }
        self.found.push(problem.help(match readable.as_slice() {
            [] => format!("nothing comes out of `{owner}`"),
            [one] => format!("its output is {}", list(&[one])),
            many => format!("its outputs are {}", list(many)),
        }));
        None
    }

    /// Adds what a kind found. What it says of a component whose inputs are not known is taken only as far as it is true
    /// whatever they are.
    fn take(&mut self, found: Diagnostics, complete: bool) {
        for diagnostic in found.iter().filter(|diagnostic| complete || needs_no_types(diagnostic)) {
            self.found.push(diagnostic.clone());
        }
    }

    /// Stands in for a failed step whose rows are those of its input: every column there, and none of them null, so that
    /// no false problem comes of the guess.
    fn guess(&mut self, component: &Component, kind: &'static OperatorKind, inputs: &[Incoming]) {
        let Some(input) = inputs.first() else { return };
        let all = visible(&input.stream);
        let stream = input.stream.with_schema(types::narrow(&input.stream.schema, &all));
        self.add(NewStep {
            name: component.name.clone(),
            kind: kind.name,
            implied: false,
            role: Role::Operator,
            inputs: vec![input.edge],
            outputs: vec![Output { port: String::new(), stream }],
            can_fail: true,
            planned: Arc::new(super::implied::Guess),
            span: component.name_span,
        });
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

    fn check_append(&mut self, component: &Component, inputs: &[StreamType]) -> bool {
        let changelog = inputs.iter().any(|input| input.kind != StreamKind::Append);
        if changelog {
            self.found.push(
                Diagnostic::error(
                    codes::CHANGELOG_INPUT,
                    component.kind_span,
                    format!("`{}` takes rows that stay, and its input is a changelog", component.name),
                )
                .at_caret(format!("`{}` works on append streams only", component.kind)),
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

    /// Columns of their own names, none of them the engine's.
    pub(super) fn check_columns(&mut self, component: &Component, schema: &Schema) -> bool {
        let reserved = |field: &&Arc<Field>| field.name().starts_with('@');
        let Some(field) = schema.fields().iter().find(reserved) else { return true };
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
        Incoming {
            edge: Edge { from: engine_base::StepId(0), port: 0 },
            stream: StreamType { schema: Arc::new(Schema::empty()), event_time: None, kind: StreamKind::Append },
        }
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
