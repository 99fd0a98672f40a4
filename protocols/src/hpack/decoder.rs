//! From a header block to fields.

use super::{HeaderField, HpackError, KnownFields, dynamic_table::DynamicTable, integer, string};

/// Fields that a list has room for at first, if its block is as long: a field takes an octet at least.
const FIELDS_FEW: usize = 8;

/// Reads header blocks of one direction of one connection.
///
/// Memory is bounded by the table, the list limit and the length of the block: fields that come from a
/// table share the table's bytes, and a Huffman string grows by 8/5 at most.
#[derive(Debug)]
pub struct Decoder {
    known: KnownFields,
    dynamic: DynamicTable,
    table_bytes_max: usize,
    header_list_bytes_max: usize,
    /// The maximum was lowered below what the table has: the next block must begin with an update.
    size_update_due: bool,
}

impl Decoder {
    /// A decoder that lets the peer's dynamic table take `table_bytes_max` from the beginning and refuses
    /// header lists over `header_list_bytes_max`, both as RFC 7541 section 4.1 counts bytes.
    pub fn new(known: impl Into<KnownFields>, table_bytes_max: usize, header_list_bytes_max: usize) -> Self {
        Self {
            known: known.into(),
            dynamic: DynamicTable::new(table_bytes_max),
            table_bytes_max,
            header_list_bytes_max,
            size_update_due: false,
        }
    }

    /// Changes the maximum. To be called when the peer is known to have seen the new value: if it is
    /// lower than what the table has, the peer's next block must begin with a size update.
    pub fn set_table_size_max(&mut self, table_bytes_max: usize) {
        self.table_bytes_max = table_bytes_max;
        self.size_update_due = self.dynamic.capacity() > table_bytes_max;
    }

    /// Bytes that the dynamic table holds, as RFC 7541 section 4.1 counts them.
    pub fn table_size(&self) -> usize {
        self.dynamic.size()
    }

    /// Decodes one whole block.
    ///
    /// After an error for which [`HpackError::is_fatal`] is true, the connection must end: the tables of
    /// the two sides may differ.
    pub fn decode(&mut self, block: &[u8]) -> Result<Vec<HeaderField>, HpackError> {
        let mut input = block;
        self.take_size_updates(&mut input)?;
        let mut fields = Vec::with_capacity(input.len().min(FIELDS_FEW));
        let mut list_size = 0;
        while !input.is_empty() {
            let field = self.take_field(&mut input)?;
            list_size += field.size();
            // A list over the limit is still decoded to its end for what it does to the table.
            if list_size <= self.header_list_bytes_max {
                fields.push(field);
            } else {
                fields = Vec::new();
            }
        }
        if list_size > self.header_list_bytes_max {
            return Err(HpackError::HeaderListTooLarge { max: self.header_list_bytes_max });
        }
        Ok(fields)
    }

    /// The updates at the beginning of a block (section 4.2).
    fn take_size_updates(&mut self, input: &mut &[u8]) -> Result<(), HpackError> {
        while let Some(0b0010_0000..=0b0011_1111) = input.first() {
            let asked = integer::take(input, 5)?;
            if asked > self.table_bytes_max {
                return Err(HpackError::SizeUpdateTooLarge { asked, max: self.table_bytes_max });
            }
            self.dynamic.set_capacity(asked, drop);
            self.size_update_due = false;
        }
        if self.size_update_due { Err(HpackError::SizeUpdateMissing) } else { Ok(()) }
    }

    /// One field representation (section 6), told apart by the first bits:
    ///
    /// ```text
    /// 1xxxxxxx  indexed field              0001xxxx  literal, never indexed
    /// 01xxxxxx  literal, to be indexed     0000xxxx  literal, not indexed
    /// 001xxxxx  table size update, misplaced here
    /// ```
    fn take_field(&mut self, input: &mut &[u8]) -> Result<HeaderField, HpackError> {
        match input.first().copied().ok_or(HpackError::Truncated)? {
            0b1000_0000.. => {
                let index = integer::take(input, 7)?;
                self.entry(index).cloned()
            }
            0b0100_0000.. => {
                let field = self.take_literal(input, 6, false)?;
                self.dynamic.insert(field.clone(), drop);
                Ok(field)
            }
            0b0010_0000.. => Err(HpackError::SizeUpdateMisplaced),
            0b0001_0000.. => self.take_literal(input, 4, true),
            _ => self.take_literal(input, 4, false),
        }
    }

    fn take_literal(
        &self,
        input: &mut &[u8],
        prefix_bits: u32,
        sensitive: bool,
    ) -> Result<HeaderField, HpackError> {
        let name = match integer::take(input, prefix_bits)? {
            0 => string::take(input, 7)?,
            index => self.entry(index)?.name.clone(),
        };
        Ok(HeaderField { name, value: string::take(input, 7)?, sensitive })
    }

    fn entry(&self, index: usize) -> Result<&HeaderField, HpackError> {
        let position = index.checked_sub(1).ok_or(HpackError::IndexZero)?;
        match position.checked_sub(self.known.len()) {
            None => self.known.get(index),
            Some(position) => self.dynamic.get(position),
        }
        .ok_or(HpackError::IndexOutOfRange(index))
    }

    /// The dynamic table's entries, the newest first.
    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = &HeaderField> {
        (0..self.dynamic.len()).filter_map(|position| self.dynamic.get(position))
    }
}
