//! Messages kept to train dictionaries on: off unless a route asks for it, bounded, blanked before they are
//! kept, in memory only.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use towline_dictionaries::SAMPLE_BYTES_MAX;

use super::{Rule, redact::redact, reservoir::Reservoir};
use crate::{backend::is_grpc, error::RpcError, gateway::Gateway, request::Body};

/// How a route's messages are sampled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// One body in so many is kept; 0 keeps none.
    pub every: u32,
    /// On the link, the header lists of one request in so many are kept; 0 keeps none.
    pub headers_every: u32,
    /// What is blanked in it before.
    pub redact: Arc<[Rule]>,
}

/// The samples of one gateway.
#[derive(Debug)]
pub struct Sampler {
    kept: Mutex<Reservoir<Bytes>>,
    bytes_max: AtomicUsize,
    turn: AtomicU64,
}

impl Sampler {
    /// Keeps at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        let kept = Mutex::new(Reservoir::new());
        Self { kept, bytes_max: AtomicUsize::new(bytes_max), turn: AtomicU64::new(0) }
    }

    /// Changes the bound; what is too much goes with the next sample.
    pub fn set_bytes_max(&self, bytes_max: usize) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Keeps a message, blanked. False when something had to go, or the message is no sample.
    pub fn keep(&self, message: Vec<u8>, rules: &[Rule]) -> bool {
        if message.is_empty() || message.len() > SAMPLE_BYTES_MAX {
            return false;
        }
        let Some(message) = redact(message, rules) else { return false };
        let bytes_max = self.bytes_max.load(Ordering::Relaxed);
        let bytes = message.len();
        self.kept.lock().keep(message.into(), bytes, bytes_max)
    }

    /// What is kept now.
    pub fn samples(&self) -> Vec<Bytes> {
        self.kept.lock().samples()
    }

    /// Whether this body's turn has come.
    fn is_due(&self, every: u32) -> bool {
        every > 0 && self.turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(every.into())
    }
}

/// A body that is passed on as it is; its messages become samples if the route wants that and its turn has come.
pub fn sampled(gateway: &Arc<Gateway>, sampling: &Sampling, headers: &HeaderMap, body: Body) -> Body {
    let is_plain = !headers.contains_key(http::header::CONTENT_ENCODING);
    if !is_plain || !gateway.dictionaries.sampler.is_due(sampling.every) {
        return body;
    }
    Body::new(Sampled {
        body,
        gateway: Arc::clone(gateway),
        grpc: is_grpc(headers),
        redact: Arc::clone(&sampling.redact),
        gathered: Some(BytesMut::new()),
    })
}

struct Sampled {
    body: Body,
    gateway: Arc<Gateway>,
    grpc: bool,
    redact: Arc<[Rule]>,
    /// `None` when the body is too large for a sample, or was kept.
    gathered: Option<BytesMut>,
}

impl Sampled {
    fn gather(&mut self, data: &Bytes) {
        if let Some(gathered) = &mut self.gathered {
            gathered.extend_from_slice(data);
            if gathered.len() > SAMPLE_BYTES_MAX {
                self.gathered = None;
            }
        }
    }

    fn keep(&mut self) {
        let Some(gathered) = self.gathered.take() else { return };
        let sampler = &self.gateway.dictionaries.sampler;
        let keep = |message: &[u8]| {
            if !sampler.keep(message.to_vec(), &self.redact) {
                self.gateway.metrics.limit_hit("dictionaries.samples_bytes_max");
            }
        };
        match self.grpc {
            true => grpc_messages(&gathered).for_each(keep),
            false => keep(&gathered),
        }
    }
}

/// The messages of a gRPC body, without their prefixes. Compressed ones are none.
fn grpc_messages(mut body: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (prefix, rest) = body.split_first_chunk::<5>()?;
        let [flag, length @ ..] = *prefix;
        let message = rest.get(..u32::from_be_bytes(length) as usize)?;
        body = &rest[message.len()..];
        Some(if flag == 0 { message } else { &[] })
    })
    .filter(|message| !message.is_empty())
}

impl http_body::Body for Sampled {
    type Data = Bytes;
    type Error = RpcError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RpcError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => this.gather(data),
                None => this.keep(),
            },
            Poll::Ready(Some(Err(_))) => this.gathered = None,
            Poll::Ready(None) => this.keep(),
            Poll::Pending => {}
        }
        if this.body.is_end_stream() {
            this.keep();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_bounded_and_blanked() {
        let sampler = Sampler::new(1000);
        let rules = [Rule::Digits];
        for _ in 0..10 {
            assert!(sampler.keep(b"4111111111111111".repeat(6), &rules));
        }
        assert!(!sampler.keep(vec![b'a'; 100], &rules), "something had to go");
        let samples = sampler.samples();
        assert!(samples.iter().map(Bytes::len).sum::<usize>() <= 1000);
        assert!(samples.iter().all(|sample| !sample.contains(&b'1')));
        assert!(!sampler.keep(vec![0; SAMPLE_BYTES_MAX + 1], &rules));
        sampler.set_bytes_max(0);
        sampler.keep(vec![1], &[]);
        assert_eq!(sampler.samples().len(), 0);
    }

    #[test]
    fn grpc_messages_are_sampled_without_prefix() {
        let body = [&[0, 0, 0, 0, 2][..], b"ab", &[1, 0, 0, 0, 1], b"z", &[0, 0, 0, 0, 1], b"c"].concat();
        let messages: Vec<&[u8]> = grpc_messages(&body).collect();
        assert_eq!(messages, [b"ab".as_slice(), b"c"]);
    }
}
