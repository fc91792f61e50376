//! Reading and writing of compact bytes: big endian, lengths first, nothing left over.

/// The bytes end early, go on too long, or say what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are malformed")]
pub(crate) struct Malformed;

/// Takes from the front of a slice.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.all.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Bytes with a 16-bit length before them.
    pub(crate) fn bytes(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let count = usize::from(self.u16()?);
        if count > max {
            return Err(Malformed);
        }
        self.take(count)
    }

    /// Text with an 8-bit length before it.
    pub(crate) fn text(&mut self, max: usize) -> Result<&'a str, Malformed> {
        let count = usize::from(self.u8()?);
        if count > max {
            return Err(Malformed);
        }
        std::str::from_utf8(self.take(count)?).map_err(|_| Malformed)
    }

    /// What has been taken so far.
    pub(crate) fn taken(&self) -> &'a [u8] {
        &self.all[..self.at]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.all.len()
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Bytes with a 16-bit length before them; longer than 65,535 bytes is cut, which no caller's bound allows.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let count = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&bytes[..usize::from(count)]);
}

/// Text with an 8-bit length before it; longer than 255 bytes is cut, which no caller's bound allows.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut count = text.len().min(255);
    while !text.is_char_boundary(count) {
        count -= 1;
    }
    out.push(count as u8);
    out.extend_from_slice(&text.as_bytes()[..count]);
}
