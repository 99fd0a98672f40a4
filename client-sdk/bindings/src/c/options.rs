//! Options by name: a header that need not change when there are more of them.

use std::{ffi::c_char, mem::MaybeUninit, sync::Arc, time::Duration};

use super::{TowlineError, TowlineStatus, given, guard, guarded, raw};
use crate::{
    ClientOptions, DictionaryFetch, Header, ShortCalls, SocketBinder, Transports,
    error::TowlineError as Error,
};

/// What a client is made with.
pub struct TowlineOptions {
    pub(super) options: ClientOptions,
    pub(super) binder: Option<Arc<dyn SocketBinder>>,
}

/// Options without a gateway, and defaults for all else. Free them with towline_options_free.
#[unsafe(no_mangle)]
pub extern "C" fn towline_options_new() -> Box<TowlineOptions> {
    Box::new(TowlineOptions { options: ClientOptions::new(std::iter::empty::<String>()), binder: None })
}

/// Sets an option. Those marked with + may be set several times, each adds a value.
///
/// - endpoint +: a gateway, host:port; at least one
/// - bundled_addresses +: addresses of an endpoint's name, as edge.example=192.0.2.7,2001:db8::7, to use before DNS has spoken
/// - own_resolver: whether the app looks names up itself, see towline_on_name (false)
/// - strategy +: a parameter of a strategy, as hedge.enabled=false, which holds until the gateway's policy sets the same one
/// - endpoint_list_key +: ed25519/ and base64 of a public key; lists of further gateways that it signed are taken
/// - endpoint_list_name +: what certificates of listed gateways may name beside the endpoints' hosts, as *.edge.example
/// - roots_pem: the certificate authorities to trust, PEM; must be set unless plaintext is
/// - plaintext: true is no encryption, for loopback and laboratories (false)
/// - pin +: sha256/ and base64 of the SHA-256 of a public key that the gateway's chain must have
/// - certificate_pem, certificate_key_pem: what the client shows a gateway that asks who it is, PEM
/// - transports: quic+tcp, quic, tcp (quic+tcp)
/// - early_data: whether requests may leave in a resumed connection's first flight (true)
/// - keep_tickets: whether TLS sessions are kept beside identity_file, for the next run of the app (true)
/// - client_id: name of this installation (the identity file's, or random)
/// - identity_file: a file that makes this the same client again after a restart
/// - user, password: where the gateway asks for them
/// - session_header +: "name: value", which every request carries
/// - never_indexed +: name of a header field whose values are secrets, beside authorization and cookie
/// - topic +: topic filter to subscribe to on every connection
/// - agent: name and version of the app
/// - app_name, app_version, app_region: what the app is and where, for the operator's policy
/// - short_calls: whether calls may go out by HTTPS POST: off, fallback, always (fallback)
/// - short_after_ms: with fallback, after how long without a line (3000)
/// - dictionary_fetch: unless-metered, when-unmetered, never (unless-metered)
/// - deadline_ms: how long a call waits that names no deadline (60000)
/// - calls_max: calls waiting or running at one time
/// - queued_bytes_max: bytes of messages in calls that are not answered
/// - message_bytes_max: bytes of one message of an answer
/// - pushes_max: pushes that wait for the app
#[unsafe(no_mangle)]
pub extern "C" fn towline_options_set(
    options: Option<&mut TowlineOptions>,
    name: *const c_char,
    value: *const c_char,
    error: Option<&mut MaybeUninit<*mut TowlineError>>,
) -> TowlineStatus {
    guard(error, || {
        let options = given(options, "options")?;
        set(&mut options.options, &raw::text(name, "name")?, raw::text(value, "value")?)
    })
}

/// Frees options; NULL is nothing. A client that was made with them keeps a copy.
#[unsafe(no_mangle)]
pub extern "C" fn towline_options_free(options: Option<Box<TowlineOptions>>) {
    guarded((), || drop(options));
}

