//! How fast bytes move, from what moves anyway.
//!
//! ```text
//!  bytes   | first | span | span | span | rest |      a span: one round trip at least, and `SPAN_MIN`
//!  time    0 ------+------+------+------+------ end
//!                    slow    what counts
//! ```
//!
//! A transfer begins slowly (RFC 5681, section 3.1). What moves from the first span on that is nearly as fast as the
//! fastest is what the network carries, unless spans still get faster when it ends. Behind a packet that was lost the
//! rest comes in a heap, so that no span counts alone.

use std::time::{Duration, Instant};

/// Measures one direction of a connection.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    transfer: Option<Transfer>,
}

#[derive(Clone, Debug)]
struct Transfer {
    last: Instant,
    span_began: Instant,
    span_bytes: u64,
    spans: Vec<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    bytes: u64,
    time: Duration,
}

impl Meter {
    /// So many bytes have moved since the call before; `round_trip`: as far as it is known. The rate in bytes per second,
    /// where enough has moved to tell it.
    pub fn moved(&mut self, now: Instant, bytes: u64, round_trip: Option<Duration>) -> Option<f64> {
        let round_trip = round_trip.unwrap_or_default();
        let pause_max = (PAUSE_ROUND_TRIPS * round_trip).max(PAUSE_MIN);
        if let Some(transfer) = &mut self.transfer
            && now.saturating_duration_since(transfer.last) <= pause_max
        {
            transfer.add(now, bytes, round_trip);
            if transfer.spans.len() < SPANS_MAX {
                return None;
            }
        }
        // How long the first bytes of a transfer took nobody knows.
        let ended = self.end();
        self.transfer = Some(Transfer { last: now, span_began: now, span_bytes: 0, spans: Vec::new() });
        ended
    }

    /// The transfer is over. The rate, if enough has moved.
    pub fn end(&mut self) -> Option<f64> {
        self.transfer.take()?.rate()
    }
}

impl Transfer {
    fn add(&mut self, now: Instant, bytes: u64, round_trip: Duration) {
        self.last = now;
        self.span_bytes += bytes;
        let time = now.saturating_duration_since(self.span_began);
        if time >= round_trip.max(SPAN_MIN) && self.span_bytes >= SPAN_BYTES_MIN {
            self.spans.push(Span { bytes: self.span_bytes, time });
            (self.span_began, self.span_bytes) = (now, 0);
        }
    }

    fn rate(&self) -> Option<f64> {
        let (last, before) = self.spans.split_last()?;
        let fastest = before.iter().map(Span::rate).fold(0.0, f64::max);
        let is_rising = last.rate() > fastest * RISING;
        let first = self.spans.iter().position(|span| span.rate() >= fastest * NEARLY_FASTEST)?;
        let counting = &self.spans[first..];
        let bytes: u64 = counting.iter().map(|span| span.bytes).sum();
        let time: Duration = counting.iter().map(|span| span.time).sum();
        let is_enough = self.spans.len() >= SPANS_MIN && bytes >= BYTES_MIN && !is_rising;
        is_enough.then(|| bytes as f64 / time.as_secs_f64())
    }
}

impl Span {
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64()
    }
}

/// Fewer bytes are over before they say anything of the network.
const BYTES_MIN: u64 = 16 << 10;
/// Fewer spans do not show whether it gets faster.
const SPANS_MIN: usize = 3;
/// A window that doubles each round trip makes each span faster than the one before by more.
const RISING: f64 = 1.3;
/// The beginning is over with the first span that reaches this share of the fastest.
const NEARLY_FASTEST: f64 = 0.6;
/// In a shorter span, jitter counts for more than the rate.
const SPAN_MIN: Duration = Duration::from_millis(100);
const SPAN_BYTES_MIN: u64 = 4 << 10;
/// A long transfer says what it is like now and then.
const SPANS_MAX: usize = 16;
/// Behind a longer pause another transfer begins.
const PAUSE_ROUND_TRIPS: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_secs(2);
