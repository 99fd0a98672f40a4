//! Buffers of TLS connections. A connection takes one when it has bytes to open or to seal, and gives it back
//! when they are gone, so that an idle connection has none.

use std::{cell::RefCell, ops::Range};

use towline_protocols::tls::record::{HEADER_BYTES, PROTECTED_BYTES_MAX};

/// Two of the longest records: one system call moves them, and a slow reader is owed no more.
pub(super) const BUFFER_BYTES: usize = 2 * (HEADER_BYTES + PROTECTED_BYTES_MAX);
/// Buffers that a thread keeps for the next connection: as many as stand open at one time while a task
/// reads, writes and hands over.
const SPARE_MAX: usize = 8;

thread_local! {
    // Boxed twice, so that a connection that has no buffer pays for one pointer.
    #[allow(clippy::vec_box, reason = "a spare buffer goes out as the box that it is")]
    static SPARE: RefCell<Vec<Box<Buffer>>> = const { RefCell::new(Vec::new()) };
}

/// ```text
/// | consumed | filled        | free      |
/// 0       start             end       bytes.len()
/// ```
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty one of [`BUFFER_BYTES`].
    pub(super) fn take() -> Box<Self> {
        SPARE
            .try_with(|spare| spare.borrow_mut().pop())
            .ok()
            .flatten()
            .unwrap_or_else(|| Box::new(Self { bytes: vec![0; BUFFER_BYTES], start: 0, end: 0 }))
    }

    /// Back to the thread's spare ones, if it is one of them.
    pub(super) fn give(mut buffer: Box<Self>) {
        if buffer.bytes.len() != BUFFER_BYTES {
            return;
        }
        (buffer.start, buffer.end) = (0, 0);
        // A thread on its way out has no spare ones any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(buffer);
            }
        });
    }

    /// One of exactly these bytes; none without any.
    pub(super) fn holding(bytes: Vec<u8>) -> Option<Box<Self>> {
        (!bytes.is_empty()).then(|| Box::new(Self { start: 0, end: bytes.len(), bytes }))
    }

    /// What is filled, in a buffer that is no larger: for bytes that may have to wait long.
    pub(super) fn shrink(buffer: Box<Self>) -> Option<Box<Self>> {
        if buffer.bytes.len() != BUFFER_BYTES {
            return Some(buffer);
        }
        let kept = buffer.filled().to_vec();
        Self::give(buffer);
        Self::holding(kept)
    }

    /// As [`Buffer::shrink`], if that frees more than it copies.
    pub(super) fn shrink_if_small(buffer: Box<Self>) -> Option<Box<Self>> {
        if buffer.filled().len() < BUFFER_BYTES / 2 { Self::shrink(buffer) } else { Some(buffer) }
    }

    /// One of [`BUFFER_BYTES`] with what is filled in front.
    pub(super) fn grow(buffer: Box<Self>) -> Box<Self> {
        if buffer.bytes.len() == BUFFER_BYTES {
            return buffer;
        }
        let mut large = Self::take();
        large.push(buffer.filled());
        large
    }

    #[cfg(test)]
    pub(super) fn bytes_held(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The free part. What is filled moves to the front first if that makes room for a whole record.
    pub(super) fn free(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.bytes.len() - self.end < BUFFER_BYTES / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes of [`Buffer::free`] are filled now.
    pub(super) fn fill(&mut self, count: usize) {
        self.end = self.bytes.len().min(self.end + count);
    }

    /// So many filled bytes are done with.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    /// Takes as much of `bytes` as fits, and says how much that was.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let free = self.free();
        let count = free.len().min(bytes.len());
        free[..count].copy_from_slice(&bytes[..count]);
        self.fill(count);
        count
    }

    /// A part of what is filled, counted from its start.
    pub(super) fn part(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.filled_mut()[range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_is_given_back_is_the_next_one_taken_and_empty() {
        let mut buffer = Buffer::take();
        buffer.push(b"secret");
        let address = std::ptr::from_ref(&*buffer);
        Buffer::give(buffer);
        let next = Buffer::take();
        assert_eq!(std::ptr::from_ref(&*next), address);
        assert!(next.is_empty());
    }

    #[test]
    fn what_waits_is_kept_in_its_own_size_and_goes_on() {
        let mut buffer = Buffer::take();
        buffer.push(b"gone, kept");
        buffer.consume(6);
        let small = Buffer::shrink(buffer).unwrap();
        assert_eq!((small.filled(), small.bytes.len()), (&b"kept"[..], 4));
        let mut large = Buffer::grow(small);
        large.push(b" and more");
        assert_eq!(large.filled(), b"kept and more");
        large.consume(13);
        assert!(Buffer::shrink(large).is_none());
    }

    #[test]
    fn a_whole_record_fits_behind_what_is_left() {
        let mut buffer = Buffer::take();
        buffer.push(&[1; BUFFER_BYTES]);
        buffer.consume(BUFFER_BYTES - 10);
        assert_eq!(buffer.free().len(), BUFFER_BYTES - 10);
        assert_eq!(buffer.filled(), [1; 10]);
    }
}
