//! Properties of what clients send, for any input: protobuf bodies, selectors, patches, schemas of
//! custom resources.
//!
//! The bytes are choices: they decide what is made up, so that most inputs are objects that mean
//! something. Ordinary tests make up the bytes by chance; fuzzers (the folder `fuzz`) look for
//! those that reach new code.

mod applies;
mod encode;
mod objects;
mod patches;
mod schemas;
mod selectors;

pub use applies::check as apply;
pub use encode::check as protobuf;
pub use patches::check as patch;
pub use selectors::check as selector;

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

/// Pruning, defaulting and validation do what they promise.
pub fn schema(bytes: &[u8]) {
    let (schema, object) = schemas::made_up(bytes);
    schemas::check(&schema, &object);
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// What is encoded is decoded, and anything else is an error.
        #[test]
        fn protobuf(bytes in vec(any::<u8>(), 0..2000)) {
            super::protobuf(&bytes);
        }

        /// Text and object mean the same, for all labels.
        #[test]
        fn selector(bytes in vec(any::<u8>(), 0..400)) {
            super::selector(&bytes);
        }

        /// Each form of patch does what it promises.
        #[test]
        fn patch(bytes in vec(any::<u8>(), 0..2000)) {
            super::patch(&bytes);
        }

        /// Who has which field after applies and updates is what a naive model says.
        #[test]
        fn apply(bytes in vec(any::<u8>(), 0..1000)) {
            super::apply(&bytes);
        }

        #[test]
        fn schema(bytes in vec(any::<u8>(), 0..2000)) {
            super::schema(&bytes);
        }
    }
}
