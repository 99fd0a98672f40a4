//! The binary against a gateway in this process, with the demo backend behind it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod tool;

use std::{net::SocketAddr, path::Path};

use serde_json::Value;
use tempfile::TempDir;
use tool::{load, number};
use towline_gateway::{control::config, demo, gateway::Gateway, run};

const CONFIG: &str = r#"
data_dir = "@DIR@"
[[listeners]]
name = "edge"
bind = "127.0.0.1:@PORT@"
quic = true
certificate = { chain = "@DIR@/cert.pem", key = "@DIR@/key.pem" }
authentication = "none"
[[listeners]]
name = "plain"
bind = "127.0.0.1:@PORT@"
tls = "off"
authentication = "none"
[admin]
bind = "127.0.0.1:@PORT@"
[[backends]]
name = "demo"
kind = "grpc"
address = "@DEMO@"
[[routes]]
name = "demo"
path = "/towline.demo.v1.*"
backend = "demo"
"#;

/// Serves for as long as the test's process runs.
struct Bed {
    edge: SocketAddr,
    plain: SocketAddr,
    demo: SocketAddr,
    dir: TempDir,
}

impl Bed {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let folder = dir.path().to_str().unwrap().to_owned();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async move {
                let demo = demo::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
                let text = CONFIG
                    .replace("@DIR@", &folder)
                    .replace("@PORT@", "0")
                    .replace("@DEMO@", &demo.address.to_string());
                let settings = config::parse(Path::new("test.toml"), &text).unwrap_or_else(|e| panic!("{e}"));
                let serving = run::serve(Gateway::open(settings).unwrap()).await.unwrap();
                let address = |name| serving.address(name).unwrap();
                sender.send((address("edge"), address("plain"), demo.address)).unwrap();
                std::future::pending::<()>().await;
            });
        });
        let (edge, plain, demo) = receiver.recv().unwrap();
        Self { edge, plain, demo, dir }
    }

    fn ca(&self) -> String {
        format!("--ca {}", self.dir.path().join("cert.pem").display())
    }
}

/// Every call was answered, and bytes were seen both ways.
fn check_calls(report: &Value, operations: f64) {
    let load = "/targets/0/load";
    assert_eq!(number(report, &format!("{load}/operations")), operations, "{report:#}");
    assert_eq!(report.pointer(&format!("{load}/errors")).unwrap(), &serde_json::json!({}), "{report:#}");
    assert!(number(report, &format!("{load}/bytes_received_per_operation")) > 100.0, "{report:#}");
}

const CALLS: &str = "-c 4 --rate 100 --duration 500ms --warm-up 0s --bytes 100";

#[test]
fn calls_over_http2_through_the_gateway() {
    let bed = Bed::start();
    let (code, report) = load(&format!("http --kind h2 --connect {} {} {CALLS}", bed.edge, bed.ca()));
    assert_eq!(code, Some(0), "{report:#}");
    check_calls(&report, 50.0);
}

#[test]
fn qos_1_publishes_reach_their_subscribers() {
    let bed = Bed::start();
    for (connect, tls) in [(bed.edge, format!("--tls {}", bed.ca())), (bed.plain, String::new())] {
        let (code, report) = load(&format!(
            "mqtt --connect {connect} {tls} --publishers 3 --qos 1 --rate 60 --duration 500ms --warm-up 0s"
        ));
        assert_eq!(code, Some(0), "{report:#}");
        assert_eq!(number(&report, "/targets/0/load/operations"), 30.0);
        assert_eq!(number(&report, "/targets/0/load/delivery/messages"), 30.0);
        assert_eq!(number(&report, "/targets/0/load/delivery/missing"), 0.0);
    }
}

#[test]
fn a_fan_out_is_delivered_to_every_subscriber_over_two_processes() {
    let bed = Bed::start();
    let (code, report) = load(&format!(
        "mqtt --connect {} --pattern fan-out --subscribers 5 --qos 0 --rate 20 --duration 500ms --warm-up 0s \
         --processes 2",
        bed.plain
    ));
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(number(&report, "/targets/0/load/delivery/messages"), 50.0);
}

#[test]
fn compare_calls_the_demo_backend_with_and_without_the_gateway() {
    let bed = Bed::start();
    let line = format!("compare --direct {} --gateway {} --via h2 {}", bed.demo, bed.edge, bed.ca());
    let (code, report) = load(&format!("{line} -c 2 --rate 50 --rounds 2 --duration 200ms --warm-up 0s"));
    assert_eq!(code, Some(0), "{report:#}");
    assert!(number(&report, "/added/p50_ratio") > 0.0);
}

#[test]
fn calls_on_the_link_over_every_transport() {
    let bed = Bed::start();
    let tls = bed.ca();
    for (connect, options) in [
        (bed.edge, format!("--transport tls {tls}")),
        (bed.edge, format!("--transport quic {tls}")),
        (bed.plain, "--transport plain".to_owned()),
    ] {
        let (code, report) = load(&format!("link --connect {connect} {options} {CALLS}"));
        assert_eq!(code, Some(0), "{options} {report:#}");
        check_calls(&report, 50.0);
    }
}

#[test]
fn idle_links_stay_open() {
    let bed = Bed::start();
    for kind in ["link", "link-quic"] {
        let line = format!("idle --kind {kind} --connect {} {} -c 8 --hold 100ms", bed.edge, bed.ca());
        let (code, report) = load(&line);
        assert_eq!(code, Some(0), "{report:#}");
        assert_eq!(number(&report, "/idle/connections_at_end"), 8.0);
    }
}

#[test]
fn a_failing_method_is_counted_as_such_on_the_link() {
    let bed = Bed::start();
    let line = format!("link --connect {} --transport plain --method /towline.demo.v1.Echo/None", bed.plain);
    let (code, report) = load(&format!("{line} -c 1 --rate 20 --duration 500ms --warm-up 0s"));
    assert_eq!(code, Some(1));
    assert_eq!(number(&report, "/targets/0/load/errors/status/count"), 10.0, "{report:#}");
}
