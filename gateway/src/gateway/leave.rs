//! Whether clients may publish and subscribe.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::Gateway;
use crate::{
    access::{Acl, Action, Judgement, Leave},
    auth::hook::Question,
    request::Origin,
};

/// Topics of one client about which the hook is asked at one time.
const ASKED_AT_ONCE: usize = 8;
/// The topics of one packet are asked about for so many of the hook's deadlines at the most: its client waits.
const ASKING_DEADLINES: u32 = 3;

impl Gateway {
    /// Whether a client may publish or subscribe to a topic; `None` if the hook has to be asked, which takes a while. What
    /// is denied is counted, and logged once for each reason.
    pub fn permits_now(&self, origin: &Origin, action: Action, topic: &str) -> Option<Leave> {
        let snapshot = self.snapshot();
        let judgement = snapshot.acl.judge(origin, action, topic, None);
        if judgement != Judgement::Ask {
            return Some(self.leave(judgement, origin, action, topic));
        }
        // Settings name no rule that asks without a hook.
        let hook = snapshot.hook.as_ref()?;
        let answer = hook.known(&Question::Access(origin, action, Acl::judged(action, topic)))?;
        let judgement = snapshot.acl.judge(origin, action, topic, Some(&answer.verdict));
        Some(self.leave(judgement, origin, action, topic))
    }

    /// The same, with the hook asked where it has to be.
    pub async fn permits(&self, origin: &Origin, action: Action, topic: &str) -> Leave {
        if let Some(leave) = self.permits_now(origin, action, topic) {
            return leave;
        }
        let snapshot = self.snapshot.load_full();
        let Some(hook) = &snapshot.hook else { return Leave::Unknown };
        match hook.ask(&Question::Access(origin, action, Acl::judged(action, topic))).await {
            Ok(answer) => {
                let judgement = snapshot.acl.judge(origin, action, topic, Some(&answer.verdict));
                self.leave(judgement, origin, action, topic)
            }
            // Counted and logged there.
            Err(_) => Leave::Unknown,
        }
    }

    /// [`Gateway::permits`] of several topics in their order, of which some are known already. Once the hook has failed to
    /// say something of one, it is not asked about the rest.
    pub async fn permits_each(
        &self,
        origin: &Origin,
        action: Action,
        topics: &[&str],
        known: &[Option<Leave>],
    ) -> Vec<Leave> {
        let mut leaves: Vec<_> =
            topics.iter().enumerate().map(|(at, _)| known.get(at).copied().flatten()).collect();
        let unknown: Vec<_> = (0..topics.len()).filter(|&at| leaves[at].is_none()).collect();
        let deadline = Instant::now() + self.asking_time_max();
        for places in unknown.chunks(ASKED_AT_ONCE) {
            let asked = join_all(places.iter().map(|&at| self.permits(origin, action, topics[at])));
            let Ok(answers) = timeout_at(deadline, asked).await else {
                self.metrics.limit_hit("hook_asking_time_max");
                break;
            };
            let is_over = answers.contains(&Leave::Unknown);
            places.iter().zip(answers).for_each(|(&at, leave)| leaves[at] = Some(leave));
            if is_over {
                break;
            }
        }
        leaves.into_iter().map(|leave| leave.unwrap_or(Leave::Unknown)).collect()
    }

    /// How long the hook may be asked about the topics of one packet.
    fn asking_time_max(&self) -> Duration {
        let snapshot = self.snapshot();
        snapshot.hook.as_ref().map_or(Duration::ZERO, |hook| hook.deadline() * ASKING_DEADLINES)
    }

    fn leave(&self, judgement: Judgement<'_>, origin: &Origin, action: Action, topic: &str) -> Leave {
        let rule = match judgement {
            Judgement::Allowed => return Leave::Granted,
            Judgement::Ask => return Leave::Unknown,
            Judgement::Denied(rule) => rule,
        };
        self.metrics.acl_denials.with_label_values(&[action.label(), rule]).inc();
        if !self.denials.log(rule, origin, action, topic) {
            self.metrics.limit_hit("denials_logged");
        }
        Leave::Denied
    }
}
