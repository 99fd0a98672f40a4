//! An app that was killed and comes back: what its last run left on disk saves round trips.

use std::path::Path;

use bytes::Bytes;
use towline_client::{Client, ClientConfig, ConnectionState, Transports};
use towline_gateway::control::reload;

use crate::bed::{BOTH, Bed, answer, call, endpoint, state};

fn config(bed: &Bed, transports: Transports) -> ClientConfig {
    let mut config = bed.config(transports);
    config.identity_file = Some(bed.folder.path().join("app"));
    config
}

fn tickets(bed: &Bed) -> usize {
    let folder = bed.folder.path().join("app.tickets");
    let files = std::fs::read_dir(folder).into_iter().flatten();
    files
        .filter(|file| file.as_ref().is_ok_and(|file| Path::new(&file.file_name()).extension().is_none()))
        .count()
}

/// A run of the app that makes a call and leaves `left` tickets.
async fn run(bed: &Bed, config: ClientConfig, left: usize) {
    let client = Client::start(config).unwrap();
    assert_eq!(answer(&client, "Echo", "first").await, "first");
    let session = bed.folder.path().join("app.session");
    while tickets(bed) < left || (left > 0 && !session.exists()) {
        tokio::task::yield_now().await;
    }
    // Nothing of it is left but its files.
    client.close().await;
}

fn opened(bed: &Bed) -> u64 {
    bed.gateway().metrics.tls_tickets.with_label_values(&["opened"]).get()
}

#[tokio::test]
async fn the_next_run_resumes_the_last_ones_session_and_its_call_runs_once() {
    for transports in BOTH {
        let bed = Bed::start().await;
        run(&bed, config(&bed, transports), 2).await;
        assert_eq!(opened(&bed), 0);
        let client = Client::start(config(&bed, transports)).unwrap();
        assert_eq!(answer(&client, "Echo", "pay").await, "pay");
        assert_eq!((opened(&bed), bed.backend.counts("Echo").started), (1, 2), "{transports:?}");
        let counts = client.ticket_counts();
        assert_eq!((counts.restored, counts.damaged), (1, 0));
    }
}

/// Flights that the gateway took.
fn accepted(bed: &Bed) -> u64 {
    bed.gateway().metrics.early_data.with_label_values(&["edge", "accepted"]).get()
}

/// Whether the first HELLO of the run named the session that is there.
async fn recalled(client: &Client) -> bool {
    let online = state(client, |state| matches!(state, ConnectionState::Online { .. })).await;
    matches!(online, ConnectionState::Online { resumed: true, .. })
}

/// Whether the app is told that the line began with early data.
fn says_early(client: &Client) -> bool {
    matches!(*client.states().borrow(), ConnectionState::Online { early_data: true, .. })
}

/// Asks, at the start of a run, for what may run twice.
async fn look(client: &Client) -> Bytes {
    client.call(call("Echo", "look").idempotent()).await.unwrap().into_grpc().unwrap()
}

#[tokio::test]
async fn the_next_runs_first_call_leaves_before_the_gateway_has_answered() {
    for transports in BOTH {
        let bed = Bed::start().await;
        run(&bed, config(&bed, transports), 2).await;
        let client = Client::start(config(&bed, transports)).unwrap();
        assert_eq!(look(&client).await, "look");
        assert_eq!((accepted(&bed), bed.backend.counts("Echo").started), (1, 2), "{transports:?}");
        assert!(recalled(&client).await, "{transports:?}: the flight named the last run's session");
        assert_eq!(answer(&client, "Echo", "pay").await, "pay");
        assert!(says_early(&client), "{transports:?}");
    }
}

#[tokio::test]
async fn a_call_that_may_not_run_twice_waits_for_the_session_that_there_is() {
    for transports in BOTH {
        let bed = Bed::start().await;
        run(&bed, config(&bed, transports), 2).await;
        let client = Client::start(config(&bed, transports)).unwrap();
        let (paid, looked) = tokio::join!(answer(&client, "Echo", "pay"), look(&client));
        assert_eq!((&paid[..], &looked[..]), (&b"pay"[..], &b"look"[..]));
        assert_eq!((accepted(&bed), bed.backend.counts("Echo").started), (1, 3), "{transports:?}");
    }
}

#[tokio::test]
async fn what_flew_to_a_gateway_that_takes_no_early_data_is_said_again() {
    for transports in BOTH {
        let bed = Bed::start().await;
        run(&bed, config(&bed, transports), 2).await;
        let mut settings = bed.gateway().snapshot().settings.clone();
        settings.listeners.iter_mut().for_each(|listener| listener.early_data_bytes_max = 0);
        reload::apply(bed.gateway(), settings).unwrap();
        let client = Client::start(config(&bed, transports)).unwrap();
        assert_eq!(look(&client).await, "look");
        assert_eq!((accepted(&bed), bed.backend.counts("Echo").started), (0, 2), "{transports:?}");
        assert_eq!(answer(&client, "Echo", "pay").await, "pay");
        assert!(!says_early(&client), "{transports:?}");
    }
}

#[tokio::test]
async fn who_keeps_no_tickets_shakes_hands_anew() {
    let bed = Bed::start().await;
    let config = ClientConfig { keep_tickets: false, ..config(&bed, Transports::Tcp) };
    run(&bed, config.clone(), 0).await;
    let client = Client::start(config).unwrap();
    assert_eq!(answer(&client, "Echo", "pay").await, "pay");
    assert_eq!((tickets(&bed), opened(&bed)), (0, 0));
}

#[tokio::test]
async fn a_gateway_that_was_started_anew_shakes_hands_whole_and_the_call_runs_there() {
    for transports in BOTH {
        let bed = Bed::start().await;
        run(&bed, config(&bed, transports), 2).await;
        // The same certificate, other keys of tickets, and no session.
        let files = bed.certificates.clone();
        let anew = Bed::with(|settings| {
            let edge = settings.listeners.iter_mut().filter(|listener| &*listener.name == "edge");
            edge.for_each(|listener| listener.certificates = vec![files.clone()]);
        })
        .await;
        let endpoints = vec![endpoint(anew.address("edge"))];
        let client = Client::start(ClientConfig { endpoints, ..config(&bed, transports) }).unwrap();
        assert_eq!(answer(&client, "Echo", "pay").await, "pay");
        assert_eq!((opened(&anew), anew.backend.counts("Echo").started), (0, 1));
        assert_eq!(client.ticket_counts().restored, 1, "{transports:?}: it was shown one");
        client.close().await;
        // And of a flight that names a session which it does not have.
        run(&bed, config(&bed, transports), 2).await;
        let client = Client::start(ClientConfig {
            endpoints: vec![endpoint(anew.address("edge"))],
            ..config(&bed, transports)
        });
        assert_eq!(look(&client.unwrap()).await, "look");
        assert_eq!(anew.backend.counts("Echo").started, 2, "{transports:?}");
    }
}
