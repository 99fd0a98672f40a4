//! Answers that stand still on a link that lives.

use towline_protocols::{hpack::HeaderField, link::Priority};

use super::{
    again::{call, client, said},
    *,
};

const STALLED: Duration = Duration::from_secs(4);
/// However long nothing is heard.
const HEARD: ShortWaits = ShortWaits { silent: None, ..WAITS };

/// One that the link has begun to answer.
fn begun(shared: &Shared) -> (Key, u64) {
    let (key, seq) = shared.with(|core| {
        let key = call(core, Priority::NORMAL, false, 10);
        assert_eq!(said(core, key), ["request", "message"]);
        (key, core.calls[&key].seq)
    });
    head(seq).into_iter().for_each(|event| _ = shared.on_event(event));
    (key, seq)
}

fn head(seq: u64) -> [Event; 2] {
    let fields = vec![HeaderField::from_static(":status", "200")];
    [Event::Response { seq, fields, end: false }, part(seq, Some(8), "half", false)]
}

fn part(seq: u64, message_bytes: Option<u64>, bytes: &'static str, end: bool) -> Event {
    let (bytes, wire_bytes) = (Bytes::from_static(bytes.as_bytes()), bytes.len());
    Event::MessagePart { seq, message_bytes, bytes, wire_bytes, end_of_message: end, end }
}

fn next(shared: &Shared) -> Next {
    shared.with(|core| core.next_short(Busy::default(), &HEARD))
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_for_by_post_and_goes_on_where_it_stood() {
    let shared = client(|_| {});
    let (key, seq) = begun(&shared);
    assert_eq!(next(&shared), Next::At(now() + STALLED));
    tokio::time::advance(STALLED).await;
    // PONG comes all the while.
    shared.with(Core::link_heard);
    let (errand, number, is_sent) = shared.with(|core| core.begin_post(false));
    assert!(is_sent && errand == Errand::Carry(key));
    assert_eq!(next(&shared), Next::Nothing, "once");
    head(seq).into_iter().for_each(|event| _ = shared.on_short_event(number, None, event));
    shared.on_short_event(number, None, part(seq, None, "half", true));
    shared.with(|core| {
        let call = &core.calls[&key];
        assert_eq!(call.incoming.end, Some(Ok(())));
        assert_eq!(call.incoming.messages, ["halfhalf"], "nothing came twice");
        assert_eq!(call.attempts, 2);
        core.short_over(errand, Some(number), Some(true));
        assert!(core.release(key).is_some());
    });
}

#[tokio::test(start_paused = true)]
async fn the_link_may_still_bring_the_rest_and_what_it_brings_meanwhile_spares_the_post() {
    let shared = client(|_| {});
    let (key, seq) = begun(&shared);
    tokio::time::advance(STALLED).await;
    let Next::Begin(errand) = next(&shared) else { panic!("it stands still") };
    tokio::time::advance(Duration::from_millis(50)).await;
    shared.on_event(part(seq, None, "ha", false));
    shared.with(|core| {
        assert!(core.begin_short(errand, Hello::default()).unwrap().is_none(), "it moves");
        core.short_over(errand, None, None);
    });
    assert_eq!(next(&shared), Next::At(now() + STALLED));
    shared.on_event(part(seq, None, "lf", true));
    assert!(shared.with(|core| core.calls[&key].is_over()));
}

#[tokio::test(start_paused = true)]
async fn neither_a_server_that_works_nor_a_link_that_brings_other_answers_stalls_one() {
    let shared = client(|_| {});
    let (key, seq) = shared.with(|core| {
        let key = call(core, Priority::NORMAL, false, 10);
        said(core, key);
        (key, core.calls[&key].seq)
    });
    let [head, part] = head(seq);
    shared.on_event(head);
    assert_eq!(next(&shared), Next::Nothing, "many say the head before they know more");
    shared.on_event(part);
    tokio::time::advance(STALLED / 2).await;
    begun(&shared);
    tokio::time::advance(STALLED / 2).await;
    assert_eq!(next(&shared), Next::At(now() + STALLED / 2), "the other one has the link");
    let patient = ShortWaits { stalled: None, ..HEARD };
    tokio::time::advance(STALLED).await;
    assert_eq!(shared.with(|core| core.next_short(Busy::default(), &patient)), Next::Nothing);
    assert!(!shared.with(|core| core.calls[&key].is_over()), "its deadline ends it");
}

#[tokio::test(start_paused = true)]
async fn a_post_that_did_not_bring_the_rest_leaves_it_to_the_link() {
    let shared = client(|_| {});
    let (key, seq) = begun(&shared);
    tokio::time::advance(STALLED).await;
    let (errand, number, _) = shared.with(|core| core.begin_post(false));
    shared.with(|core| core.short_over(errand, Some(number), Some(true)));
    tokio::time::advance(3 * STALLED).await;
    assert_eq!(next(&shared), Next::Nothing);
    shared.on_event(part(seq, None, "half", true));
    shared.with(|core| assert_eq!(core.calls[&key].incoming.messages, ["halfhalf"]));
}

#[test]
fn the_longest_gap_of_a_message_is_known_behind_its_end() {
    let shared = client(|_| {});
    shared.with(|core| {
        let key = call(core, Priority::NORMAL, false, 10);
        said(core, key);
        let ms = Duration::from_millis;
        let (call, begun) = (core.calls.get_mut(&key).unwrap(), now());
        let gaps = [(0, false), (30, false), (100, false), (120, true), (150, true)];
        let gaps = gaps.map(|(at, end)| call.moved(begun + ms(at), end));
        assert_eq!(gaps, [None, None, None, Some(ms(70)), Some(ms(30))]);
        assert_eq!(call.answer_moved(), Some(begun + ms(150)));
        call.asked_at = begun + ms(900);
        assert_eq!(call.moved(begun + ms(950), true), None, "another connection brought it");
    });
}
