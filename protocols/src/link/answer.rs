//! The answer that most calls of gRPC get, which has a frame of its own (PROTOCOL.md, section 4): `:status: 200`,
//! `content-type: application/grpc`, one message, `grpc-status: 0`.

use crate::hpack::HeaderField;

const HEAD: [HeaderField; 2] = [
    HeaderField::from_static(":status", "200"),
    HeaderField::from_static("content-type", "application/grpc"),
];
const TRAILERS: [HeaderField; 1] = [HeaderField::from_static("grpc-status", "0")];

/// The header list that ANSWER stands for.
pub(super) fn head() -> Vec<HeaderField> {
    HEAD.to_vec()
}

/// The trailers that ANSWER stands for.
pub(super) fn trailers() -> Vec<HeaderField> {
    TRAILERS.to_vec()
}

/// Whether ANSWER can stand for an answer that begins with these fields.
pub(super) fn is_head(fields: &[HeaderField]) -> bool {
    fields == HEAD
}

/// Whether ANSWER can stand for an answer that ends with these fields.
pub(super) fn is_trailers(fields: &[HeaderField]) -> bool {
    fields == TRAILERS
}
