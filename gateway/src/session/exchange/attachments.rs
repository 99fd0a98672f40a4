//! Who takes an exchange's answer: usually one connection, at times a short one beside it.

use std::sync::Weak;

use super::consumer::Attached;
use crate::session::signal::Signal;

/// Connections that may take one answer at a time: a client's link, and short connections of which the gateway
/// has not noticed yet that they are gone. One more takes the place of the oldest.
const CONSUMERS_MAX: usize = 4;

/// The connection of a consumer that had to give way, to be told.
pub(super) type Cut = Weak<Signal>;

/// The consumers of an exchange, each of another connection.
#[derive(Default)]
pub(super) struct Attachments {
    /// How many there were.
    count: u64,
    /// Apart from the others, since most answers have one consumer.
    first: Option<Attached>,
    others: Vec<Attached>,
    /// Those that had to give way and do not know it yet.
    cut: Vec<u64>,
}

impl Attachments {
    /// Takes one in, and says which it is. A consumer of the same connection gives its place to it, silently;
    /// `Some` is one of another connection that had to.
    pub(super) fn add(&mut self, attached: Attached) -> (u64, Option<Cut>) {
        self.leave(&attached.signal);
        let is_full = self.iter().count() >= CONSUMERS_MAX;
        let oldest = self.iter().map(|held| held.attachment).min().filter(|_| is_full);
        let cut = oldest.and_then(|oldest| self.cut(oldest));
        self.count += 1;
        let attached = Attached { attachment: self.count, ..attached };
        match &self.first {
            None => self.first = Some(attached),
            Some(_) => self.others.push(attached),
        }
        (self.count, cut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Attached> {
        self.first.iter().chain(&self.others)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Attached> {
        self.first.iter_mut().chain(&mut self.others)
    }

    pub(super) fn get_mut(&mut self, attachment: u64) -> Option<&mut Attached> {
        self.iter_mut().find(|held| held.attachment == attachment)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    /// Takes one out; false when it was not there.
    pub(super) fn remove(&mut self, attachment: u64) -> bool {
        self.cut.retain(|cut| *cut != attachment);
        self.remove_if(|held| held.attachment == attachment)
    }

    /// Takes out what the connection of `signal` has.
    pub(super) fn leave(&mut self, signal: &Weak<Signal>) {
        self.remove_if(|held| held.signal.ptr_eq(signal));
    }

    /// Leaves only the one that has taken most, of such the newest; the others, which are returned, have to give way.
    pub(super) fn keep_foremost(&mut self) -> Vec<Cut> {
        let foremost = self.iter().max_by_key(|held| (held.progress(), held.attachment));
        let Some(foremost) = foremost.map(|held| held.attachment) else { return Vec::new() };
        let rest: Vec<u64> =
            self.iter().map(|held| held.attachment).filter(|held| *held != foremost).collect();
        rest.into_iter().filter_map(|attachment| self.cut(attachment)).collect()
    }

    /// Whether a consumer had to give way and was not told yet.
    pub(super) fn take_cut(&mut self, attachment: u64) -> bool {
        if self.cut.is_empty() {
            return false;
        }
        let cut = self.cut.len();
        self.cut.retain(|held| *held != attachment);
        self.cut.len() < cut
    }

    fn cut(&mut self, attachment: u64) -> Option<Cut> {
        let signal = self.get_mut(attachment)?.signal.clone();
        self.remove(attachment);
        self.cut.push(attachment);
        Some(signal)
    }

    fn remove_if(&mut self, leaves: impl Fn(&Attached) -> bool) -> bool {
        let before = self.iter().count();
        self.first.take_if(|held| leaves(held));
        self.others.retain(|held| !leaves(held));
        self.iter().count() < before
    }
}
