//! From fields to header sections.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    QpackError,
    instruction::{
        self, DUPLICATE, INDEXED_DYNAMIC, INDEXED_STATIC, INSERT_LITERAL, INSERT_NAMED, INSERT_NAMED_DYNAMIC,
        LITERAL, NAMED_DYNAMIC, NAMED_STATIC, NEVER_LITERAL, NEVER_NAMED, SET_CAPACITY,
    },
    sections::{Section, Sections},
};
use crate::hpack::{
    FieldHash, HeaderField, KnownFields, TABLE_BYTES_MAX, indexed_table::IndexedTable, indexing::Indexing,
    integer, repetition::Repetition, static_table::Match, string,
};

/// The largest entry that is inserted: its instruction fits every peer's frame, with others before it.
pub const ENTRY_BYTES_MAX: usize = 4096;
/// Insertions wait while more than this is to be sent on the encoder stream.
const INSTRUCTIONS_BYTES_MAX: usize = 8 * 1024;

/// Writes the header sections of one direction of one connection.
///
/// The dynamic table is empty until [`Encoder::set_limits`] says what the peer's decoder allows.
#[derive(Debug)]
pub struct Encoder {
    known: KnownFields,
    table: IndexedTable,
    /// The peer's maximum, by which the Required Insert Count is wrapped.
    capacity_max: usize,
    blocked_max: usize,
    /// Insertions that the decoder is known to have: the Known Received Count (section 2.1.4).
    received: u64,
    sections: Sections,
    repetition: Repetition,
    instructions: BytesMut,
    lines: Vec<Line>,
}

/// How a field is to be written. Dynamic entries are named by their absolute index.
#[derive(Clone, Copy, Debug)]
enum Line {
    Known(usize),
    Dynamic(u64),
    Literal { name: Name, never: bool },
}

#[derive(Clone, Copy, Debug)]
enum Name {
    Known(usize),
    Dynamic(u64),
    Literal,
}

impl Encoder {
    /// An encoder without a dynamic table, for a decoder of which nothing is known.
    pub fn new(known: impl Into<KnownFields>) -> Self {
        Self {
            known: known.into(),
            table: IndexedTable::new(0),
            capacity_max: 0,
            blocked_max: 0,
            received: 0,
            sections: Sections::default(),
            repetition: Repetition::default(),
            instructions: BytesMut::new(),
            lines: Vec::new(),
        }
    }

    /// Changes what is known beforehand, from the next section on.
    pub fn set_known(&mut self, known: KnownFields) {
        self.known = known;
    }

    /// What the peer's decoder allows, once: the table's capacity, and how many streams may be blocked. Of the
    /// capacity, `capacity_used` is used, and at most [`TABLE_BYTES_MAX`].
    pub fn set_limits(&mut self, capacity_max: usize, capacity_used: usize, blocked_max: usize) {
        self.capacity_max = capacity_max;
        self.blocked_max = blocked_max;
        let capacity = capacity_used.min(capacity_max).min(TABLE_BYTES_MAX);
        if capacity > 0 {
            self.table.set_capacity(capacity);
            integer::put(&mut self.instructions, SET_CAPACITY.0, SET_CAPACITY.1, capacity);
        }
    }

    /// Bytes that the dynamic table holds, as RFC 9204 section 3.2.1 counts them.
    pub fn table_size(&self) -> usize {
        self.table.table.size()
    }

    /// Appends the header section of `stream` with `fields`, in order.
    pub fn encode(&mut self, stream: u64, fields: &[HeaderField], out: &mut impl BufMut) {
        let mut lines = std::mem::take(&mut self.lines);
        let mut section = Section::new();
        let newest = self.newest_usable(stream);
        lines.extend(fields.iter().map(|field| self.choose(field, newest, &mut section)));
        self.put_prefix(section.required, out);
        for (line, field) in lines.drain(..).zip(fields) {
            put_line(line, field, section.required, out);
        }
        self.lines = lines;
        if section.required > 0 {
            self.sections.add(stream, section);
        }
    }

    /// Takes instructions of the decoder stream, each whole. After an error the connection must end.
    pub fn handle_instructions(&mut self, mut input: &[u8]) -> Result<(), QpackError> {
        while let Some(&first) = input.first() {
            match first {
                0b1000_0000.. => {
                    let stream = integer::take(&mut input, 7)? as u64;
                    let section = self.sections.acknowledge(stream);
                    let section = section.ok_or(QpackError::NotOutstanding(stream))?;
                    self.received = self.received.max(section.required);
                }
                0b0100_0000.. => self.sections.cancel(integer::take(&mut input, 6)? as u64),
                _ => {
                    let increment = integer::take(&mut input, 6)? as u64;
                    if increment == 0 || self.received + increment > self.table.inserted {
                        return Err(QpackError::Increment(increment));
                    }
                    self.received += increment;
                }
            }
        }
        Ok(())
    }

