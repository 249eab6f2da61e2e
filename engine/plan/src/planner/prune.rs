//! Which columns of each output somebody reads, from the sinks backwards.

use crate::kinds::{Columns, StreamType};
use crate::plan::Step;
use engine_base::StepId;
use std::collections::BTreeSet;

/// Fills [`Step::wanted`]. Steps stand after those they read, so that one pass from the last to the first does.
///
/// Where somebody reads the rows that fail in a step, all its columns are wanted, and all that it is given: which rows fail,
/// and what can be seen of them, must not depend on what others read.
pub(super) fn prune(steps: &mut [Step]) {
    let read: BTreeSet<(StepId, usize)> =
        steps.iter().flat_map(|step| step.inputs.iter().map(|edge| (edge.from, edge.port))).collect();
    for at in (0..steps.len()).rev() {
        let (before, step) = steps.split_at_mut(at);
        let Some(step) = step.first_mut() else { continue };
        let rows = step.row_outputs().len();
        let errors_read = step.can_fail && read.contains(&(step.id, rows));
        if errors_read {
            // Rows of errors are never pruned themselves.
            for (wanted, output) in step.wanted.iter_mut().zip(&step.outputs) {
                wanted.extend(output.stream.schema.fields().iter().map(|field| field.name().clone()));
            }
        }
        let mut reads = step.planned.reads(&step.wanted[..rows]);
        // A kind that says nothing of an input reads nothing of it but that rows come.
        reads.resize_with(step.inputs.len(), Columns::new);
        for (input, (edge, mut columns)) in step.inputs.iter().zip(reads).enumerate() {
            if let Some(key) = step.exchange.as_ref().and_then(|keys| keys.get(input)) {
                columns.extend(key.iter().cloned());
            }
            let producer = &mut before[edge.from.0 as usize];
            let stream = &producer.outputs[edge.port].stream;
            if errors_read {
                columns.extend(stream.schema.fields().iter().map(|field| field.name().clone()));
            }
            columns.retain(|column| exists(column, stream));
            producer.wanted[edge.port].extend(columns);
        }
    }
}

fn exists(column: &str, stream: &StreamType) -> bool {
    column.starts_with('@') || stream.schema.field_with_name(column).is_ok()
}
