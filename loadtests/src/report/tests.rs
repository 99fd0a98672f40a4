use serde_json::Value;

use super::*;
use crate::{fault::Fault, latencies::Latencies};

fn round_of(micros: impl IntoIterator<Item = u64>) -> Round {
    let mut latency = Latencies::default();
    micros.into_iter().for_each(|us| latency.record(us * 1000));
    let operations = latency.count();
    Round {
        operations,
        latency,
        nanos: 2_000_000_000,
        bytes: Bytes { sent: 400, received: 200 },
        ..Round::default()
    }
}

fn target() -> Target {
    Target {
        name: "gateway".into(),
        address: "127.0.0.1:7443".parse().unwrap(),
        host: "127.0.0.1".into(),
        transport: Transport::Tls,
        protocol: Protocol::Link,
        ca: None,
    }
}

fn plan(work: Work) -> Plan {
    let second = std::time::Duration::from_secs(1);
    Plan {
        targets: vec![target()],
        connections: 2,
        opening_max: 1,
        connect_timeout: second,
        work,
        pace: Pace::Closed { in_flight: 1 },
        timeout: second,
    }
}

fn report(load: Option<Load>, idle: Option<Idle>, opened: &Opened) -> Report {
    Report {
        version: "1".into(),
        mode: "link".into(),
        command: vec!["towline-load".into(), "link".into()],
        cores: 2,
        processes: 1,
        connections: 2,
        pace: Some(Pace::Closed { in_flight: 1 }),
        targets: vec![TargetReport::new(&target(), opened, load)],
        added: None,
        idle,
        limits_met: Vec::new(),
    }
}

fn requests() -> Work {
    Work::Request(crate::plan::RequestWork { path: "/".into(), grpc: true, body: Vec::new() })
}

#[test]
fn json_has_the_numbers_where_programs_look_for_them() {
    let opened = Opened { connections: 2, ..Opened::default() };
    let load = Load::new(&plan(requests()), 1, &round_of([100; 100]), Some(5_000_000));
    let json = serde_json::to_value(report(Some(load), None, &opened)).unwrap();
    let at = |path: &str| json.pointer(path).unwrap_or(&Value::Null).clone();
    assert_eq!(at("/mode"), "link");
    assert_eq!(at("/targets/0/transport"), "tls");
    assert_eq!(at("/targets/0/connections"), 2);
    assert_eq!(at("/targets/0/load/operations"), 100);
    assert_eq!(at("/targets/0/load/operations_per_second"), 50.0);
    assert_eq!(at("/targets/0/load/bytes_sent_per_operation"), 4.0);
    assert_eq!(at("/targets/0/load/server_cpu_us_per_operation"), 50.0);
    let p99 = at("/targets/0/load/latency/p99_us").as_f64().unwrap();
    assert!((99.0..101.0).contains(&p99), "{p99}");
    assert!(serde_json::from_value::<Report>(json).is_ok());
}

#[test]
fn errors_stand_in_json_and_text_by_kind() {
    let mut opened = Opened::default();
    opened.faults.add(Fault::new(FaultKind::OpenFiles, "too many open files"));
    let mut report = report(None, None, &opened);
    report.limits_met = limits_met(&report.targets, 20_000, Some(64));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json.pointer("/targets/0/connect_errors/open-files/count").unwrap(), 1);
    let text = report.to_string();
    assert!(text.contains("1 x open-files"), "{text}");
    assert!(text.contains("limit of 20000 open files") && text.contains("--processes"), "{text}");
    assert!(text.contains("the server may hold 64 open files"), "{text}");
    assert!(report.is_failure());
}

#[test]
fn lost_messages_are_counted_against_every_subscriber() {
    let work = crate::plan::MqttWork {
        publishers: 1,
        subscribers: 10,
        pairs: false,
        qos: 0,
        bytes: 8,
        windowed: false,
        from_sent: false,
        run: "r".into(),
    };
    let round = Round { operations: 5, delivered: 48, nanos: 1_000_000_000, ..Round::default() };
    let load = Load::new(&plan(Work::Mqtt(work)), 1, &round, Some(96_000));
    let delivery = load.delivery.unwrap();
    assert_eq!((delivery.messages, delivery.missing), (48, 2));
    assert_eq!(delivery.server_cpu_us_per_message, Some(2.0));
}

#[test]
fn added_latency_is_the_difference_of_the_percentiles() {
    let noisy = (round_of([100; 100]), round_of([900; 100]));
    let quiet = || (round_of([100; 100]), round_of([150; 100]));
    let added = Added::new(&[quiet(), noisy, quiet()]).unwrap();
    assert!((49.0..51.0).contains(&added.p50_us), "{added:?}");
    assert!((790.0..810.0).contains(&added.p99_us), "{added:?}");
    assert!((49.0..51.0).contains(&added.p99_us_median_round), "one noisy round is outvoted: {added:?}");
    assert!((1.49..1.51).contains(&added.p50_ratio), "{added:?}");
    assert_eq!(Added::new(&[(round_of([]), round_of([1]))]), None);
}

#[test]
fn memory_per_connection_is_the_growth_divided() {
    let look =
        |anonymous_kib| Some(Sample { anonymous_kib, resident_kib: anonymous_kib, ..Sample::default() });
    let idle = Idle::new(20.0, 1024, look(1000), look(11_000));
    assert_eq!(idle.anonymous_bytes_per_connection, Some(10_000.0));
    let text = report(None, Some(idle), &Opened::default()).to_string();
    assert!(text.contains("1000 -> 11000 = 10.00 KB per connection"), "{text}");
    assert_eq!(Idle::new(1.0, 0, look(1), look(2)).anonymous_bytes_per_connection, None);
}
