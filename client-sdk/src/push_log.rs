//! Which pushes the app has taken, on disk beside the identity: so that a push whose acknowledgement was still
//! on its way when the app ended is not handed to the next run.
//!
//! ```text
//!  slot: "TWP1" | generation u64 | push line u64 | id u64, for each urgency | first 8 bytes of SHA-256
//! ```
//!
//! Two slots are written in turn, so that a write that is cut off leaves the one before. Writes are not synced: they
//! outlive the process; after a loss of power a push may come once more.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use towline_protocols::link::client::PushMarks;

const MAGIC: &[u8; 4] = b"TWP1";
const URGENCIES: usize = 8;
const CONTENT_BYTES: usize = 4 + 8 + 8 + 8 * URGENCIES;
const CHECK_BYTES: usize = 8;
const SLOT_BYTES: usize = CONTENT_BYTES + CHECK_BYTES;

/// What was taken of which numbering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) line: u64,
    pub(crate) marks: PushMarks,
}

/// The file.
pub(crate) struct PushLog {
    file: File,
    generation: u64,
}

impl PushLog {
    /// Opens the file beside `identity`, and reads what earlier runs took.
    pub(crate) fn open(identity: &Path) -> io::Result<(Self, Taken)> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path(identity))?;
        let mut slots = Vec::new();
        (&mut file).take(2 * SLOT_BYTES as u64).read_to_end(&mut slots)?;
        let newest = slots.chunks(SLOT_BYTES).filter_map(decode).max_by_key(|(generation, _)| *generation);
        let (generation, taken) = newest.unwrap_or_default();
        Ok((Self { file, generation }, taken))
    }

    /// Notes what was taken.
    pub(crate) fn write(&mut self, taken: Taken) -> io::Result<()> {
        self.generation += 1;
        let place = (self.generation % 2) * SLOT_BYTES as u64;
        self.file.seek(SeekFrom::Start(place))?;
        self.file.write_all(&encode(self.generation, taken))
    }
}

fn path(identity: &Path) -> PathBuf {
    let mut beside = identity.as_os_str().to_owned();
    beside.push(".pushes");
    beside.into()
}

fn encode(generation: u64, taken: Taken) -> Vec<u8> {
    let mut slot = Vec::with_capacity(SLOT_BYTES);
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&generation.to_be_bytes());
    slot.extend_from_slice(&taken.line.to_be_bytes());
    let ids = taken.marks.ids().iter().chain(std::iter::repeat(&0)).take(URGENCIES);
    ids.for_each(|id| slot.extend_from_slice(&id.to_be_bytes()));
    let check = digest(&SHA256, &slot);
    slot.extend_from_slice(&check.as_ref()[..CHECK_BYTES]);
    slot
}

/// `None` for a slot that was never written, or not to its end.
fn decode(slot: &[u8]) -> Option<(u64, Taken)> {
    let (content, check) = slot.split_at_checked(CONTENT_BYTES)?;
    let is_whole =
        content.starts_with(MAGIC) && digest(&SHA256, content).as_ref().get(..CHECK_BYTES)? == check;
    let numbers = content.get(MAGIC.len()..).filter(|_| is_whole)?.chunks_exact(8);
    let numbers: Vec<u64> =
        numbers.filter_map(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?))).collect();
    let [generation, line, ids @ ..] = &*numbers else { return None };
    Some((*generation, Taken { line: *line, marks: PushMarks::new(ids) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(id: u64) -> Taken {
        Taken { line: 77, marks: PushMarks::new(&[0, 1, 0, id]) }
    }

    #[test]
    fn the_next_run_reads_what_was_written_last() {
        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("identity");
        let (mut log, before) = PushLog::open(&identity).unwrap();
        assert_eq!(before, Taken::default());
        (1..=5).for_each(|id| log.write(taken(id)).unwrap());
        let (mut log, before) = PushLog::open(&identity).unwrap();
        assert_eq!(before, taken(5));
        log.write(taken(6)).unwrap();
        assert_eq!(PushLog::open(&identity).unwrap().1, taken(6));
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("identity");
        let (mut log, _) = PushLog::open(&identity).unwrap();
        log.write(taken(1)).unwrap();
        let first = fs::read(path(&identity)).unwrap();
        log.write(taken(2)).unwrap();
        let second = fs::read(path(&identity)).unwrap();
        // The second generation stands in the first slot.
        for cut in 0..SLOT_BYTES {
            let mut torn = second.clone();
            torn[cut..SLOT_BYTES].copy_from_slice(&first[cut..SLOT_BYTES]);
            fs::write(path(&identity), torn).unwrap();
            let read = PushLog::open(&identity).unwrap().1;
            assert_eq!(read, taken(1), "cut at {cut}");
        }
    }
}
