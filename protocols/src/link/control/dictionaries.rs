//! Dictionaries on a connection: which one is used, and how the client comes by others.

use bytes::BytesMut;

use super::{Control, Phase};
use crate::{
    compress::{DICTIONARIES_MAX, Dictionary},
    link::{
        DictionaryKind, Event, Fetch, LinkError, Offer, Piece, Role,
        frame::{self, Frame},
    },
};

/// Length of the hash that names a dictionary.
pub(in crate::link) const HASH_BYTES: usize = 32;

impl Control {
    /// Server: the dictionaries to use with this client, the best first. To be said before WELCOME, which
    /// should name the same, and again whenever they change, or the client holds another.
    pub fn prefer(&mut self, ids: &[u32]) {
        let shelf = self.config.dictionaries.load();
        let common = ids.iter().filter(|id| self.peer.dictionaries.contains(id));
        let best = common.copied().find_map(|id| shelf.get(id));
        self.use_dictionary(best);
    }

    /// Server: says which dictionaries the client may fetch and use, in place of all before.
    pub fn offer(&mut self, offer: Offer) {
        self.send(&Frame::Offer(offer));
    }

    /// Server: the client holds a dictionary that was offered (FETCH with `held`); [`Control::prefer`] then
    /// may choose it.
    pub fn peer_holds(&mut self, id: u32) {
        let held = &self.peer.dictionaries;
        if held.len() < DICTIONARIES_MAX && !held.contains(&id) {
            self.peer.dictionaries = held.iter().copied().chain([id]).collect();
        }
    }

    /// Server: answers FETCH. It leaves when there is nothing else to send.
    pub fn piece(&mut self, piece: Piece) {
        let mut encoded = BytesMut::new();
        if self.phase != Phase::Closed {
            frame::encode(&Frame::Piece(piece), &mut encoded);
        }
        self.seldom.get_or_insert_default().piece = Some(encoded.freeze());
    }

    /// Client: asks for a piece of a dictionary, or says that it is held now: it is then on the shelf of the
    /// configuration.
    pub fn fetch(&mut self, fetch: Fetch) {
        if fetch.held {
            self.choose_dictionary();
        }
        self.send(&Frame::Fetch(fetch));
    }

    /// The peer does not hold the dictionary it announced (RESET UnknownDictionary): what is sent from now
    /// on is compressed without. A [`crate::link::Connection`] sees to it itself; drivers of QUIC streams
    /// call it.
    pub fn forget_dictionary(&mut self) {
        self.dictionaries_off = true;
        self.use_dictionary(None);
    }

    /// Whether a PIECE waits.
    pub(in crate::link) fn has_piece(&self) -> bool {
        self.seldom.as_ref().is_some_and(|seldom| seldom.piece.is_some())
    }

    /// Writes the PIECE that waits; false when there is none.
    pub(in crate::link) fn take_piece(&mut self, out: &mut BytesMut) -> bool {
        let piece = self.seldom.as_mut().and_then(|seldom| seldom.piece.take());
        let Some(piece) = piece else { return false };
        self.seldom.take_if(|seldom| seldom.header_dictionary.is_none());
        out.extend_from_slice(&piece);
        true
    }

    /// The peer has said what it holds. A client follows the server's order, so that the server rolls a
    /// dictionary out and back.
    pub(super) fn choose_dictionary(&mut self) {
        let shelf = self.config.dictionaries.load();
        let peer_ids = &self.peer.dictionaries;
        let best = match self.role {
            Role::Server => shelf.best_common(peer_ids),
            Role::Client => peer_ids.iter().find_map(|&id| shelf.get(id)),
        };
        self.use_dictionary(best);
    }

    fn use_dictionary(&mut self, dictionary: Option<&Dictionary>) {
        let takes_any = self.peer.compressor.is_some();
        let Some(base) = self.config.compressor.as_ref().filter(|_| takes_any) else { return };
        self.peer.compressor = Some(match dictionary.filter(|_| !self.dictionaries_off) {
            Some(dictionary) => base.clone().with_dictionary(dictionary.clone()),
            None => base.clone(),
        });
    }

    pub(super) fn on_offer(&mut self, offer: Offer) -> Result<Event, LinkError> {
        if offer.dictionaries.len() > DICTIONARIES_MAX {
            return Err(LinkError::protocol("OFFER: at most 16 dictionaries"));
        }
        if offer.dictionaries.iter().any(|offered| offered.hash.len() != HASH_BYTES) {
            return Err(LinkError::protocol("OFFER: a hash must have 32 bytes"));
        }
        let payload = offer.dictionaries.iter().filter(|it| it.kind() == DictionaryKind::Payload);
        self.peer.dictionaries = payload.map(|offered| offered.id).collect();
        self.choose_dictionary();
        Ok(Event::Offer(offer))
    }

    /// One at a time: what a client asks for is bounded by what it takes.
    pub(super) fn on_fetch(&mut self, fetch: Fetch) -> Result<Event, LinkError> {
        if fetch.hash.len() != HASH_BYTES {
            return Err(LinkError::protocol("FETCH: a hash must have 32 bytes"));
        }
        if !fetch.held && self.has_piece() {
            return Err(LinkError::protocol("FETCH came before the PIECE that the last one asked for"));
        }
        Ok(Event::Fetch(fetch))
    }
}
