//! From fields to a header block.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{BuildHasherDefault, Hash, Hasher},
};

use bytes::{BufMut, Bytes};

use super::{HeaderField, StaticTable, dynamic_table::DynamicTable, huffman, integer, static_table::Match};

/// The largest dynamic table an encoder keeps, whatever the peer offers: it costs this much memory (and
/// an index of about half of it) for each connection.
pub const TABLE_BYTES_MAX: usize = 64 * 1024;

/// Writes header blocks for one direction of one connection.
///
/// Blocks must reach the peer's decoder in the order they were written, each whole.
#[derive(Debug)]
pub struct Encoder {
    static_table: StaticTable,
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
    pub fn new(static_table: StaticTable, table_bytes: usize) -> Self {
        let mut encoder = Self { static_table, dynamic: IndexedTable::new(table_bytes), size_update: None };
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
                put_string(&field.name, out);
            }
        }
        put_string(&field.value, out);
        if indexing == Indexing::Incremental {
            self.dynamic.insert(own_copy(field));
        }
    }

    /// The best match of both tables; for a secret, of its name alone.
    fn find(&self, field: &HeaderField, indexing: Indexing) -> Option<Match> {
        let in_static = self.static_table.find(&field.name, &field.value);
        if indexing == Indexing::Never {
            return match in_static? {
                Match::Field(index) | Match::Name(index) => Some(Match::Name(index)),
            };
        }
        if let Some(Match::Field(_)) = in_static {
            return in_static;
        }
        let base = self.static_table.len() + 1;
        match self.dynamic.find(field) {
            Some(Match::Field(position)) => Some(Match::Field(base + position)),
            Some(Match::Name(position)) => in_static.or(Some(Match::Name(base + position))),
            None => in_static,
        }
    }
}

/// How a literal is written (section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Indexing {
    Incremental,
    Without,
    Never,
}

/// Fields whose value is hardly ever sent twice: an entry would only push out useful ones.
const VOLATILE_NAMES: [&[u8]; 12] = [
    b"age",
    b"content-length",
    b"content-range",
    b"etag",
    b"grpc-timeout",
    b"idempotency-key",
    b"if-modified-since",
    b"if-none-match",
    b"last-modified",
    b"range",
    b"traceparent",
    b"x-request-id",
];

impl Indexing {
    fn of(field: &HeaderField, table_capacity: usize) -> Self {
        // An entry of more than half the table would push out most of the others.
        let too_large = field.size() > table_capacity / 2;
        if field.is_secret() {
            Self::Never
        } else if too_large || VOLATILE_NAMES.contains(&&*field.name) || is_path_with_query(field) {
            Self::Without
        } else {
            Self::Incremental
        }
    }

    /// The pattern of the first octet, and the bits of the prefix below it.
    fn representation(self) -> (u8, u32) {
        match self {
            Self::Incremental => (0b0100_0000, 6),
            Self::Without => (0b0000_0000, 4),
            Self::Never => (0b0001_0000, 4),
        }
    }
}

fn is_path_with_query(field: &HeaderField) -> bool {
    &*field.name == b":path" && field.value.contains(&b'?')
}

/// A copy in one allocation of its own: the caller's bytes may be slices of a large read buffer, which an
/// entry would keep in memory.
fn own_copy(field: &HeaderField) -> HeaderField {
    let mut name = Bytes::from([&*field.name, &*field.value].concat());
    let value = name.split_off(field.name.len());
    HeaderField { name, value, sensitive: field.sensitive }
}

/// A string literal (section 5.2), by Huffman code where that is shorter.
fn put_string(text: &[u8], out: &mut impl BufMut) {
    let encoded_len = huffman::encoded_len(text);
    if encoded_len < text.len() {
        integer::put(out, 0b1000_0000, 7, encoded_len);
        huffman::encode(text, out);
    } else {
        integer::put(out, 0, 7, text.len());
        out.put_slice(text);
    }
}

/// The dynamic table with an index by content.
///
/// The index maps a hash to the newest entry that has it, counted from the first insertion on. A hash
/// that two entries share loses the older one for the index, which costs bytes on the wire and nothing
/// else, since each hit is compared with the entry itself. So keys are not stored twice, and the index
/// has at most two pairs of words for each entry.
#[derive(Debug)]
struct IndexedTable {
    table: DynamicTable,
    inserted: u64,
    index: Index,
}

#[derive(Debug, Default)]
struct Index {
    by_hash: HashMap<u64, u64, BuildHasherDefault<DefaultHasher>>,
    evicted: u64,
}

impl IndexedTable {
    fn new(capacity: usize) -> Self {
        Self { table: DynamicTable::new(capacity), inserted: 0, index: Index::default() }
    }

    fn set_capacity(&mut self, capacity: usize) {
        self.table.set_capacity(capacity, |field| self.index.forget_oldest(&field));
    }

    fn insert(&mut self, field: HeaderField) {
        let hashes = hashes(&field);
        if self.table.insert(field, |evicted| self.index.forget_oldest(&evicted)) {
            for hash in hashes {
                self.index.by_hash.insert(hash, self.inserted);
            }
            self.inserted += 1;
        }
    }

    /// The best match, by position in the table.
    fn find(&self, field: &HeaderField) -> Option<Match> {
        let [whole, name] = hashes(field);
        if let Some((position, entry)) = self.entry_with(whole)
            && entry.name == field.name
            && entry.value == field.value
        {
            return Some(Match::Field(position));
        }
        let (position, entry) = self.entry_with(name)?;
        (entry.name == field.name).then_some(Match::Name(position))
    }

    fn entry_with(&self, hash: u64) -> Option<(usize, &HeaderField)> {
        let insertion = *self.index.by_hash.get(&hash)?;
        let position = usize::try_from(self.inserted.checked_sub(insertion + 1)?).ok()?;
        Some((position, self.table.get(position)?))
    }
}

impl Index {
    fn forget_oldest(&mut self, field: &HeaderField) {
        for hash in hashes(field) {
            if self.by_hash.get(&hash) == Some(&self.evicted) {
                self.by_hash.remove(&hash);
            }
        }
        self.evicted += 1;
    }
}

/// Hashes of the whole field and of its name. The hasher has no random key, so that equal traffic gives
/// equal bytes.
fn hashes(field: &HeaderField) -> [u64; 2] {
    let mut hasher = DefaultHasher::new();
    field.name.hash(&mut hasher);
    let name = hasher.finish();
    field.value.hash(&mut hasher);
    [hasher.finish(), name]
}
