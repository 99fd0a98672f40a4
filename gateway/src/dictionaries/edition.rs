//! What is published at one moment: immutable, read by every connection.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use towline_protocols::{
    compress::{DICTIONARIES_MAX, Dictionary},
    hpack::HeaderDictionary,
    link::{DictionaryKind, Offer, OfferedDictionary},
};

use crate::{endpoints::PublishedList, metrics::Metrics};

/// One dictionary.
#[derive(Clone, Debug)]
pub struct Entry {
    /// SHA-256 of the file: its name.
    pub hash: [u8; 32],
    /// What it is for.
    pub kind: DictionaryKind,
    /// Counts what was published; 0 for those of the configuration and the built-in ones.
    pub version: u64,
    /// The share of clients that it is for, percent.
    pub rollout: u8,
    /// Rolled back: it is read, and not used any more.
    pub withdrawn: bool,
    /// What it saved on held-back samples, percent of the bytes without it; `None` if nobody measured.
    pub gain_percent: Option<f64>,
    /// The file.
    pub bytes: Bytes,
    /// Prepared for use, if it is for payloads.
    pub dictionary: Option<Dictionary>,
    /// Ready for use, if it is for headers.
    pub headers: Option<Arc<HeaderDictionary>>,
}

/// All that is published, the most preferred first.
#[derive(Debug, Default)]
pub struct Edition {
    /// Rises with each change.
    pub revision: u64,
    /// Published ones, the newest first, then those of the configuration and the built-in ones.
    pub entries: Vec<Entry>,
    /// Whether there is anything that a client of this software does not hold from the beginning.
    pub has_news: bool,
    /// Where the operator has clients knock.
    pub endpoints: Option<Arc<PublishedList>>,
}

impl Entry {
    /// Whether it is for this client. The same clients stay within as the share grows, and each dictionary
    /// is tried on other clients first.
    pub fn is_for(&self, client_id: &str) -> bool {
        !self.withdrawn && share_of(client_id, &self.hash) < u64::from(self.rollout)
    }

    /// The id that zstd frames carry; 0 for headers.
    pub fn id(&self) -> u32 {
        self.dictionary.as_ref().map_or(0, Dictionary::id)
    }
}

/// 0 to 99, by FNV-1a: the same on every node.
fn share_of(client_id: &str, hash: &[u8; 32]) -> u64 {
    let bytes = hash.iter().chain(client_id.as_bytes());
    let mixed = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of FNV's last step hardly depend on the early bytes.
    (mixed ^ mixed >> 32) % 100
}

