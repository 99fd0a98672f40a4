//! An operator's policy on its way to clients and back: pushed, obeyed, refused, rolled back, compared.

use std::time::Duration;

use towline_client::{AppInfo, Client, Network, NetworkKind, Policy, Strategies, Transports};
use towline_gateway::{
    control::policy,
    policy::{Condition, Document, Edition, Rule, ShownArm},
};

use crate::bed::{BOTH, Bed, answer, online};

fn client(bed: &Bed, transports: Transports, platform: &str) -> Client {
    let mut config = bed.config(transports);
    let (name, version) = ("com.example.shop".to_owned(), "5.2.1".to_owned());
    config.app = AppInfo { name, version, platform: platform.to_owned(), region: "eu".to_owned() };
    Client::start(config).unwrap()
}

async fn push(bed: &Bed, text: &str) -> u64 {
    policy::push(bed.gateway(), text).await.unwrap()
}

async fn until_policy(client: &Client, wanted: impl Fn(&Policy) -> bool) {
    client.policies().wait_for(|policy| wanted(policy)).await.unwrap();
}

fn has_heartbeat(seconds: u64) -> impl Fn(&Policy) -> bool {
    move |policy| policy.heartbeat == Duration::from_secs(seconds)
}

/// Asks again and again, for what the gateway learns a moment later.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} did not come");
}

