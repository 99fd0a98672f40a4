//! The header of a zstd frame, RFC 8878 section 3.1.1.1, read before zstd sees the frame.
//!
//! ```text
//! magic 28 B5 2F FD | descriptor 1 | window 0-1 | dictionary id 0-4 | content size 0-8 | blocks...
//!
//! descriptor:  7 6        5               4 3       2         1 0
//!              size flag  single segment  reserved  checksum  dictionary id flag
//! ```

use bytes::Buf;

use super::CompressError;

/// What a frame declares about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Size of the content. The link protocol requires it.
    pub(super) content_bytes: u64,
    /// How far back the frame refers, and so how much a decoder must keep.
    pub(super) window_bytes: u64,
    /// The dictionary, if any.
    pub(super) dictionary_id: Option<u32>,
    /// Where the blocks begin.
    pub(super) header_bytes: usize,
}

const MAGIC: u32 = 0xfd2f_b528;
const SINGLE_SEGMENT: u8 = 0b0010_0000;
const RESERVED: u8 = 0b0000_1000;

impl FrameHeader {
    pub(super) fn read(frame: &[u8]) -> Result<Self, CompressError> {
        let mut input = frame;
        if input.try_get_u32_le().map_err(|_| TRUNCATED)? != MAGIC {
            return Err(CompressError::Malformed("it does not begin with the zstd magic number"));
        }
        let descriptor = input.try_get_u8().map_err(|_| TRUNCATED)?;
        if descriptor & RESERVED != 0 {
            return Err(CompressError::Malformed("a reserved bit of the frame header is set"));
        }
        let single_segment = descriptor & SINGLE_SEGMENT != 0;
        let window = if single_segment { None } else { Some(read_window(&mut input)?) };
        let dictionary_id = read_le(&mut input, [0, 1, 2, 4][usize::from(descriptor & 0b11)])? as u32;
        let content_bytes = match (descriptor >> 6, single_segment) {
            (0, false) => return Err(CompressError::ContentSizeMissing),
            (0, true) => read_le(&mut input, 1)?,
            // "When Field_Size is 2, the offset of 256 is added."
            (1, _) => read_le(&mut input, 2)? + 256,
            (2, _) => read_le(&mut input, 4)?,
            _ => read_le(&mut input, 8)?,
        };
        Ok(Self {
            content_bytes,
            window_bytes: window.unwrap_or(content_bytes),
            dictionary_id: (dictionary_id != 0).then_some(dictionary_id),
            header_bytes: frame.len() - input.len(),
        })
    }
}

const TRUNCATED: CompressError = CompressError::Malformed("it ends inside the frame header");

/// The window descriptor: 5 bits exponent, 3 bits mantissa.
fn read_window(input: &mut &[u8]) -> Result<u64, CompressError> {
    let descriptor = input.try_get_u8().map_err(|_| TRUNCATED)?;
    let base = 1u64 << (10 + (descriptor >> 3));
    Ok(base + base / 8 * u64::from(descriptor & 0b111))
}

fn read_le(input: &mut &[u8], length: usize) -> Result<u64, CompressError> {
    let bytes = input.split_off(..length).ok_or(TRUNCATED)?;
    Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: &[u8], content_bytes: u64, window_bytes: u64, dictionary_id: Option<u32>) {
        let header = FrameHeader::read(frame);
        let header_bytes = frame.len();
        assert_eq!(header, Ok(FrameHeader { content_bytes, window_bytes, dictionary_id, header_bytes }));
        for cut in 0..frame.len() {
            assert_eq!(FrameHeader::read(&frame[..cut]), Err(TRUNCATED), "cut at {cut}");
        }
    }

    #[test]
    fn each_size_of_each_field() {
        check(&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 7], 7, 7, None);
        check(&[0x28, 0xb5, 0x2f, 0xfd, 0x61, 9, 0, 1], 512, 512, Some(9));
        check(&[0x28, 0xb5, 0x2f, 0xfd, 0x82, 0, 1, 2, 0, 0, 1, 0], 65536, 1024, Some(0x0201));
        check(&[0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x0f, 1, 0, 0, 0, 1, 0, 0, 0], (1 << 32) + 1, 3840, None);
        check(&[0x28, 0xb5, 0x2f, 0xfd, 0xa3, 4, 3, 2, 1, 1, 0, 0, 0], 1, 1, Some(0x0102_0304));
    }

    #[test]
    fn a_frame_without_a_content_size_is_refused() {
        let header = FrameHeader::read(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0]);
        assert_eq!(header, Err(CompressError::ContentSizeMissing));
    }

    #[test]
    fn another_magic_and_a_reserved_bit_are_refused() {
        for frame in [[0x50, 0x2a, 0x4d, 0x18, 0, 0], [0x28, 0xb5, 0x2f, 0xfd, 0x28, 0]] {
            assert!(matches!(FrameHeader::read(&frame), Err(CompressError::Malformed(_))));
        }
    }
}
