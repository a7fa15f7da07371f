//! What a template may spend.

use std::cell::Cell;

use crate::error::{Error, ErrorKind, Result};

/// How much a template may do.
///
/// A step, an element of a list that is made or looked at, and sixteen bytes of text that are made or
/// looked at take one unit of fuel each. An element takes some tens of bytes of memory, so fuel bounds
/// memory too: [`Limits::DEFAULT`] comes to less than 256 MiB, and to a tenth of a second on one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Steps.
    pub fuel: u64,
    /// Bytes of what is written.
    pub output_bytes: usize,
}

impl Limits {
    /// So many steps, and so many bytes of what is written.
    #[must_use]
    pub const fn new(fuel: u64, output_bytes: usize) -> Self {
        Self { fuel, output_bytes }
    }

    /// Far more than any published template takes; the largest take some thousand steps a turn.
    pub const DEFAULT: Self = Self { fuel: 2_000_000, output_bytes: 16 << 20 };
    /// How long a template may be. The longest published ones have some tens of kilobytes.
    pub const SOURCE_BYTES: usize = 1 << 20;

    /// The same for what is rendered with `bytes` of text from somebody who is trusted: who gives a long
    /// text has it handled.
    #[must_use]
    pub fn with_input(self, bytes: usize) -> Self {
        Self {
            fuel: self.fuel.saturating_add(4 * bytes as u64),
            output_bytes: self.output_bytes.saturating_add(bytes.saturating_mul(4)),
        }
    }
}

/// How deep statements, expressions, macros and loops may be nested while they run.
pub(crate) const MAX_DEPTH: usize = 400;
/// How deep values may be nested.
pub(crate) const MAX_VALUE_DEPTH: usize = 100;

const BYTES_PER_UNIT: usize = 16;

/// How many namespaces may be printed that hold each other: they alone can be nested without an end.
const MAX_SHOWN: usize = 50;

pub(crate) struct Budget {
    fuel: Cell<u64>,
    shown: Cell<usize>,
    output_bytes: usize,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { fuel: Cell::new(limits.fuel), shown: Cell::new(0), output_bytes: limits.output_bytes }
    }

    /// Pays for so many steps or elements.
    pub(crate) fn spend(&self, units: usize) -> Result<()> {
        match self.fuel.get().checked_sub(units as u64) {
            Some(left) => {
                self.fuel.set(left);
                Ok(())
            }
            None => {
                self.fuel.set(0);
                Err(Error::new(ErrorKind::Limit, "it takes more steps than a template may"))
            }
        }
    }

    /// Pays for so many bytes of text.
    pub(crate) fn bytes(&self, bytes: usize) -> Result<()> {
        self.spend(bytes / BYTES_PER_UNIT + 1)
    }

    /// Prints a namespace, whose attributes may be namespaces.
    pub(crate) fn showing<T>(&self, show: impl FnOnce() -> Result<T>) -> Result<T> {
        let shown = self.shown.get();
        if shown >= MAX_SHOWN {
            return Err(Error::new(ErrorKind::Limit, "it prints namespaces that hold each other too deep"));
        }
        self.shown.set(shown + 1);
        let result = show();
        self.shown.set(shown);
        result
    }

    /// Writes text.
    pub(crate) fn write(&self, output: &mut String, text: &str) -> Result<()> {
        self.bytes(text.len())?;
        if output.len() + text.len() > self.output_bytes {
            let reason = format!("it writes more than {} bytes", self.output_bytes);
            return Err(Error::new(ErrorKind::Limit, reason));
        }
        output.push_str(text);
        Ok(())
    }
}
