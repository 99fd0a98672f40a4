//! The suites of RFC 8998 for rustls: records of TLS 1.3 over TCP.

use rustls::{
    CipherSuite, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite,
    Tls13CipherSuite,
    crypto::{
        CipherSuiteCommon,
        cipher::{
            AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
            Nonce, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
            UnsupportedOperationError, make_tls13_aad,
        },
    },
};

use super::{
    aead::{Aead, KEY, Mode, TAG},
    quic::Packets,
    sm3::{HKDF_SM3, SM3},
};

/// IANA's numbers (RFC 8998, section 5).
const GCM_NUMBER: u16 = 0x00c6;
const CCM_NUMBER: u16 = 0x00c7;

/// TLS_SM4_GCM_SM3. Limits are those of AES-128-GCM, a cipher of the same block and key size (RFC 8446,
/// section 5.5).
pub static GCM: SupportedCipherSuite = SupportedCipherSuite::Tls13(&Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::Unknown(GCM_NUMBER),
        hash_provider: &SM3,
        confidentiality_limit: 1 << 24,
    },
    hkdf_provider: &HKDF_SM3,
    aead_alg: &Records(Mode::Gcm),
    quic: Some(&Packets(Mode::Gcm)),
});

/// TLS_SM4_CCM_SM3. The limit is that of AES-128-CCM (RFC 9147, section 4.5.3).
pub static CCM: SupportedCipherSuite = SupportedCipherSuite::Tls13(&Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::Unknown(CCM_NUMBER),
        hash_provider: &SM3,
        confidentiality_limit: 1 << 23,
    },
    hkdf_provider: &HKDF_SM3,
    aead_alg: &Records(Mode::Ccm),
    quic: Some(&Packets(Mode::Ccm)),
});

struct Records(Mode);

impl Tls13AeadAlgorithm for Records {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Protection { aead: aead(self.0, &key), iv })
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Protection { aead: aead(self.0, &key), iv })
    }

    fn key_len(&self) -> usize {
        KEY
    }

    /// rustls 0.23 has no variant for SM4, so its keys travel in that of a cipher with the same sizes: whoever
    /// takes them looks at the suite first. Kernel TLS must not be given them.
    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(ConnectionTrafficSecrets::Aes128Gcm { key, iv })
    }
}

/// rustls asks for `key_len` bytes and gives as many.
pub(super) fn aead(mode: Mode, key: &AeadKey) -> Aead {
    let mut bytes = zeroize::Zeroizing::new([0; KEY]);
    bytes.copy_from_slice(&key.as_ref()[..KEY]);
    Aead::new(mode, &bytes)
}

/// Records of one direction (RFC 8446, section 5.2).
struct Protection {
    aead: Aead,
    iv: Iv,
}

impl MessageEncrypter for Protection {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let length = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&message.typ.to_array());
        let nonce = Nonce::new(&self.iv, sequence).0;
        let tag = self
            .aead
            .seal(&nonce, &make_tls13_aad(length), payload.as_mut())
            .map_err(|_| Error::EncryptError)?;
        payload.extend_from_slice(&tag);
        // The outside of every TLS 1.3 record says application data of TLS 1.2.
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        length + 1 + TAG
    }
}

impl MessageDecrypter for Protection {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut message.payload;
        let aad = make_tls13_aad(payload.len());
        let (data, tag) = payload.split_last_chunk_mut::<TAG>().ok_or(Error::DecryptError)?;
        let nonce = Nonce::new(&self.iv, sequence).0;
        self.aead.open(&nonce, &aad, data, tag).map_err(|_| Error::DecryptError)?;
        let length = data.len();
        payload.truncate(length);
        message.into_tls13_unpadded_message()
    }
}
