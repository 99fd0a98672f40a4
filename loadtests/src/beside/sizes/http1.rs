//! HTTP/1.1, whose bytes are its text (RFC 9112): no state, no compression.

use towline_protocols::hpack::HeaderField;

use super::{Sizes, Wire};
use crate::corpus::{Exchange, Half};

/// A connection that keeps nothing.
pub(super) struct Http1;

impl Wire for Http1 {
    fn opening_bytes(&self) -> usize {
        0
    }

    fn exchange(&mut self, exchange: &Exchange) -> Result<Sizes, String> {
        let (request, response) = (&exchange.json.request, &exchange.json.response);
        let line = format!("{} {} HTTP/1.1\r\n", value(request, ":method"), value(request, ":path"));
        Ok(Sizes {
            request_header: line.len() + fields_bytes(&request.fields),
            request_body: request.body.len(),
            response_header: "HTTP/1.1 200 OK\r\n".len() + fields_bytes(&response.fields),
            response_body: response.body.len(),
        })
    }
}

fn value<'a>(half: &'a Half, name: &str) -> std::borrow::Cow<'a, str> {
    let found = half.fields.iter().find(|field| *field.name == *name.as_bytes());
    found.map_or_else(Default::default, |field| String::from_utf8_lossy(&field.value))
}

/// `name: value\r\n` each, and the empty line; `:authority` is `host`.
fn fields_bytes(fields: &[HeaderField]) -> usize {
    let lines = fields.iter().map(|field| match &*field.name {
        b":authority" => "host: \r\n".len() + field.value.len(),
        pseudo if pseudo.starts_with(b":") => 0,
        name => name.len() + field.value.len() + ": \r\n".len(),
    });
    lines.sum::<usize>() + "\r\n".len()
}