impl Edition {
    /// What a client is to use, in this order.
    pub fn for_client<'a>(&'a self, client_id: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(|entry| entry.is_for(client_id)).take(DICTIONARIES_MAX)
    }

    /// The ids of the payload dictionaries that a client is to use.
    pub fn order(&self, client_id: &str) -> Vec<u32> {
        self.for_client(client_id).filter(|entry| entry.dictionary.is_some()).map(Entry::id).collect()
    }

    /// The ids of the header dictionaries that a client is to name, for WELCOME.
    pub fn header_order(&self, client_id: &str) -> Vec<u64> {
        let headers = self.for_client(client_id).filter_map(|entry| entry.headers.as_ref());
        headers.map(|dictionary| dictionary.id()).collect()
    }

    /// The endpoint list, while clients take it.
    pub fn endpoints_at(&self, now: SystemTime) -> Option<&PublishedList> {
        self.endpoints.as_deref().filter(|list| list.problem(now).is_none())
    }

    /// The OFFER for a client, with that endpoint list.
    pub fn offer(&self, client_id: &str, endpoints: Option<&PublishedList>) -> Offer {
        let offered = |entry: &Entry| OfferedDictionary {
            hash: entry.hash.to_vec().into(),
            kind: entry.kind.into(),
            id: entry.id(),
            bytes: u32::try_from(entry.bytes.len()).unwrap_or(u32::MAX),
            version: entry.version,
        };
        let room = DICTIONARIES_MAX - usize::from(endpoints.is_some());
        let dictionaries = self.for_client(client_id).map(offered).take(room);
        Offer { dictionaries: dictionaries.chain(endpoints.map(PublishedList::offered)).collect() }
    }

    /// Whether a client that announced these ids, and named that header dictionary, has to be told of others. Of
    /// header dictionaries one is used, so the others are no news.
    pub fn is_news_to(&self, client_id: &str, announced: &[u32], named: Option<u64>) -> bool {
        let is_held = |entry: &Entry| entry.headers.is_some() || announced.contains(&entry.id());
        let is_best = self.header_order(client_id).first().is_none_or(|&best| named == Some(best));
        self.has_news && !(is_best && self.for_client(client_id).all(is_held))
    }

    /// Brings the gauges of the endpoint list up to date.
    pub(super) fn observe_endpoints(&self, metrics: &Metrics) {
        let list = self.endpoints.as_ref().map(|published| published.list());
        let shown = |value: Option<u64>| i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX);
        metrics.endpoint_list_serial.set(shown(list.map(|list| list.serial)));
        metrics.endpoint_list_expires.set(shown(list.map(|list| list.expires_s)));
    }

    /// The dictionary with this hash, for FETCH.
    pub fn find(&self, hash: &[u8]) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.hash[..] == *hash)
    }

    /// The newest dictionary of a kind that is in use.
    pub fn current(&self, kind: DictionaryKind) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kind == kind && !entry.withdrawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(rollout: u8) -> Entry {
        Entry {
            hash: [7; 32],
            kind: DictionaryKind::Headers,
            version: 1,
            rollout,
            withdrawn: false,
            gain_percent: None,
            bytes: Bytes::new(),
            dictionary: None,
            headers: None,
        }
    }

    #[test]
    fn a_share_of_the_clients_is_about_as_large_as_asked_and_grows() {
        let within = |percent: u8| -> Vec<String> {
            let clients = (0..10_000).map(|n| format!("phone-{n}"));
            clients.filter(|client| entry(percent).is_for(client)).collect()
        };
        let (few, more) = (within(10), within(50));
        assert!((800..1200).contains(&few.len()), "{}", few.len());
        assert!((4700..5300).contains(&more.len()), "{}", more.len());
        assert!(few.iter().all(|client| more.contains(client)), "who has it keeps it");
        assert_eq!((within(0).len(), within(100).len()), (0, 10_000));
    }

    #[test]
    fn a_client_names_the_header_dictionaries_that_are_for_it_and_hears_of_a_better_one() {
        let headers = |version: &str, rollout| {
            let text = format!("towline headers 1\nx-app-version: {version}\n");
            let headers = HeaderDictionary::parse(text).unwrap();
            Entry { hash: headers.hash(), headers: Some(Arc::new(headers)), ..entry(rollout) }
        };
        let (new, old, nobodys) = (headers("2", 100), headers("1", 100), headers("3", 0));
        let ids = [&new, &old].map(|entry| entry.headers.as_ref().unwrap().id());
        let entries = vec![nobodys, new, old];
        let edition = Edition { revision: 1, entries, has_news: true, endpoints: None };
        assert_eq!(edition.header_order("phone-1"), ids);
        let is_news = |named| edition.is_news_to("phone-1", &[], named);
        assert_eq!([is_news(None), is_news(Some(ids[1])), is_news(Some(ids[0]))], [true, true, false]);
    }

    #[test]
    fn what_is_withdrawn_is_for_nobody() {
        let entry = Entry { withdrawn: true, ..entry(100) };
        assert!(!entry.is_for("phone-1"));
        let edition = Edition { revision: 1, entries: vec![entry], has_news: true, endpoints: None };
        assert_eq!(edition.offer("phone-1", None).dictionaries.len(), 0);
        assert!(edition.find(&[7; 32]).is_some(), "it can still be read");
    }
}
