//! Which dictionaries a connection uses, and what its client fetches of them.

use bytes::Bytes;
use towline_protocols::link::{Control, Fetch, Piece};

use super::attendance::Attendance;

/// Of a dictionary at a time: what waits behind it waits no longer than behind a message's frame.
const PIECE_BYTES: usize = 8 << 10;

impl Attendance {
    /// Tells the client of dictionaries that it does not know of yet, and uses them and no others.
    pub(super) fn send_offer(&mut self, control: &mut Control) {
        let library = &self.door.gateway.dictionaries;
        if library.revision() == self.told.dictionaries {
            return;
        }
        let edition = library.edition();
        let client_id = &**self.door.lease.session().client_id();
        let order = edition.order(client_id);
        control.prefer(&order);
        let is_first = self.told.dictionaries == 0;
        self.told.dictionaries = edition.revision;
        // WELCOME has named the same: only what the client does not hold is news then.
        let named = control.header_dictionary().map(|dictionary| dictionary.id());
        if !is_first || edition.is_news_to(client_id, &control.peer().dictionaries, named) {
            control.offer(edition.offer(client_id));
        }
    }

    pub(super) fn on_fetch(&self, control: &mut Control, fetch: Fetch) {
        let edition = self.door.gateway.dictionaries.edition();
        let client_id = &**self.door.lease.session().client_id();
        let entry = edition.find(&fetch.hash).filter(|entry| entry.is_for(client_id));
        match (entry, fetch.held) {
            (Some(entry), true) if entry.dictionary.is_some() => {
                control.peer_holds(entry.id());
                control.prefer(&edition.order(client_id));
            }
            (_, true) => {}
            (entry, false) => {
                let rest = entry.map_or(Bytes::new(), |entry| entry.bytes.clone());
                let rest = rest.slice((fetch.offset as usize).min(rest.len())..);
                let bytes = rest.slice(..rest.len().min(PIECE_BYTES));
                control.piece(Piece { hash: fetch.hash, offset: fetch.offset, bytes });
            }
        }
    }
}
