//! Bytes that wait for their sink, in the pieces in which they came.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Pieces below this size are merged when they have to wait: a sender of single bytes must cost us
/// bytes, and not the bookkeeping of a piece for each.
const SMALL: usize = 1024;
/// Size of the buffer that small pieces are merged into.
const MERGED: usize = 16 * 1024;

/// A queue of byte strings.
#[derive(Default)]
pub struct Queue {
    pieces: VecDeque<Bytes>,
    /// Small pieces behind all others.
    tail: BytesMut,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tail.is_empty()
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if bytes.len() >= SMALL || self.is_empty() {
            self.seal();
            self.pieces.push_back(bytes);
            return;
        }
        if self.tail.len() + bytes.len() > MERGED {
            self.seal();
        }
        if self.tail.capacity() == 0 {
            self.tail.reserve(MERGED);
        }
        self.tail.extend_from_slice(&bytes);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces
                .push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// The first piece, off the queue.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.seal();
        }
        self.pieces.pop_front()
    }

    /// Puts back what is left of a piece.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.pieces.push_front(bytes);
        }
    }

    /// The first pieces, for a vectored write; returns how many.
    pub(super) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let pieces = self.pieces.iter().map(|p| &p[..]);
        let tail = Some(&self.tail[..]).filter(|t| !t.is_empty());
        let mut n = 0;
        for (slot, piece) in into.iter_mut().zip(pieces.chain(tail)) {
            *slot = IoSlice::new(piece);
            n += 1;
        }
        n
    }

    /// Forgets the first `n` bytes.
    pub(super) fn advance(&mut self, mut n: usize) {
        while n > 0 {
            let Some(mut first) = self.pop() else { return };
            let taken = n.min(first.len());
            first.advance(taken);
            n -= taken;
            self.put_back(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn single_bytes_are_merged() {
        let mut queue = Queue::default();
        for i in 0..100_000u32 {
            queue.push(Bytes::copy_from_slice(&[i as u8]));
        }
        assert!(queue.pieces.len() < 10, "{} pieces", queue.pieces.len());
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            pieces in proptest::collection::vec((any::<u8>(), 0usize..3000), 0..40),
            steps in proptest::collection::vec(1usize..5000, 1..200),
        ) {
            let mut queue = Queue::default();
            let (mut expected, mut got) = (Vec::new(), Vec::new());
            let mut steps = steps.into_iter().cycle();
            for (value, len) in pieces {
                queue.push(Bytes::from(vec![value; len]));
                expected.extend(std::iter::repeat_n(value, len));
                take(&mut queue, steps.next().unwrap(), &mut got);
            }
            while !queue.is_empty() {
                take(&mut queue, steps.next().unwrap(), &mut got);
            }
            prop_assert_eq!(got, expected);
        }
    }

    fn take(queue: &mut Queue, most: usize, got: &mut Vec<u8>) {
        let mut slices = [IoSlice::new(&[]); 4];
        let n = queue.slices(&mut slices);
        let all: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
        let taken = most.min(all.len());
        got.extend(&all[..taken]);
        queue.advance(taken);
    }
}
