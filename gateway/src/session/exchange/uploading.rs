//! The request's half of an exchange while it arrives: which connection feeds it, and what the loss of that means.
//!
//! ```text
//!                                  +-------- lost ---------+
//!                                  v                       |
//!  fed by connection 1 --lost--> parked --HELLO--> offered to connection 2 --take_up--> fed by connection 2
//!       |                          |    continues
//!       +-- END --> arrived        +-- session.upload_wait, or HELLO does not continue --> cancelled
//! ```

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use towline_protocols::link::Execution;

use super::{Exchange, State};
use crate::session::{
    BodySender, Credits,
    signal::Signal,
    upload::{Received, Upload},
};

/// What the death of a connection means for an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Lost {
    /// It goes on.
    Kept,
    /// It goes on, and waits for the rest of the request.
    Parked,
    /// It has ended, and was so far.
    Ended(Execution),
}

impl Exchange {
    /// Notes that the request's body is under way.
    pub(crate) fn uploads(&self, upload: &Arc<Upload>) {
        upload.count_as(&self.held);
        self.state.lock().upload = Some(Arc::clone(upload));
    }

    /// What has arrived of a request that waits for its rest, to be told to the connection of `signal`, which may go on
    /// with it, and inside a message if it `goes_inside`.
    pub(in crate::session) fn offer_upload(
        &self,
        signal: &Arc<Signal>,
        goes_inside: bool,
    ) -> Option<Received> {
        let mut state = self.state.lock();
        let upload = Arc::clone(state.open_upload()?);
        let offered = upload.offer(goes_inside);
        match offered {
            Some(_) => state.request.awaited_from = Some(Arc::downgrade(signal)),
            None => state.request_complete(),
        }
        offered
    }

    /// Lets the connection that it was offered to go on with the request, by way of `credits`. Also says how many bytes
    /// count against its window.
    pub(in crate::session) fn take_up_upload(&self, credits: &Arc<Credits>) -> Option<(BodySender, usize)> {
        self.state.lock().upload.as_ref()?.take_up(credits)
    }

    /// Whether a connection was offered to go on with the request, and has not done so.
    pub(in crate::session) fn offers_upload(&self) -> bool {
        self.state.lock().open_upload().is_some_and(|upload| upload.is_offered())
    }

    /// Whether the request has not arrived whole and the rest is wanted.
    pub(in crate::session) fn is_uploading(&self) -> bool {
        self.state.lock().open_upload().is_some()
    }

    /// Whether the rest of the request is waited for, and comes from nowhere.
    pub(in crate::session) fn is_parked(&self) -> bool {
        self.upload_due(Duration::ZERO).is_some()
    }

    /// When the rest of the request has been waited for long enough; `None` where nothing is waited for.
    pub(in crate::session) fn upload_due(&self, wait: Duration) -> Option<Instant> {
        self.state.lock().open_upload()?.due(wait)
    }
}

impl State {
    pub(super) fn request_complete(&mut self) {
        self.request.awaited_from = None;
        self.upload = None;
    }

    /// The request's body, while it is wanted and has not arrived.
    fn open_upload(&self) -> Option<&Arc<Upload>> {
        self.upload.as_ref().filter(|_| self.end.is_none())
    }

    /// Whether the rest of the request is to come from this connection.
    pub(super) fn awaits(&self, connection: &Weak<Signal>) -> bool {
        self.request.awaited_from.as_ref().is_some_and(|awaited| awaited.ptr_eq(connection))
    }

    /// Shuts the lost connection out of the request's body; whether the next one may go on with it.
    pub(super) fn park(&mut self, now: Instant) -> bool {
        let Some(upload) = self.open_upload() else { return false };
        let waits = upload.park(now);
        if !waits {
            self.request_complete();
        }
        waits
    }
}