    /// Whether [`Encoder::take_instructions`] has something to send.
    pub fn has_instructions(&self) -> bool {
        !self.instructions.is_empty()
    }

    /// What is to be sent on the encoder stream.
    pub fn take_instructions(&mut self) -> Bytes {
        std::mem::take(&mut self.instructions).freeze()
    }

    /// Entries below this may be referred to by the next section of `stream`.
    fn newest_usable(&self, stream: u64) -> Usable {
        if self.sections.is_full() {
            Usable::Below(0)
        } else if self.sections.may_block(stream, self.received, self.blocked_max) {
            Usable::All
        } else {
            Usable::Below(self.received)
        }
    }

    fn choose(&mut self, field: &HeaderField, usable: Usable, section: &mut Section) -> Line {
        let indexing = Indexing::of(field, self.table.table.capacity());
        let never = indexing == Indexing::Never;
        let known_name = match self.known.find(&field.name, &field.value) {
            Some(Match::Field(index)) if !never => return Line::Known(index - 1),
            Some(Match::Field(index) | Match::Name(index)) => Name::Known(index - 1),
            None => Name::Literal,
        };
        if self.table.table.capacity() == 0 {
            return Line::Literal { name: known_name, never };
        }
        let hash = FieldHash::of(field);
        let in_table = self.table.find(field, hash).map(|found| self.absolute(found));
        match in_table {
            Some(Match::Field(entry)) if !never && usable.includes(entry) => {
                return self.refer(entry, field, hash, section);
            }
            // It is on its way already.
            Some(Match::Field(_)) if !never => {}
            _ if indexing == Indexing::Incremental && self.is_expected(field, hash, usable) => {
                if let Some(entry) = self.insert(field, hash, known_name, in_table, section.oldest)
                    && usable.includes(entry)
                {
                    section.refer(entry);
                    return Line::Dynamic(entry);
                }
            }
            _ => {}
        }
        let name = match known_name {
            Name::Literal => self.name_in_table(field, hash, in_table, usable, section),
            name => name,
        };
        Line::Literal { name, never }
    }

    /// Refers to an entry that holds the whole field.
    fn refer(&mut self, entry: u64, field: &HeaderField, hash: FieldHash, section: &mut Section) -> Line {
        section.refer(entry);
        let position = (self.table.inserted - 1 - entry) as usize;
        if self.table.refer(position) {
            self.repetition.on_first_reference(hash);
        }
        self.refresh(entry, field, hash, section.oldest);
        Line::Dynamic(entry)
    }

    fn is_expected(&mut self, field: &HeaderField, hash: FieldHash, usable: Usable) -> bool {
        match usable {
            Usable::All => self.repetition.is_expected(field, hash),
            // Its bytes travel twice.
            Usable::Below(_) => self.repetition.is_expected_soon(field, hash),
        }
    }

    /// A name that is not known beforehand by the entry that has it. One that comes a second time gets an entry
    /// without a value, which serves whatever value comes, and holds none: a secret's name is no secret.
    fn name_in_table(
        &mut self,
        field: &HeaderField,
        hash: FieldHash,
        in_table: Option<Match<u64>>,
        usable: Usable,
        section: &mut Section,
    ) -> Name {
        let entry = match in_table {
            Some(Match::Field(entry) | Match::Name(entry)) => Some(entry),
            None if self.repetition.is_known_name(hash) => {
                let alone = HeaderField { value: Bytes::new(), sensitive: false, ..field.clone() };
                self.insert(&alone, FieldHash::of(&alone), Name::Literal, None, section.oldest)
            }
            None => None,
        };
        match entry {
            Some(entry) if usable.includes(entry) && self.is_held(entry) => {
                section.refer(entry);
                Name::Dynamic(entry)
            }
            _ => Name::Literal,
        }
    }

    /// Inserts the field if the backlog, its size and what is still referred to allow that.
    fn insert(
        &mut self,
        field: &HeaderField,
        hash: FieldHash,
        known_name: Name,
        in_table: Option<Match<u64>>,
        oldest_referred: u64,
    ) -> Option<u64> {
        let is_small = field.size() <= ENTRY_BYTES_MAX;
        if !is_small || !self.may_insert(field.size(), oldest_referred) {
            return None;
        }
        let newest = self.table.inserted;
        match (known_name, in_table) {
            (Name::Known(index), _) => self.put_instruction(INSERT_NAMED, index),
            (_, Some(Match::Name(entry) | Match::Field(entry))) => {
                self.put_instruction(INSERT_NAMED_DYNAMIC, (newest - 1 - entry) as usize);
            }
            (Name::Literal | Name::Dynamic(_), None) => {
                string::put(&field.name, INSERT_LITERAL.0, INSERT_LITERAL.1, &mut self.instructions);
            }
        }
        string::put(&field.value, 0, 7, &mut self.instructions);
        self.table.insert(field.own_copy(), hash);
        Some(newest)
    }

