//! Pushes between their arrival and the app's word that it is done with them.

use std::collections::{BTreeMap, VecDeque};

use towline_protocols::link::Priority;

use super::Core;
use crate::{push::Push, push_log::Taken};

/// Urgencies that there are.
const URGENCIES: usize = 8;

/// Pushes that have arrived.
#[derive(Default)]
pub(crate) struct Inbox {
    /// In the order of their arrival, each with the numbering that its id belongs to.
    waiting: VecDeque<(u64, Push)>,
    /// What the app was handed, by urgency; each by the numbering that its id belongs to, and its id.
    handed: [BTreeMap<(u64, u64), Handed>; URGENCIES],
    /// Pushes came that found no place: when the app has taken what is here, the gateway sends them again.
    left_out: bool,
    /// Short connections that brought such ones, or ones of a numbering that was not known yet: what follows on them
    /// follows those.
    skipping: Vec<u64>,
}

/// Every push that was handed out holds up the acknowledgement of those behind it until the app is done with it.
enum Handed {
    /// A listener has it.
    Out(Push),
    /// It waits for another listener.
    Back,
    /// The app is done with it, but not with one before.
    Done,
}

/// Names a push that the app was handed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    line: u64,
    priority: Priority,
    id: u64,
}

impl Inbox {
    /// Once a push was left out, those after it are too: they come in order. `short`: the short connection that brings it.
    pub(super) fn has_place(&mut self, pushes_max: usize, short: Option<u64>) -> bool {
        self.left_out |= self.waiting.len() >= pushes_max;
        if self.left_out {
            self.skip(short);
        }
        !self.left_out && !short.is_some_and(|number| self.skipping.contains(&number))
    }

    /// A push of that short connection was left out: to take one behind it would say that both were taken.
    pub(super) fn skip(&mut self, short: Option<u64>) {
        self.skipping.extend(short.filter(|number| !self.skipping.contains(number)));
    }

    pub(super) fn short_over(&mut self, number: u64) {
        self.skipping.retain(|other| *other != number);
    }

    pub(super) fn put(&mut self, line: u64, push: Push) {
        self.waiting.push_back((line, push));
    }

    pub(super) fn begin_line(&mut self) {
        self.left_out = false;
    }

    fn is_drained(&self) -> bool {
        self.left_out && self.waiting.is_empty()
    }

    /// The next push for the app, the most urgent first, and whether there are more.
    pub(crate) fn take(&mut self) -> Option<(Ticket, Push, bool)> {
        let index = (0..self.waiting.len()).min_by_key(|&index| self.waiting[index].1.priority.urgency())?;
        let (line, push) = self.waiting.remove(index)?;
        let ticket = Ticket { line, priority: push.priority, id: push.id };
        self.lane(ticket.priority).insert((line, push.id), Handed::Out(push.clone()));
        Some((ticket, push, !self.waiting.is_empty()))
    }

    /// The app is done with a push. The id up to which it is done with all of this urgency, if that rises.
    fn done(&mut self, ticket: Ticket) -> Option<u64> {
        let lane = self.lane(ticket.priority);
        if let Some(handed) = lane.get_mut(&(ticket.line, ticket.id)) {
            *handed = Handed::Done;
        }
        let mut through = None;
        while let Some((&key, Handed::Done)) = lane.range((ticket.line, 0)..=(ticket.line, u64::MAX)).next() {
            lane.remove(&key);
            through = Some(key.1);
        }
        through
    }

    /// The app did not handle a push that it was handed: it is the first of its topic again.
    pub(crate) fn give_back(&mut self, ticket: Ticket) {
        let Some(handed) = self.lane(ticket.priority).get_mut(&(ticket.line, ticket.id)) else { return };
        let Handed::Out(push) = std::mem::replace(handed, Handed::Back) else { return };
        let is_behind = |(line, other): &(u64, Push)| *line != ticket.line || other.id > ticket.id;
        let place = self.waiting.iter().position(is_behind).unwrap_or(self.waiting.len());
        self.waiting.insert(place, (ticket.line, push));
    }

    fn lane(&mut self, priority: Priority) -> &mut BTreeMap<(u64, u64), Handed> {
        &mut self.handed[usize::from(priority.urgency())]
    }
}

impl Core {
    /// The app is done with a push: from now on it is not handed on again, whatever happens. Says whether the
    /// line is to ask for pushes that found no place.
    pub(crate) fn push_done(&mut self, ticket: Ticket) -> bool {
        let through = self.inbox.done(ticket);
        if let Some(id) = through.filter(|_| ticket.line == self.session.pushes_taken().0) {
            self.session.push_taken(ticket.priority, id);
            self.note_taken();
            self.touch_control();
        }
        let again = self.inbox.is_drained();
        self.reconnect |= again;
        again
    }

