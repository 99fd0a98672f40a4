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

#[test]
fn a_policy_document_is_checked_with_places_and_remedies() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        std::fs::write(folder.path().join("p.toml"), text).unwrap();
        towline().current_dir(folder.path()).args(["policy", "check", "p.toml"]).output().unwrap()
    };
    let output = check("[[rules]]\nname = \"all\"\nset.timeouts.margin = 4\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "p.toml: no mistakes (1 rules, 0 experiments)\n");
    let output = check("[[rules]]\nname = \"all\"\nset.timeouts.margni = 4\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "p.toml:3:14: set.timeouts.margni: is no parameter; did you mean `timeouts.margin`?\n"
    );
}

#[test]
fn answers_of_a_hook_are_forgotten_at_a_running_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (listener, backend, admin) = (port(), port(), port().to_string());
    let text = format!(
        "[[listeners]]\nname = \"a\"\nbind = \"{listener}\"\ntls = \"off\"\n[admin]\nbind = \"{admin}\"\n\
         [[backends]]\nname = \"accounts\"\nkind = \"http1\"\naddress = \"{backend}\"\n\
         [auth.hook]\nbackend = \"accounts\"\n"
    );
    std::fs::write(folder.path().join("t.toml"), text).unwrap();
    let mut gateway = towline()
        .current_dir(folder.path())
        .args(["serve", "--config", "t.toml"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(gateway.stderr.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("admin listening")).unwrap().unwrap();
    let forget = |arguments: &[&str]| {
        towline().args(["auth", "forget", "--admin", &admin]).args(arguments).output().unwrap()
    };
    for arguments in [&[][..], &["--user", "ada"], &["--keep-connections"]] {
        let output = forget(arguments);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0 answers forgotten, 0 connections ended\n");
    }
    assert!(!forget(&["--user", ""]).status.success());
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}

#[test]
fn a_policy_is_pushed_shown_compared_and_rolled_back_at_a_running_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let admin = port().to_string();
    let text = format!(
        "[[listeners]]\nname = \"a\"\nbind = \"{}\"\ntls = \"off\"\nauthentication = \"none\"\n[admin]\nbind = \"{admin}\"\n",
        port()
    );
    std::fs::write(folder.path().join("t.toml"), text).unwrap();
    let mut gateway = towline()
        .current_dir(folder.path())
        .args(["serve", "--config", "t.toml"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(gateway.stderr.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("admin listening")).unwrap().unwrap();
    let policy = |arguments: &[&str]| {
        let mut command = towline();
        command.current_dir(folder.path()).arg("policy").args(arguments).args(["--admin", &admin]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for (margin, version) in [(4, 1), (5, 2)] {
        let text =
            format!("name = \"m{margin}\"\n[[rules]]\nname = \"all\"\nset.timeouts.margin = {margin}\n");
        std::fs::write(folder.path().join("p.toml"), text).unwrap();
        assert!(
            policy(&["diff", "p.toml"])
                .contains(&format!("+ rule \"all\" (everybody): timeouts.margin = {margin}"))
        );
        assert_eq!(policy(&["push", "p.toml"]), format!("{{\"version\":{version}}}\n"));
        assert_eq!(policy(&["diff", "p.toml"]), "no difference\n");
    }
    assert_eq!(policy(&["rollback"]), "{\"version\":3}\n");
    assert!(policy(&["show"]).contains("\"name\": \"m4\""));
    assert!(policy(&["show", "--document"]).contains("margin = 4"));
    assert!(policy(&["show", "--document", "--of", "2"]).contains("margin = 5"));
    assert_eq!(policy(&["kill"]), "{\"killed\":true}\n");
    assert!(policy(&["show"]).contains("\"killed\": true"));
    assert_eq!(policy(&["experiments"]), "no experiments\n");
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}

#[test]
fn whom_the_gateway_refuses_is_told_so_by_the_exit_code_too() {
    let folder = tempfile::tempdir().unwrap();
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (link, admin) = (port(), port());
    let text = format!(
        "[[listeners]]\nname = \"a\"\nbind = \"{link}\"\ntls = \"off\"\nauthentication = \"none\"\n[admin]\nbind = \"{admin}\"\n"
    );
    std::fs::write(folder.path().join("t.toml"), text).unwrap();
    let mut serve = towline();
    serve.current_dir(folder.path()).args(["serve", "--config", "t.toml"]).stderr(Stdio::piped());
    let mut gateway = serve.spawn().unwrap();
    let mut lines = BufReader::new(gateway.stderr.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("admin listening")).unwrap().unwrap();
    let client = ["--plaintext", "--transport", "tcp", "--connect", &link, "--client-id", "phone1"];
    // No route leads anywhere; the session is there all the same.
    towline().args(["call", "/x"]).args(client).output().unwrap();
    // What is over first differs from run to run.
    for _ in 0..12 {
        let output = towline().args(["listen", "--topic", "a/#"]).args(client).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("towline: ") && said.contains("does not fit the client id"), "{said}");
    }
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}
