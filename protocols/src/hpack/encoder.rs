//! From fields to a header block.

use bytes::BufMut;

use super::{
    FieldHash, HeaderField, KnownFields, indexed_table::IndexedTable, indexing::Indexing, integer,
    repetition::Repetition, static_table::Match, string,
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
    repetition: Repetition,
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
        let mut encoder = Self {
            known: known.into(),
            dynamic: IndexedTable::new(table_bytes),
            repetition: Repetition::default(),
            size_update: None,
        };
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
        let in_known = self.known.find(&field.name, &field.value);
        match (in_known, indexing) {
            (Some(Match::Field(index) | Match::Name(index)), Indexing::Never) => {
                put_literal(field, Some(index), indexing, out);
            }
            (None, Indexing::Never) => put_literal(field, None, indexing, out),
            (Some(Match::Field(index)), _) => put_indexed(index, out),
            (Some(Match::Name(index)), _) => self.put_by_table(field, Some(index), indexing, out),
            (None, _) => self.put_by_table(field, None, indexing, out),
        }
    }

    /// A field that is not known beforehand, though its name may be.
    fn put_by_table(
        &mut self,
        field: &HeaderField,
        known_name: Option<usize>,
        indexing: Indexing,
        out: &mut impl BufMut,
    ) {
        let hash = FieldHash::of(field);
        let base = self.known.len() + 1;
        let in_table = self.dynamic.find(field, hash);
        if let Some(Match::Field(position)) = in_table {
            if self.dynamic.refer(position) {
                self.repetition.on_first_reference(hash);
            }
            return put_indexed(base + position, out);
        }
        let table_name = in_table.map(|(Match::Field(position) | Match::Name(position))| base + position);
        let name = known_name.or(table_name);
        // An entry costs no more octets here than none, and the next field of a new name can refer to the name.
        let may_insert = indexing == Indexing::Incremental;
        if may_insert && (self.repetition.is_expected(field, hash) || name.is_none()) {
            put_literal(field, name, Indexing::Incremental, out);
            self.dynamic.insert(field.own_copy(), hash);
        } else {
            put_literal(field, name, Indexing::Without, out);
        }
    }
}

fn put_indexed(index: usize, out: &mut impl BufMut) {
    integer::put(out, 0b1000_0000, 7, index);
}

fn put_literal(field: &HeaderField, name: Option<usize>, indexing: Indexing, out: &mut impl BufMut) {
    let (pattern, prefix_bits) = indexing.representation();
    match name {
        Some(index) => integer::put(out, pattern, prefix_bits, index),
        None => {
            out.put_u8(pattern);
            string::put(&field.name, 0, 7, out);
        }
    }
    string::put(&field.value, 0, 7, out);
}
