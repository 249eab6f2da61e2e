//! Changelogs as they leave the real binary.

use crate::runs::start;

/// Each column under its own name, with what becomes of the row before them.
#[test]
fn sinks_say_of_each_row_whether_it_comes_or_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pipeline = "
version: 1
pipeline: totals
sources:
  rows: { type: file, path: rows.jsonl, format: json, schema: { shop: string, amount: int64 } }
operators:
  totals: { type: aggregate, input: rows, key: shop, columns: { n: count(*), total: sum(amount) } }
sinks:
  json: { type: file, input: totals, path: out.jsonl, format: json }
  csv: { type: file, input: totals, path: out.csv, format: csv, columns: [total, shop] }
";
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    std::fs::write(folder.join("rows.jsonl"), "{\"shop\":\"a\",\"amount\":5}\n{\"shop\":\"a\",\"amount\":7}\n")
        .expect("written");
    assert!(start(folder, &["--workers", "1"]).wait().expect("it ends").success());
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("it is written");
    assert_eq!(read("out.jsonl"), "{\"@change\":\"insert\",\"shop\":\"a\",\"n\":2,\"total\":12}\n");
    assert_eq!(read("out.csv"), "@change,total,shop\ninsert,12,a\n");
}
