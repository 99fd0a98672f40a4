//! One header list, without what no dictionary may hold.

use bytes::Bytes;
use towline_protocols::hpack::HeaderField;

use super::looks_unique;

/// A header list as a client sent or got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSample {
    /// Whose it is; it only tells clients apart.
    pub client: u64,
    /// In order, without credentials. Those that are `sensitive` have lost their value: their name counts, and how
    /// long the value was.
    pub fields: Vec<HeaderField>,
}

impl HeaderSample {
    /// Takes from a list what may be kept: no field that is secret or whose name `is_left_out`, and no value that
    /// looks unique. It shares no memory with the list.
    pub fn of(client: u64, list: &[HeaderField], is_left_out: impl Fn(&[u8]) -> bool) -> Self {
        let fields = list.iter().filter(|field| !field.is_secret() && !is_left_out(&field.name));
        Self { client, fields: fields.map(kept).collect() }
    }

    /// The memory that it takes, by which bounds count it.
    pub fn bytes(&self) -> usize {
        let fields = self.fields.iter();
        let fields = fields.map(|field| size_of_val(field) + field.name.len() + field.value.len());
        size_of_val(self) + fields.sum::<usize>()
    }

    /// Whether it is an answer's.
    pub(super) fn is_answer(&self) -> bool {
        self.fields.first().is_some_and(|field| &*field.name == b":status")
    }
}

fn kept(field: &HeaderField) -> HeaderField {
    let name = Bytes::copy_from_slice(&field.name);
    match looks_unique(&field.value) {
        true => HeaderField::sensitive(name, vec![b'0'; field.value.len()]),
        false => HeaderField::new(name, Bytes::copy_from_slice(&field.value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_ids_lose_their_value() {
        let list = [
            HeaderField::from_static(":path", "/a.B/C"),
            HeaderField::from_static("cookie", "a=b"),
            HeaderField::sensitive("x-marked", "a"),
            HeaderField::from_static("x-mine", "a"),
            HeaderField::from_static("x-trace", "4bf92f3577b34da6"),
        ];
        let sample = HeaderSample::of(7, &list, |name| name == b"x-mine");
        let left = [list[0].clone(), HeaderField::sensitive("x-trace", "0000000000000000")];
        assert_eq!(sample, HeaderSample { client: 7, fields: left.to_vec() });
        let structures = size_of::<HeaderSample>() + 2 * size_of::<HeaderField>();
        assert_eq!(sample.bytes(), structures + ":path/a.B/C".len() + "x-trace".len() + 16);
    }
}
