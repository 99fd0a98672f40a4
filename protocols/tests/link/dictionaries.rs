//! Dictionaries come and go while a connection lives.

#![allow(clippy::unwrap_used, reason = "test support: a failure here is the test's")]

use bytes::{Bytes, BytesMut};
use towline_protocols::{
    compress::{Dictionary, Shelf},
    link::{
        CloseCode, Config, Connection, DictionaryKind, Event, Fetch, LimitsMessage, Offer, OfferedDictionary,
        Piece, Priority, Welcome,
        frame::{Frame, encode},
    },
};

use crate::pair::{Pair, head, hello, status_200};

fn order(n: u32) -> String {
    format!("{{\"order\":{},\"item\":\"coffee\",\"size\":\"large\"}}", n * 7919)
}

fn dictionary(first: u32) -> Dictionary {
    let samples: Vec<String> = (first..first + 2000).map(order).collect();
    Dictionary::new(zstd::dict::from_samples(&samples, 4096).unwrap(), 3).unwrap()
}

fn holding(dictionaries: &[&Dictionary]) -> Config {
    let shelf = Shelf::default();
    dictionaries.iter().for_each(|&dictionary| shelf.insert(dictionary.clone()).unwrap());
    Config { dictionaries: shelf, ..Config::default() }
}

fn offered(dictionary: &Dictionary) -> OfferedDictionary {
    OfferedDictionary {
        hash: vec![dictionary.id() as u8; 32].into(),
        kind: DictionaryKind::Payload.into(),
        id: dictionary.id(),
        bytes: dictionary.bytes().len() as u32,
        version: 1,
    }
}

fn introduced(client: Config, server: Config, prefer: &[u32]) -> Pair {
    let mut pair = Pair::with(client, server, hello());
    pair.run().unwrap();
    pair.server.control().prefer(prefer);
    let limits = LimitsMessage { dictionaries: prefer.to_vec(), ..LimitsMessage::default() };
    pair.server.control().welcome(Welcome { limits: Some(limits), ..Welcome::default() });
    pair.run().unwrap();
    pair
}

/// Which dictionary each side compresses with: the client's, the server's.
fn in_use(pair: &mut Pair) -> [Option<u32>; 2] {
    let of = |connection: &mut Connection| {
        connection.control().peer().compressor.as_ref()?.dictionary().map(Dictionary::id)
    };
    [of(&mut pair.client), of(&mut pair.server)]
}

fn exchange(seq: u64, pair: &mut Pair) {
    pair.client.send_request(seq, head(Priority::NORMAL), false).unwrap();
    pair.client.send_message(seq, order(9000).into(), true).unwrap();
    pair.run().unwrap();
    pair.server.send_response(seq, status_200(), false).unwrap();
    pair.server.send_message(seq, order(9001).into(), true).unwrap();
    pair.run().unwrap();
    assert_eq!(pair.server_bytes(seq), order(9000).len());
    assert_eq!(pair.client_bytes(seq), order(9001).len());
}

