//! From header sections to fields.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::{
    QpackError,
    instruction::{self, INSERT_COUNT_INCREMENT, Pattern, SECTION_ACK, STREAM_CANCEL},
};
use crate::hpack::{HeaderField, KnownFields, dynamic_table::DynamicTable, integer, string};

/// Acknowledgments that may wait to be sent: beyond this the peer makes this side answer without taking the
/// answers. They fit one frame.
pub const INSTRUCTIONS_BYTES_MAX: usize = 8 * 1024;

/// Reads the header sections of one direction of one connection.
///
/// Memory is bounded by the table's capacity, the list limit, the length of a section and
/// [`INSTRUCTIONS_BYTES_MAX`]. Each insertion evicts what went in before it, so the evictions of an
/// instruction are paid for by earlier ones.
#[derive(Debug)]
pub struct Decoder {
    known: KnownFields,
    dynamic: DynamicTable,
    capacity_max: usize,
    header_list_bytes_max: usize,
    blocked_max: usize,
    /// Streams whose section waits, and for how many insertions.
    blocked: BTreeMap<u64, u64>,
    /// Insertions so far: an entry's absolute index is the count before it.
    inserted: u64,
    /// Insertions that the peer knows to have arrived.
    told: u64,
    instructions: BytesMut,
}

/// What became of a header section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The list.
    Fields(Vec<HeaderField>),
    /// It waits for insertions: to be decoded again once [`Decoder::inserted`] has reached this.
    Blocked(u64),
}

impl Decoder {
    /// A decoder that lets the peer's dynamic table have `capacity_max`, lets `blocked_max` streams wait for
    /// insertions, and refuses header lists over `header_list_bytes_max`.
    pub fn new(
        known: impl Into<KnownFields>,
        capacity_max: usize,
        blocked_max: usize,
        header_list_bytes_max: usize,
    ) -> Self {
        Self {
            known: known.into(),
            dynamic: DynamicTable::new(0),
            capacity_max,
            header_list_bytes_max,
            blocked_max,
            blocked: BTreeMap::new(),
            inserted: 0,
            told: 0,
            instructions: BytesMut::new(),
        }
    }

    /// Changes what is known beforehand. No section that was encoded with anything else may follow.
    pub fn set_known(&mut self, known: KnownFields) {
        self.known = known;
    }

    /// Bytes that the dynamic table holds, as RFC 9204 section 3.2.1 counts them.
    pub fn table_size(&self) -> usize {
        self.dynamic.size()
    }

    /// How many insertions have arrived.
    pub fn inserted(&self) -> u64 {
        self.inserted
    }

    /// Takes instructions of the encoder stream, each whole. After an error the connection must end.
    pub fn handle_instructions(&mut self, mut input: &[u8]) -> Result<(), QpackError> {
        while let Some(&first) = input.first() {
            match first {
                0b1000_0000.. => {
                    let index = integer::take(&mut input, instruction::INSERT_NAMED.1)?;
                    let name = match first & 0b0100_0000 {
                        0 => self.newest(index)?.name.clone(),
                        _ => self.known_field(index)?.name.clone(),
                    };
                    let value = string::take(&mut input, 7)?;
                    self.insert(name, value)?;
                }
                0b0100_0000.. => {
                    let name = string::take(&mut input, instruction::INSERT_LITERAL.1)?;
                    let value = string::take(&mut input, 7)?;
                    self.insert(name, value)?;
                }
                0b0010_0000.. => {
                    let asked = integer::take(&mut input, instruction::SET_CAPACITY.1)?;
                    if asked > self.capacity_max {
                        return Err(QpackError::CapacityTooLarge { asked, max: self.capacity_max });
                    }
                    self.dynamic.set_capacity(asked, drop);
                }
                _ => {
                    let index = integer::take(&mut input, instruction::DUPLICATE.1)?;
                    let HeaderField { name, value, .. } = self.newest(index)?.clone();
                    self.insert(name, value)?;
                }
            }
        }
        Ok(())
    }

