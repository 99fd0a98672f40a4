//! From fields to a header block.

use bytes::BufMut;

use super::{
    HeaderField, KnownFields, indexed_table::IndexedTable, indexing::Indexing, integer, static_table::Match,
    string,
};

/// The largest dynamic table an encoder keeps, whatever the peer offers: it costs this much memory (and
/// an index of about half of it) for each connection.
pub const TABLE_BYTES_MAX: usize = 64 * 1024;

/// Writes header blocks for one direction of one connection.
///
/// Blocks must reach the peer's decoder in the order they were written, each whole.
#[derive(Debug)]
pub struct Encoder {
    known: KnownFields,
    dynamic: IndexedTable,
    size_update: Option<SizeUpdate>,
}

/// What the next block must announce: the smallest size since the last block, and the last one.
#[derive(Clone, Copy, Debug)]
struct SizeUpdate {
    min: usize,
    last: usize,
}

impl Encoder {
    /// An encoder whose dynamic table begins with `table_bytes`, which the peer's decoder must have
    /// allowed beforehand. More than [`TABLE_BYTES_MAX`] is announced to the peer as that.
    pub fn new(known: impl Into<KnownFields>, table_bytes: usize) -> Self {
        let mut encoder =
            Self { known: known.into(), dynamic: IndexedTable::new(table_bytes), size_update: None };
        if table_bytes > TABLE_BYTES_MAX {
            encoder.set_table_size(TABLE_BYTES_MAX);
        }
        encoder
    }

    /// Changes the dynamic table's size, at most to [`TABLE_BYTES_MAX`], from the next block on, which
    /// announces it. The peer must have allowed the size.
    pub fn set_table_size(&mut self, table_bytes: usize) {
        let last = table_bytes.min(TABLE_BYTES_MAX);
        let min = self.size_update.map_or(last, |before| before.min.min(last));
        let unchanged = min == last && last == self.dynamic.table.capacity();
        self.size_update = (!unchanged).then_some(SizeUpdate { min, last });
    }

    /// Bytes that the dynamic table holds, as RFC 7541 section 4.1 counts them.
    pub fn table_size(&self) -> usize {
        self.dynamic.table.size()
    }

    /// Appends one header block with `fields`, in order.
    pub fn encode<'a>(&mut self, fields: impl IntoIterator<Item = &'a HeaderField>, out: &mut impl BufMut) {
        self.put_size_update(out);
        for field in fields {
            self.put_field(field, out);
        }
    }

    /// "In the case that this size is changed more than once [...], the smallest maximum table size that
    /// occurs in that interval MUST be signaled" (section 4.2).
    fn put_size_update(&mut self, out: &mut impl BufMut) {
        let Some(SizeUpdate { min, last }) = self.size_update.take() else { return };
        if min < last {
            self.dynamic.set_capacity(min);
            integer::put(out, 0b0010_0000, 5, min);
        }
        self.dynamic.set_capacity(last);
        integer::put(out, 0b0010_0000, 5, last);
    }

    fn put_field(&mut self, field: &HeaderField, out: &mut impl BufMut) {
        let indexing = Indexing::of(field, self.dynamic.table.capacity());
        let found = self.find(field, indexing);
        if let Some(Match::Field(index)) = found {
            return integer::put(out, 0b1000_0000, 7, index);
        }
        let (pattern, prefix_bits) = indexing.representation();
        match found {
            Some(Match::Field(index) | Match::Name(index)) => integer::put(out, pattern, prefix_bits, index),
            None => {
                out.put_u8(pattern);
                string::put(&field.name, 0, 7, out);
            }
        }
        string::put(&field.value, 0, 7, out);
        if indexing == Indexing::Incremental {
            self.dynamic.insert(field.own_copy());
        }
    }

    /// The best match of both tables; for a secret, of its name alone.
    fn find(&self, field: &HeaderField, indexing: Indexing) -> Option<Match> {
        let in_static = self.known.find(&field.name, &field.value);
        if indexing == Indexing::Never {
            return match in_static? {
                Match::Field(index) | Match::Name(index) => Some(Match::Name(index)),
            };
        }
        if let Some(Match::Field(_)) = in_static {
            return in_static;
        }
        let base = self.known.len() + 1;
        match self.dynamic.find(field) {
            Some(Match::Field(position)) => Some(Match::Field(base + position)),
            Some(Match::Name(position)) => in_static.or(Some(Match::Name(base + position))),
            None => in_static,
        }
    }
}
