//! Bytes read as a script: what happens to a machine, step by step.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// When every machine under test begins. Only differences matter.
pub(crate) static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What is left of a script. A chunk's length is two bytes, big endian; a chunk cut short is what is there.
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl<'a> Script<'a> {
    /// Steps of one script: what follows is left out, so that a long input costs no more than a short one.
    pub(crate) const STEPS: usize = 64;

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn word(&mut self) -> Option<u16> {
        let (first, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*first))
    }

    pub(crate) fn chunk(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.word()?).min(self.0.len());
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(head)
    }

    /// A time to wait: 0 to 65 s.
    pub(crate) fn wait(&mut self) -> Option<Duration> {
        self.word().map(|ms| Duration::from_millis(u64::from(ms)))
    }
}

/// Writes scripts, for seeds.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn word(self, word: u16) -> Self {
        self.bytes(&word.to_be_bytes())
    }

    pub(crate) fn chunk(self, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).expect("seeds are short");
        self.word(length).bytes(bytes)
    }
}