    /// Decodes the header section of `stream`. An error concerns that stream only; [`Decoder::cancel`]
    /// tells the peer.
    pub fn decode(&mut self, stream: u64, section: &[u8]) -> Result<Decoded, QpackError> {
        let mut input = section;
        let prefix = self.take_prefix(&mut input)?;
        if prefix.required > self.inserted {
            return self.block(stream, prefix.required);
        }
        self.blocked.remove(&stream);
        let mut fields = Vec::new();
        let mut list_size = 0;
        while !input.is_empty() {
            let field = self.take_field(&mut input, &prefix)?;
            list_size += field.size();
            if list_size > self.header_list_bytes_max {
                return Err(QpackError::HeaderListTooLarge { max: self.header_list_bytes_max });
            }
            fields.push(field);
        }
        if prefix.required > 0 {
            self.tell(SECTION_ACK, stream)?;
            self.told = self.told.max(prefix.required);
        }
        Ok(Decoded::Fields(fields))
    }

    /// Nothing more of `stream` will be decoded (section 4.4.2).
    pub fn cancel(&mut self, stream: u64) {
        self.blocked.remove(&stream);
        // "A decoder with a maximum dynamic table capacity equal to zero MAY omit sending Stream
        // Cancellations, because the encoder cannot have any dynamic table references."
        if self.dynamic.capacity() > 0 {
            // Of a peer that lets so much wait, the connection ends.
            let _ = self.tell(STREAM_CANCEL, stream);
        }
    }

    /// Whether [`Decoder::take_instructions`] has something to send.
    pub fn has_instructions(&self) -> bool {
        !self.instructions.is_empty() || self.told < self.inserted
    }

    /// Bytes of instructions that wait to be sent.
    pub fn instructions_waiting(&self) -> usize {
        self.instructions.len()
    }

    /// What is to be sent on the decoder stream.
    pub fn take_instructions(&mut self) -> Bytes {
        let news = self.inserted - self.told;
        if news > 0 {
            let (pattern, prefix_bits) = INSERT_COUNT_INCREMENT;
            integer::put(&mut self.instructions, pattern, prefix_bits, news as usize);
            self.told = self.inserted;
        }
        std::mem::take(&mut self.instructions).freeze()
    }

    fn block(&mut self, stream: u64, required: u64) -> Result<Decoded, QpackError> {
        // What has arrived since has freed some, though nobody may have come for them yet.
        self.blocked.retain(|_, required| *required > self.inserted);
        self.blocked.insert(stream, required);
        if self.blocked.len() > self.blocked_max {
            self.blocked.remove(&stream);
            return Err(QpackError::TooManyBlocked { max: self.blocked_max });
        }
        Ok(Decoded::Blocked(required))
    }

    fn tell(&mut self, (pattern, prefix_bits): Pattern, number: u64) -> Result<(), QpackError> {
        if self.instructions.len() >= INSTRUCTIONS_BYTES_MAX {
            return Err(QpackError::Backlog { max: INSTRUCTIONS_BYTES_MAX });
        }
        integer::put(&mut self.instructions, pattern, prefix_bits, number as usize);
        Ok(())
    }

    fn insert(&mut self, name: Bytes, value: Bytes) -> Result<(), QpackError> {
        let field = HeaderField::new(name, value);
        let (size, capacity) = (field.size(), self.dynamic.capacity());
        // "The encoder MUST NOT cause a dynamic table entry to be evicted unless [...]. It is an error if
        // the encoder attempts to add an entry that is larger than the dynamic table capacity."
        if !self.dynamic.insert(field, drop) {
            return Err(QpackError::EntryTooLarge { size, capacity });
        }
        self.inserted += 1;
        Ok(())
    }

    /// The prefix of a section (section 4.5.1).
    fn take_prefix(&self, input: &mut &[u8]) -> Result<Prefix, QpackError> {
        let encoded = integer::take(input, 8)? as u64;
        let is_negative = input.first().is_some_and(|octet| octet & 0b1000_0000 != 0);
        let delta = integer::take(input, 7)? as u64;
        let required = self.required(encoded)?;
        let base = match is_negative {
            false => required.checked_add(delta),
            true => required.checked_sub(delta + 1),
        };
        Ok(Prefix { required, base: base.ok_or(QpackError::Prefix)? })
    }

