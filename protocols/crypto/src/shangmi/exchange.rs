//! The group curveSM2 (RFC 8998, section 3.3).

use rustls::{
    Error, NamedGroup, PeerMisbehaved,
    crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup},
    ffdhe_groups::FfdheGroup,
};

use super::sm2::PrivateKey;

/// IANA's number of curveSM2.
pub(super) const NUMBER: u16 = 41;

#[derive(Debug)]
pub(super) struct CurveSm2;

impl SupportedKxGroup for CurveSm2 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let key = PrivateKey::generate().map_err(|_| Error::FailedToGetRandomBytes)?;
        Ok(Box::new(Ephemeral(key)))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::Unknown(NUMBER)
    }
}

struct Ephemeral(PrivateKey);

impl ActiveKeyExchange for Ephemeral {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        match self.0.agree(peer) {
            Ok(secret) => Ok(SharedSecret::from(secret.as_slice())),
            Err(_) => Err(PeerMisbehaved::InvalidKeyShare.into()),
        }
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn pub_key(&self) -> &[u8] {
        self.0.public()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::Unknown(NUMBER)
    }
}
