//! Reading and writing of states as bytes: numbers are 64 bits, little-endian, and bytes come after their length.

/// Appends a number.
pub(crate) fn put(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends bytes.
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Appends bytes that may not be there.
pub(crate) fn put_optional(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(bytes.is_some().into());
    put_bytes(bytes.unwrap_or_default(), out);
}

/// Appends the time under which a running step finds a slot.
pub(crate) fn put_wake(wake_ns: Option<i64>, out: &mut Vec<u8>) {
    out.push(wake_ns.is_some().into());
    put(wake_ns.unwrap_or_default() as u64, out);
}

/// Reads what [`put_wake`] wrote, and gives the rest.
pub(crate) fn wake_of(bytes: &[u8]) -> Result<(Option<i64>, &[u8]), String> {
    let mut bytes = Bytes { rest: bytes, of: "suspended" };
    let some = bytes.byte()? == 1;
    let wake_ns = bytes.number()? as i64;
    Ok((some.then_some(wake_ns), bytes.rest))
}

/// What is left to read of a state.
pub(crate) struct Bytes<'a> {
    rest: &'a [u8],
    /// Whose state it is, for errors.
    of: &'static str,
}

impl<'a> Bytes<'a> {
    /// A state that starts with its format, which must be this one.
    pub(crate) fn of_format(bytes: &'a [u8], format: u8, of: &'static str) -> Result<Self, String> {
        let mut bytes = Bytes { rest: bytes, of };
        match bytes.byte()? {
            known if known == format => Ok(bytes),
            other => Err(format!("{of} state of format {other}; this engine reads format {format}")),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| format!("{} state is cut short", self.of))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// The next number.
    pub(crate) fn number(&mut self) -> Result<u64, String> {
        let mut eight = [0; 8];
        eight.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(eight))
    }

    /// The next bytes.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], String> {
        let len = self.number()? as usize;
        self.take(len)
    }

    /// The next bytes that may not be there.
    pub(crate) fn optional(&mut self) -> Result<Option<Box<[u8]>>, String> {
        let some = self.byte()? == 1;
        let bytes = self.bytes()?.into();
        Ok(some.then_some(bytes))
    }

    /// All must be read.
    pub(crate) fn end(self) -> Result<(), String> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(format!("{} state has {more} bytes too many", self.of)),
        }
    }
}
