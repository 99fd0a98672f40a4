//! Builds the TLS stacks that the interoperability tests talk to, once, into a cache folder.
//!
//! ```text
//! cargo run --manifest-path .ci/peers/Cargo.toml
//! ```
//!
//! `$TOWLINE_PEERS`, else `$XDG_CACHE_HOME/towline/peers`, else `~/.cache/towline/peers` then holds, for
//! each peer, a folder named by its exact version and a link to it that tests follow:
//!
//! ```text
//! openssl -> openssl-400.0.2+4.0.3     bin/openssl  openssl.cnf
//! tongsuo -> tongsuo-850.1.1+8.5.0     bin/openssl  openssl.cnf  include/  lib/
//! ```
//!
//! A version that is there already is not built again unless its recipe here has changed; a run that was interrupted leaves nothing behind
//! that looks finished, because a folder takes its name only when it is whole.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, io};

type Fallible<T> = Result<T, String>;

/// A source tree in the manner of OpenSSL's.
struct Peer {
    name: &'static str,
    version: &'static str,
    source: PathBuf,
    /// Arguments of its own, beside [`CONFIGURE`].
    configure: &'static str,
    /// What to make, in this order.
    targets: &'static [&'static str],
}

fn main() -> ExitCode {
    let peers = [openssl(), tongsuo()];
    match peers_dir().and_then(|dir| peers.iter().try_for_each(|peer| provide(peer, &dir))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("peers: {why}");
            ExitCode::FAILURE
        }
    }
}

fn openssl() -> Peer {
    Peer {
        name: "openssl",
        version: openssl_src::version(),
        source: openssl_src::source_dir(),
        configure: "no-docs no-slh-dsa no-ml-dsa no-lms no-argon2 no-dsa no-aria no-bf no-camellia no-cast no-idea \
                    no-md4 no-mdc2 no-rc2 no-rmd160 no-seed no-gost no-whirlpool",
        targets: &["build_programs"],
    }
}

/// With its libraries and headers, so that the gateway's feature `tlcp` need not build them again.
fn tongsuo() -> Peer {
    Peer {
        name: "tongsuo",
        version: tongsuo_src::version(),
        source: tongsuo_src::source_dir(),
        configure: "enable-ntls no-slh-dsa no-ml-dsa no-engine",
        targets: &["build_programs", "install_dev"],
    }
}

impl Peer {
    /// How it is built, to know whether a build is of today's.
    fn recipe(&self) -> String {
        format!("{CONFIGURE} {} {}", self.configure, self.targets.join(" "))
    }
}

fn peers_dir() -> Fallible<PathBuf> {
    let cache = || {
        env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .map(|cache| cache.join("towline/peers"))
    };
    env::var_os("TOWLINE_PEERS")
        .map(PathBuf::from)
        .or_else(cache)
        .ok_or_else(|| "neither TOWLINE_PEERS nor HOME".into())
}

/// Builds the peer if this version of it is not there, and points its link at it.
fn provide(peer: &Peer, dir: &Path) -> Fallible<()> {
    let home = dir.join(format!("{}-{}", peer.name, peer.version));
    if fs::read_to_string(home.join("recipe")).is_ok_and(|recipe| recipe == peer.recipe()) {
        println!("peers: {} is there", home.display());
    } else {
        println!("peers: building {}", home.display());
        let scratch = dir.join(format!(".{}-{}", peer.name, std::process::id()));
        let built = build(peer, &scratch, &home);
        at(&scratch, remove(&scratch))?;
        built?;
    }
    link(&dir.join(peer.name), &home)
}

fn build(peer: &Peer, scratch: &Path, home: &Path) -> Fallible<()> {
    let (tree, prefix) = (scratch.join("build"), scratch.join("install"));
    at(&tree, fs::create_dir_all(&tree))?;
    configure(peer, &tree, &prefix)?;
    for target in peer.targets {
        run(nice("make").args(["-s", "-j2", target]).current_dir(&tree))?;
    }
    let bin = prefix.join("bin");
    at(&bin, fs::create_dir_all(&bin))?;
    at(&bin, fs::copy(tree.join("apps/openssl"), bin.join("openssl")))?;
    at(&prefix, fs::write(prefix.join("openssl.cnf"), CONFIGURATION))?;
    at(&prefix, fs::write(prefix.join("recipe"), peer.recipe()))?;
    at(home, remove(home))?;
    at(home, fs::rename(&prefix, home))
}

/// Out of the source tree, which stays as cargo unpacked it; -O1, because the assembly does the heavy work.
fn configure(peer: &Peer, tree: &Path, prefix: &Path) -> Fallible<()> {
    run(nice("perl")
        .arg(peer.source.join("Configure"))
        .arg(format!("--prefix={}", prefix.display()))
        .args(["--libdir=lib", "CFLAGS=-O1 -w"])
        .args(CONFIGURE.split_whitespace())
        .args(peer.configure.split_whitespace())
        .current_dir(tree))
}

/// What no test asks for costs time to build.
const CONFIGURE: &str = "no-shared no-module no-tests no-legacy no-comp no-cmp no-cms no-ct no-ts no-srp no-rc4 \
                         no-rfc3779 no-ec2m no-siphash";

/// Without modules, the configuration that is built in has nothing to load; `req` wants a section.
const CONFIGURATION: &str = "[req]\ndistinguished_name = dn\n[dn]\n";

/// Builds give way to whatever else the machine does.
fn nice(program: &str) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "10", program]);
    command
}

fn run(command: &mut Command) -> Fallible<()> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}\n{said}", output.status))
}

/// Replaces the link in one step, so that a test that runs meanwhile finds the old or the new peer.
fn link(name: &Path, home: &Path) -> Fallible<()> {
    let fresh = name.with_extension(format!("link-{}", std::process::id()));
    let target = home.file_name().ok_or("a peer's folder has a name")?;
    at(&fresh, std::os::unix::fs::symlink(target, &fresh))?;
    at(name, fs::rename(&fresh, name))
}

fn remove(dir: &Path) -> io::Result<()> {
    if dir.exists() { fs::remove_dir_all(dir) } else { Ok(()) }
}

fn at<T>(path: &Path, result: io::Result<T>) -> Fallible<T> {
    result.map_err(|error| format!("{}: {error}", path.display()))
}
