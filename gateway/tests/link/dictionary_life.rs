//! The whole life of a dictionary: sampled, trained, offered, fetched, used, rolled back.

use std::{sync::atomic::Ordering, time::Duration};

use towline_client::{Client, DictionaryFetch, Transports};
use towline_gateway::dictionaries::{Entry, retrain};
use towline_protocols::link::DictionaryKind;

use crate::{
    bed::{BOTH, Bed, answer, online},
    waits::fetched,
};

/// A gateway that samples what it carries and publishes to everybody.
async fn sampling() -> Bed {
    Bed::with(|settings| {
        settings.routes[0].sampling.every = 1;
        settings.dictionaries.rollout_percent = 100;
        settings.dictionaries.size = 4096;
    })
    .await
}

/// Messages of a kind that the built-in dictionary does not know.
fn reading(n: u64) -> String {
    format!(
        r#"{{"meter":"M-{}","voltage_l1":{},"voltage_l2":{},"phase_shift":0.{},"firmware":"kessel-4.2.1-rc{}","alarm":false}}"#,
        n * 7919 % 100_000,
        229 + n % 5,
        230 + n % 4,
        n % 97,
        n % 3
    )
}

fn newest(bed: &Bed) -> Entry {
    bed.gateway().dictionaries.edition().entries[0].clone()
}

/// Messages written and read with a dictionary, by the gateway and its clients in this process alike.
fn uses(entry: &Entry) -> (u64, u64) {
    let usage = entry.dictionary.as_ref().unwrap().usage();
    (usage.messages.load(Ordering::Relaxed), usage.messages_read.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dictionary_is_sampled_trained_offered_fetched_used_and_rolled_back() {
    for transports in BOTH {
        let bed = sampling().await;
        let mut config = bed.config(transports);
        config.identity_file = Some(bed.folder.path().join("identity"));
        let client = Client::start(config).unwrap();
        online(&client).await;
        for n in 0..150 {
            answer(&client, "Echo", reading(n)).await;
        }
        let judged = retrain(bed.gateway(), DictionaryKind::Payload).await.unwrap();
        assert_eq!(judged.published, Some(1), "{judged:?}");
        assert!(judged.gain_percent > 20.0, "{judged:?}");

        // The next call wakes the connection, which tells of it; the client fetches when it is idle.
        answer(&client, "Echo", reading(1000)).await;
        fetched(&bed.folder.path().join("identity"), "payload").await;
        let published = newest(&bed);
        tokio::time::timeout(Duration::from_secs(20), async {
            while uses(&published) == (0, 0) {
                assert_eq!(answer(&client, "Echo", reading(1001)).await, reading(1001));
            }
        })
        .await
        .unwrap();
        // The answer is written with it by the gateway; what the client reads is counted in its own copy.
        let (written, read) = uses(&published);
        assert!(written + read > 0);
        for n in 0..5 {
            answer(&client, "Echo", reading(2000 + n)).await;
        }
        let (written, read) = uses(&published);
        assert!(written >= 4 && read >= 4, "both ways: {written} {read}");

        assert_eq!(bed.gateway().dictionaries.roll_back(published.kind).unwrap(), 1);
        answer(&client, "Echo", reading(3000)).await;
        let before = uses(&published).0;
        for n in 0..5 {
            assert_eq!(answer(&client, "Echo", reading(3001 + n)).await, reading(3001 + n));
        }
        assert_eq!(uses(&published).0, before, "the gateway uses it no more");
        client.close().await;
    }
}

#[tokio::test]
async fn a_client_that_may_not_fetch_goes_on_without() {
    let bed = sampling().await;
    for n in 0..300 {
        bed.gateway().dictionaries.sampler.keep(reading(n).into(), &[]);
    }
    retrain(bed.gateway(), DictionaryKind::Payload).await.unwrap();
    let mut config = bed.config(Transports::Tcp);
    config.dictionary_fetch = DictionaryFetch::Never;
    let client = Client::start(config).unwrap();
    online(&client).await;
    for n in 0..5 {
        assert_eq!(answer(&client, "Echo", reading(n)).await, reading(n));
    }
    assert_eq!(uses(&newest(&bed)), (0, 0));
}

#[tokio::test]
async fn a_new_dictionary_that_is_not_better_is_not_published() {
    let bed = sampling().await;
    let sampler = &bed.gateway().dictionaries.sampler;
    for n in 0..400 {
        sampler.keep(reading(n).into(), &[]);
    }
    let first = retrain(bed.gateway(), DictionaryKind::Payload).await.unwrap();
    assert_eq!(first.published, Some(1), "{first:?}");
    let second = retrain(bed.gateway(), DictionaryKind::Payload).await.unwrap();
    assert_eq!(second.published, None, "{second:?}");
    assert_eq!((second.bytes_new, second.bytes_current), (first.bytes_new, first.bytes_new));
}
