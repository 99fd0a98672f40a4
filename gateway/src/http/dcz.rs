//! Dictionaries for HTTP clients (RFC 9842): offered by `Link`, fetched from a well-known path, used for answers
//! of routes that allow it.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, LINK, VARY},
};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use towline_protocols::compress::compress_dcz;

use crate::{
    dictionaries::{Entry, shown_hash},
    gateway::Gateway,
    request::Body,
};

/// Where dictionaries are fetched from, by their hash.
const PATH: &str = "/.well-known/towline/dictionary/";
/// Longer answers gain little from a dictionary, and are not held for it.
const BODY_BYTES_MAX: u64 = 1 << 20;
const VARY_BY: HeaderValue = HeaderValue::from_static("accept-encoding, available-dictionary");

/// On an answer: its route allows dictionaries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed;

/// What a client says of dictionaries, as far as it is known here.
pub(super) struct Wish {
    /// Its best dictionary, in `Available-Dictionary`, if it takes answers that need one.
    available: Option<[u8; 32]>,
}

impl Wish {
    /// `None` for clients that do not know of it. Browsers say that they do once they have a dictionary, and fetch those
    /// that a page's answer names.
    pub(super) fn of(headers: &HeaderMap, encrypted: bool) -> Option<Self> {
        let accepted = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let takes_it = accepted.flat_map(|value| value.split(',')).any(accepts_dcz);
        let is_page =
            headers.get("sec-fetch-dest").is_some_and(|dest| dest == "document" || dest == "iframe");
        let knows_it = takes_it || is_page;
        (knows_it && encrypted).then(|| Self { available: available(headers).filter(|_| takes_it) })
    }
}

fn accepts_dcz(coding: &str) -> bool {
    let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
    name.trim() == "dcz" && !matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
}

/// A byte sequence of structured fields: `:base64:`.
fn available(headers: &HeaderMap) -> Option<[u8; 32]> {
    let value = headers.get("available-dictionary")?.as_bytes();
    let encoded = value.strip_prefix(b":")?.strip_suffix(b":")?;
    BASE64_STANDARD.decode(encoded).ok()?.try_into().ok()
}

/// The dictionary that a path names, if routes of this gateway use any for HTTP.
pub(super) fn serve(gateway: &Gateway, method: &Method, path: &str) -> Option<Response<Body>> {
    let name = path.strip_prefix(PATH).filter(|_| matches!(*method, Method::GET | Method::HEAD))?;
    gateway.snapshot().settings.routes.iter().find(|route| route.dcz)?;
    let edition = gateway.dictionaries.edition();
    let entry = edition.entries.iter().find(|entry| is_public(entry) && shown_hash(&entry.hash) == name)?;
    let bytes = if *method == Method::HEAD { Bytes::new() } else { entry.bytes.clone() };
    let mut answer = Response::new(full(bytes));
    let headers = answer.headers_mut();
    headers.insert(
        "use-as-dictionary",
        HeaderValue::try_from(format!("match=\"/*\", id=\"{}\"", &name[..16])).ok()?,
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=604800, immutable"));
    headers.insert(CONTENT_LENGTH, entry.bytes.len().into());
    Some(answer)
}

/// Dictionaries of this gateway for everybody: HTTP clients have no name that a share could be drawn by.
fn is_public(entry: &Entry) -> bool {
    entry.dictionary.is_some() && entry.rollout == 100 && !entry.withdrawn
}

/// Compresses an answer with the dictionary that the client has, or tells it of one.
pub(super) async fn encode(gateway: &Arc<Gateway>, wish: &Wish, answer: Response<Body>) -> Response<Body> {
    if answer.extensions().get::<Allowed>().is_none() || answer.status() != StatusCode::OK {
        return answer;
    }
    let edition = gateway.dictionaries.edition();
    let mut public = edition.entries.iter().filter(|entry| is_public(entry));
    let (mut parts, body) = answer.into_parts();
    parts.headers.append(VARY, VARY_BY);
    let Some(best) = public.next() else { return Response::from_parts(parts, body) };
    let known =
        wish.available.and_then(|hash| std::iter::once(best).chain(public).find(|entry| entry.hash == hash));
    let Some(entry) = known else {
        let link = format!("<{PATH}{}>; rel=\"compression-dictionary\"", shown_hash(&best.hash));
        parts.headers.extend(HeaderValue::try_from(link).ok().map(|link| (LINK, link)));
        return Response::from_parts(parts, body);
    };
    let is_short = body.size_hint().exact().is_some_and(|length| length <= BODY_BYTES_MAX);
    if !is_short || !may_transform(&parts.headers) {
        return Response::from_parts(parts, body);
    }
    let body = match body.collect().await {
        Ok(collected) if collected.trailers().is_none() => collected.to_bytes(),
        Ok(collected) => {
            return Response::from_parts(parts, Body::new(collected.map_err(|never| match never {})));
        }
        // The head has not left yet: the answer ends as the body would have.
        Err(error) => return super::problem::answer(&error, false),
    };
    let level = gateway.snapshot().settings.compression.level;
    let Some(short) = compress_dcz(&entry.bytes, &entry.hash, &body, level) else {
        return Response::from_parts(parts, full(body));
    };
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("dcz"));
    parts.headers.insert(CONTENT_LENGTH, short.len().into());
    weaken_etag(&mut parts.headers);
    Response::from_parts(parts, full(short))
}

