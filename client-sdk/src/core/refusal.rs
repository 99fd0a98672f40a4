//! Whether a backend's answer asks for the call to come later, and when.
//!
//! ```text
//!  503                       later; after retry-after, if it names one      RFC 9110, sections 15.6.4 and 10.2.3
//!  429                       later, if it names retry-after                 RFC 6585, section 4
//!  UNAVAILABLE               later; after the pushback, if it names one     gRPC proposal A6
//!  RESOURCE_EXHAUSTED        later, if it names a pushback
//!  a pushback below zero, or none that can be read                          never
//!  anything else             an answer
//! ```

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use super::call::Incoming;
use crate::call::status_of;

/// An answer that asks for the call to come later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// After so long; `None`: it does not say.
    pub(super) wait: Option<Duration>,
}

impl Refusal {
    /// What a whole answer asks for, at `now` of the wall clock.
    pub(super) fn of(incoming: &Incoming, now: SystemTime) -> Option<Self> {
        let headers = incoming.headers.as_ref()?;
        // A status of gRPC decides: the one of HTTP below it is 200.
        let statuses = [&incoming.trailers, headers];
        if let Some((fields, status)) = statuses.iter().find_map(|it| Some((*it, status_of(it)?))) {
            let is_begun = !incoming.messages.is_empty();
            return if is_begun { None } else { by_grpc(status.code, fields) };
        }
        let wait = retry_after(headers, now);
        match StatusCode::from_u16(incoming.status).ok()? {
            StatusCode::SERVICE_UNAVAILABLE => Some(Self { wait }),
            StatusCode::TOO_MANY_REQUESTS => wait.map(|wait| Self { wait: Some(wait) }),
            _ => None,
        }
    }
}

fn by_grpc(code: u32, fields: &HeaderMap) -> Option<Refusal> {
    let wait = match fields.get(PUSHBACK) {
        None => None,
        // A6: "if the value for pushback is negative or unparseble, then it will be seen as the server asking the client not
        // to retry at all".
        Some(value) => Some(Duration::from_millis(value.to_str().ok()?.trim().parse().ok()?)),
    };
    match code {
        UNAVAILABLE => Some(Refusal { wait }),
        RESOURCE_EXHAUSTED if wait.is_some() => Some(Refusal { wait }),
        _ => None,
    }
}

/// RFC 9110, section 10.2.3: seconds, or a date, which the date of the answer goes before where it has one, since the
/// phone's clock may be wrong. What cannot be read is as if it were not there.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |value: &str| httpdate::parse_http_date(value).ok();
    let answered = headers.get(header::DATE).and_then(|value| date(value.to_str().ok()?)).unwrap_or(now);
    Some(date(value)?.duration_since(answered).unwrap_or_default())
}

/// gRPC proposal A6, "Pushback".
const PUSHBACK: &str = "grpc-retry-pushback-ms";
const RESOURCE_EXHAUSTED: u32 = 8;
const UNAVAILABLE: u32 = 14;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use bytes::Bytes;
    use http::{HeaderName, HeaderValue};

    use super::*;

    type Fields<'a> = &'a [(&'static str, &'static str)];

    fn map(fields: Fields<'_>) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    fn asked(status: u16, headers: Fields<'_>, trailers: Fields<'_>) -> Option<Option<u64>> {
        let (headers, trailers) = (Some(map(headers)), map(trailers));
        let incoming = Incoming { status, headers, trailers, ..Incoming::default() };
        // Sun, 06 Nov 1994 08:49:37 GMT, of RFC 9110, section 5.6.7.
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let refusal = Refusal::of(&incoming, now)?;
        Some(refusal.wait.map(|wait| wait.as_millis().try_into().unwrap()))
    }

    #[test]
    fn http_asks_for_later_by_503_and_by_429_that_says_when() {
        let check = |status, headers: Fields<'_>, expected| assert_eq!(asked(status, headers, &[]), expected);
        check(503, &[("retry-after", "3")], Some(Some(3000)));
        check(503, &[("retry-after", "0")], Some(Some(0)));
        check(503, &[], Some(None));
        check(503, &[("retry-after", "soon")], Some(None));
        check(503, &[("retry-after", "-1")], Some(None));
        check(429, &[("retry-after", "3")], Some(Some(3000)));
        check(429, &[], None);
        check(429, &[("retry-after", "soon")], None);
        for status in [200, 202, 301, 400, 404, 409, 500, 502, 504] {
            check(status, &[("retry-after", "3")], None);
        }
    }

    #[test]
    fn a_date_counts_from_the_date_of_the_answer() {
        let check =
            |headers: Fields<'_>, expected| assert_eq!(asked(503, headers, &[]), Some(Some(expected)));
        let later = ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT");
        check(&[later], 10_000);
        check(&[later, ("date", "Sun, 06 Nov 1994 08:49:42 GMT")], 5000);
        check(&[later, ("date", "nonsense")], 10_000);
        check(&[later, ("date", "Sun, 06 Nov 1994 09:00:00 GMT")], 0);
        check(&[("retry-after", "Sunday, 06-Nov-94 08:49:38 GMT")], 1000);
        check(&[("retry-after", "Sun Nov  6 08:49:38 1994")], 1000);
    }

    #[test]
    fn grpc_asks_for_later_by_unavailable_and_by_a_pushback_that_is_not_negative() {
        let check = |code: &'static str, pushback: Option<&'static str>, expected| {
            let status = ("grpc-status", code);
            let fields: Vec<_> =
                std::iter::once(status).chain(pushback.map(|value| (PUSHBACK, value))).collect();
            assert_eq!(asked(200, &fields, &[]), expected, "of trailers only");
            assert_eq!(asked(200, &[], &fields), expected);
        };
        check("14", None, Some(None));
        check("14", Some("250"), Some(Some(250)));
        check("14", Some("0"), Some(Some(0)));
        check("14", Some("-1"), None);
        check("14", Some("later"), None);
        check("8", Some("250"), Some(Some(250)));
        check("8", Some("-1"), None);
        check("8", None, None);
        for definite in ["0", "3", "5", "7", "13", "16"] {
            check(definite, Some("250"), None);
        }
    }

    #[test]
    fn an_answer_that_holds_a_message_is_an_answer() {
        let incoming = Incoming {
            status: 200,
            headers: Some(HeaderMap::new()),
            trailers: map(&[("grpc-status", "14")]),
            messages: [Bytes::from_static(b"half")].into(),
            ..Incoming::default()
        };
        assert_eq!(Refusal::of(&incoming, UNIX_EPOCH), None);
    }
}
