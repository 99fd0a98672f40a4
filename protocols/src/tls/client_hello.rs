//! The ClientHello (RFC 8446, section 4.1.2), as far as a choice depends on it.

use super::Alert;

/// The longest ClientHello, without its four octets of header. With a post-quantum key share and two tickets
/// that carry client certificates it takes about 8 KB.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;
/// Extensions of one ClientHello. Browsers send about twenty.
pub const EXTENSIONS_MAX: usize = 64;

/// A ClientHello, borrowed from the message's bytes. Every list was walked once, so its iterator yields what
/// the client sent, whole.
#[derive(Clone, Debug, Default)]
pub struct ClientHello<'a> {
    legacy_version: u16,
    random: [u8; 32],
    cipher_suites: &'a [u8],
    extensions: Extensions<'a>,
}

/// Bodies of the extensions that are looked at; an absent one is empty.
#[derive(Clone, Debug, Default)]
struct Extensions<'a> {
    server_name: Option<&'a str>,
    named_groups: &'a [u8],
    signature_schemes: &'a [u8],
    alpn: &'a [u8],
    versions: Option<&'a [u8]>,
    key_shares: &'a [u8],
    psk_identities: &'a [u8],
    early_data: bool,
}

/// Why a message is no acceptable ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Its bytes do not parse.
    #[error("the ClientHello's {0} does not parse")]
    Malformed(&'static str),
    /// It is another message.
    #[error("a handshake message of type {0} stands where a ClientHello is expected")]
    NotClientHello(u8),
    /// An extension stands there twice (RFC 8446, section 4.2).
    #[error("extension {0} stands twice in the ClientHello")]
    Duplicate(u16),
    /// More than [`EXTENSIONS_MAX`].
    #[error("the ClientHello has more than {EXTENSIONS_MAX} extensions")]
    TooManyExtensions,
    /// RFC 8446, section 4.2.11: pre_shared_key comes last.
    #[error("an extension follows pre_shared_key")]
    PskNotLast,
}

impl HelloError {
    /// What to tell the peer.
    pub fn alert(self) -> Alert {
        match self {
            Self::Malformed(_) | Self::TooManyExtensions => Alert::DecodeError,
            Self::NotClientHello(_) => Alert::UnexpectedMessage,
            Self::Duplicate(_) | Self::PskNotLast => Alert::IllegalParameter,
        }
    }
}

/// RFC 8446, section 4.2.
mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const SUPPORTED_GROUPS: u16 = 10;
    pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(super) const ALPN: u16 = 16;
    pub(super) const PRE_SHARED_KEY: u16 = 41;
    pub(super) const EARLY_DATA: u16 = 42;
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
    pub(super) const KEY_SHARE: u16 = 51;
}

impl<'a> ClientHello<'a> {
    /// Parses a whole handshake message, its four octets of header included:
    ///
    /// ```text
    /// 01 | length, 3 | version, 2 | random, 32 | session id, 1+ | suites, 2+ | compression, 1+ | extensions, 2+
    /// ```
    ///
    /// # Errors
    /// Says what is wrong with it; [`HelloError::alert`] tells the peer.
    pub fn parse(message: &'a [u8]) -> Result<Self, HelloError> {
        let mut message = Reader(message);
        match message.u8("header")? {
            1 => {}
            other => return Err(HelloError::NotClientHello(other)),
        }
        let mut body = Reader(message.list_u24("length")?);
        message.end("length")?;
        let legacy_version = body.u16("version")?;
        let random = *body.array("random")?;
        body.list_u8("session id")?;
        let cipher_suites = body.list_u16("cipher suites")?;
        pairs(cipher_suites, "cipher suites")?;
        body.list_u8("compression methods")?;
        let extensions = match body.0 {
            // A ClientHello of TLS 1.2 may end here (RFC 5246, section 7.4.1.2).
            [] => Extensions::default(),
            _ => Extensions::parse(body.list_u16("extensions")?)?,
        };
        body.end("extensions")?;
        Ok(Self { legacy_version, random, cipher_suites, extensions })
    }

    /// The client's random.
    pub fn random(&self) -> &[u8; 32] {
        &self.random
    }

