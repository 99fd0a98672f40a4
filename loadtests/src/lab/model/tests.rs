use super::{packet::tests::tcp, *};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config() -> LinkConfig {
    LinkConfig {
        up: Way::new(0, ms(30)),
        down: Way::new(0, ms(50)),
        outages: None,
        nat: None,
        hostile: Hostile::default(),
    }
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

fn request(port: u16) -> Vec<u8> {
    packet::udp(at(PHONE, port), at(EDGE, 443), b"request")
}

fn answer_to(packet: &[u8]) -> Vec<u8> {
    let head = Head::read(packet).unwrap();
    packet::udp(head.target, head.source, b"answer")
}

/// Everything that leaves the link until `until`, with when and where.
fn drain(link: &mut Link, until: Duration) -> Vec<(Duration, Side, Vec<u8>)> {
    let mut left = Vec::new();
    while let Some(due) = link.due().filter(|due| *due <= until) {
        left.extend(link.poll(due).map(|(side, packet)| (due, side, packet)));
    }
    left
}

/// Sends a request, answers it as soon as it is there, and returns when the answer arrives.
fn exchange(link: &mut Link, now: Duration, packet: Vec<u8>) -> Option<Duration> {
    link.handle(now, Side::Phone, packet);
    let (arrived, _, packet) = drain(link, now + ms(5000)).pop()?;
    link.handle(arrived, Side::Edge, answer_to(&packet));
    drain(link, arrived + ms(5000)).pop().map(|(back, side, _)| {
        assert_eq!(side, Side::Phone);
        back - now
    })
}

#[test]
fn a_round_trip_takes_both_delays() {
    let mut link = Link::new(&config(), 1);
    assert_eq!(exchange(&mut link, ms(1000), request(4000)), Some(ms(80)));
    let counts = link.counts();
    assert_eq!((counts.up.delivered, counts.down.delivered), (1, 1));
    assert_eq!(counts.up.offered_bytes, 20 + 8 + 7);
}

#[test]
fn packets_leave_in_the_order_of_their_times() {
    let mut link = Link::new(&config(), 1);
    link.handle(ms(0), Side::Edge, answer_to(&request(1)));
    link.handle(ms(1), Side::Phone, request(2));
    link.handle(ms(1), Side::Phone, request(3));
    let left: Vec<_> = drain(&mut link, ms(100)).into_iter().map(|(at, side, _)| (at, side)).collect();
    assert_eq!(left, [(ms(31), Side::Edge), (ms(31), Side::Edge), (ms(50), Side::Phone)]);
}

#[test]
fn a_blackout_loses_and_a_hand_over_moves() {
    let mut link = Link::new(&LinkConfig { nat: Some(roomy()), ..config() }, 1);
    assert!(exchange(&mut link, ms(0), request(4000)).is_some());
    link.order(ms(1000), Order::HandOver(ms(300)));
    assert_eq!(exchange(&mut link, ms(1299), request(4000)), None);
    assert_eq!(link.take_move(ms(1299)), None);
    assert_eq!(link.take_move(ms(1300)), Some(Ipv4Addr::new(10, 91, 0, 3)));
    assert_eq!(link.take_move(ms(1300)), None, "told once");
    assert_eq!(exchange(&mut link, ms(7000), request(4000)), None, "the old address leads nowhere");
    let moved = packet::udp(at(Ipv4Addr::new(10, 91, 0, 3), 4000), at(EDGE, 443), b"request");
    assert_eq!(exchange(&mut link, ms(20_000), moved), Some(ms(80)));
}

fn roomy() -> NatConfig {
    NatConfig { udp_idle: ms(600_000), tcp_idle: ms(600_000), drops_stale_udp: false }
}

#[test]
fn the_far_end_sees_the_translation_and_a_rebinding_in_the_middle() {
    let mut link = Link::new(&LinkConfig { nat: Some(roomy()), ..config() }, 1);
    link.handle(ms(0), Side::Phone, request(4000));
    let (_, _, first) = drain(&mut link, ms(100)).pop().unwrap();
    link.order(ms(200), Order::Rebind);
    link.handle(ms(200), Side::Edge, answer_to(&first));
    assert_eq!(drain(&mut link, ms(400)), [], "what was on its way finds nobody");
    link.handle(ms(400), Side::Phone, request(4000));
    let (_, _, second) = drain(&mut link, ms(500)).pop().unwrap();
    let source = |packet: &[u8]| Head::read(packet).unwrap().source;
    assert_eq!(source(&first).ip(), &OUTSIDE);
    assert_eq!(source(&second).ip(), &next(OUTSIDE));
}

#[test]
fn flows_that_die_leave_others_alone() {
    let mut link = Link::new(&config(), 1);
    assert!(exchange(&mut link, ms(0), request(4000)).is_some());
    link.handle(ms(100), Side::Phone, request(4000));
    link.order(ms(110), Order::HalfOpen);
    assert_eq!(drain(&mut link, ms(200)), [], "nor does what was on its way arrive");
    assert_eq!(exchange(&mut link, ms(200), request(4000)), None);
    assert_eq!(exchange(&mut link, ms(9000), request(4001)), Some(ms(80)));
}

#[test]
fn udp_can_be_blocked_and_tcp_passes() {
    let hostile = Hostile { udp_blocked: true, ..Hostile::default() };
    let mut link = Link::new(&LinkConfig { hostile, ..config() }, 1);
    assert_eq!(exchange(&mut link, ms(0), request(4000)), None);
    link.handle(ms(9000), Side::Phone, tcp(at(PHONE, 5000), at(EDGE, 443), 0x02, 0));
    assert_eq!(drain(&mut link, ms(9100)).len(), 1);
}

#[test]
fn a_portal_takes_web_traffic_until_it_lets_go() {
    let hostile = Hostile { portal: true, lasts: Some(ms(10_000)), ..Hostile::default() };
    let mut link = Link::new(&LinkConfig { hostile, ..config() }, 1);
    link.order(ms(0), Order::Begin);
    link.handle(ms(0), Side::Phone, tcp(at(PHONE, 5000), at(EDGE, 443), 0x02, 0));
    let (_, _, led) = drain(&mut link, ms(100)).pop().unwrap();
    assert_eq!(Head::read(&led).unwrap().target, at(PORTAL, 443));
    link.handle(ms(100), Side::Edge, tcp(at(PORTAL, 443), at(PHONE, 5000), 0x12, 0));
    let (_, _, back) = drain(&mut link, ms(200)).pop().unwrap();
    assert_eq!(Head::read(&back).unwrap().source, at(EDGE, 443), "the phone believes it is the gateway");
    assert_eq!(exchange(&mut link, ms(300), request(4000)), None);
    assert_eq!(exchange(&mut link, ms(10_000), request(4000)), Some(ms(80)));
}

fn resolve(hostile: Hostile) -> Option<Duration> {
    let mut link = Link::new(&LinkConfig { hostile, ..config() }, 1);
    link.order(ms(0), Order::Begin);
    let query =
        b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04edge\x03lab\x04test\x00\x00\x01\x00\x01";
    link.handle(ms(0), Side::Phone, packet::udp(at(PHONE, 6000), resolver(), query));
    drain(&mut link, ms(60_000)).pop().map(|(at, _, packet)| {
        let answer = packet::udp_payload(&packet).unwrap();
        assert_eq!(answer[answer.len() - 4..], EDGE.octets());
        at
    })
}

#[test]
fn the_resolver_answers_at_once_late_or_never() {
    let faulty = |dns| Hostile { dns, ..Hostile::default() };
    assert_eq!(resolve(faulty(DnsFault::None)), Some(ms(80)));
    assert_eq!(resolve(faulty(DnsFault::Late(ms(8000)))), Some(ms(8080)));
    assert_eq!(resolve(faulty(DnsFault::Silent)), None);
}

#[test]
fn wakes_are_counted_by_silence() {
    let mut link = Link::new(&config(), 1);
    for now in [0, 10, 900, 1899, 2899, 60_000] {
        link.handle(ms(now), Side::Phone, request(4000));
    }
    assert_eq!(link.counts().up.wakes, 3);
}
