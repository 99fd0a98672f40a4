//! What a broker did not take, and whether it is tried again.
//!
//! ```text
//!  in flight --PUBACK, no--> for good: log, metrics, dead-letter topic
//!                   |
//!                   +------> for now: nothing more goes out, until what is in flight is answered and the back-off over;
//!                            then from the first letter that is left, so that the order stays
//! ```

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use rumqttc::v5::mqttbytes::v5::PubAckReason;

use super::{Shared, window::Sent};
use crate::{
    error::{Execution, RpcError, RpcErrorKind},
    gateway::Gateway,
    hub::Message,
    mqtt,
    outbox::Letter,
    settings,
};

/// User property of a dead letter that says why.
const REASON: &str = "towline-reason";

/// What a reason code of PUBACK (MQTT 5, 3.4.2.1) means for its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    /// The broker is full, which says nothing of the message: it waits as for a broker that is away, within the
    /// queue's own bounds.
    Busy,
    /// It may pass, or be due to the message: a bounded number of tries.
    Failed,
    /// The same message meets the same answer.
    Never,
}

impl Verdict {
    fn of(reason: PubAckReason) -> Self {
        match reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Self::Taken,
            PubAckReason::QuotaExceeded => Self::Busy,
            // An identifier in use (0x91) is the connection's matter: the next try has another one.
            PubAckReason::UnspecifiedError
            | PubAckReason::ImplementationSpecificError
            | PubAckReason::PacketIdentifierInUse => Self::Failed,
            PubAckReason::NotAuthorized
            | PubAckReason::TopicNameInvalid
            | PubAckReason::PayloadFormatInvalid => Self::Never,
        }
    }
}

/// The letters that a broker is to be offered again.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// How often each was refused. At most what is in flight at one time: all of them stand at the queue's head.
    tries: BTreeMap<u64, usize>,
    resume_at: Option<Instant>,
}

impl Refusals {
    /// The broker has said what becomes of a message.
    pub(super) fn settle(
        &mut self,
        sent: Sent,
        reason: PubAckReason,
        shared: &Shared,
        gateway: &Weak<Gateway>,
    ) {
        let verdict = Verdict::of(reason);
        if verdict != Verdict::Taken {
            shared.count_refusal(name(reason));
        }
        match sent {
            Sent::Letter(letter) if verdict == Verdict::Taken => {
                self.tries.remove(&letter.number);
                shared.taken(Sent::Letter(letter));
            }
            sent if verdict == Verdict::Taken => shared.taken(sent),
            Sent::Letter(letter) => {
                if self.note(letter.number, verdict, &shared.settings.upstream, mqtt::now()) {
                    shared.counters.retried.inc();
                } else {
                    shared.give_up(gateway, &letter, name(reason));
                }
            }
            Sent::Job(job) => {
                shared.counters.refused.inc();
                job.finish(Err(error(reason, &shared.settings)));
            }
        }
    }

    /// A letter was refused. Says whether it is to be offered again.
    fn note(&mut self, number: u64, verdict: Verdict, upstream: &settings::Upstream, now: Instant) -> bool {
        let tries = self.tries.get(&number).map_or(1, |tries| tries.saturating_add(1));
        let is_over = verdict == Verdict::Failed && tries >= upstream.refused_tries_max;
        if verdict == Verdict::Never || is_over {
            self.tries.remove(&number);
            return false;
        }
        self.tries.insert(number, tries);
        let resume_at = now + backoff(tries, upstream).mul_f64(fastrand::f64());
        self.resume_at = self.resume_at.max(Some(resume_at));
        true
    }

    /// When sending goes on, if it rests.
    pub(super) fn resume_at(&self) -> Option<Instant> {
        self.resume_at
    }

    /// Sending goes on; letters before `first` are gone, by the queue's bounds too.
    pub(super) fn resume(&mut self, first: Option<u64>) {
        self.resume_at = None;
        self.tries = first.map(|first| self.tries.split_off(&first)).unwrap_or_default();
    }
}

fn backoff(tries: usize, upstream: &settings::Upstream) -> Duration {
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX).min(30);
    upstream.backoff_min.saturating_mul(1 << doublings).min(upstream.backoff_max)
}