    /// The DNS name that the client wants to reach (RFC 6066, section 3), as it was sent.
    pub fn server_name(&self) -> Option<&'a str> {
        self.extensions.server_name
    }

    /// Application protocols, in the client's order of preference (RFC 7301).
    pub fn alpn(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut list = Reader(self.extensions.alpn);
        std::iter::from_fn(move || list.list_u8("").ok())
    }

    /// Cipher suites, in the client's order of preference.
    pub fn cipher_suites(&self) -> impl Iterator<Item = u16> + use<'a> {
        numbers(self.cipher_suites)
    }

    /// Groups of key exchange, in the client's order of preference.
    pub fn named_groups(&self) -> impl Iterator<Item = u16> + use<'a> {
        numbers(self.extensions.named_groups)
    }

    /// Groups that the client sends a key share of.
    pub fn key_share_groups(&self) -> impl Iterator<Item = u16> + use<'a> {
        let mut list = Reader(self.extensions.key_shares);
        std::iter::from_fn(move || {
            let group = list.u16("").ok()?;
            list.list_u16("").ok()?;
            Some(group)
        })
    }

    /// Signature schemes that the client can verify, in its order of preference.
    pub fn signature_schemes(&self) -> impl Iterator<Item = u16> + use<'a> {
        numbers(self.extensions.signature_schemes)
    }

    /// Versions in the client's order of preference: supported_versions, or else the legacy field.
    pub fn versions(&self) -> impl Iterator<Item = u16> + use<'a> {
        let legacy = self.extensions.versions.is_none().then_some(self.legacy_version);
        numbers(self.extensions.versions.unwrap_or_default()).chain(legacy)
    }

    /// Whether early data follows (RFC 8446, section 4.2.10).
    pub fn offers_early_data(&self) -> bool {
        self.extensions.early_data
    }

    /// Tickets that the client wants to resume from, the first of them with the early data's key.
    pub fn psk_identities(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut list = Reader(self.extensions.psk_identities);
        std::iter::from_fn(move || list.psk_identity().ok())
    }
}

impl<'a> Extensions<'a> {
    fn parse(list: &'a [u8]) -> Result<Self, HelloError> {
        let mut list = Reader(list);
        let mut extensions = Self::default();
        let mut seen = [0; EXTENSIONS_MAX];
        let mut count = 0;
        while !list.0.is_empty() {
            let id = list.u16("extensions")?;
            let body = list.list_u16("extensions")?;
            if seen[..count].contains(&id) {
                return Err(HelloError::Duplicate(id));
            }
            *seen.get_mut(count).ok_or(HelloError::TooManyExtensions)? = id;
            count += 1;
            extensions.take(id, Reader(body))?;
            if id == extension::PRE_SHARED_KEY && !list.0.is_empty() {
                return Err(HelloError::PskNotLast);
            }
        }
        Ok(extensions)
    }

    fn take(&mut self, id: u16, mut body: Reader<'a>) -> Result<(), HelloError> {
        match id {
            extension::SERVER_NAME => self.server_name = body.server_name()?,
            extension::SUPPORTED_GROUPS => self.named_groups = body.numbers_u16("supported_groups")?,
            extension::SIGNATURE_ALGORITHMS => {
                self.signature_schemes = body.numbers_u16("signature_algorithms")?;
            }
            extension::ALPN => self.alpn = body.alpn()?,
            extension::PRE_SHARED_KEY => self.psk_identities = body.psk_identities()?,
            extension::EARLY_DATA => self.early_data = true,
            extension::SUPPORTED_VERSIONS => {
                let versions = body.list_u8("supported_versions")?;
                pairs(versions, "supported_versions")?;
                self.versions = Some(versions);
            }
            extension::KEY_SHARE => self.key_shares = body.key_shares()?,
            _ => return Ok(()),
        }
        match id {
            // Its binders stay unread.
            extension::PRE_SHARED_KEY => Ok(()),
            _ => body.end("extension"),
        }
    }
}

