//! What the client logs, for the app's own log: `tracing` events as records.

use std::{
    fmt::{self, Write as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::sync::broadcast;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

use crate::{
    error::TowlineError,
    source::{Feed, Listens, Source},
};

/// Records kept for a listener that is slow: enough for a reconnect at the finest level. Older ones are dropped, and
/// counted in the next record.
const RECORDS_MAX: usize = 1024;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, uniffi::Enum)]
#[repr(u8)]
pub enum LogLevel {
    /// Something failed that should not.
    Error = 1,
    /// Something is odd.
    Warn = 2,
    /// Something happened.
    Info = 3,
    /// What the client decides, and why.
    Debug = 4,
    /// Everything. The client itself says nothing finer than `Debug`, and with the feature `small` what it is made of
    /// does not either.
    Trace = 5,
}

/// One line of the log. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct LogRecord {
    /// How bad it is.
    pub level: LogLevel,
    /// Which part of the client speaks.
    pub target: String,
    /// What it says, with its fields as `name=value`.
    pub text: String,
    /// Records before this one that were dropped, because nobody took them in time.
    pub dropped: u64,
}

/// Hands out what the client logs.
#[derive(uniffi::Object)]
pub struct LogListener {
    source: Source<LogFeed>,
}

/// Listens to the log of all clients of this process, from `level` upwards. The finest level that was ever asked for
/// holds for all listeners.
///
/// # Errors
/// The app itself has set another global `tracing` subscriber.
#[uniffi::export]
pub fn logs(level: LogLevel) -> Result<Arc<LogListener>, TowlineError> {
    let records = BRIDGE.get_or_init(Bridge::install).as_ref().ok_or_else(|| TowlineError::Start {
        reason: "logs: the process has a tracing subscriber of its own".to_owned(),
    })?;
    LEVEL.fetch_max(level as u8, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
    Ok(Arc::new(LogListener { source: Source::new(LogFeed(records.subscribe())) }))
}

#[uniffi::export]
impl LogListener {
    /// Waits for the next record.
    pub async fn next(&self) -> Result<Option<LogRecord>, TowlineError> {
        self.source.next().await
    }

    /// Ends every wait: `next` answers `None` from here on. For languages whose tasks cannot be cancelled while they wait.
    pub fn stop(&self) {
        self.source.stop();
    }
}

static BRIDGE: OnceLock<Option<broadcast::Sender<LogRecord>>> = OnceLock::new();

/// The finest level asked for; 0 is none.
static LEVEL: AtomicU8 = AtomicU8::new(0);

impl Listens for LogListener {
    type Feed = LogFeed;

    fn source(&self) -> &Source<LogFeed> {
        &self.source
    }
}

pub(crate) struct LogFeed(broadcast::Receiver<LogRecord>);

impl Feed for LogFeed {
    type Item = LogRecord;

    async fn next(&mut self) -> Option<LogRecord> {
        let mut dropped = 0;
        loop {
            match self.0.recv().await {
                Ok(record) => return Some(LogRecord { dropped, ..record }),
                Err(broadcast::error::RecvError::Lagged(count)) => dropped += count,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Sends events of the client to who listens; spans it has none of.
struct Bridge {
    records: broadcast::Sender<LogRecord>,
}

impl Bridge {
    fn install() -> Option<broadcast::Sender<LogRecord>> {
        let records = broadcast::Sender::new(RECORDS_MAX);
        let bridge = Self { records: records.clone() };
        tracing::subscriber::set_global_default(bridge).ok().map(|()| records)
    }
}

impl Subscriber for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && level_of(metadata) as u8 <= LEVEL.load(Ordering::Relaxed)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match LEVEL.load(Ordering::Relaxed) {
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let record = LogRecord {
            level: level_of(event.metadata()),
            target: event.metadata().target().to_owned(),
            text: text.message + &text.fields,
            dropped: 0,
        };
        // Fails where nobody listens.
        let _ = self.records.send(record);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn level_of(metadata: &Metadata<'_>) -> LogLevel {
    match *metadata.level() {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Debug,
        Level::TRACE => LogLevel::Trace,
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_become_records_and_a_slow_listener_learns_what_it_missed() {
        let listener = logs(LogLevel::Info).unwrap();
        tracing::debug!("not asked for");
        for number in 0..RECORDS_MAX + 3 {
            tracing::info!(target: "probe", number, "counting");
        }
        let mut record = listener.next().await.unwrap().unwrap();
        while record.target != "probe" {
            record = listener.next().await.unwrap().unwrap();
        }
        assert_eq!(record.level, LogLevel::Info);
        assert_eq!(record.text, format!("counting number={}", record.dropped));
        assert!(record.dropped >= 3);
    }
}
