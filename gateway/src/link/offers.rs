//! Which dictionaries a connection uses, and what its client fetches of them; and the endpoint list, which goes the same way.

use std::time::SystemTime;

use bytes::Bytes;
use towline_protocols::link::{Control, Fetch, Piece};

use super::attendance::Attendance;

/// Of a dictionary at a time: what waits behind it waits no longer than behind a message's frame.
const PIECE_BYTES: usize = 8 << 10;

impl Attendance {
    /// Tells the client of dictionaries that it does not know of yet, and uses them and no others. `listed` is which
    /// endpoint list it holds, as HELLO says.
    pub(super) fn send_offer(&mut self, control: &mut Control, listed: Option<u64>) {
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
        // Later, all are told of a list, so that no connection has to know who takes one: others leave it alone.
        let endpoints = edition.endpoints_at(SystemTime::now());
        let endpoints =
            endpoints.filter(|it| !is_first || listed.is_some_and(|held| held < it.list().serial));
        let is_news = edition.is_news_to(client_id, &control.peer().dictionaries, named);
        if !is_first || is_news || endpoints.is_some() {
            control.offer(edition.offer(client_id, endpoints));
            if endpoints.is_some() {
                self.door.gateway.metrics.endpoint_lists.with_label_values(&["offered"]).inc();
            }
        }
    }

    pub(super) fn on_fetch(&self, control: &mut Control, fetch: Fetch) {
        let edition = self.door.gateway.dictionaries.edition();
        if let Some(list) = edition.endpoints.as_ref().filter(|list| fetch.hash == list.hash()[..]) {
            return self.send_list(control, fetch, list.bytes());
        }
        let client_id = &**self.door.lease.session().client_id();
        let entry = edition.find(&fetch.hash).filter(|entry| entry.is_for(client_id));
        match (entry, fetch.held) {
            (Some(entry), true) if entry.dictionary.is_some() => {
                control.peer_holds(entry.id());
                control.prefer(&edition.order(client_id));
            }
            (_, true) => {}
            (entry, false) => {
                let whole = entry.map_or(Bytes::new(), |entry| entry.bytes.clone());
                control.piece(piece(fetch, &whole));
            }
        }
    }

    fn send_list(&self, control: &mut Control, fetch: Fetch, list: &Bytes) {
        if fetch.held {
            return;
        }
        let piece = piece(fetch, list);
        if piece.offset as usize + piece.bytes.len() == list.len() {
            self.door.gateway.metrics.endpoint_lists.with_label_values(&["fetched"]).inc();
        }
        control.piece(piece);
    }
}

fn piece(fetch: Fetch, whole: &Bytes) -> Piece {
    let rest = whole.slice((fetch.offset as usize).min(whole.len())..);
    let bytes = rest.slice(..rest.len().min(PIECE_BYTES));
    Piece { hash: fetch.hash, offset: fetch.offset, bytes }
}
