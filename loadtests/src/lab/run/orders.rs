//! What a laboratory and the client process on its phone say to each other: one JSON object a line.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use towline_protocols::policy::Value;

/// Who is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// The SDK, as it is by default
    Sdk,
    /// curl with HTTP/1.1
    H1,
    /// curl with HTTP/2
    H2,
    /// quinn with HTTP/3
    H3,
}

impl Who {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sdk => "sdk",
            Self::H1 => "h1",
            Self::H2 => "h2",
            Self::H3 => "h3",
        }
    }
}

/// What a client process is told when it starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::lab) struct Setup {
    pub(in crate::lab) who: Who,
    /// HOST:PORT.
    pub(in crate::lab) server: String,
    /// The address of that host.
    pub(in crate::lab) address: IpAddr,
    pub(in crate::lab) ca: PathBuf,
    /// A folder of its own.
    pub(in crate::lab) folder: PathBuf,
    pub(in crate::lab) curl: Option<PathBuf>,
    pub(in crate::lab) request_bytes: usize,
    pub(in crate::lab) answer_bytes: usize,
    pub(in crate::lab) seed: u64,
    /// Strategies of the SDK that are switched off.
    pub(in crate::lab) without: Vec<String>,
    /// Parameters of the SDK's strategies that are other than by default.
    pub(in crate::lab) set: Vec<(String, SetValue)>,
    /// The kind of network that the SDK is told of, if it is.
    pub(in crate::lab) kind: Option<String>,
}

/// A parameter's value.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::lab) enum SetValue {
    Time(Duration),
    Number(f64),
    Count(u64),
    Switch(bool),
}

impl SetValue {
    pub(in crate::lab) fn of(value: Value) -> Self {
        match value {
            Value::Time(time) => Self::Time(time),
            Value::Number(number) => Self::Number(number),
            Value::Count(count) => Self::Count(count),
            Value::Switch(switch) => Self::Switch(switch),
        }
    }

    pub(in crate::lab) fn value(self) -> Value {
        match self {
            Self::Time(time) => Value::Time(time),
            Self::Number(number) => Value::Number(number),
            Self::Count(count) => Value::Count(count),
            Self::Switch(switch) => Value::Switch(switch),
        }
    }
}

/// What a client process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::lab) enum Order {
    /// One call of an app that has just been started.
    Cold { name: String, start: Start },
    /// Calls one after another, on what connections there are.
    Calls { prefix: String, millis: u64, interval_ms: u64 },
    /// Nothing, with the connection kept.
    Idle { millis: u64 },
    /// The device has another address. Not answered.
    Moved,
}

/// What an app that is started knows already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::lab) enum Start {
    /// Nothing: it was never there.
    First,
    /// The same, but the server's address, which was built into it.
    Bundled,
    /// What it has learnt on the device before.
    Again,
}

/// One call, times in nanoseconds of this machine's monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::lab) struct Sample {
    pub(in crate::lab) start: u64,
    pub(in crate::lab) took: u64,
    /// What went wrong.
    pub(in crate::lab) error: Option<String>,
    /// How long the connection took that was made for it, TLS included.
    pub(in crate::lab) connect: Option<u64>,
    /// What carried it.
    pub(in crate::lab) by: String,
    /// Where its time went, of a call of the SDK's: its timeline, in milliseconds.
    pub(in crate::lab) timeline: Option<String>,
}

impl Sample {
    /// When it was over.
    pub(in crate::lab) fn end(&self) -> u64 {
        self.start + self.took
    }
}

/// The answer to an order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::lab) struct Done {
    pub(in crate::lab) samples: Vec<Sample>,
    /// When the SDK's line was in which state, since the last answer.
    pub(in crate::lab) states: Vec<(u64, String)>,
    /// The client cannot go on.
    pub(in crate::lab) failure: Option<String>,
}
