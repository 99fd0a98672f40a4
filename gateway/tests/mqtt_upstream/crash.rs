//! A gateway that is killed (SIGKILL) while its broker is away, and while it is there. It is a process of its own:
//! this test program.

use std::{env, net::SocketAddr, path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};
use towline_gateway::settings::Upstream;
use towline_protocols::mqtt::*;

use crate::bed::{Mosquitto, client, folder, free_address, next, settings, start};

/// What the process is told: its address, its data folder and the broker's address.
const ORDERS: &str = "TOWLINE_TEST_BRIDGE";

/// Not a test of its own: the process that the test below kills.
#[test]
#[ignore = "the test of this file runs it as a process"]
fn gateway_process() {
    let Ok(orders) = env::var(ORDERS) else { return };
    let [address, folder, broker] = orders.split('|').collect::<Vec<_>>()[..] else { panic!("{orders}") };
    let upstream = Upstream { local_prefix: "site/".to_owned(), ..Upstream::default() };
    let settings = settings(address.parse().unwrap(), Path::new(folder), broker.parse().unwrap(), upstream);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let _serving = start(settings).await;
        println!("\nlistening");
        std::future::pending::<()>().await;
    });
}

async fn start_process(address: SocketAddr, folder: &Path, broker: SocketAddr) -> Child {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["crash::gateway_process", "--exact", "--ignored", "--nocapture"])
        .env(ORDERS, format!("{address}|{}|{broker}", folder.display()))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // None: it ended before it listened.
    while lines.next_line().await.unwrap().unwrap() != "listening" {}
    child
}

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_with_a_killed_gateway() {
    let folder = folder();
    let (address, broker_address) = (free_address(), free_address());
    let mut broker = None;
    let mut remote = None;
    let mut sent = 0;
    for round in 0..4 {
        let mut gateway = start_process(address, folder.path(), broker_address).await;
        let mut device = client(address, "device").await;
        for _ in 0..100 {
            sent += 1;
            assert_eq!(device.publish_acked("site/up", &sent.to_string()).await, ReasonCode::Success);
        }
        gateway.kill().await.unwrap();
        // It was away in the first rounds.
        if round == 1 {
            let Some(started) = Mosquitto::start(broker_address, folder.path(), "").await else { return };
            let mut client = client(started.address, "remote").await;
            assert_eq!(client.subscribe("edge/#", QoS::AtLeastOnce).await, ReasonCode::GrantedQos1);
            (broker, remote) = (Some(started), Some(client));
        }
    }
    let _gateway = start_process(address, folder.path(), broker_address).await;
    let mut remote = remote.unwrap();
    let mut highest = 0;
    while highest < sent {
        let number: u32 = next(&mut remote).await.1.parse().unwrap();
        // What was in flight may come again; nothing is left out, so each first appearance is the next number.
        assert!(number <= highest + 1, "{number} behind {highest}");
        highest = highest.max(number);
    }
    drop(broker);
}
