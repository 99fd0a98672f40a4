//! Addresses that an app brings along for the names of its gateways, so that its first start need not wait for DNS.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use towline_protocols::policy::Found;

use crate::{config::Endpoint, error::ConfigError};

/// The addresses of one gateway's name, as they were when the app was built. They are used at once where DNS has said nothing
/// of the name yet, while it is asked beside; where it has, they are used when nothing gets through to what it said. The
/// certificate has to name the host, whoever is reached. Where `strategies.race` is off, DNS alone is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundledAddresses {
    /// The host of one of [`crate::ClientConfig::endpoints`].
    pub host: String,
    /// Its addresses, the preferred first; 1 to 8.
    pub addresses: Vec<IpAddr>,
}

/// Addresses of one name: as many as one race tries.
const ADDRESSES_MAX: usize = 8;

impl FromStr for BundledAddresses {
    type Err = ConfigError;

    /// Reads `edge.example=192.0.2.7,2001:db8::7`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |what: &str| ConfigError::new("bundled_addresses", format!("`{text}`: {what}"));
        let (host, addresses) = text.split_once('=').ok_or_else(|| wrong("is not host=address,address"))?;
        let parse = |address: &str| {
            address.trim().parse().map_err(|_| wrong(&format!("`{address}` is no IP address")))
        };
        let addresses = addresses.split(',').map(parse).collect::<Result<_, _>>()?;
        Ok(Self { host: host.trim().to_owned(), addresses })
    }
}

/// Finds what is of no use before anything is started.
pub(crate) fn check(bundled: &[BundledAddresses], endpoints: &[Endpoint]) -> Result<(), ConfigError> {
    let mut hosts: Vec<String> = Vec::new();
    for BundledAddresses { host, addresses } in bundled {
        let wrong = |what: &str| Err(ConfigError::new("bundled_addresses", format!("`{host}` {what}")));
        if host.parse::<IpAddr>().is_ok() {
            return wrong("is an address itself");
        }
        if !endpoints.iter().any(|endpoint| endpoint.host.eq_ignore_ascii_case(host)) {
            return wrong("is the host of no endpoint");
        }
        if !(1..=ADDRESSES_MAX).contains(&addresses.len()) {
            return wrong("has to have 1 to 8 addresses");
        }
        if addresses.iter().any(|address| address.is_unspecified() || address.is_multicast()) {
            return wrong("has an address at which nobody can be reached");
        }
        let name = host.to_ascii_lowercase();
        if hosts.contains(&name) {
            return wrong("is there twice");
        }
        hosts.push(name);
    }
    Ok(())
}

/// All that an app brings along; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Bundle(Arc<[BundledAddresses]>);

impl Bundle {
    pub(crate) fn new(bundled: &[BundledAddresses]) -> Self {
        Self(bundled.into())
    }

    /// What was brought along for `host`.
    pub(crate) fn of(&self, host: &str) -> &[IpAddr] {
        let own = self.0.iter().find(|it| it.host.eq_ignore_ascii_case(host));
        own.map_or(&[], |own| &own.addresses)
    }

    /// Where to find `host` at once, of which `known` is remembered.
    pub(crate) fn beside(&self, known: Option<&Found>, host: &str) -> Vec<IpAddr> {
        match known {
            None => self.of(host).to_vec(),
            // A captive portal's DNS names the portal for everything, and so may what it said.
            Some(known) if known.is_doubted => take_turns(&known.addresses, self.of(host)),
            Some(known) => known.addresses.clone(),
        }
    }
}

/// One of each in turn, each address once, since only the first ones are tried.
fn take_turns(first: &[IpAddr], second: &[IpAddr]) -> Vec<IpAddr> {
    let turns = (0..first.len().max(second.len())).flat_map(|place| [first.get(place), second.get(place)]);
    let mut all = Vec::new();
    for address in turns.flatten() {
        if !all.contains(address) {
            all.push(*address);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<IpAddr> {
        text.split(' ').map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn the_text_form_is_a_host_and_its_addresses() {
        let parsed: BundledAddresses = "edge.example=192.0.2.7, 2001:db8::7".parse().unwrap();
        let expected = addresses("192.0.2.7 2001:db8::7");
        assert_eq!(parsed, BundledAddresses { host: "edge.example".into(), addresses: expected });
        for (text, reason) in [
            ("edge.example", "is not host=address,address"),
            ("edge.example=", "`` is no IP address"),
            ("edge.example=192.0.2.7:443", "`192.0.2.7:443` is no IP address"),
        ] {
            let error = text.parse::<BundledAddresses>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn what_is_of_no_use_is_refused_at_the_start() {
        let endpoints: Vec<Endpoint> =
            ["edge.example:443", "192.0.2.1:443"].map(|text| text.parse().unwrap()).into();
        let check = |texts: &[&str], reason: Option<&str>| {
            let bundled: Vec<BundledAddresses> = texts.iter().map(|text| text.parse().unwrap()).collect();
            let error = check(&bundled, &endpoints).err().map(|error| error.to_string());
            match (reason, error) {
                (None, None) => {}
                (Some(reason), Some(error)) if error.contains(reason) => {}
                (_, error) => panic!("{texts:?}: {error:?}"),
            }
        };
        check(&["Edge.example=192.0.2.7"], None);
        check(&["edge.example=::1,::2,::3,::4,::5,::6,::7,::8"], None);
        check(&["edge.example=::1,::2,::3,::4,::5,::6,::7,::8,::9"], Some("1 to 8"));
        check(&["other.example=192.0.2.7"], Some("the host of no endpoint"));
        check(&["192.0.2.1=192.0.2.7"], Some("an address itself"));
        check(&["edge.example=0.0.0.0"], Some("nobody"));
        check(&["edge.example=192.0.2.7", "EDGE.example=192.0.2.8"], Some("twice"));
    }

    #[test]
    fn what_dns_said_comes_first_and_alone_unless_it_led_nowhere() {
        let bundle = Bundle::new(&["edge=192.0.2.1,192.0.2.2".parse().unwrap()]);
        let check = |known: Option<(&str, bool)>, expected: &str| {
            let known = known.map(|(text, is_doubted)| Found {
                addresses: addresses(text),
                is_fresh: false,
                is_doubted,
            });
            assert_eq!(bundle.beside(known.as_ref(), "EDGE"), addresses(expected), "{known:?}");
        };
        check(None, "192.0.2.1 192.0.2.2");
        check(Some(("192.0.2.9 192.0.2.8", false)), "192.0.2.9 192.0.2.8");
        check(Some(("192.0.2.9 192.0.2.2", true)), "192.0.2.9 192.0.2.1 192.0.2.2");
        assert!(bundle.beside(None, "other").is_empty());
    }
}
