//! Header lists become a dictionary: sampled on the link where a route wants it, without what is nobody else's.

use http::{HeaderName, HeaderValue};
use towline_client::{Client, Transports};
use towline_gateway::dictionaries::retrain;
use towline_protocols::{hpack::NeverIndexed, link::DictionaryKind};

use crate::bed::{Bed, call};

const CLIENTS: usize = 6;
const CALLS: usize = 20;

async fn bed(headers_every: u32) -> Bed {
    Bed::with(|settings| {
        settings.routes[0].sampling.headers_every = headers_every;
        settings.dictionaries.header_names_left_out = NeverIndexed::new(&["x-nick"]).unwrap();
        settings.session.never_indexed = NeverIndexed::new(&["x-pin"]).unwrap();
    })
    .await
}

/// Each client calls as apps do: some fields are everybody's, some its own, some secret.
async fn traffic(bed: &Bed) {
    for number in 0..CLIENTS {
        let transports = if number % 2 == 0 { Transports::Tcp } else { Transports::Quic };
        let mut config = bed.config(transports);
        config.session_headers = vec![("x-of-session".to_owned(), "sent once".to_owned())];
        let client = Client::start(config).unwrap();
        let own = format!("mine {number}");
        let fields = [
            ("x-app-version", "7.1 beta"),
            ("x-mine", &own),
            ("x-echo", "everybody's"),
            ("authorization", "Basic same"),
            ("x-pin", "one pin"),
            ("x-nick", "one nick"),
        ];
        for _ in 0..CALLS {
            let mut request = call("Echo", "");
            for (name, value) in fields {
                request =
                    request.header(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
            }
            client.call(request).await.unwrap();
        }
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_dictionary_is_sampled_trained_and_published_without_what_is_somebodys_own() {
    let bed = bed(1).await;
    traffic(&bed).await;
    let judged = retrain(bed.gateway(), DictionaryKind::Headers).await.unwrap();
    assert_eq!(judged.published, Some(1), "{judged:?}");
    assert_eq!(judged.samples + judged.held_back, 2 * CLIENTS * CALLS, "requests and answers");
    assert!(judged.gain_percent > 50.0, "{judged:?}");

    let published = bed.gateway().dictionaries.edition().entries[0].clone();
    assert_eq!(published.kind, DictionaryKind::Headers);
    let text = String::from_utf8(published.bytes.to_vec()).unwrap();
    for line in ["x-app-version: 7.1 beta", ":path: /test/Echo", "x-mine: ", "x-echo: everybody's"] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    for hidden in ["mine ", "Basic", "authorization", "x-pin", "x-nick", "x-of-session"] {
        assert!(!text.replace("x-mine: ", "").contains(hidden), "{hidden} in {text}");
    }

    let again = retrain(bed.gateway(), DictionaryKind::Headers).await.unwrap();
    assert_eq!((again.published, again.gain_percent), (None, 0.0), "it is no better than itself");
}

#[tokio::test]
async fn routes_are_not_sampled_unless_they_say_so() {
    let bed = bed(0).await;
    traffic(&bed).await;
    assert_eq!(bed.gateway().dictionaries.headers.samples().len(), 0);
}
