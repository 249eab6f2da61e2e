//! The outcome as JUnit XML, which CI systems read: a suite a file, a case a test and setting.

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use std::io;
use std::time::Duration;

/// One line of the report.
pub(crate) struct Record {
    /// The pipeline file.
    pub(crate) file: String,
    /// The test, and its setting.
    pub(crate) name: String,
    pub(crate) took: Duration,
    /// Why it failed.
    pub(crate) failure: Option<String>,
}

/// The report as XML.
pub(crate) fn report(records: &[Record]) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let mut files: Vec<&str> = records.iter().map(|record| record.file.as_str()).collect();
    files.dedup();
    writer.create_element("testsuites").write_inner_content(|writer| {
        for file in files {
            let of_file: Vec<&Record> = records.iter().filter(|record| record.file == file).collect();
            let failures = of_file.iter().filter(|record| record.failure.is_some()).count().to_string();
            let count = of_file.len().to_string();
            let suite = writer.create_element("testsuite").with_attributes([
                ("name", file),
                ("tests", count.as_str()),
                ("failures", failures.as_str()),
            ]);
            suite.write_inner_content(|writer| {
                for record in &of_file {
                    let seconds = format!("{:.3}", record.took.as_secs_f64());
                    let case = writer.create_element("testcase").with_attributes([
                        ("classname", file),
                        ("name", record.name.as_str()),
                        ("time", seconds.as_str()),
                    ]);
                    match &record.failure {
                        None => case.write_empty()?,
                        Some(failure) => case.write_inner_content(|writer| {
                            let first = failure.lines().next().unwrap_or_default();
                            let element = writer.create_element("failure").with_attribute(("message", first));
                            element.write_text_content(BytesText::new(failure)).map(|_| ())
                        })?,
                    };
                }
                Ok(())
            })?;
        }
        Ok(())
    })?;
    let mut bytes = writer.into_inner();
    bytes.push(b'\n');
    Ok(bytes)
}