    /// An entry that is used and about to leave the table is inserted again (section 2.1.1.1), so that its
    /// users do not keep others out.
    fn refresh(&mut self, entry: u64, field: &HeaderField, hash: FieldHash, oldest_referred: u64) {
        let evicted = self.table.inserted - self.table.table.len() as u64;
        let is_draining = entry - evicted < self.table.table.len() as u64 / DRAINING_SHARE;
        let is_full = self.table.table.size() * 4 > self.table.table.capacity() * 3;
        if is_draining && is_full && self.may_insert(field.size(), oldest_referred) {
            self.put_instruction(DUPLICATE, (self.table.inserted - 1 - entry) as usize);
            self.table.insert(field.own_copy(), hash);
            // It has proven itself already.
            self.table.refer(0);
        }
    }

    /// Whether an entry of `size` has room, once entries went that the decoder is known to have and nobody
    /// refers to (section 2.1.1).
    fn may_insert(&self, size: usize, oldest_referred: u64) -> bool {
        let table = &self.table.table;
        if self.instructions.len() > INSTRUCTIONS_BYTES_MAX || size > table.capacity() {
            return false;
        }
        let excess = (table.size() + size).saturating_sub(table.capacity());
        if excess == 0 {
            return true;
        }
        let kept_from = self.sections.oldest().min(oldest_referred).min(self.received);
        let evicted = self.table.inserted - table.len() as u64;
        let may_go = usize::try_from(kept_from.saturating_sub(evicted)).unwrap_or(usize::MAX);
        let mut freed = 0;
        for entry in table.oldest_first().take(may_go) {
            freed += entry.size();
            if freed >= excess {
                return true;
            }
        }
        false
    }

    fn is_held(&self, entry: u64) -> bool {
        entry >= self.table.inserted - self.table.table.len() as u64
    }

    fn absolute(&self, found: Match) -> Match<u64> {
        let entry = |position: usize| self.table.inserted - 1 - position as u64;
        match found {
            Match::Field(position) => Match::Field(entry(position)),
            Match::Name(position) => Match::Name(entry(position)),
        }
    }

    fn put_instruction(&mut self, (pattern, prefix_bits): instruction::Pattern, index: usize) {
        integer::put(&mut self.instructions, pattern, prefix_bits, index);
    }

    /// Section 4.5.1. The Base is the Required Insert Count, so that the newest entry has the shortest index.
    fn put_prefix(&self, required: u64, out: &mut impl BufMut) {
        let encoded = match required {
            0 => 0,
            _ => required % (2 * instruction::entries_max(self.capacity_max)) + 1,
        };
        integer::put(out, 0, 8, encoded as usize);
        integer::put(out, 0, 7, 0);
    }
}

/// Of the table's entries, the oldest one in so many are about to leave it.
const DRAINING_SHARE: u64 = 4;

/// Which entries a section may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usable {
    All,
    Below(u64),
}

impl Usable {
    fn includes(self, entry: u64) -> bool {
        match self {
            Self::All => true,
            Self::Below(end) => entry < end,
        }
    }
}

fn put_line(line: Line, field: &HeaderField, base: u64, out: &mut impl BufMut) {
    let relative = |entry: u64| (base - 1 - entry) as usize;
    let (name, never) = match line {
        Line::Known(index) => return integer::put(out, INDEXED_STATIC.0, INDEXED_STATIC.1, index),
        Line::Dynamic(entry) => {
            return integer::put(out, INDEXED_DYNAMIC.0, INDEXED_DYNAMIC.1, relative(entry));
        }
        Line::Literal { name, never } => (name, never),
    };
    let with_never = |pattern: u8, bit: u8| if never { pattern | bit } else { pattern };
    match name {
        Name::Known(index) => {
            integer::put(out, with_never(NAMED_STATIC.0, NEVER_NAMED), NAMED_STATIC.1, index);
        }
        Name::Dynamic(entry) => {
            integer::put(out, with_never(NAMED_DYNAMIC.0, NEVER_NAMED), NAMED_DYNAMIC.1, relative(entry));
        }
        Name::Literal => string::put(&field.name, with_never(LITERAL.0, NEVER_LITERAL), LITERAL.1, out),
    }
    string::put(&field.value, 0, 7, out);
}
