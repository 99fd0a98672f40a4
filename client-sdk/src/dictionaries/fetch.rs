//! Which dictionary to fetch next, and what became of it. Without I/O: offers and pieces go in, what is to be
//! asked for comes out.

use bytes::{Bytes, BytesMut};
use towline_dictionaries::sha256;
use towline_protocols::{
    compress::DICTIONARY_BYTES_MAX,
    endpoints::ENDPOINT_LIST_BYTES_MAX,
    hpack::HEADER_DICTIONARY_BYTES_MAX,
    link::{DictionaryKind, Fetch, Offer, OfferedDictionary, Piece},
};

/// A dictionary that arrived whole and is what was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) hash: Bytes,
    pub(crate) kind: DictionaryKind,
    pub(crate) bytes: Bytes,
}

/// Fetches what is offered and not held, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Fetcher {
    /// The most preferred first; at most as many as an OFFER may name.
    wanted: Vec<OfferedDictionary>,
    /// Kept from connection to connection, so that a large one arrives in the end.
    begun: Option<Begun>,
    /// A PIECE is under way on this connection.
    asked: bool,
}

#[derive(Debug)]
struct Begun {
    hash: Bytes,
    bytes: BytesMut,
}

impl Fetcher {
    /// A new connection: nothing was offered on it, nothing is under way.
    pub(crate) fn begin_line(&mut self) {
        self.wanted.clear();
        self.asked = false;
    }

    /// Takes an OFFER in, in place of the one before; `wants` says of each what is not held. A list comes first.
    pub(crate) fn on_offer(&mut self, offer: &Offer, wants: impl Fn(&OfferedDictionary) -> bool) {
        let fits = |it: &OfferedDictionary| (1..=bytes_max(it.kind())).contains(&(it.bytes as usize));
        // Of header dictionaries one is used: the first that both hold.
        let mut headers_seen = false;
        let mut is_wanted = |it: &OfferedDictionary| match it.kind() {
            DictionaryKind::Payload | DictionaryKind::Endpoints => true,
            DictionaryKind::Headers => !std::mem::replace(&mut headers_seen, true),
            DictionaryKind::Unspecified => false,
        };
        let wanted = offer.dictionaries.iter().filter(|it| is_wanted(it) && fits(it) && wants(it));
        self.wanted = wanted.cloned().collect();
        self.wanted.sort_by_key(|it| it.kind() != DictionaryKind::Endpoints);
    }

    /// Whether there is something to ask for.
    pub(crate) fn is_wanting(&self) -> bool {
        !self.asked && !self.wanted.is_empty()
    }

    /// Whether the next thing to ask for is an endpoint list.
    pub(crate) fn is_at_list(&self) -> bool {
        self.wanted.first().is_some_and(|first| first.kind() == DictionaryKind::Endpoints)
    }

    /// The next FETCH. The caller sends it.
    pub(crate) fn next(&mut self) -> Option<Fetch> {
        let first = self.wanted.first().filter(|_| !self.asked)?;
        let begun = self.begun.take().filter(|begun| begun.hash == first.hash);
        let begun = begun.unwrap_or_else(|| Begun { hash: first.hash.clone(), bytes: BytesMut::new() });
        let offset = u32::try_from(begun.bytes.len()).ok()?;
        self.begun = Some(begun);
        self.asked = true;
        Some(Fetch { hash: first.hash.clone(), offset, held: false })
    }

    /// Takes a PIECE in. What does not fit, or is not what was offered in the end, is not asked for again
    /// before the next OFFER.
    pub(crate) fn on_piece(&mut self, piece: &Piece) -> Option<Fetched> {
        let begun = self.begun.as_mut().filter(|begun| self.asked && begun.hash == piece.hash)?;
        self.asked = false;
        let Some(position) = self.wanted.iter().position(|it| it.hash == piece.hash) else {
            // It was withdrawn meanwhile.
            self.begun = None;
            return None;
        };
        let whole = self.wanted[position].bytes as usize;
        // A later OFFER may have given the same hash another size.
        let missing = whole.saturating_sub(begun.bytes.len());
        let fits = piece.offset as usize == begun.bytes.len() && (1..=missing).contains(&piece.bytes.len());
        if !fits {
            self.give_up(position);
            return None;
        }
        begun.bytes.extend_from_slice(&piece.bytes);
        if begun.bytes.len() < whole {
            return None;
        }
        let bytes = std::mem::take(&mut begun.bytes).freeze();
        let offered = self.give_up(position);
        if sha256(&bytes)[..] != offered.hash[..] {
            tracing::warn!("a dictionary that the gateway sent is not the one that it offered");
            return None;
        }
        Some(Fetched { kind: offered.kind(), hash: offered.hash, bytes })
    }

    fn give_up(&mut self, position: usize) -> OfferedDictionary {
        self.begun = None;
        self.wanted.remove(position)
    }
}

