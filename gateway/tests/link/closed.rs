//! A client that its app closes while a durable call runs, and the next run of the app.

use towline_client::Client;

use crate::bed::{BOTH, Bed, call};

#[tokio::test]
async fn a_durable_call_that_runs_at_the_close_has_its_outcome_in_the_next_run_of_the_app() {
    let bed = Bed::start().await;
    for (round, transports) in BOTH.into_iter().enumerate() {
        bed.backend.hold();
        let mut config = bed.config(transports);
        config.identity_file = Some(bed.folder.path().join(format!("{transports:?}")));
        let first = Client::start(config.clone()).unwrap();
        first.submit(call("Hold", "pay").durable("order", "")).await.unwrap();
        bed.backend.wait("Hold", |counts| counts.started == round + 1).await;
        first.close().await;
        drop(first);

        let next = Client::start(config).unwrap();
        let mut outcomes = next.durable_outcomes();
        bed.backend.release();
        let outcome = outcomes.next().await.unwrap();
        assert_eq!(outcome.result.unwrap().into_grpc().unwrap(), "pay", "{transports:?}");
        next.acknowledge("order").await.unwrap();
        let counts = bed.backend.counts("Hold");
        assert_eq!((counts.started, counts.cancelled), (round + 1, 0), "{transports:?}");
    }
}