/// What is left of a slice. Every read checks its length.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(HelloError::Malformed(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<&'a [u8; N], HelloError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(HelloError::Malformed(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, HelloError> {
        self.array::<1>(what).map(|octets| octets[0])
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, HelloError> {
        self.array(what).map(|octets| u16::from_be_bytes(*octets))
    }

    fn list_u8(&mut self, what: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.u8(what)?;
        self.take(length.into(), what)
    }

    fn list_u16(&mut self, what: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.u16(what)?;
        self.take(length.into(), what)
    }

    fn list_u24(&mut self, what: &'static str) -> Result<&'a [u8], HelloError> {
        let &[a, b, c] = self.array(what)?;
        self.take(u32::from_be_bytes([0, a, b, c]) as usize, what)
    }

    fn end(&self, what: &'static str) -> Result<(), HelloError> {
        if self.0.is_empty() { Ok(()) } else { Err(HelloError::Malformed(what)) }
    }

    fn numbers_u16(&mut self, what: &'static str) -> Result<&'a [u8], HelloError> {
        let list = self.list_u16(what)?;
        pairs(list, what)?;
        Ok(list)
    }

    /// The one entry of type host_name. A name that is not even ASCII is none of ours.
    fn server_name(&mut self) -> Result<Option<&'a str>, HelloError> {
        const HOST_NAME: u8 = 0;
        let mut list = Reader(self.list_u16("server_name")?);
        let mut name = None;
        while !list.0.is_empty() {
            let kind = list.u8("server_name")?;
            let value = list.list_u16("server_name")?;
            if kind == HOST_NAME && name.replace(value).is_some() {
                return Err(HelloError::Malformed("server_name"));
            }
        }
        let name = name.filter(|name| !name.is_empty() && name.is_ascii());
        Ok(name.and_then(|name| std::str::from_utf8(name).ok()))
    }

    fn alpn(&mut self) -> Result<&'a [u8], HelloError> {
        let list = self.list_u16("ALPN")?;
        let mut names = Reader(list);
        while !names.0.is_empty() {
            if names.list_u8("ALPN")?.is_empty() {
                return Err(HelloError::Malformed("ALPN"));
            }
        }
        Ok(list)
    }

    fn key_shares(&mut self) -> Result<&'a [u8], HelloError> {
        let list = self.list_u16("key_share")?;
        let mut shares = Reader(list);
        while !shares.0.is_empty() {
            shares.u16("key_share")?;
            shares.list_u16("key_share")?;
        }
        Ok(list)
    }

    fn psk_identities(&mut self) -> Result<&'a [u8], HelloError> {
        let list = self.list_u16("pre_shared_key")?;
        let mut identities = Reader(list);
        while !identities.0.is_empty() {
            identities.psk_identity()?;
        }
        Ok(list)
    }

    fn psk_identity(&mut self) -> Result<&'a [u8], HelloError> {
        let identity = self.list_u16("pre_shared_key")?;
        self.take(4, "pre_shared_key")?;
        Ok(identity)
    }
}

/// A list of two-octet numbers; an empty one is none.
fn pairs(list: &[u8], what: &'static str) -> Result<(), HelloError> {
    if list.is_empty() || !list.len().is_multiple_of(2) { Err(HelloError::Malformed(what)) } else { Ok(()) }
}

