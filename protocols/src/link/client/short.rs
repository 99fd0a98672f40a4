//! A session's short connections: each a POST that visits the session beside whatever connection holds it
//! (PROTOCOL.md, section 21).

use super::{Fate, Phase, Session};
use crate::link::{Hello, Waiting, Welcome};

impl Session {
    /// The HELLO of a POST. It asks for the answers to `wanted`, as far as they are waited for, and says nothing of
    /// other requests; those that it carries itself are not to be among them.
    pub fn short_hello(&mut self, base: Hello, wanted: impl IntoIterator<Item = u64>) -> Hello {
        self.epoch += 1;
        let mut waiting = Vec::new();
        for seq in wanted {
            if let Some(call) = self.calls.get_mut(&seq).filter(|call| call.phase == Phase::Waiting) {
                call.connections += 1;
                waiting.push(Waiting { seq, messages_received: call.messages_received });
            }
        }
        Hello {
            client_id: self.client_id.clone(),
            session_secret: self.secret.0.to_vec().into(),
            epoch: self.epoch,
            session_id: self.session_id,
            waiting,
            outcome_floor: self.floor(),
            pushes_taken: self.pushes.hello(),
            short: true,
            ..base
        }
    }

    /// A POST carries request `seq`, which may have been sent before: the server runs it once. False: it is over, or
    /// something of its answer has arrived, so that it is to be waited for instead.
    pub fn carry(&mut self, seq: u64) -> bool {
        let Some(call) = self.calls.get_mut(&seq) else { return false };
        if call.phase == Phase::Complete || call.response_received {
            return false;
        }
        call.phase = Phase::Waiting;
        call.connections += 1;
        true
    }

    /// What becomes of requests by the WELCOME of a POST that carried `carried`, whose own answers say what becomes
    /// of them. The rest is told of only where the server does not know the session that HELLO named.
    pub fn on_short_welcome(
        &mut self,
        hello: &Hello,
        welcome: &Welcome,
        carried: &[u64],
    ) -> Vec<(u64, Fate)> {
        let is_asked_for = |seq: u64| hello.waiting.iter().any(|waiting| waiting.seq == seq);
        let mut fates = Vec::new();
        for (&seq, call) in &mut self.calls {
            let concerned = !carried.contains(&seq) && (!welcome.resumed || is_asked_for(seq));
            if call.phase == Phase::Waiting && concerned {
                fates.push((seq, call.fate(welcome, false)));
            }
        }
        self.follow_fates(&fates);
        self.on_any_welcome(welcome);
        fates
    }
}