const ANDROID: &str = "
[[rules]]
name = \"android\"
when = { platform = \"android\", app_version = \">=5.2, <6\", app = \"com.example.*\" }
set = { line.heartbeat = \"21s\", timeouts.margin = 4.5 }
";

#[tokio::test]
async fn a_push_reaches_the_clients_that_it_is_for_and_no_others() {
    for transports in BOTH {
        let bed = Bed::start().await;
        let (android, ios) = (client(&bed, transports, "android"), client(&bed, transports, "ios"));
        online(&android).await;
        online(&ios).await;
        until_policy(&ios, |policy| policy.revision != 0).await;
        let before = ios.policy();
        assert_eq!(push(&bed, ANDROID).await, 1);
        until_policy(&android, has_heartbeat(21)).await;
        assert_eq!(android.strategies().timeouts.margin, 4.5);
        until("the acknowledgement", || bed.gateway().policies.answers().0 >= 3).await;
        assert_eq!(ios.policy(), before);
        // Who comes later is told at once.
        let late = client(&bed, transports, "android");
        until_policy(&late, has_heartbeat(21)).await;
        // The kill switch takes it back from everybody.
        policy::kill(bed.gateway(), true).await.unwrap();
        until_policy(&android, |policy| *policy == before).await;
        assert_eq!(android.strategies(), Strategies::default());
        policy::kill(bed.gateway(), false).await.unwrap();
        until_policy(&android, has_heartbeat(21)).await;
    }
}

#[tokio::test]
async fn another_network_has_the_policy_that_is_for_it() {
    let bed = Bed::start().await;
    let client = client(&bed, Transports::Quic, "android");
    online(&client).await;
    let slow = "
        [[rules]]
        name = \"2g\"
        when = { network = \"2g\", carrier = \"46001\" }
        set.line.heartbeat = \"44s\"
    ";
    push(&bed, &format!("{slow}{ANDROID}")).await;
    until_policy(&client, has_heartbeat(21)).await;
    let network = Network { carrier: Some("46001".into()), ..Network::new(NetworkKind::Cellular2g, "") };
    client.network_changed(network);
    until_policy(&client, has_heartbeat(44)).await;
    assert_eq!(client.strategies().timeouts.margin, 4.5, "the other rule goes on");
    client.network_changed(Network::new(NetworkKind::Wifi, "home"));
    until_policy(&client, has_heartbeat(21)).await;
}

#[tokio::test]
async fn a_policy_that_cannot_be_obeyed_is_refused_and_the_last_good_one_stays() {
    let bed = Bed::start().await;
    let client = client(&bed, Transports::Tcp, "android");
    push(&bed, ANDROID).await;
    until_policy(&client, has_heartbeat(21)).await;
    // As a gateway that knows more parameters than the client would send it.
    let set = vec![("future.thing".to_owned(), towline_protocols::policy::Value::Switch(true))];
    let rule = Rule { name: "future".into(), when: Condition::default(), set };
    let document = Some(Document { rules: vec![rule], ..Document::default() });
    bed.gateway().policies.put(Edition { version: 2, document, killed: false });
    policy::tell(bed.gateway());
    until("the refusal", || bed.gateway().policies.answers().1 == 1).await;
    let (_, _, refusals) = bed.gateway().policies.answers();
    assert_eq!((refusals[0].version, refusals[0].count), (2, 1));
    assert!(refusals[0].text.contains("future.thing is not known"), "{}", refusals[0].text);
    assert!(has_heartbeat(21)(&client.policy()));
    let metrics = bed.gateway().metrics.render();
    assert!(metrics.contains("towline_policy_refusals_total{version=\"2\"} 1"), "{metrics}");
    // The line is as good as before, and the next policy is taken.
    assert_eq!(answer(&client, "Echo", "still").await, "still");
    push(&bed, &ANDROID.replace("21s", "22s")).await;
    until_policy(&client, has_heartbeat(22)).await;
}

#[tokio::test]
async fn a_rollback_puts_the_old_text_in_force_under_a_new_version() {
    let bed = Bed::start().await;
    let client = client(&bed, Transports::Tcp, "android");
    push(&bed, ANDROID).await;
    push(&bed, &ANDROID.replace("21s", "22s")).await;
    until_policy(&client, has_heartbeat(22)).await;
    assert_eq!(policy::roll_back(bed.gateway(), None).await.unwrap(), 3);
    until_policy(&client, has_heartbeat(21)).await;
    assert_eq!(policy::roll_back(bed.gateway(), Some(2)).await.unwrap(), 4);
    until_policy(&client, has_heartbeat(22)).await;
    let error = policy::roll_back(bed.gateway(), Some(9)).await.unwrap_err().to_string();
    assert_eq!(error, "there is no version 9; kept are 1, 2, 3, 4");
    let how: Vec<_> = policy::history(bed.gateway()).unwrap().into_iter().map(|kept| kept.how).collect();
    assert_eq!(how, ["push", "push", "rollback to 1", "rollback to 2"]);
    let wrong = policy::push(bed.gateway(), "[[rules]]\n").await.unwrap_err().to_string();
    assert!(wrong.contains("policy:1:1: rules.name: is missing"), "{wrong}");
    assert_eq!(bed.gateway().policies.edition().version, 4);
    // What was in force is again after a restart.
    let again = towline_gateway::gateway::Gateway::with_store(
        bed.gateway().snapshot().settings.clone(),
        bed.gateway().store.clone(),
    );
    let again = again.unwrap();
    policy::restore(&again).unwrap();
    assert_eq!(again.policies.edition().version, 4);
    assert_eq!(again.policies.edition().document, bed.gateway().policies.edition().document);
}

const EXPERIMENT: &str = "
[[experiments]]
name = \"margins\"
when.platform = \"android\"
[[experiments.arms]]
name = \"narrow\"
set.timeouts.margin = 2
[[experiments.arms]]
name = \"wide\"
set.timeouts.margin = 9
";

#[tokio::test]
async fn an_experiment_splits_clients_and_counts_what_they_report() {
    const CLIENTS: usize = 24;
    const CALLS: u64 = 3;
    let bed = Bed::start().await;
    push(&bed, EXPERIMENT).await;
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(&bed, Transports::Tcp, "android")).collect();
    let mut wide = 0;
    for client in &clients {
        until_policy(client, |policy| policy.revision != 0).await;
        let margin = client.strategies().timeouts.margin;
        assert!(margin == 2.0 || margin == 9.0, "{margin}");
        wide += u64::from(margin == 9.0);
        for _ in 0..CALLS {
            answer(client, "Echo", "x").await;
        }
    }
    assert!(wide > 0 && wide < CLIENTS as u64, "{wide}");
    // A policy that is another one has them report what was under the one before.
    push(&bed, &format!("{EXPERIMENT}{ANDROID}").replace(", timeouts.margin = 4.5", "")).await;
    let arms = || -> Vec<ShownArm> { bed.gateway().policies.experiments().remove(0).arms };
    until("the reports", || arms().iter().map(|arm| arm.calls).sum::<u64>() == CALLS * CLIENTS as u64).await;
    for (arm, clients) in arms().iter().zip([CLIENTS as u64 - wide, wide]) {
        assert_eq!((arm.calls, arm.success_ratio), (CALLS * clients, Some(1.0)), "{}", arm.arm);
        // Their ids are random, and those that share a register are counted once.
        assert!(arm.clients.abs_diff(clients) <= 2, "{} of {clients}", arm.clients);
        assert!(arm.p50_ms.is_some() && arm.bytes_per_call.is_some_and(|bytes| bytes > 0.0));
        assert!(arm.note.as_ref().is_some_and(|note| note.contains("too few")));
    }
    for client in &clients {
        until_policy(client, has_heartbeat(21)).await;
    }
}

#[tokio::test]
async fn a_client_goes_on_with_the_last_policy_before_the_gateway_has_spoken() {
    let bed = Bed::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = |bed: &Bed| {
        let mut config = bed.config(Transports::Tcp);
        config.identity_file = Some(folder.path().join("identity"));
        config.app.platform = "android".into();
        (config.app.name, config.app.version) = ("com.example.shop".into(), "5.3".into());
        config
    };
    push(&bed, ANDROID).await;
    let first = Client::start(config(&bed)).unwrap();
    until_policy(&first, has_heartbeat(21)).await;
    first.close().await;
    until("the file", || folder.path().join("identity.policy").exists()).await;
    let mut nowhere = config(&bed);
    nowhere.endpoints = vec!["127.0.0.1:1".parse().unwrap()];
    let again = Client::start(nowhere).unwrap();
    assert!(has_heartbeat(21)(&again.policy()));
    assert_eq!(again.strategies().timeouts.margin, 4.5);
}
