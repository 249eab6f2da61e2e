//! Which columns of each output somebody reads, from the sinks backwards.

use crate::kinds::{Columns, StreamType};
use crate::plan::Step;

/// Fills [`Step::wanted`]. Steps stand after those they read, so that one pass from the last to the first does.
pub(super) fn prune(steps: &mut [Step]) {
    for at in (0..steps.len()).rev() {
        let (before, step) = steps.split_at_mut(at);
        let Some(step) = step.first() else { continue };
        let rows = step.row_outputs().len();
        let mut reads = step.planned.reads(&step.wanted[..rows]);
        // A kind that says nothing of an input reads nothing of it but that rows come.
        reads.resize_with(step.inputs.len(), Columns::new);
        for (input, (edge, mut columns)) in step.inputs.iter().zip(reads).enumerate() {
            if let Some(key) = step.exchange.as_ref().and_then(|keys| keys.get(input)) {
                columns.extend(key.iter().cloned());
            }
            let producer = &mut before[edge.from.0 as usize];
            let stream = &producer.outputs[edge.port].stream;
            columns.retain(|column| exists(column, stream));
            producer.wanted[edge.port].extend(columns);
        }
    }
}

fn exists(column: &str, stream: &StreamType) -> bool {
    column.starts_with('@') || stream.schema.field_with_name(column).is_ok()
}