fn may_transform(headers: &HeaderMap) -> bool {
    let no_transform = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.contains("no-transform")));
    !no_transform && !headers.contains_key(CONTENT_ENCODING)
}

/// RFC 9110, section 8.8.1: another encoding is another representation for a strong validator.
fn weaken_etag(headers: &mut HeaderMap) {
    let strong = headers.get(ETAG).filter(|value| !value.as_bytes().starts_with(b"W/"));
    let weak = strong.and_then(|value| HeaderValue::from_bytes(&[b"W/", value.as_bytes()].concat()).ok());
    if let Some(weak) = weak {
        headers.insert(ETAG, weak);
    }
}

fn full(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes).map_err(|never| match never {}))
}

#[cfg(test)]
mod tests {
    use towline_dictionaries::{TrainOptions, demo, train};
    use towline_protocols::{compress::decompress_dcz, link::DictionaryKind};

    use super::*;
    use crate::settings::{Backend, BackendKind, Route, Settings};

    fn gateway() -> (Arc<Gateway>, Bytes) {
        let mut settings = Settings::side_by_side();
        settings.backends.push(Backend::new("b", BackendKind::Http1, "127.0.0.1:1"));
        settings.routes.push(Route { dcz: true, ..Route::new("all", "b") });
        let gateway = Gateway::build(settings).unwrap();
        let samples: Vec<_> = (0..300).map(demo::message).collect();
        let file = train(&samples, TrainOptions { size: 4096 }).unwrap().bytes().clone();
        gateway.dictionaries.publish(DictionaryKind::Payload, file.clone(), 100, None).unwrap();
        (gateway, file)
    }

    fn wish(headers: &[(&'static str, &str)]) -> Option<Wish> {
        let named = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        Wish::of(&named.collect(), true)
    }

    fn answer(body: &Bytes) -> Response<Body> {
        let mut answer = Response::new(full(body.clone()));
        answer.extensions_mut().insert(Allowed);
        answer.headers_mut().insert(ETAG, HeaderValue::from_static("\"1\""));
        answer
    }

    #[tokio::test]
    async fn a_client_is_told_fetches_and_gets_answers_that_it_can_read() {
        let (gateway, file) = gateway();
        let body: Bytes = (900..910).flat_map(demo::message).collect::<Vec<u8>>().into();
        let page = [("accept-encoding", "gzip, br, zstd"), ("sec-fetch-dest", "document")];
        let told = encode(&gateway, &wish(&page).unwrap(), answer(&body)).await;
        assert!(told.headers().contains_key(LINK), "a browser that has no dictionary yet");
        let told = encode(&gateway, &wish(&[("accept-encoding", "gzip, dcz")]).unwrap(), answer(&body)).await;
        let link = told.headers()[LINK].to_str().unwrap().to_owned();
        let path = link.split(['<', '>']).nth(1).unwrap();
        assert_eq!(told.into_body().collect().await.unwrap().to_bytes(), body);

        let served = serve(&gateway, &Method::GET, path).unwrap();
        assert!(served.headers().contains_key("use-as-dictionary"));
        let fetched = served.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(fetched, file);

        let hash = towline_dictionaries::sha256(&fetched);
        let available = format!(":{}:", BASE64_STANDARD.encode(hash));
        let wish = wish(&[("accept-encoding", "dcz"), ("available-dictionary", &available)]).unwrap();
        let short = encode(&gateway, &wish, answer(&body)).await;
        assert_eq!(short.headers()[CONTENT_ENCODING], "dcz");
        assert_eq!(short.headers()[VARY], VARY_BY);
        assert_eq!(short.headers()[ETAG], "W/\"1\"");
        let bytes = short.into_body().collect().await.unwrap().to_bytes();
        assert!(bytes.len() < body.len() / 2);
        assert_eq!(decompress_dcz(&fetched, &hash, &bytes, body.len()).unwrap(), body);
    }

    #[tokio::test]
    async fn other_clients_routes_and_answers_are_left_alone() {
        let (gateway, _) = gateway();
        let image = [("accept-encoding", "gzip, zstd"), ("sec-fetch-dest", "image")];
        for headers in
            [&[("accept-encoding", "gzip, zstd")][..], &[("accept-encoding", "dcz;q=0")], &image, &[]]
        {
            assert!(wish(headers).is_none(), "{headers:?}");
        }
        let wish = wish(&[("accept-encoding", "dcz")]).unwrap();
        let plain = encode(&gateway, &wish, Response::new(full("x".into()))).await;
        assert!(!plain.headers().contains_key(VARY), "the route does not allow it");
        assert!(serve(&gateway, &Method::GET, "/.well-known/towline/dictionary/00").is_none());
    }
}
