//! Buffers for bulk data, used again and again.
//!
//! A large allocation is given back to the kernel when it is freed, and costs a page fault for every
//! 4 KiB when it is made again; at gigabits a second that was a large part of the proxy's time. So
//! each thread keeps a few buffers of one size, and takes the one that it used last, which is still
//! in the cache. Small reads get exact allocations instead.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use bytes::Bytes;

/// Size of the buffers that are kept.
pub(crate) const LARGE: usize = 64 * 1024;
/// Buffers that a thread keeps: more than are in flight on a busy worker are rare.
const KEPT: usize = 32;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that goes back to its thread when it is dropped, or when the last [`Bytes`] made from it
/// is.
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty buffer with room for `size` bytes, or for [`LARGE`] if that is less.
    pub(crate) fn take(size: usize) -> Self {
        if size < LARGE {
            return Self(Vec::with_capacity(size));
        }
        let kept = FREE.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| Vec::with_capacity(LARGE)))
    }

    /// The room that is left.
    pub(crate) fn room(&mut self) -> &mut [MaybeUninit<u8>] {
        self.0.spare_capacity_mut()
    }

    /// Says that the first `more` bytes of the room have been written.
    ///
    /// # Safety
    ///
    /// They must have been.
    pub(crate) unsafe fn filled(&mut self, more: usize) {
        debug_assert!(self.0.len() + more <= self.0.capacity());
        // SAFETY: the caller has initialised the bytes, and the capacity covers them.
        unsafe { self.0.set_len(self.0.len() + more) };
    }

    /// Copies bytes to the end. If they do not fit, the buffer grows and will not be kept.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Shares what has been written.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        if self.0.capacity() < LARGE {
            return Bytes::from(std::mem::take(&mut self.0));
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() != LARGE {
            return;
        }
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        // A thread that is ending has no list any more.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
            {
                free.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> usize {
        FREE.with_borrow(Vec::len)
    }

    fn filled(size: usize, value: u8) -> Buffer {
        let mut buffer = Buffer::take(size);
        buffer.room()[0].write(value);
        // SAFETY: written above.
        unsafe { buffer.filled(1) };
        buffer
    }

    #[test]
    fn a_large_buffer_comes_back_with_the_last_share_of_its_bytes() {
        assert_eq!(kept(), 0);
        let bytes = filled(LARGE, 7).into_bytes();
        let share = bytes.clone();
        drop(bytes);
        assert_eq!((kept(), &share[..]), (0, &[7][..]));
        drop(share);
        assert_eq!(kept(), 1);
        let again = Buffer::take(LARGE);
        assert_eq!((kept(), again.as_ref().len()), (0, 0));
    }

    #[test]
    fn small_ones_and_too_many_are_not_kept() {
        let before = kept();
        drop(filled(100, 1).into_bytes());
        assert_eq!(kept(), before);
        let many: Vec<_> = (0..2 * KEPT).map(|_| filled(LARGE, 1)).collect();
        drop(many);
        assert_eq!(kept(), KEPT);
    }
}