impl Shared {
    /// The broker has the message.
    pub(super) fn taken(&self, sent: Sent) {
        self.counters.forwarded.inc();
        match sent {
            Sent::Letter(letter) => _ = self.outbox.remove(letter.number),
            Sent::Job(job) => job.finish(Ok(())),
        }
    }

    pub(super) fn count_refusal(&self, reason: &str) {
        self.refusals.with_label_values(&[&*self.settings.name, reason]).inc();
    }

    /// A letter leaves its queue without the broker, for the dead-letter topic if there is one.
    pub(super) fn give_up(&self, gateway: &Weak<Gateway>, letter: &Letter, reason: &str) {
        let message = &letter.message;
        self.counters.refused.inc();
        tracing::warn!(
            backend = %self.settings.name, topic = %message.topic, reason,
            "a message that the upstream broker refuses is given up"
        );
        if let (Some(gateway), Some(topic)) = (gateway.upgrade(), &self.settings.upstream.dead_letter_topic) {
            let mut user_properties = message.user_properties.clone();
            user_properties.push((REASON.into(), reason.into()));
            let topic = format!("{topic}/{}", message.topic).into();
            let dead = Message { topic, retain: false, user_properties, ..Message::clone(message) };
            mqtt::publish_locally(&gateway, &Arc::new(dead));
        }
        // Behind the dead letter, also in the store: a crash between them leaves the message in its queue.
        self.outbox.remove(letter.number);
    }
}

/// What a publisher who waits is told.
fn error(reason: PubAckReason, backend: &settings::Backend) -> RpcError {
    let kind = match reason {
        PubAckReason::NotAuthorized => RpcErrorKind::PermissionDenied,
        PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => RpcErrorKind::Malformed,
        PubAckReason::QuotaExceeded => RpcErrorKind::LimitExceeded,
        _ => RpcErrorKind::BackendFailed,
    };
    let message = format!("backend {}: the broker said {}", backend.name, name(reason));
    let mut error = RpcError::new(kind, Execution::NotRun, message);
    error.retry_after = (Verdict::of(reason) == Verdict::Busy).then_some(backend.upstream.backoff_min);
    error
}

/// As metrics have it.
fn name(reason: PubAckReason) -> &'static str {
    match reason {
        PubAckReason::Success => "success",
        PubAckReason::NoMatchingSubscribers => "no_matching_subscribers",
        PubAckReason::UnspecifiedError => "unspecified_error",
        PubAckReason::ImplementationSpecificError => "implementation_specific_error",
        PubAckReason::NotAuthorized => "not_authorized",
        PubAckReason::TopicNameInvalid => "topic_name_invalid",
        PubAckReason::PacketIdentifierInUse => "packet_identifier_in_use",
        PubAckReason::QuotaExceeded => "quota_exceeded",
        PubAckReason::PayloadFormatInvalid => "payload_format_invalid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream() -> settings::Upstream {
        settings::Upstream { refused_tries_max: 3, ..settings::Upstream::default() }
    }

    #[test]
    fn only_a_broker_that_is_full_is_asked_without_end() {
        let check = |verdict, tried: usize| {
            let (mut refusals, now) = (Refusals::default(), mqtt::now());
            let tries = (0..100).take_while(|_| refusals.note(7, verdict, &upstream(), now)).count();
            assert_eq!(tries, tried, "{verdict:?}");
        };
        check(Verdict::Never, 0);
        check(Verdict::Failed, 2);
        check(Verdict::Busy, 100);
    }

    #[test]
    fn pauses_double_up_to_their_bound() {
        let upstream = upstream();
        assert_eq!(backoff(1, &upstream), upstream.backoff_min);
        assert_eq!(backoff(3, &upstream), upstream.backoff_min * 4);
        assert_eq!(backoff(usize::MAX, &upstream), upstream.backoff_max);
    }

    #[test]
    fn what_left_the_queue_is_not_remembered() {
        let (mut refusals, now) = (Refusals::default(), mqtt::now());
        for number in [3, 5] {
            refusals.note(number, Verdict::Busy, &upstream(), now);
        }
        assert!(refusals.resume_at().is_some_and(|at| at >= now));
        refusals.resume(Some(4));
        assert!(refusals.resume_at().is_none());
        assert_eq!(refusals.tries.into_keys().collect::<Vec<_>>(), [5]);
    }
}
