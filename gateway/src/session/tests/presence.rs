//! Who comes and goes, as it is told.

use super::*;
use crate::presence::What;

#[test]
fn connections_of_a_session_are_told_of_in_their_order() {
    let rig = Rig::new();
    let mut settings = Settings::default();
    settings.presence.topic = "$SYS/presence".to_owned();
    rig.hub.presence().begin(&settings, &rig.metrics.limit_hits);
    let first = rig.open(&hello(1));
    let second = rig.open(&hello(2));
    drop(first);
    drop(second);
    let told: Vec<_> = rig.hub.presence().take_told().into_iter().map(|(_, what)| what).collect();
    let (taken_over, lost) =
        (What::Disconnected("session_taken_over"), What::Disconnected("connection_lost"));
    assert_eq!(told, [What::Connected, taken_over, What::Connected, lost]);
}
