//! Properties of what clients send, for any input: protobuf bodies, selectors, patches, schemas of
//! custom resources.
//!
//! The bytes are choices: they decide what is made up, so that most inputs are objects that mean
//! something.

mod encode;
mod objects;
mod patches;
mod schemas;
mod selectors;

use proptest::{collection::vec, prelude::*};
use rand::{RngExt, TryRng};
use std::convert::Infallible;

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// What is encoded is decoded, and anything else is an error.
    #[test]
    fn protobuf(bytes in vec(any::<u8>(), 0..2000)) {
        encode::check(&bytes);
    }

    /// Text and object mean the same, for all labels.
    #[test]
    fn selector(bytes in vec(any::<u8>(), 0..400)) {
        selectors::check(&bytes);
    }

    /// Each form of patch does what it promises.
    #[test]
    fn patch(bytes in vec(any::<u8>(), 0..2000)) {
        patches::check(&bytes);
    }

    /// Pruning, defaulting and validation do what they promise.
    #[test]
    fn schema(bytes in vec(any::<u8>(), 0..2000)) {
        let (schema, object) = schemas::made_up(&bytes);
        schemas::check(&schema, &object);
    }
}
