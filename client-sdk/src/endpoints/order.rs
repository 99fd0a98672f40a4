//! In which order listed places are tried: those of the client's region first, then by priority, and of one priority as
//! weights say.

use towline_protocols::endpoints::ListedEndpoint;

/// The entries, the first to be tried first.
pub(super) fn order<'l>(
    entries: impl Iterator<Item = &'l ListedEndpoint>,
    region: &str,
    random: &mut fastrand::Rng,
) -> Vec<&'l ListedEndpoint> {
    let mut ordered: Vec<_> = entries.collect();
    let key = |entry: &ListedEndpoint| {
        let distance = match &entry.region {
            Some(of) if of == region => 0,
            None => 1,
            Some(_) => 2,
        };
        (distance, entry.priority)
    };
    ordered.sort_by_key(|entry| key(entry));
    for group in ordered.chunk_by_mut(|a, b| key(a) == key(b)) {
        shuffle(group, random);
    }
    ordered
}

/// Draws one after the other, each as often as its weight says (RFC 2782, "Weight").
fn shuffle(group: &mut [&ListedEndpoint], random: &mut fastrand::Rng) {
    for place in 0..group.len() {
        let rest = &group[place..];
        let total: u32 = rest.iter().map(|entry| u32::from(entry.weight)).sum();
        let mut drawn = random.u32(..total.max(1));
        let chosen = rest.iter().position(|entry| {
            let weight = u32::from(entry.weight);
            let is_it = drawn < weight;
            drawn = drawn.saturating_sub(weight);
            is_it
        });
        group.swap(place, place + chosen.unwrap_or_default());
    }
}
