//! The `towline` binary as a process: exit codes, standard output, signals.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::{Command, Output, Stdio},
};

fn towline() -> Command {
    Command::new(env!("CARGO_BIN_EXE_towline"))
}

fn check_config(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.toml"), text).unwrap();
    towline().current_dir(folder.path()).args(["check", "--config", "t.toml"]).output().unwrap()
}

#[test]
fn check_exits_0_without_mistakes_and_1_with_them() {
    let good =
        "[[listeners]]\nname = \"a\"\nbind = \"127.0.0.1:0\"\ntls = \"off\"\nauthentication = \"none\"\n";
    let output = check_config(good);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "t.toml: no mistakes (1 listeners, 0 routes)\n");

    let output = check_config(&format!("{good}tsl = \"off\"\nquic = 1\n"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "2 mistakes:\n\
         t.toml:6:1: listeners.tsl: unknown key; did you mean `tls`?\n\
         t.toml:7:8: listeners.quic: 1 is not true or false\n"
    );
}

#[test]
fn passwd_reads_the_password_from_standard_input() {
    let mut child =
        towline().args(["passwd", "ada"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(line.starts_with("ada:$argon2id$v=19$") && !line.contains("secret"), "{line}");
}

#[test]
fn sigterm_drains_and_exits_0() {
    let folder = tempfile::tempdir().unwrap();
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "[[listeners]]\nname = \"a\"\nbind = \"{}\"\ntls = \"off\"\nauthentication = \"none\"\n[admin]\nbind = \"{}\"\n",
        port(),
        port()
    );
    let config = folder.path().join("t.toml");
    std::fs::write(&config, text).unwrap();
    let mut child =
        towline().args(["serve", "--config"]).arg(&config).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("admin listening")));
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(log.any(|line| line.unwrap().contains("ended left=0")));
    // The default data folder is beside the configuration.
    assert!(folder.path().join("towline-data/towline.redb").is_file());
}