    fn note_taken(&mut self) {
        let (line, marks) = self.session.pushes_taken();
        let written = self.push_log.as_mut().map_or(Ok(()), |log| log.write(Taken { line, marks }));
        if let Err(error) = written {
            tracing::warn!(%error, "what was taken is not on disk: after a restart a push may come again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(urgency: u8, id: u64) -> Push {
        let priority = Priority::new(urgency);
        let (topic, content_type, payload) = Default::default();
        Push { id, topic, content_type, payload, priority }
    }

    fn take(inbox: &mut Inbox) -> (Ticket, u64) {
        let (ticket, push, _) = inbox.take().unwrap();
        (ticket, push.id)
    }

    #[test]
    fn what_is_urgent_is_handed_out_first() {
        let mut inbox = Inbox::default();
        for (urgency, id) in [(7, 1), (3, 2), (0, 3), (3, 4)] {
            inbox.put(1, push(urgency, id));
        }
        let order: Vec<u64> = std::iter::from_fn(|| inbox.take()).map(|(_, push, _)| push.id).collect();
        assert_eq!(order, [3, 2, 4, 1]);
    }

    #[test]
    fn a_push_that_another_listener_still_handles_is_not_acknowledged_by_the_next() {
        let mut inbox = Inbox::default();
        (1..=3).for_each(|id| inbox.put(1, push(3, id)));
        let [(first, _), (second, _), (third, _)] = [take(&mut inbox), take(&mut inbox), take(&mut inbox)];
        assert_eq!(inbox.done(second), None);
        assert_eq!(inbox.done(first), Some(2));
        assert_eq!(inbox.done(third), Some(3));
    }

    #[test]
    fn a_push_that_was_not_handled_is_handed_out_again_before_those_behind_it() {
        let mut inbox = Inbox::default();
        (1..=4).for_each(|id| inbox.put(1, push(3, id)));
        let [(first, _), (second, _), (third, _)] = [take(&mut inbox), take(&mut inbox), take(&mut inbox)];
        assert_eq!(inbox.done(second), None);
        inbox.give_back(third);
        inbox.give_back(first);
        let again = [take(&mut inbox), take(&mut inbox), take(&mut inbox)];
        assert_eq!(again.map(|(_, id)| id), [1, 3, 4]);
        assert_eq!(inbox.done(again[1].0), None, "1 is not done");
        assert_eq!(inbox.done(again[0].0), Some(3));
        assert_eq!(inbox.done(again[2].0), Some(4));
    }

    #[test]
    fn what_was_given_back_holds_up_the_acknowledgement_of_those_behind_it() {
        let mut inbox = Inbox::default();
        (1..=2).for_each(|id| inbox.put(1, push(3, id)));
        let [(first, _), (second, _)] = [take(&mut inbox), take(&mut inbox)];
        inbox.give_back(first);
        assert_eq!(inbox.done(second), None);
        let (first, id) = take(&mut inbox);
        assert_eq!((id, inbox.done(first)), (1, Some(2)));
    }

    #[test]
    fn ids_of_another_numbering_are_others() {
        let mut inbox = Inbox::default();
        inbox.put(9, push(3, 5));
        let (old, _) = take(&mut inbox);
        inbox.put(4, push(3, 1));
        inbox.put(4, push(3, 5));
        let [(new_first, _), (new_fifth, _)] = [take(&mut inbox), take(&mut inbox)];
        assert_eq!(inbox.done(new_fifth), None);
        assert_eq!(inbox.done(new_first), Some(5));
        inbox.give_back(old);
        let (again, push, _) = inbox.take().unwrap();
        assert_eq!((again.line, push.id), (9, 5));
    }

    #[test]
    fn a_short_connection_that_brought_what_found_no_place_goes_on_behind_it() {
        let mut inbox = Inbox::default();
        inbox.put(1, push(3, 1));
        assert!(!inbox.has_place(1, Some(7)));
        take(&mut inbox);
        inbox.begin_line();
        assert!(!inbox.has_place(1, Some(7)), "what it left out comes on the link");
        assert!(inbox.has_place(1, None) && inbox.has_place(1, Some(8)));
        inbox.short_over(7);
        assert!(inbox.skipping.is_empty());
    }

    #[test]
    fn once_a_push_is_left_out_so_are_those_after_it() {
        let mut inbox = Inbox::default();
        assert!(inbox.has_place(1, None));
        inbox.put(1, push(3, 1));
        assert!(!inbox.has_place(1, None) && !inbox.is_drained());
        take(&mut inbox);
        assert!(!inbox.has_place(1, None) && inbox.is_drained());
        inbox.begin_line();
        assert!(inbox.has_place(1, None));
    }
}
