//! Listed places that were tried in vain: after the second time each is left alone for a while, twice as long each time.
//!
//! A place has failed when another one was reached after it was tried. Where none was reached it may have been the
//! network; then it is told by what is reached next, since the client tries the app's own endpoints first after that.

use std::time::{Duration, Instant};

use crate::config::Endpoint;

/// Failures after which a place is left alone.
const FAILURES_MAX: u32 = 2;
/// For how long at first, and at most.
const ASIDE_MIN: Duration = Duration::from_secs(5 * 60);
const ASIDE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Places that are remembered: those of a list, and as many that are not on one any more.
const PLACES_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Failures {
    places: Vec<Place>,
    /// Tried in races that nobody won.
    lost: Vec<Endpoint>,
}

#[derive(Debug)]
struct Place {
    endpoint: Endpoint,
    failures: u32,
    aside_until: Option<Instant>,
}

impl Failures {
    pub(super) fn sets_aside(&self, endpoint: &Endpoint, now: Instant) -> bool {
        let place = self.places.iter().find(|place| place.endpoint == *endpoint);
        place.and_then(|place| place.aside_until).is_some_and(|until| now < until)
    }

    pub(super) fn on_race(&mut self, opened: &[Endpoint], reached: Option<&Endpoint>, now: Instant) {
        let Some(reached) = reached else {
            for endpoint in opened {
                if self.lost.len() < PLACES_MAX && !self.lost.contains(endpoint) {
                    self.lost.push(endpoint.clone());
                }
            }
            return;
        };
        let before = opened.iter().take_while(|endpoint| *endpoint != reached).cloned();
        let lost = std::mem::take(&mut self.lost).into_iter().filter(|endpoint| endpoint != reached);
        let mut failed: Vec<Endpoint> = before.collect();
        failed.extend(lost.filter(|endpoint| !opened.contains(endpoint)));
        failed.iter().for_each(|endpoint| self.fail(endpoint, now));
        self.places.retain(|place| place.endpoint != *reached);
    }

    pub(super) fn fail(&mut self, endpoint: &Endpoint, now: Instant) {
        let place = match self.places.iter().position(|place| place.endpoint == *endpoint) {
            Some(place) => place,
            None => {
                if self.places.len() >= PLACES_MAX {
                    self.places.remove(0);
                }
                let endpoint = endpoint.clone();
                self.places.push(Place { endpoint, failures: 0, aside_until: None });
                self.places.len() - 1
            }
        };
        let place = &mut self.places[place];
        place.failures = place.failures.saturating_add(1);
        if let Some(times) = place.failures.checked_sub(FAILURES_MAX) {
            let aside = ASIDE_MIN.saturating_mul(1 << times.min(16)).min(ASIDE_MAX);
            place.aside_until = now.checked_add(aside);
        }
    }

    pub(super) fn forget_lost(&mut self) {
        self.lost.clear();
    }
}
