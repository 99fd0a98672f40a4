//! The dynamic tables of a QUIC connection, which its control stream and its requests' streams share.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};

use super::{
    CloseCode, Limits, LinkError,
    frame::{self, Frame},
};
use crate::{
    hpack::{HeaderField, KnownFields},
    qpack::{Decoded, Decoder, Encoder, QpackError},
};

/// Both directions' QPACK state. Streams encode and decode; the control stream carries the instructions.
#[derive(Debug)]
pub(crate) struct FieldTables {
    encoder: Mutex<Encoder>,
    decoder: Mutex<Decoder>,
    /// The driver of the control stream, while it waits for instructions.
    driver: Mutex<Option<Waker>>,
    /// The driver has been told of the instructions that wait.
    told: AtomicBool,
    /// Streams whose header section waits for insertions.
    blocked: Mutex<BTreeMap<u64, Waker>>,
}

impl FieldTables {
    /// What this side's decoder allows is known; of the peer's nothing is, until [`FieldTables::on_peer`].
    pub(crate) fn new(own: Limits, known: KnownFields) -> Self {
        let decoder = Decoder::new(
            known.clone(),
            own.header_table_bytes as usize,
            own.qpack_blocked_streams as usize,
            own.header_list_bytes_max as usize,
        );
        Self {
            encoder: Mutex::new(Encoder::new(known)),
            decoder: Mutex::new(decoder),
            driver: Mutex::default(),
            told: AtomicBool::new(false),
            blocked: Mutex::default(),
        }
    }

    /// The peer has said what its decoder allows, and which fields both sides know is settled.
    pub(crate) fn on_peer(&self, own: Limits, peer: Limits, known: &KnownFields) {
        let mut encoder = lock(&self.encoder);
        // This side's own limit also bounds what it keeps for the other direction.
        let used = own.header_table_bytes.min(peer.header_table_bytes) as usize;
        encoder.set_limits(peer.header_table_bytes as usize, used, peer.qpack_blocked_streams as usize);
        encoder.set_known(known.clone());
        lock(&self.decoder).set_known(known.clone());
    }

    pub(crate) fn encode(&self, stream: u64, fields: &[HeaderField]) -> Vec<u8> {
        let mut section = Vec::new();
        let has_instructions = {
            let mut encoder = lock(&self.encoder);
            encoder.encode(stream, fields, &mut section);
            encoder.has_instructions()
        };
        self.wake_driver(has_instructions);
        section
    }

    pub(crate) fn decode(&self, stream: u64, section: &[u8]) -> Result<Decoded, QpackError> {
        let (decoded, has_instructions) = {
            let mut decoder = lock(&self.decoder);
            (decoder.decode(stream, section), decoder.has_instructions())
        };
        self.wake_driver(has_instructions);
        decoded
    }

    /// Nothing more of `stream` will be decoded.
    pub(crate) fn cancel(&self, stream: u64) {
        lock(&self.blocked).remove(&stream);
        let has_instructions = {
            let mut decoder = lock(&self.decoder);
            decoder.cancel(stream);
            decoder.has_instructions()
        };
        self.wake_driver(has_instructions);
    }

    /// QPACK_ENCODER: the peer's insertions.
    pub(crate) fn on_encoder_stream(&self, instructions: &[u8]) -> Result<(), LinkError> {
        lock(&self.decoder).handle_instructions(instructions).map_err(broken)?;
        std::mem::take(&mut *lock(&self.blocked)).into_values().for_each(Waker::wake);
        Ok(())
    }

    /// QPACK_DECODER: what the peer acknowledges.
    pub(crate) fn on_decoder_stream(&self, instructions: &[u8]) -> Result<(), LinkError> {
        lock(&self.encoder).handle_instructions(instructions).map_err(broken)
    }

    /// Appends the frames that carry what both have to say.
    pub(crate) fn take_frames(&self, out: &mut BytesMut) {
        self.told.store(false, Ordering::Relaxed);
        let inserted = lock(&self.encoder).take_instructions();
        let acknowledged = lock(&self.decoder).take_instructions();
        put(Frame::QpackEncoder(inserted.clone()), &inserted, out);
        put(Frame::QpackDecoder(acknowledged.clone()), &acknowledged, out);
    }

    /// Ready, once, when there are frames to take.
    pub(crate) fn poll_frames(&self, cx: &mut Context<'_>) -> Poll<()> {
        *lock(&self.driver) = Some(cx.waker().clone());
        if self.has_frames() && !self.told.swap(true, Ordering::Relaxed) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Ready when `required` insertions have arrived.
    pub(crate) fn poll_inserted(&self, stream: u64, required: u64, cx: &mut Context<'_>) -> Poll<()> {
        lock(&self.blocked).insert(stream, cx.waker().clone());
        if lock(&self.decoder).inserted() < required {
            return Poll::Pending;
        }
        lock(&self.blocked).remove(&stream);
        Poll::Ready(())
    }

    fn has_frames(&self) -> bool {
        lock(&self.encoder).has_instructions() || lock(&self.decoder).has_instructions()
    }

    fn wake_driver(&self, has_instructions: bool) {
        if has_instructions
            && !self.told.load(Ordering::Relaxed)
            && let Some(waker) = lock(&self.driver).take()
        {
            waker.wake();
        }
    }
}

/// A stream's task that panicked leaves nothing half-done that another could not go on with: an instruction is
/// written whole, and at worst a section is never acknowledged.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(frame: Frame, instructions: &Bytes, out: &mut BytesMut) {
    if !instructions.is_empty() {
        frame::encode(&frame, out);
    }
}

/// The tables of the two sides may differ from now on.
fn broken(error: QpackError) -> LinkError {
    LinkError::new(CloseCode::HeaderCompression, error.to_string())
}