    /// Undoes the modulo of the Required Insert Count (section 4.5.1.1).
    fn required(&self, encoded: u64) -> Result<u64, QpackError> {
        if encoded == 0 {
            return Ok(0);
        }
        let entries_max = instruction::entries_max(self.capacity_max);
        let full_range = 2 * entries_max;
        if encoded > full_range {
            return Err(QpackError::Prefix);
        }
        let value_max = self.inserted + entries_max;
        let wrapped_max = value_max / full_range * full_range;
        let mut required = wrapped_max + encoded - 1;
        if required > value_max {
            required = required.checked_sub(full_range).ok_or(QpackError::Prefix)?;
        }
        if required == 0 { Err(QpackError::Prefix) } else { Ok(required) }
    }

    /// One field line, told apart by the first bits:
    ///
    /// ```text
    /// 1Txxxxxx  indexed                  01NTxxxx  literal, name by index
    /// 0001xxxx  indexed, post-base       0000Nxxx  literal, name by post-base index
    ///                                    001NHxxx  literal, name too
    /// ```
    fn take_field(&self, input: &mut &[u8], prefix: &Prefix) -> Result<HeaderField, QpackError> {
        let first = input.first().copied().unwrap_or_default();
        match first {
            0b1100_0000.. => self.known_field(integer::take(input, 6)?).cloned(),
            0b1000_0000.. => self.relative(prefix, integer::take(input, 6)?).cloned(),
            0b0100_0000.. => {
                let index = integer::take(input, 4)?;
                let name = match first & 0b0001_0000 {
                    0 => self.relative(prefix, index)?.name.clone(),
                    _ => self.known_field(index)?.name.clone(),
                };
                literal(name, first & instruction::NEVER_NAMED != 0, input)
            }
            0b0010_0000.. => {
                let name = string::take(input, 3)?;
                literal(name, first & instruction::NEVER_LITERAL != 0, input)
            }
            0b0001_0000.. => self.post_base(prefix, integer::take(input, 4)?).cloned(),
            _ => {
                let name = self.post_base(prefix, integer::take(input, 3)?)?.name.clone();
                literal(name, first & 0b0000_1000 != 0, input)
            }
        }
    }

    /// Static indices begin at 0 here (section 3.1).
    fn known_field(&self, index: usize) -> Result<&HeaderField, QpackError> {
        self.known.get(index + 1).ok_or(QpackError::IndexOutOfRange(index as u64))
    }

    /// Counted from the newest entry: what instructions refer to (section 3.2.5).
    fn newest(&self, index: usize) -> Result<&HeaderField, QpackError> {
        self.dynamic.get(index).ok_or(QpackError::IndexOutOfRange(index as u64))
    }

    fn relative(&self, prefix: &Prefix, index: usize) -> Result<&HeaderField, QpackError> {
        let entry = prefix.base.checked_sub(index as u64 + 1);
        self.absolute(prefix, entry.ok_or(QpackError::IndexOutOfRange(index as u64))?)
    }

    fn post_base(&self, prefix: &Prefix, index: usize) -> Result<&HeaderField, QpackError> {
        let entry = prefix.base.checked_add(index as u64);
        self.absolute(prefix, entry.ok_or(QpackError::IndexOutOfRange(index as u64))?)
    }

    /// A section must not refer to what its Required Insert Count does not cover (section 2.2.3).
    fn absolute(&self, prefix: &Prefix, entry: u64) -> Result<&HeaderField, QpackError> {
        let position = match entry < prefix.required {
            true => (self.inserted - 1).checked_sub(entry),
            false => None,
        };
        let position = position.and_then(|position| usize::try_from(position).ok());
        position.and_then(|position| self.dynamic.get(position)).ok_or(QpackError::IndexOutOfRange(entry))
    }
}

/// Where a section's references count from.
struct Prefix {
    required: u64,
    base: u64,
}

fn literal(name: Bytes, sensitive: bool, input: &mut &[u8]) -> Result<HeaderField, QpackError> {
    Ok(HeaderField { name, value: string::take(input, 7)?, sensitive })
}
