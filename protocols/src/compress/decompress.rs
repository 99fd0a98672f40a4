//! From a frame to a message, with every bound checked before memory is taken.

use std::cell::RefCell;

use bytes::Bytes;
use thiserror::Error;
use zstd::zstd_safe::{DCtx, find_frame_compressed_size};

use super::{Dictionary, DictionarySet, frame_header::FrameHeader};

/// The largest window a frame may ask for. RFC 8878 section 3.1.1.1.2 recommends that decoders support
/// 8 MiB and encoders do not ask for more.
pub const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Why a frame was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompressError {
    /// The frame needs a dictionary that this side does not hold.
    #[error("zstd frame needs dictionary {0}, which is not held here")]
    UnknownDictionary(u32),
    /// The frame declares more content than allowed.
    #[error("zstd frame declares {declared} bytes, more than {max}")]
    TooLarge {
        /// Bytes that it declares.
        declared: u64,
        /// Bytes that are allowed.
        max: usize,
    },
    /// The frame asks for a larger window than allowed.
    #[error("zstd frame asks for a window of {0} bytes, more than {WINDOW_BYTES_MAX}")]
    WindowTooLarge(u64),
    /// The frame does not declare its content size.
    #[error("zstd frame does not declare its content size")]
    ContentSizeMissing,
    /// The frame breaks the format.
    #[error("zstd frame is malformed: {0}")]
    Malformed(&'static str),
    /// No memory for a decompression context.
    #[error("no memory for a zstd context")]
    OutOfMemory,
}

/// Decompresses exactly one frame that declares its content size, of at most `message_bytes_max`.
///
/// The size, the window and the dictionary are taken from the frame's header and checked first; the
/// output can never exceed what was declared, nor the declaration what so many bytes can hold.
pub fn decompress(
    frame: &[u8],
    dictionaries: &DictionarySet,
    message_bytes_max: usize,
) -> Result<Bytes, CompressError> {
    let (content_bytes, dictionary) = checked(frame, dictionaries, message_bytes_max)?;
    let mut message = Vec::with_capacity(content_bytes);
    CONTEXT.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(DCtx::try_create().ok_or(CompressError::OutOfMemory)?),
        };
        match dictionary {
            Some(dictionary) => {
                dictionary.usage().read();
                context.decompress_using_ddict(&mut message, frame, dictionary.decoder())
            }
            None => context.decompress(&mut message, frame),
        }
        .map_err(|code| CompressError::Malformed(zstd::zstd_safe::get_error_name(code)))
    })?;
    // A vector may have more room than was asked for.
    if message.len() != content_bytes {
        return Err(CompressError::Malformed("its content is not as long as it declares"));
    }
    Ok(message.into())
}

/// Looks at a frame's headers only: the length that [`decompress`] will give, or why it will refuse it.
/// What the blocks hold is not looked at.
pub fn content_bytes(
    frame: &[u8],
    dictionaries: &DictionarySet,
    message_bytes_max: usize,
) -> Result<usize, CompressError> {
    checked(frame, dictionaries, message_bytes_max).map(|(content_bytes, _)| content_bytes)
}

fn checked<'a>(
    frame: &[u8],
    dictionaries: &'a DictionarySet,
    message_bytes_max: usize,
) -> Result<(usize, Option<&'a Dictionary>), CompressError> {
    let header = FrameHeader::read(frame)?;
    let content_bytes = checked_content_bytes(&header, frame.len(), message_bytes_max)?;
    let dictionary = match header.dictionary_id {
        Some(id) => Some(dictionaries.get(id).ok_or(CompressError::UnknownDictionary(id))?),
        None => None,
    };
    // Without this, zstd would go on with a second frame behind the first.
    if find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err(CompressError::Malformed("it is not exactly one frame"));
    }
    Ok((content_bytes, dictionary))
}

/// A block takes at least 4 bytes and holds at most 128 KiB (RFC 8878, section 3.1.1.2).
const BLOCK_BYTES_MIN: u64 = 4;
const BLOCK_CONTENT_BYTES_MAX: u64 = 128 * 1024;

fn checked_content_bytes(
    header: &FrameHeader,
    frame_bytes: usize,
    message_bytes_max: usize,
) -> Result<usize, CompressError> {
    let declared = header.content_bytes;
    let content_bytes = usize::try_from(declared).unwrap_or(usize::MAX);
    if content_bytes > message_bytes_max {
        return Err(CompressError::TooLarge { declared, max: message_bytes_max });
    }
    if header.window_bytes > WINDOW_BYTES_MAX.max(declared) {
        return Err(CompressError::WindowTooLarge(header.window_bytes));
    }
    let blocks_max = (frame_bytes - header.header_bytes) as u64 / BLOCK_BYTES_MIN;
    if declared > blocks_max * BLOCK_CONTENT_BYTES_MAX {
        return Err(CompressError::Malformed("it is too short for the content it declares"));
    }
    Ok(content_bytes)
}

thread_local! {
    /// A context holds working memory only: each frame begins by forgetting the one before.
    static CONTEXT: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}
