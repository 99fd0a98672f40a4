//! The foreign command-line tools, and talking to one while it runs.

use std::{
    env,
    future::Future,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    sync::Notify,
    time::timeout,
};

/// A peer that says nothing for so long will never say it: the test fails and shows what was said.
const PATIENCE: Duration = Duration::from_secs(60);

/// An `openssl` that was built for these tests.
#[derive(Clone, Debug)]
pub struct Peer {
    home: PathBuf,
}

impl Peer {
    /// OpenSSL 4, or `None` with a message where it is not built.
    pub fn openssl() -> Option<Self> {
        Self::find("openssl")
    }

    /// Tongsuo 8.5, or `None` with a message where it is not built.
    pub fn tongsuo() -> Option<Self> {
        Self::find("tongsuo")
    }

    /// Those that are built.
    pub fn built() -> impl Iterator<Item = Self> {
        [Self::openssl(), Self::tongsuo()].into_iter().flatten()
    }

    fn find(name: &str) -> Option<Self> {
        let home = peers_dir()?.join(name);
        if home.join("bin/openssl").exists() {
            return Some(Self { home });
        }
        println!(
            "SKIPPED: {name} is not built at {}; cargo run --manifest-path .ci/peers/Cargo.toml builds it",
            home.display()
        );
        None
    }

    /// Runs a command to its end in `folder` and returns what it printed.
    pub async fn run(&self, folder: &Path, arguments: &[&str]) -> String {
        let output = self.command(folder, arguments).stdin(Stdio::null()).output();
        let output = timeout(PATIENCE, output).await.unwrap().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "openssl {arguments:?}: {}\n{said}", output.status);
        said
    }

    /// Starts a command that reads what the test says to it.
    pub fn start(&self, folder: &Path, arguments: &[&str]) -> Talk {
        let mut command = self.command(folder, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let heard = Arc::new(Heard::default());
        tokio::spawn(listen(child.stdout.take().unwrap(), Arc::clone(&heard)));
        tokio::spawn(listen(child.stderr.take().unwrap(), Arc::clone(&heard)));
        Talk { stdin: child.stdin.take(), child, heard }
    }

    /// The command with the peer's own configuration: these builds load no module.
    pub fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.home.join("bin/openssl"));
        command.args(arguments).current_dir(folder).env("OPENSSL_CONF", self.home.join("openssl.cnf"));
        command
    }
}

/// As `.ci/peers` finds it.
fn peers_dir() -> Option<PathBuf> {
    let cache = || {
        env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .map(|cache| cache.join("towline/peers"))
    };
    env::var_os("TOWLINE_PEERS").map(PathBuf::from).or_else(cache)
}

/// A running command.
pub struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Arc<Heard>,
}

/// What a command has printed so far, both of its streams together.
#[derive(Default)]
struct Heard {
    bytes: Mutex<Vec<u8>>,
    /// Streams that ended.
    ended: Mutex<usize>,
    news: Notify,
}

impl Talk {
    /// Writes to the command's standard input.
    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(bytes.as_ref()).await.unwrap();
        stdin.flush().await.unwrap();
    }

    /// Waits until the command has printed `wanted`.
    pub async fn hear(&self, wanted: &str) -> String {
        self.wait(wanted, |bytes, _| contains(bytes, wanted.as_bytes())).await
    }

    /// Waits until the command has printed `wanted` so often.
    pub async fn hear_times(&self, times: usize, wanted: &str) -> String {
        let count = |bytes: &[u8]| bytes.windows(wanted.len()).filter(|at| *at == wanted.as_bytes()).count();
        self.wait(wanted, |bytes, _| count(bytes) >= times).await
    }

    /// Closes the command's standard input, which most commands take for the end.
    pub async fn finish(mut self) -> String {
        drop(self.stdin.take());
        self.end().await
    }

    /// Waits for the command's end and returns all that it printed.
    pub async fn end(mut self) -> String {
        let said = self.wait("the end", |_, ended| ended == 2).await;
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        said
    }

    async fn wait(&self, wanted: &str, mut is_there: impl FnMut(&[u8], usize) -> bool) -> String {
        let heard = &self.heard;
        let arrival = async {
            loop {
                let news = heard.news.notified();
                let ended = *heard.ended.lock();
                if is_there(&heard.bytes.lock(), ended) {
                    return true;
                }
                if ended == 2 {
                    return false;
                }
                news.await;
            }
        };
        let arrived = timeout(PATIENCE, arrival).await == Ok(true);
        let said = String::from_utf8_lossy(&heard.bytes.lock()).into_owned();
        assert!(arrived, "waited for {wanted:?}, heard:\n{said}");
        said
    }
}

async fn listen(mut stream: impl AsyncRead + Unpin, heard: Arc<Heard>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        heard.bytes.lock().extend_from_slice(&buffer[..count]);
        heard.news.notify_waiters();
    }
    *heard.ended.lock() += 1;
    heard.news.notify_waiters();
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|at| at == wanted)
}

/// Fails with `said` unless every one of `wanted` stands in it.
#[track_caller]
pub fn check(said: &str, wanted: &[&str]) {
    for text in wanted {
        assert!(said.contains(text), "{text:?} is not in:\n{said}");
    }
}

/// Tries again until `attempt` gives something: for what another process is about to do.
pub async fn eventually<T, F: Future<Output = Option<T>>>(mut attempt: impl FnMut() -> F) -> T {
    let tries = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, tries).await.unwrap()
}
