//! Whether clients may publish and subscribe.

use futures_util::future::join_all;

use super::Gateway;
use crate::{
    access::{Acl, Action, Judgement, Leave},
    auth::hook::Question,
    request::Origin,
};

/// Topics of one client about which the hook is asked at one time.
const ASKED_AT_ONCE: usize = 8;

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

    /// [`Gateway::permits`] of several topics in their order, of which some are known already.
    pub async fn permits_each(
        &self,
        origin: &Origin,
        action: Action,
        topics: &[&str],
        known: &[Option<Leave>],
    ) -> Vec<Leave> {
        let mut leaves: Vec<_> =
            topics.iter().enumerate().map(|(at, _)| known.get(at).copied().flatten()).collect();
        for (topics, leaves) in topics.chunks(ASKED_AT_ONCE).zip(leaves.chunks_mut(ASKED_AT_ONCE)) {
            let mut asked = Vec::new();
            for (topic, leave) in topics.iter().zip(leaves) {
                if leave.is_none() {
                    asked.push(async { *leave = Some(self.permits(origin, action, topic).await) });
                }
            }
            join_all(asked).await;
        }
        leaves.into_iter().map(|leave| leave.unwrap_or(Leave::Unknown)).collect()
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
