//! Fields that both sides know before the first block.

use std::{collections::HashMap, sync::LazyLock};

use super::{HeaderField, quick_hash::QuickHash};

/// A table of fields with indices from 1, before the dynamic table.
#[derive(Clone, Copy, Debug)]
pub struct StaticTable {
    index: &'static LazyLock<StaticIndex>,
}

impl StaticTable {
    /// The 61 fields of RFC 7541, appendix A.
    pub fn rfc7541() -> Self {
        Self { index: &RFC7541_INDEX }
    }

    /// The fields of RFC 7541, followed by [`LINK_STATIC_FIELDS`].
    pub fn link() -> Self {
        Self { index: &LINK_INDEX }
    }

    /// The 99 fields of RFC 9204, appendix A, for QPACK, where indices begin at 0.
    pub fn rfc9204() -> Self {
        Self { index: &RFC9204_INDEX }
    }

    /// How many fields there are; the dynamic table begins at the index after.
    pub fn len(self) -> usize {
        self.index.fields.len()
    }

    /// A table is never empty.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The field at `index`, counted from 1.
    pub fn get(self, index: usize) -> Option<&'static HeaderField> {
        self.index.fields.get(index.checked_sub(1)?)
    }

    /// The best match for a field: the index of the whole field, or else of its name.
    pub(crate) fn find(self, name: &[u8], value: &[u8]) -> Option<Match> {
        let same_name = self.index.by_name.get(name)?;
        let whole =
            same_name.iter().find(|&&index| self.get(index).is_some_and(|field| field.value == value));
        Some(match whole {
            Some(&index) => Match::Field(index),
            None => Match::Name(*same_name.first()?),
        })
    }
}

/// What of a field a table holds, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match<I = usize> {
    /// Name and value.
    Field(I),
    /// The name, with another value.
    Name(I),
}

/// The fields in order, and where each name occurs, the lowest index first.
#[derive(Debug)]
struct StaticIndex {
    fields: Vec<HeaderField>,
    by_name: HashMap<&'static [u8], Vec<usize>, QuickHash>,
}

impl StaticIndex {
    fn new(fields: impl Iterator<Item = &'static (&'static str, &'static str)>) -> Self {
        let mut index = Self { fields: Vec::new(), by_name: HashMap::default() };
        for (name, value) in fields {
            index.fields.push(HeaderField::from_static(name, value));
            index.by_name.entry(name.as_bytes()).or_default().push(index.fields.len());
        }
        index
    }
}

static RFC7541_INDEX: LazyLock<StaticIndex> =
    LazyLock::new(|| StaticIndex::new(RFC7541_STATIC_FIELDS.iter()));
static RFC9204_INDEX: LazyLock<StaticIndex> =
    LazyLock::new(|| StaticIndex::new(crate::qpack::RFC9204_STATIC_FIELDS.iter()));
static LINK_INDEX: LazyLock<StaticIndex> =
    LazyLock::new(|| StaticIndex::new(RFC7541_STATIC_FIELDS.iter().chain(&LINK_STATIC_FIELDS)));

/// The fields of the link protocol's static table after those of RFC 7541: index 62 to 105.
///
/// Chosen for calls of mobile apps: gRPC's fixed fields and usual outcomes, the media types, methods and
/// statuses that RFC 7541 lacks, and names that come with values of the client's own. Indices up to 126
/// fit in one octet (section 6.1), so the table stops early enough to leave one-octet indices to the
/// newest twenty entries of the dynamic table.
#[rustfmt::skip]
pub const LINK_STATIC_FIELDS: [(&str, &str); 44] = [
    ("content-type", "application/grpc"),
    ("content-type", "application/grpc+proto"),
    ("content-type", "application/json"),
    ("content-type", "application/protobuf"),
    ("content-type", "application/octet-stream"),
    ("content-type", "text/plain; charset=utf-8"),
    ("content-type", "application/json; charset=utf-8"),
    ("te", "trailers"),
    ("grpc-status", "0"),
    ("grpc-status", "3"),
    ("grpc-status", "4"),
    ("grpc-status", "5"),
    ("grpc-status", "7"),
    ("grpc-status", "8"),
    ("grpc-status", "14"),
    ("grpc-status", "16"),
    ("grpc-message", ""),
    ("grpc-timeout", ""),
    ("grpc-encoding", "identity"),
    ("grpc-accept-encoding", "identity"),
    ("grpc-status-details-bin", ""),
    (":method", "PUT"),
    (":method", "DELETE"),
    (":method", "PATCH"),
    (":status", "201"),
    (":status", "202"),
    (":status", "401"),
    (":status", "403"),
    (":status", "429"),
    (":status", "503"),
    ("accept", "application/json"),
    ("accept", "*/*"),
    ("cache-control", "no-cache"),
    ("cache-control", "no-store"),
    ("cache-control", "max-age=0"),
    ("user-agent", "towline"),
    ("x-request-id", ""),
    ("traceparent", ""),
    ("tracestate", ""),
    ("idempotency-key", ""),
    ("x-device-id", ""),
    ("x-app-version", ""),
    ("x-platform", ""),
    ("priority", ""),
];

/// RFC 7541, appendix A.
#[rustfmt::skip]
const RFC7541_STATIC_FIELDS: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
