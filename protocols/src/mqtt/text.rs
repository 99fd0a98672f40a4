//! Strings and binary data: slices of the packet they came in, never longer than their two-byte length allows.

use std::{fmt, ops::Deref, str};

use bytes::Bytes;

use super::MqttError;

/// A UTF-8 encoded string (1.5.4): at most 65535 bytes, no U+0000. Cloning shares the bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Text(Bytes);

impl Text {
    /// Checks the rules of 1.5.4. U+FEFF stays where it is [MQTT-1.5.4-3].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, MqttError> {
        let bytes = bytes.into();
        if bytes.len() > usize::from(u16::MAX) {
            return Err(MqttError::malformed("1.5.4: a string has at most 65535 bytes"));
        }
        if str::from_utf8(&bytes).is_err() {
            return Err(MqttError::malformed("MQTT-1.5.4-1: a string must be well-formed UTF-8"));
        }
        if bytes.contains(&0) {
            return Err(MqttError::malformed("MQTT-1.5.4-2: a string must not hold U+0000"));
        }
        Ok(Self(bytes))
    }

    /// The string.
    pub fn as_str(&self) -> &str {
        // `new` has checked it; a second check is cheaper than what a wrong `unchecked` could cost.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl TryFrom<&str> for Text {
    type Error = MqttError;

    fn try_from(value: &str) -> Result<Self, MqttError> {
        Self::new(Bytes::copy_from_slice(value.as_bytes()))
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

/// Binary data (1.5.6): at most 65535 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binary(Bytes);

impl Binary {
    /// Checks the length.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, MqttError> {
        let bytes = bytes.into();
        if bytes.len() > usize::from(u16::MAX) {
            return Err(MqttError::malformed("1.5.6: binary data has at most 65535 bytes"));
        }
        Ok(Self(bytes))
    }

    /// The bytes, shared.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl Deref for Binary {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Binary data that neither logs nor errors may show: a password, or authentication data.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub Binary);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
