use super::*;

fn endpoint(host: &str) -> ListedEndpoint {
    let (name, region) = (None, None);
    ListedEndpoint {
        host: host.into(),
        port: 443,
        quic: true,
        tcp: true,
        priority: 0,
        weight: 1,
        name,
        region,
    }
}

fn list(entries: Vec<ListedEndpoint>) -> EndpointList {
    EndpointList { serial: 7, issued_s: 1_790_000_000, expires_s: 1_797_776_000, entries }
}

fn signed(text: &str) -> String {
    let signature = ListSignature { key: [0xab; KEY_ID_BYTES], bytes: [0x5e; SIGNATURE_BYTES] };
    format!("{text}{}", signature.line())
}

#[test]
fn what_is_written_is_read_and_what_is_signed_is_all_before_the_signatures() {
    let full = ListedEndpoint {
        quic: false,
        priority: 10,
        weight: 65_535,
        name: Some("edge.example".into()),
        region: Some("cn-east".into()),
        ..endpoint("2001:db8::7")
    };
    let list =
        list(vec![endpoint("edge-1.example"), ListedEndpoint { tcp: false, ..endpoint("192.0.2.7") }, full]);
    let text = signed(&signed(&list.text()));
    let parsed = SignedEndpoints::parse(text.as_bytes()).unwrap();
    assert_eq!(parsed.unverified(), &list);
    assert_eq!(parsed.signatures().len(), 2);
    let mut shown = Vec::new();
    let verified = parsed.clone().verified(text.as_bytes(), |signature, message| {
        shown.push(message.to_vec());
        signature.key == [0xab; KEY_ID_BYTES]
    });
    assert_eq!((verified, &*shown[0]), (Some(list.clone()), list.text().as_bytes()));
    assert_eq!(parsed.verified(text.as_bytes(), |_, _| false), None);
}

#[track_caller]
fn check(change: impl FnOnce(String) -> String, expected: Result<(), &str>) {
    let text = change(signed(&list(vec![endpoint("a.example"), endpoint("b.example")]).text()));
    let found = SignedEndpoints::parse(text.as_bytes());
    match (&found, expected) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(part)) if error.to_string().contains(part) => {}
        _ => panic!("{found:?}\n{text}"),
    }
}

#[test]
fn what_is_bent_is_refused_with_its_line() {
    let swap = |from: &'static str, to: &'static str| move |text: String| text.replacen(from, to, 1);
    check(|text| text, Ok(()));
    check(swap("endpoints 1", "endpoints 2"), Err("begins with the line"));
    check(|_| String::new(), Err("begins with the line"));
    check(swap("serial 7", "serial 0"), Err("line 2 is not"));
    check(swap("serial 7", "serial 07"), Err("line 2 is not"));
    check(swap("issued 1790000000", "issued yesterday"), Err("line 3 is not"));
    check(swap("expires 1797776000", "expires 1790000000"), Err("has to expire after it was issued"));
    check(swap("expires 1797776000", "expires 1824560001"), Err("within 400 days"));
    check(swap("expires 1797776000", "expires 1824560000"), Ok(()));
    for bent in [
        "a.example:443 sctp 0 1",
        "a.example:0 tcp 0 1",
        "a.example tcp 0 1",
        "::1:443 tcp 0 1",
        "[::g]:443 tcp 0 1",
        "a b:443 tcp 0 1",
        "a.example:443 tcp 65536 1",
        "a.example:443 tcp 0 0",
        "a.example:443 tcp 0",
        "a.example:443 tcp 0 1 ",
        "a.example:443 tcp 0 1 name=",
        "a.example:443 tcp 0 1 region=eu name=x",
        "a.example:443 tcp 0 1 colour=red",
    ] {
        check(|text| text.replacen("a.example:443 quic,tcp 0 1", bent, 1), Err("line 5 is not `endpoint"));
    }
    check(swap("b.example", "a.example"), Err("line 6 repeats an endpoint"));
    check(swap("signature abab", "signature ABAB"), Err("line 7 is not `signature"));
    check(|text| text.trim_end().to_owned(), Err("line 7 is not `signature"));
    check(|text| text + "more\n", Err("line 8 is not `signature"));
    check(|text| text.split("signature").next().unwrap().to_owned(), Err("has no signature"));
}

#[test]
fn bounds_hold_at_their_edges() {
    let many = |count: usize| list((0..count).map(|n| endpoint(&format!("e{n}.example"))).collect()).text();
    check(|_| signed(&many(ENDPOINTS_MAX)), Ok(()));
    check(|_| signed(&many(ENDPOINTS_MAX + 1)), Err("at most"));
    check(|_| signed(&many(0)), Err("names no endpoint"));
    check(|text| (1..SIGNATURES_MAX).fold(text, |text, _| signed(&text)), Ok(()));
    check(|text| (0..SIGNATURES_MAX).fold(text, |text, _| signed(&text)), Err("at most"));
    check(|text| text + &"x".repeat(ENDPOINT_LIST_BYTES_MAX), Err("at most"));
}

#[test]
fn a_list_is_used_from_a_day_before_it_was_issued_until_it_expires() {
    let list = list(vec![endpoint("a.example")]);
    let check = |now: u64, expected| assert_eq!(list.check_time(Duration::from_secs(now)), expected, "{now}");
    check(list.issued_s - 86_401, Err(NotCurrent::NotYet));
    check(list.issued_s - 86_400, Ok(()));
    check(list.expires_s - 1, Ok(()));
    check(list.expires_s, Err(NotCurrent::Expired));
}
