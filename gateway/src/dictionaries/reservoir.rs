//! Samples within a bound of bytes: a picture of all that came.

/// Keeps what it is given until there is no room; then others go at random.
#[derive(Debug)]
pub(super) struct Reservoir<T> {
    samples: Vec<(T, usize)>,
    bytes: usize,
    random: fastrand::Rng,
}

impl<T: Clone> Reservoir<T> {
    pub(super) fn new() -> Self {
        Self { samples: Vec::new(), bytes: 0, random: fastrand::Rng::new() }
    }

    /// Keeps a sample that counts for so many bytes; false when something had to go.
    pub(super) fn keep(&mut self, sample: T, bytes: usize, bytes_max: usize) -> bool {
        self.bytes += bytes;
        self.samples.push((sample, bytes));
        let had_room = self.bytes <= bytes_max;
        while self.bytes > bytes_max && !self.samples.is_empty() {
            let index = self.random.usize(..self.samples.len());
            let (_, gone) = self.samples.swap_remove(index);
            self.bytes -= gone;
        }
        had_room
    }

    pub(super) fn samples(&self) -> Vec<T> {
        self.samples.iter().map(|(sample, _)| sample.clone()).collect()
    }
}