fn set(options: &mut ClientOptions, name: &str, value: String) -> Result<(), Error> {
    match name {
        "endpoint" => options.endpoints.push(value),
        "bundled_addresses" => options.bundled_addresses.push(value),
        "own_resolver" => options.own_resolver = flag(name, &value)?,
        "strategy" => options.strategies.push(value),
        "endpoint_list_key" => options.endpoint_list_keys.push(value),
        "endpoint_list_name" => options.endpoint_list_names.push(value),
        "roots_pem" => options.roots_pem = Some(value.into_bytes()),
        "plaintext" => options.plaintext = flag(name, &value)?,
        "pin" => options.pins.push(value),
        "certificate_pem" => options.certificate_pem = Some(value.into_bytes()),
        "certificate_key_pem" => options.certificate_key_pem = Some(value.into_bytes()),
        "transports" => options.transports = Some(one_of(name, &value, &TRANSPORTS)?),
        "early_data" => options.early_data = flag(name, &value)?,
        "keep_tickets" => options.keep_tickets = flag(name, &value)?,
        "client_id" => options.client_id = Some(value),
        "identity_file" => options.identity_file = Some(value),
        "user" => options.user = Some(value),
        "password" => options.password = Some(value),
        "session_header" => options.session_headers.push(header(name, &value)?),
        "never_indexed" => options.never_indexed.push(value),
        "topic" => options.topics.push(value),
        "agent" => options.agent = Some(value),
        "app_name" => options.app_name = Some(value),
        "app_version" => options.app_version = Some(value),
        "app_region" => options.app_region = Some(value),
        "short_calls" => options.short_calls = Some(one_of(name, &value, &SHORT_CALLS)?),
        "short_after_ms" => options.short_after = Some(milliseconds(name, &value)?),
        "dictionary_fetch" => options.dictionary_fetch = Some(one_of(name, &value, &FETCH)?),
        "deadline_ms" => options.deadline = Some(milliseconds(name, &value)?),
        "calls_max" => options.calls_max = Some(number(name, &value)?),
        "queued_bytes_max" => options.queued_bytes_max = Some(number(name, &value)?),
        "message_bytes_max" => options.message_bytes_max = Some(number(name, &value)?),
        "pushes_max" => options.pushes_max = Some(number(name, &value)?),
        _ => return Err(Error::option(name, "there is no such option")),
    }
    Ok(())
}

const TRANSPORTS: [(&str, Transports); 3] =
    [("quic+tcp", Transports::QuicAndTcp), ("quic", Transports::Quic), ("tcp", Transports::Tcp)];
const SHORT_CALLS: [(&str, ShortCalls); 3] =
    [("off", ShortCalls::Off), ("fallback", ShortCalls::Fallback), ("always", ShortCalls::Always)];
const FETCH: [(&str, DictionaryFetch); 3] = [
    ("unless-metered", DictionaryFetch::UnlessMetered),
    ("when-unmetered", DictionaryFetch::WhenUnmetered),
    ("never", DictionaryFetch::Never),
];

fn one_of<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T, Error> {
    let chosen = choices.iter().find(|(choice, _)| *choice == value).map(|(_, chosen)| *chosen);
    chosen.ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
        Error::option(name, format!("`{value}` is none of {}", names.join(", ")))
    })
}

fn flag(name: &str, value: &str) -> Result<bool, Error> {
    one_of(name, value, &[("true", true), ("false", false)])
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Error> {
    value.parse().map_err(|_| Error::option(name, format!("`{value}` is no number, or out of range")))
}

fn milliseconds(name: &str, value: &str) -> Result<Duration, Error> {
    number(name, value).map(Duration::from_millis)
}

/// The value may be a token: an error does not show it.
fn header(name: &str, value: &str) -> Result<Header, Error> {
    let (field, value) = value.split_once(':').ok_or_else(|| Error::option(name, "is not `name: value`"))?;
    Ok(Header { name: field.trim().to_owned(), value: value.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_by_name() {
        let mut options = ClientOptions::new(["a:1"]);
        for (name, value) in [
            ("endpoint", "b:2"),
            ("transports", "tcp"),
            ("early_data", "false"),
            ("keep_tickets", "false"),
            ("own_resolver", "true"),
            ("session_header", "Authorization: Bearer a:b"),
            ("deadline_ms", "1500"),
            ("calls_max", "7"),
            ("endpoint_list_key", "ed25519/a"),
            ("endpoint_list_name", "*.edge.example"),
            ("app_region", "eu"),
            ("bundled_addresses", "a=192.0.2.7"),
            ("strategy", "hedge.enabled=false"),
            ("pushes_max", "9"),
        ] {
            set(&mut options, name, value.to_owned()).unwrap();
        }
        assert_eq!(options.endpoints, ["a:1", "b:2"]);
        assert_eq!(options.bundled_addresses, ["a=192.0.2.7"]);
        assert_eq!(options.strategies, ["hedge.enabled=false"]);
        assert_eq!(options.transports, Some(Transports::Tcp));
        assert!(!options.early_data && !options.keep_tickets && options.own_resolver);
        assert_eq!(options.session_headers[0].name, "Authorization");
        assert_eq!(options.session_headers[0].value, "Bearer a:b");
        assert_eq!(options.deadline, Some(Duration::from_millis(1500)));
        assert_eq!(options.calls_max, Some(7));
        assert_eq!(
            (&*options.endpoint_list_keys[0], &*options.endpoint_list_names[0]),
            ("ed25519/a", "*.edge.example")
        );
        assert_eq!((options.app_region.as_deref(), options.pushes_max), (Some("eu"), Some(9)));
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        for (name, value) in [
            ("tranports", "tcp"),
            ("transports", "sctp"),
            ("plaintext", "1"),
            ("deadline_ms", "-1"),
            ("calls_max", "5000000000"),
            ("session_header", "authorization"),
        ] {
            let error = set(&mut ClientOptions::default(), name, value.to_owned()).unwrap_err();
            assert!(matches!(error, Error::Config { option, .. } if option == name), "{name}");
        }
    }
}
