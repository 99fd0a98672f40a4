//! Packets of any bytes, in each version: what can be read can be written and read again.

use bytes::BytesMut;
use towline_protocols::mqtt::{Limits, Packet, Version, decode, encode};

pub(crate) fn run(data: &[u8]) {
    let Some((selector, data)) = data.split_first() else { return };
    let version = [Version::V31, Version::V311, Version::V5][usize::from(selector % 3)];
    let limits = Limits { packet_bytes_max: 64 * 1024, items_max: 64 };
    let mut input = BytesMut::from(data);
    while let Ok(Some(packet)) = decode(&mut input, version, &limits) {
        // CONNECT names its own version.
        let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
        let mut written = BytesMut::new();
        encode(&packet, version, &mut written).expect("what was read fits");
        assert_eq!(decode(&mut written, version, &Limits::default()), Ok(Some(packet)));
    }
}
