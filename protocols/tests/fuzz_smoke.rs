//! What the fuzz targets do (protocols/fuzz), on random input of a few seconds: they are compiled with everything
//! else, and a mistake that anything finds is found here. `PROPTEST_CASES` says how many inputs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target that cannot go on has failed"
)]

use proptest::{collection::vec, prelude::*};

macro_rules! bodies {
    ($($name:ident $path:literal)*) => {
        $(#[path = $path] mod $name;)*

        proptest! {
            $(#[test]
            fn $name(input in input()) {
                $name::run(&input);
            })*
        }
    };
}

bodies! {
    chunked "../fuzz/bodies/chunked.rs"
    decompress "../fuzz/bodies/decompress.rs"
    detect "../fuzz/bodies/detect.rs"
    endpoint_list "../fuzz/bodies/endpoint_list.rs"
    hpack_decode "../fuzz/bodies/hpack_decode.rs"
    ledger "../fuzz/bodies/ledger.rs"
    link_connection "../fuzz/bodies/link_connection.rs"
    link_frame "../fuzz/bodies/link_frame.rs"
    mqtt_decode "../fuzz/bodies/mqtt_decode.rs"
    proxy "../fuzz/bodies/proxy.rs"
    qpack "../fuzz/bodies/qpack.rs"
    session "../fuzz/bodies/session.rs"
    tls_client_hello "../fuzz/bodies/tls_client_hello.rs"
    varint "../fuzz/bodies/varint.rs"
    websocket "../fuzz/bodies/websocket.rs"
}

/// Octets of any kind, of a few small values (lengths, types and flags are such), and of pieces set apart by the
/// octet that some targets split at.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let any_octets = vec(any::<u8>(), 0..400);
    let small = vec(0u8..32, 0..400);
    let pieces = vec(vec(any::<u8>(), 0..40), 0..12).prop_map(|pieces| pieces.join(&0xfe));
    prop_oneof![any_octets, small, pieces]
}
