//! The data representations of section 1.5, read from a packet's bytes and appended to a buffer.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Binary, MqttError, QoS, ReasonCode, Secret, SubscriptionId, Text};

/// The largest value of a Variable Byte Integer: four bytes of seven bits.
pub(super) const VARINT_MAX: usize = 268_435_455;

/// Of the protocol level in CONNECT: the client is a bridge of another broker.
pub(super) const LEVEL_OF_BRIDGE: u8 = 0x80;

const CUT: MqttError = MqttError::malformed("2.1.4: a field reaches beyond the end of its packet");

/// A cursor over one packet. Everything it hands out shares the packet's memory.
pub(super) struct Reader {
    bytes: Bytes,
    /// How many more list items (topic filters, user properties) this packet may hold: each costs many
    /// times its smallest encoding in memory.
    items_left: usize,
}

impl Reader {
    pub(super) fn new(bytes: Bytes, items_max: usize) -> Self {
        Self { bytes, items_left: items_max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<Bytes, MqttError> {
        if self.bytes.len() < length {
            return Err(CUT);
        }
        Ok(self.bytes.split_to(length))
    }

    /// Counts one list item against the packet's bound.
    pub(super) fn count_item(&mut self) -> Result<(), MqttError> {
        self.items_left = self.items_left.checked_sub(1).ok_or(MqttError::new(
            ReasonCode::QuotaExceeded,
            "4.13: more topic filters and properties in one packet than the server takes",
        ))?;
        Ok(())
    }

    pub(super) fn u8(&mut self) -> Result<u8, MqttError> {
        self.bytes.try_get_u8().map_err(|_| CUT)
    }

    pub(super) fn u16(&mut self) -> Result<u16, MqttError> {
        self.bytes.try_get_u16().map_err(|_| CUT)
    }

    pub(super) fn varint(&mut self) -> Result<usize, MqttError> {
        match varint(&self.bytes)? {
            None => Err(CUT),
            Some((_, length, false)) if length > 1 => {
                Err(MqttError::malformed("MQTT-1.5.5-1: a Variable Byte Integer uses as few bytes as it can"))
            }
            Some((value, length, _)) => {
                self.bytes.advance(length);
                Ok(value)
            }
        }
    }

    /// Runs `read` over the next `length` bytes, which it must use up.
    pub(super) fn within<T>(
        &mut self,
        length: usize,
        read: impl FnOnce(&mut Self) -> Result<T, MqttError>,
    ) -> Result<T, MqttError> {
        let mut inner = Self { bytes: self.take(length)?, items_left: self.items_left };
        let value = read(&mut inner)?;
        self.items_left = inner.items_left;
        Ok(value)
    }
}

/// The value, its length in bytes, and whether that is the shortest form; `None` when more bytes are needed.
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(usize, usize, bool)>, MqttError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1, index == 0 || *byte != 0)));
        }
    }
    if bytes.len() >= 4 {
        return Err(MqttError::malformed("1.5.5: a Variable Byte Integer has at most four bytes"));
    }
    Ok(None)
}

pub(super) fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value > 0x7f {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Appends what `write` appends, with its length (plus `beyond`, bytes that follow elsewhere) before it.
///
/// The length is written last. One byte is set aside for it, and the body moves up in the rare case that
/// it needs more: cheaper than to measure everything beforehand.
pub(super) fn put_with_length(
    out: &mut BytesMut,
    beyond: usize,
    write: impl FnOnce(&mut BytesMut) -> Result<(), MqttError>,
) -> Result<(), MqttError> {
    let at = out.len();
    out.put_u8(0);
    write(out)?;
    let body = out.len() - at - 1;
    let mut value = body.saturating_add(beyond);
    if value > VARINT_MAX {
        return Err(MqttError::new(ReasonCode::PacketTooLarge, "1.5.5: a length is at most 268435455"));
    }
    let extra = match value {
        0..=0x7f => 0,
        0x80..=0x3fff => 1,
        0x4000..=0x1f_ffff => 2,
        _ => 3,
    };
    out.put_bytes(0, extra);
    out.copy_within(at + 1..at + 1 + body, at + 1 + extra);
    for byte in &mut out[at..at + extra] {
        *byte = value as u8 | 0x80;
        value >>= 7;
    }
    out[at + extra] = value as u8;
    Ok(())
}

/// Appends a two-byte length and the bytes.
pub(super) fn put_binary(out: &mut BytesMut, bytes: &[u8]) -> Result<(), MqttError> {
    let length = u16::try_from(bytes.len())
        .map_err(|_| MqttError::malformed("1.5.4: strings and binary data have at most 65535 bytes"))?;
    out.put_u16(length);
    out.put_slice(bytes);
    Ok(())
}

/// A type with one representation on the wire.
pub(super) trait Wire: Sized {
    fn read(input: &mut Reader) -> Result<Self, MqttError>;
    fn write(&self, out: &mut BytesMut);
}

impl Wire for Text {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        let length = input.u16()?;
        Self::new(input.take(length.into())?)
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u16(self.as_bytes().len() as u16);
        out.put_slice(self.as_bytes());
    }
}

impl Wire for Binary {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        let length = input.u16()?;
        Self::new(input.take(length.into())?)
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u16(self.len() as u16);
        out.put_slice(self);
    }
}

impl Wire for Secret {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        Binary::read(input).map(Self)
    }

    fn write(&self, out: &mut BytesMut) {
        self.0.write(out);
    }
}

impl Wire for (Text, Text) {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        Ok((Text::read(input)?, Text::read(input)?))
    }

    fn write(&self, out: &mut BytesMut) {
        self.0.write(out);
        self.1.write(out);
    }
}

impl Wire for u32 {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        Ok(input.take(4)?.get_u32())
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u32(*self);
    }
}

impl Wire for u16 {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        input.u16()
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u16(*self);
    }
}

impl Wire for bool {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        match input.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MqttError::protocol("2.2.2: the value of this property is 0 or 1")),
        }
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }
}

impl Wire for NonZeroU16 {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        Self::new(input.u16()?).ok_or(MqttError::protocol("3.1.2.11.3: Receive Maximum must not be 0"))
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u16(self.get());
    }
}

impl Wire for NonZeroU32 {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        Self::new(u32::read(input)?)
            .ok_or(MqttError::protocol("3.1.2.11.4: Maximum Packet Size must not be 0"))
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u32(self.get());
    }
}

impl Wire for QoS {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        QoS::from_bits(input.u8()?)
            .filter(|qos| *qos != QoS::ExactlyOnce)
            .ok_or(MqttError::protocol("3.2.2.3.4: Maximum QoS is 0 or 1"))
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u8(*self as u8);
    }
}

impl Wire for SubscriptionId {
    fn read(input: &mut Reader) -> Result<Self, MqttError> {
        Self::new(input.varint()? as u32)
            .ok_or(MqttError::protocol("3.8.2.1.2: a Subscription Identifier must not be 0"))
    }

    fn write(&self, out: &mut BytesMut) {
        put_varint(out, self.get() as usize);
    }
}
