//! Templates: the plan is that of the steps written out, and names mean what they should.

use super::{check, planned};
use crate::Plan;

const SOURCE: &str = "sources:
  a: { type: rows, schema: { id: int64, card: string | null, amount: float64, at: timestamp }, event_time: { column: at } }
";

const TEMPLATES: &str = "parameters: { high: { type: int64, default: 5 }, low: { type: string, default: unseen } }
templates:
  twice:
    parameters: { low: { type: int64, default: 1 }, key: { type: string, default: card } }
    inputs: [rows, others]
    operators:
      merged: { type: union, inputs: [rows, inner.rejected, { from: others, where: id > param.low + param.high }] }
      inner: { type: template, template: once, input: rows }
      kept: { type: keyed, input: inner, key: \"${param:key}\" }
      side: { type: filter, input: kept }
    output: merged
  once:
    inputs: [merged]
    operators:
      one: { type: chain, input: merged, steps: [{ type: filter }, { type: filter, name: mid }, { type: filter }] }
      both: { type: pair, left: one, right: merged }
";

/// What a plan does, without dots in names.
fn shape(plan: &Plan) -> Vec<String> {
    let plain = |name: &str| name.replace('.', "_");
    let step = |step: &crate::Step| {
        let inputs = step.inputs.iter().map(|edge| plain(&plan.step(edge.from).output_name(edge.port)));
        let outputs = step.outputs.iter().map(|output| format!("{}: {}", output.port, output.stream.schema));
        let (inputs, outputs) = (inputs.collect::<Vec<_>>().join(", "), outputs.collect::<Vec<_>>().join("; "));
        format!("{} {} [{inputs}] {outputs} {:?} {:?}", plain(&step.name), step.kind, step.exchange, step.wanted)
    };
    plan.steps.iter().map(step).collect()
}

#[test]
fn a_template_is_its_steps_written_out() {
    let sinks = |dot: &str, output: &str| {
        format!(
            "sinks:
  o: {{ type: out, input: y{output} }}
  p: {{ type: out, input: y{dot}side }}
  q: {{ type: out, input: y{dot}inner{dot}one{dot}1.errors }}
  r: {{ type: out, input: x{dot}inner{dot}both.rejected }}
"
        )
    };
    let templates = planned(&format!(
        "{SOURCE}{TEMPLATES}operators:
  b: {{ type: filter, input: a }}
  x: {{ type: template, template: twice, inputs: {{ rows: a, others: b.rejected }} }}
  y: {{ type: template, template: twice, inputs: {{ rows: x.kept, others: x }}, with: {{ low: 7, key: id }} }}
{}",
        sinks(".", "")
    ));
    let instance = |name: &str, rows: &str, others: &str, low: u32, key: &str| {
        format!(
            "  {name}_merged: {{ type: union, inputs: [{rows}, {name}_inner_both.rejected, {{ from: {others}, where: id > {low} + 5 }}] }}
  {name}_inner_one_1: {{ type: filter, input: {rows} }}
  {name}_inner_mid: {{ type: filter, input: {name}_inner_one_1 }}
  {name}_inner_one: {{ type: filter, input: {name}_inner_mid }}
  {name}_inner_both: {{ type: pair, left: {name}_inner_one, right: {rows} }}
  {name}_kept: {{ type: keyed, input: {name}_inner_both, key: {key} }}
  {name}_side: {{ type: filter, input: {name}_kept }}
"
        )
    };
    let written = planned(&format!(
        "{SOURCE}operators:\n  b: {{ type: filter, input: a }}\n{}{}{}",
        instance("x", "a", "b.rejected", 1, "card"),
        instance("y", "x_kept", "x_merged", 7, "id"),
        sinks("_", "_merged")
    ));
    let (templates, written) = (shape(&templates), shape(&written));
    assert_eq!(templates, written, "{templates:#?}\n{written:#?}");
}

#[test]
fn the_errors_of_an_instance_are_those_of_its_steps() {
    let plan = planned(&format!(
        "{SOURCE}{TEMPLATES}operators:
  x: {{ type: template, template: twice, inputs: {{ rows: a, others: a }} }}
sinks:
  o: {{ type: out, input: x }}
  p: {{ type: out, input: x.errors }}
  q: {{ type: out, input: x.inner.errors }}
"
    ));
    let reads = |name: &str| {
        let step = plan.find(name).expect("a step");
        step.inputs.iter().map(|edge| plan.step(edge.from).output_name(edge.port)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(reads("p"), "x.errors");
    let inner = "x.inner.one.1.errors x.inner.mid.errors x.inner.one.errors x.inner.both.errors";
    // `x.kept` can't fail.
    assert_eq!(reads("x.errors"), format!("x.merged.errors {inner} x.side.errors"));
    assert_eq!(reads("x.inner.errors"), inner);
}

#[test]
fn values_bear_on_the_digest() {
    let digest = |with: &str| {
        planned(&format!(
            "{SOURCE}{TEMPLATES}operators:
  x: {{ type: template, template: twice, inputs: {{ rows: a, others: a }}{with} }}
sinks: {{ o: {{ type: out, input: x }} }}
"
        ))
        .digest
    };
    assert_eq!(digest(""), digest(", with: { low: 1 }"));
    assert_ne!(digest(""), digest(", with: { low: 2 }"));
}

/// Templates of one step each, and operators: the lines are counted from `sources:`.
#[track_caller]
fn check_template(template: &str, operators: &str, problems: &[&str]) {
    check(
        &format!(
            "{SOURCE}  w: {{ type: rows, schema: {{ id: int64 }} }}\nsinks: {{ o: {{ type: out, input: x }}, z: {{ type: out, input: w }} }}\ntemplates: {{ t: {template} }}\noperators:\n{operators}"
        ),
        problems,
    );
}

#[test]
fn names_in_a_template_are_its_own() {
    check_template(
        "{ inputs: [rows], operators: { s: { type: filter, input: w }, u: { type: filter, input: row } } }",
        "  x: { type: template, template: t, input: a }\n  y: { type: template, template: t, input: a }\n",
        &[
            "warning E0157 5[rows] no step of the template `t` reads its input `rows` | let a step read it, or take it out",
            "E0301 5[w] the template `t` has no step and no input named `w` | its steps read each other and its inputs only: add `w` to its `inputs`",
            "E0301 5[row] the template `t` has no step and no input named `row` | did you mean `rows`?",
        ],
    );
    // What is wrong with what an instance reads is told there.
    check_template(
        "{ inputs: [rows], operators: { s: { type: filter, input: rows }, u: { type: filter, input: rows } } }",
        "  x: { type: template, template: t, input: aa }\n  y: { type: template, template: t, input: a.oops }\n  v: { type: template, template: t, input: o }\n",
        &[
            "E0301 7[aa] there is no source or operator named `aa` | did you mean `a`?",
            "E0302 8[a.oops] `a` has no output `oops` | its outputs are `a` and `a.errors`",
            "E0307 9[o] `o` is a sink: no rows come out of it | read what it reads: `x` | rows that it can't deliver are read as `o.errors`",
        ],
    );
}

#[test]
fn what_is_read_of_an_instance() {
    check_template(
        "{ inputs: [rows], operators: { s: { type: filter, input: rows }, u: { type: filter, input: s } }, output: u.rejected }",
        "  x: { type: template, template: t, input: a }\n  y: { type: filter, input: x.ss }\n  v: { type: union, inputs: [x.s.rejected, x.u] }\n",
        &[
            "warning E0304 8[y] nothing reads `y` | let a sink read it (`input: y`), or take it out",
            "E0302 8[x.ss] `x` has no step and no output `ss` | did you mean `x.s`?",
            "warning E0304 9[v] nothing reads `v` | let a sink read it (`input: v`), or take it out",
        ],
    );
    // A circle through an instance, and an instance that reads itself.
    check_template(
        "{ inputs: [rows], operators: { s: { type: filter, input: rows } } }",
        "  x: { type: template, template: t, input: y }\n  y: { type: filter, input: x.s }\n  v: { type: template, template: t, input: v }\n",
        &[
            "E0303 7[y] steps read each other in a circle: x.s -> y -> x.s | rows flow from sources to sinks: one of these must read something else",
            "E0303 9[v] `v.s` reads itself | let it read the step whose rows it should work on",
        ],
    );
}

/// What some instances leave unread others may read; an instance that nobody reads is told by its name.
#[test]
fn what_nothing_reads() {
    check_template(
        "{ inputs: [rows], operators: { s: { type: filter, input: rows }, t: { type: filter, input: rows }, u: { type: filter, input: rows } } }",
        "  x: { type: template, template: t, input: a }\n  y: { type: template, template: t, input: x.t }\n",
        &[
            "warning E0304 5[s] nothing reads `x.s` | let a sink read it (`input: x.s`), or take it out",
            "warning E0304 8[y] nothing reads `y` | let a sink read it (`input: y`), or take it out",
        ],
    );
}

#[test]
fn state_needs_a_name_where_the_instance_stands() {
    check_template(
        "{ inputs: [rows], operators: { s: { type: keyed, key: id, input: rows } } }",
        "  x: { type: chain, input: a, steps: [{ type: template, template: t }, { type: template, template: t, name: named }, { type: filter }] }\n",
        &["E0311 7[type] this instance of the template `t` keeps state, so it needs a name | add `name:` to this step"],
    );
}