/// What one of this kind may have.
fn bytes_max(kind: DictionaryKind) -> usize {
    match kind {
        DictionaryKind::Headers => HEADER_DICTIONARY_BYTES_MAX,
        DictionaryKind::Endpoints => ENDPOINT_LIST_BYTES_MAX,
        _ => DICTIONARY_BYTES_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"a dictionary of forty-two bytes, for tests";

    fn offered(content: &[u8]) -> OfferedDictionary {
        OfferedDictionary {
            hash: sha256(content).to_vec().into(),
            kind: DictionaryKind::Payload.into(),
            id: 7,
            bytes: content.len() as u32,
            version: 1,
        }
    }

    fn offer(contents: &[&[u8]]) -> Offer {
        Offer { dictionaries: contents.iter().map(|content| offered(content)).collect() }
    }

    fn piece(content: &[u8], from: usize, to: usize) -> Piece {
        let bytes = Bytes::copy_from_slice(&content[from..to]);
        Piece { hash: offered(content).hash, offset: from as u32, bytes }
    }

    #[test]
    fn a_dictionary_arrives_in_pieces_over_two_connections() {
        let mut fetcher = Fetcher::default();
        fetcher.on_offer(&offer(&[CONTENT]), |_| true);
        let first = fetcher.next().unwrap();
        assert_eq!((first.offset, first.held, &first.hash), (0, false, &offered(CONTENT).hash));
        assert_eq!(fetcher.next(), None, "one is unanswered");
        assert_eq!(fetcher.on_piece(&piece(CONTENT, 0, 20)), None);
        assert_eq!(fetcher.next().map(|fetch| fetch.offset), Some(20));

        fetcher.begin_line();
        assert!(!fetcher.is_wanting(), "nothing is offered yet");
        fetcher.on_offer(&offer(&[CONTENT]), |_| true);
        assert_eq!(fetcher.next().map(|fetch| fetch.offset), Some(20), "it goes on where it was");
        let fetched = fetcher.on_piece(&piece(CONTENT, 20, CONTENT.len())).unwrap();
        assert_eq!(fetched.bytes, CONTENT);
        assert!(!fetcher.is_wanting());
    }

    #[test]
    fn what_is_held_or_too_large_is_not_asked_for() {
        let mut fetcher = Fetcher::default();
        let hash = offered(CONTENT).hash;
        fetcher.on_offer(&offer(&[CONTENT]), |it| it.hash != hash);
        assert!(!fetcher.is_wanting());
        let mut large = offer(&[CONTENT]);
        large.dictionaries[0].bytes = DICTIONARY_BYTES_MAX as u32 + 1;
        fetcher.on_offer(&large, |_| true);
        assert!(!fetcher.is_wanting());
    }

    #[test]
    fn what_is_not_as_offered_is_given_up() {
        let check = |answer: Piece| {
            let mut fetcher = Fetcher::default();
            fetcher.on_offer(&offer(&[CONTENT]), |_| true);
            fetcher.next().unwrap();
            assert_eq!(fetcher.on_piece(&answer), None);
            assert!(!fetcher.is_wanting(), "{answer:?}");
        };
        let whole = piece(CONTENT, 0, CONTENT.len());
        check(Piece { bytes: Bytes::new(), ..whole.clone() });
        check(Piece { offset: 1, ..whole.clone() });
        check(Piece { bytes: [CONTENT, b"!"].concat().into(), ..whole.clone() });
        check(Piece { bytes: vec![b'x'; CONTENT.len()].into(), ..whole });
    }

    #[test]
    fn what_is_offered_with_fewer_bytes_than_have_come_is_given_up() {
        let mut fetcher = Fetcher::default();
        fetcher.on_offer(&offer(&[CONTENT]), |_| true);
        fetcher.next().unwrap();
        assert_eq!(fetcher.on_piece(&piece(CONTENT, 0, 20)), None);
        let mut smaller = offer(&[CONTENT]);
        smaller.dictionaries[0].bytes = 10;
        fetcher.on_offer(&smaller, |_| true);
        assert_eq!(fetcher.next().map(|fetch| fetch.offset), Some(20));
        assert_eq!(fetcher.on_piece(&piece(CONTENT, 20, 30)), None);
        assert!(!fetcher.is_wanting());
    }

    #[test]
    fn a_piece_of_what_was_withdrawn_is_dropped() {
        let mut fetcher = Fetcher::default();
        fetcher.on_offer(&offer(&[CONTENT]), |_| true);
        fetcher.next().unwrap();
        fetcher.on_offer(&offer(&[b"another"]), |_| true);
        assert_eq!(fetcher.on_piece(&piece(CONTENT, 0, CONTENT.len())), None);
        assert_eq!(fetcher.next().unwrap().hash, offered(b"another").hash);
    }
}
