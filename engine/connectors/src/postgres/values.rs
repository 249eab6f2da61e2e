//! The rows of a column as an array of PostgreSQL, in its binary form.

use crate::database::Column;
use bytes::{BufMut, BytesMut};
use std::error::Error;
use tokio_postgres::types::{IsNull, Kind, ToSql, Type, to_sql_checked};

/// Days from 1970 to 2000, from which PostgreSQL counts.
const DAYS: i32 = 10_957;
/// The same in microseconds.
const MICROS: i64 = DAYS as i64 * 86_400_000_000;

/// Some rows of a column.
#[derive(Debug)]
pub(super) struct Many<'a> {
    pub(super) column: &'a Column,
    pub(super) rows: &'a [u32],
}

impl ToSql for Many<'_> {
    fn to_sql(&self, to: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Kind::Array(item) = to.kind() else { return Err("the parameter is no array".into()) };
        let array = self.column.array();
        out.put_i32(1);
        out.put_i32(i32::from(array.null_count() > 0));
        out.put_u32(item.oid());
        out.put_i32(i32::try_from(self.rows.len())?);
        out.put_i32(1);
        let mut each = |put: &dyn Fn(usize, &mut BytesMut)| {
            for row in self.rows {
                let row = *row as usize;
                if array.is_null(row) {
                    out.put_i32(-1);
                } else {
                    put(row, out);
                }
            }
        };
        match self.column {
            Column::Bool(values) => each(&|row, out| {
                out.put_i32(1);
                out.put_u8(u8::from(values.value(row)));
            }),
            Column::Int(values) => each(&|row, out| {
                out.put_i32(8);
                out.put_i64(values.value(row));
            }),
            Column::Float(values) => each(&|row, out| {
                out.put_i32(8);
                out.put_f64(values.value(row));
            }),
            Column::Text(values) => each(&|row, out| put_bytes(values.value(row).as_bytes(), out)),
            Column::Binary(values) => each(&|row, out| put_bytes(values.value(row), out)),
            Column::Date(values) => each(&|row, out| {
                out.put_i32(4);
                // The greatest and least are infinite, so what is far out is left far out, where the server refuses it.
                out.put_i32(values.value(row).saturating_sub(DAYS).clamp(i32::MIN + 1, i32::MAX - 1));
            }),
            Column::Micros(values) => each(&|row, out| {
                out.put_i32(8);
                out.put_i64(values.value(row).saturating_sub(MICROS).clamp(i64::MIN + 1, i64::MAX - 1));
            }),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The length is one that Arrow holds, so it fits.
fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    out.put_i32(bytes.len() as i32);
    out.extend_from_slice(bytes);
}