fn numbers(list: &[u8]) -> impl Iterator<Item = u16> + use<'_> {
    list.as_chunks().0.iter().map(|octets| u16::from_be_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list_u16(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u16).to_be_bytes()[..], content].concat()
    }

    fn list_u8(content: &[u8]) -> Vec<u8> {
        [&[content.len() as u8][..], content].concat()
    }

    fn extension(id: u16, body: &[u8]) -> Vec<u8> {
        [&id.to_be_bytes()[..], &list_u16(body)].concat()
    }

    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([9; 32]);
        body.extend(list_u8(&[]));
        body.extend(list_u16(&[0x13, 0x01, 0x13, 0x03]));
        body.extend(list_u8(&[0]));
        body.extend(list_u16(&extensions.concat()));
        let mut message = (body.len() as u32).to_be_bytes().to_vec();
        message[0] = 1;
        message.extend(body);
        message
    }

    fn psk(identity: &[u8]) -> Vec<u8> {
        let identities = list_u16(&[list_u16(identity), vec![0; 4]].concat());
        extension(41, &[identities, list_u16(&list_u8(&[1; 32]))].concat())
    }

    fn full() -> Vec<u8> {
        hello(&[
            extension(0, &list_u16(&[vec![0], list_u16(b"edge.example")].concat())),
            extension(10, &list_u16(&[0x11, 0xec, 0, 29])),
            extension(13, &list_u16(&[4, 3, 8, 4])),
            extension(16, &list_u16(&[list_u8(b"towline/1"), list_u8(b"h2")].concat())),
            extension(43, &list_u8(&[3, 4, 3, 3])),
            extension(51, &list_u16(&[vec![0, 29], list_u16(&[5; 32])].concat())),
            extension(0xfafa, b"grease"),
            extension(42, &[]),
            psk(b"ticket"),
        ])
    }

    #[test]
    fn everything_that_a_choice_depends_on_is_read() {
        let message = full();
        let hello = ClientHello::parse(&message).unwrap();
        assert_eq!(hello.random(), &[9; 32]);
        assert_eq!(hello.server_name(), Some("edge.example"));
        assert_eq!(hello.alpn().collect::<Vec<_>>(), [&b"towline/1"[..], b"h2"]);
        assert_eq!(hello.cipher_suites().collect::<Vec<_>>(), [0x1301, 0x1303]);
        assert_eq!(hello.named_groups().collect::<Vec<_>>(), [0x11ec, 29]);
        assert_eq!(hello.key_share_groups().collect::<Vec<_>>(), [29]);
        assert_eq!(hello.signature_schemes().collect::<Vec<_>>(), [0x0403, 0x0804]);
        assert_eq!(hello.versions().collect::<Vec<_>>(), [0x0304, 0x0303]);
        assert!(hello.offers_early_data());
        assert_eq!(hello.psk_identities().collect::<Vec<_>>(), [b"ticket"]);
    }

    #[test]
    fn a_hello_without_extensions_speaks_its_legacy_version() {
        let mut message = hello(&[]);
        message.truncate(message.len() - 2);
        message[3] -= 2;
        let hello = ClientHello::parse(&message).unwrap();
        assert_eq!(hello.versions().collect::<Vec<_>>(), [0x0303]);
        assert_eq!(hello.server_name(), None);
        assert_eq!(hello.alpn().count() + hello.named_groups().count() + hello.psk_identities().count(), 0);
    }

    #[track_caller]
    fn check(extensions: &[Vec<u8>], expected: HelloError) {
        assert_eq!(ClientHello::parse(&hello(extensions)).unwrap_err(), expected);
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        use HelloError::*;
        check(&[extension(7, &[]), extension(7, &[])], Duplicate(7));
        check(&[psk(b"t"), extension(7, &[])], PskNotLast);
        check(&[extension(10, &list_u16(&[]))], Malformed("supported_groups"));
        check(&[extension(10, &list_u16(&[1, 2, 3]))], Malformed("supported_groups"));
        check(&[extension(13, &[0, 9, 1])], Malformed("signature_algorithms"));
        check(&[extension(16, &list_u16(&list_u8(&[])))], Malformed("ALPN"));
        check(&[extension(43, &list_u8(&[3]))], Malformed("supported_versions"));
        check(&[extension(51, &list_u16(&[0, 29, 0, 9]))], Malformed("key_share"));
        check(&[extension(42, &[0])], Malformed("extension"));
        let two_names = [vec![0], list_u16(b"a"), vec![0], list_u16(b"b")].concat();
        check(&[extension(0, &list_u16(&two_names))], Malformed("server_name"));
        let many: Vec<_> = (0..=EXTENSIONS_MAX as u16).map(|id| extension(0x1000 + id, &[])).collect();
        check(&many, TooManyExtensions);
    }

    #[test]
    fn a_name_that_is_not_ascii_is_no_name() {
        let message = hello(&[extension(0, &list_u16(&[vec![0], list_u16("ü".as_bytes())].concat()))]);
        assert_eq!(ClientHello::parse(&message).unwrap().server_name(), None);
    }

    #[test]
    fn every_truncation_is_refused() {
        let message = full();
        for length in 0..message.len() {
            assert!(ClientHello::parse(&message[..length]).is_err(), "{length}");
        }
        assert_eq!(ClientHello::parse(&[2, 0, 0, 0]).unwrap_err(), HelloError::NotClientHello(2));
    }

    proptest! {
        #[test]
        fn changed_bytes_are_survived(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6)) {
            let mut message = full();
            for (position, byte) in changes {
                let position = position % message.len();
                message[position] = byte;
            }
            if let Ok(hello) = ClientHello::parse(&message) {
                let _ = hello.alpn().count() + hello.versions().count() + hello.psk_identities().count();
                let _ = hello.cipher_suites().count() + hello.key_share_groups().count();
            }
        }
    }
}
