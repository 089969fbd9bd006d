//! Properties of what clients send, for any input: run by tests with made-up bytes, and by the
//! programs in `fuzz/` with bytes that a fuzzer chooses.
//!
//! The bytes are choices: they decide what is made up, so that most inputs are objects that mean
//! something.

mod encode;
mod objects;
mod patches;
mod schemas;
mod selectors;

use rand::{RngExt, TryRng};
use serde_json::Value;
use std::convert::Infallible;

pub use schemas::made_up as schema_and_object;

/// Choices out of bytes; after the last one, zeros.
#[derive(Debug)]
struct Choices<'a> {
    left: &'a [u8],
}

impl<'a> Choices<'a> {
    fn new(left: &'a [u8]) -> Self {
        Choices { left }
    }

    /// One of some.
    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.random_range(0..all.len())].clone()
    }

    /// Yes with this share of the choices.
    fn yes(&mut self, share: f64) -> bool {
        self.random_bool(share)
    }
}

impl TryRng for Choices<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        let count = into.len().min(self.left.len());
        let (bytes, left) = self.left.split_at(count);
        into.fill(0);
        into[..count].copy_from_slice(bytes);
        self.left = left;
        Ok(())
    }
}

/// A body in protobuf: what is encoded is decoded, and anything else is an error.
pub fn protobuf(bytes: &[u8]) {
    encode::check(bytes);
}

/// Label selectors: text and object mean the same, for all labels.
pub fn selector(bytes: &[u8]) {
    selectors::check(bytes);
}

/// Patches of objects: what each form of patch promises.
pub fn patch(bytes: &[u8]) {
    patches::check(bytes);
}

/// Schemas of custom resources and objects: what pruning, defaulting and validation promise.
/// Answers whether the object is valid, where the schema is one.
pub fn schema(schema: &Value, object: &Value) -> Option<bool> {
    schemas::check(schema, object)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn protobuf(bytes in vec(any::<u8>(), 0..2000)) {
            super::protobuf(&bytes);
        }

        #[test]
        fn selector(bytes in vec(any::<u8>(), 0..400)) {
            super::selector(&bytes);
        }

        #[test]
        fn patch(bytes in vec(any::<u8>(), 0..2000)) {
            super::patch(&bytes);
        }

        #[test]
        fn schema(bytes in vec(any::<u8>(), 0..2000)) {
            let (schema, object) = super::schema_and_object(&bytes);
            super::schema(&schema, &object);
        }
    }
}