#[test]
fn a_dictionary_is_offered_fetched_used_and_withdrawn() {
    let (old, new) = (dictionary(0), dictionary(100_000));
    let (client, server) = (holding(&[&old]), holding(&[&new, &old]));
    let shelf = client.dictionaries.clone();
    let mut pair = introduced(client, server, &[new.id(), old.id()]);
    assert_eq!(in_use(&mut pair), [Some(old.id()); 2], "what both hold");
    exchange(1, &mut pair);

    let offer = Offer { dictionaries: vec![offered(&new), offered(&old)] };
    pair.server.control().offer(offer.clone());
    pair.run().unwrap();
    assert!(pair.client_events.contains(&Event::Offer(offer)));
    assert_eq!(in_use(&mut pair), [Some(old.id()); 2], "an offer alone changes nothing");

    let hash = offered(&new).hash;
    pair.client.control().fetch(Fetch { hash: hash.clone(), offset: 0, held: false });
    pair.run().unwrap();
    assert!(pair.server_events.iter().any(|event| matches!(event, Event::Fetch(_))));
    let piece = Piece { hash: hash.clone(), offset: 0, bytes: new.bytes().clone() };
    pair.server.control().piece(piece.clone());
    pair.run().unwrap();
    assert!(pair.client_events.contains(&Event::Piece(piece)));

    shelf.insert(new.clone()).unwrap();
    pair.client.control().fetch(Fetch { hash, offset: 0, held: true });
    pair.run().unwrap();
    pair.server.control().peer_holds(new.id());
    pair.server.control().prefer(&[new.id(), old.id()]);
    assert_eq!(in_use(&mut pair), [Some(new.id()); 2]);
    exchange(2, &mut pair);

    pair.server.control().prefer(&[old.id()]);
    pair.server.control().offer(Offer { dictionaries: vec![offered(&old)] });
    pair.run().unwrap();
    assert_eq!(in_use(&mut pair), [Some(old.id()); 2], "rolled back");
    exchange(3, &mut pair);
    pair.server.control().prefer(&[]);
    pair.server.control().offer(Offer::default());
    pair.run().unwrap();
    assert_eq!(in_use(&mut pair), [None; 2], "withdrawn");
}

#[test]
fn a_piece_leaves_behind_all_requests() {
    let mut pair = introduced(Config::default(), Config::default(), &[]);
    pair.client.send_request(1, head(Priority::BACKGROUND), true).unwrap();
    pair.run().unwrap();
    let bytes = Bytes::from_static(&[0x5a; 100]);
    pair.server.control().piece(Piece { hash: vec![1; 32].into(), offset: 0, bytes });
    pair.server.send_response(1, status_200(), false).unwrap();
    pair.server.send_message(1, crate::pair::noise(40_000, 1), true).unwrap();
    let mut out = BytesMut::new();
    pair.server.poll_transmit(pair.now, &mut out, usize::MAX);
    let at = out.windows(100).position(|window| window == [0x5a; 100]);
    assert_eq!(at, Some(out.len() - 100));
}

#[test]
fn offers_and_fetches_that_break_the_rules_close() {
    let check = |frame: Frame, to_server: bool| {
        let mut pair = introduced(Config::default(), Config::default(), &[]);
        let input = if to_server { &mut pair.to_server } else { &mut pair.to_client };
        encode(&frame, input);
        assert_eq!(pair.run().unwrap_err().code, CloseCode::ProtocolError, "{frame:?}");
    };
    let fetch = |bytes: usize| Fetch { hash: vec![1; bytes].into(), offset: 0, held: false };
    check(Frame::Fetch(fetch(31)), true);
    check(Frame::Fetch(fetch(32)), false);
    check(Frame::Piece(Piece::default()), true);
    check(Frame::Offer(Offer::default()), true);
    let entry = OfferedDictionary { hash: vec![1; 32].into(), ..OfferedDictionary::default() };
    check(Frame::Offer(Offer { dictionaries: vec![entry.clone(); 17] }), false);
    let entry = OfferedDictionary { hash: Bytes::new(), ..entry };
    check(Frame::Offer(Offer { dictionaries: vec![entry] }), false);

    let mut pair = introduced(Config::default(), Config::default(), &[]);
    pair.server.control().piece(Piece { hash: vec![1; 32].into(), ..Piece::default() });
    let mut input = BytesMut::new();
    encode(&Frame::Fetch(fetch(32)), &mut input);
    let server = &mut pair.server;
    assert!(server.handle_bytes(pair.now, &mut input).is_err(), "the last one is not answered");
}

#[test]
fn a_dictionary_that_the_peer_did_not_know_is_not_used_again() {
    let dictionary = dictionary(0);
    let mut pair = introduced(holding(&[&dictionary]), holding(&[&dictionary]), &[dictionary.id()]);
    assert_eq!(in_use(&mut pair)[0], Some(dictionary.id()));
    pair.client.control().forget_dictionary();
    pair.server.control().offer(Offer { dictionaries: vec![offered(&dictionary)] });
    pair.run().unwrap();
    assert_eq!(in_use(&mut pair)[0], None);
}
