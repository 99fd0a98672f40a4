//! Output buffers that pass from connection to connection, so that a quiet one owns none and a busy one does not
//! ask the allocator for each burst.

use std::cell::RefCell;

use bytes::BytesMut;

/// What a buffer has room for: two TLS records.
pub(crate) const SPARE_BYTES: usize = 32 << 10;
/// Buffers that a thread keeps for the next connection that has something to send.
const SPARE_MAX: usize = 4;
/// A buffer that one large message has grown beyond this is not kept.
const KEPT_BYTES_MAX: usize = 4 * SPARE_BYTES;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for [`SPARE_BYTES`].
pub(crate) fn take_buffer() -> BytesMut {
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
    let mut buffer = spare.unwrap_or_default();
    buffer.reserve(SPARE_BYTES);
    buffer
}

/// Gives an empty buffer back.
pub(crate) fn give_buffer(mut buffer: BytesMut) {
    buffer.clear();
    // Its beginning counts again: what was sent stood there.
    if !buffer.try_reclaim(SPARE_BYTES) || buffer.capacity() > KEPT_BYTES_MAX {
        return;
    }
    // A thread on its way out has no spare ones any more.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;

    use super::*;

    #[test]
    fn a_buffer_that_was_sent_from_is_the_next_one_taken_and_empty() {
        let mut buffer = take_buffer();
        buffer.extend_from_slice(b"sent");
        let address = buffer.as_ptr();
        buffer.advance(4);
        give_buffer(buffer);
        let next = take_buffer();
        assert_eq!((next.as_ptr(), next.len()), (address, 0));
        assert!(next.capacity() >= SPARE_BYTES);
    }

    #[test]
    fn a_buffer_that_has_grown_is_not_kept() {
        let mut buffer = take_buffer();
        buffer.reserve(2 * KEPT_BYTES_MAX);
        buffer.clear();
        give_buffer(buffer);
        assert!(take_buffer().capacity() <= KEPT_BYTES_MAX);
    }
}
