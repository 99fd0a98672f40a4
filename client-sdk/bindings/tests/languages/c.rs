//! C, by `include/towline.h`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::bed::{Bed, has, library_folder, package, run};

#[test]
fn the_sample_calls_streams_and_gets_its_push() {
    if !has("cc") {
        return;
    }
    let bed = Bed::start();
    let sample = compiled(&bed, "c/sample.c");
    let said = run(program(&sample).arg(bed.endpoint("edge")).arg(&bed.ca));
    let lines: Vec<_> = said.lines().collect();
    for line in [
        "state: online",
        "call: status 200, grpc-status 0, reply hello",
        "stream: head 200",
        "stream: end, grpc-status 0",
        "push: greetings/c hi",
        "state: closed",
    ] {
        assert!(lines.contains(&line), "`{line}` is not in\n{said}");
    }
    assert_eq!(lines.iter().filter(|line| line.ends_with(" bytes")).count(), 3, "{said}");
}

#[test]
fn misuse_and_panics_are_typed_errors() {
    if !has("cc") {
        return;
    }
    let bed = Bed::start();
    let misuse = compiled(&bed, "tests/languages/misuse.c");
    let said = run(program(&misuse).arg(bed.endpoint("plain")));
    assert!(said.ends_with("everything was as it should be\n"), "{said}");
}

#[test]
fn a_call_outlives_its_client() {
    if !has("cc") {
        return;
    }
    let bed = Bed::start();
    let durable = compiled(&bed, "tests/languages/durable.c");
    let identity = bed.folder.path().join("identity");
    let said = run(program(&durable).arg(bed.endpoint("plain")).arg(identity));
    assert!(said.ends_with("everything was as it should be\n"), "{said}");
}

#[test]
fn an_app_looks_names_up_and_the_next_run_restores_its_tickets() {
    if !has("cc") {
        return;
    }
    let bed = Bed::start();
    let names = compiled(&bed, "tests/languages/names.c");
    let edge = bed.endpoint("edge");
    let (_, port) = edge.rsplit_once(':').unwrap();
    let identity = bed.folder.path().join("identity");
    let said = run(program(&names).arg(format!("localhost:{port}")).arg(&bed.ca).arg(identity));
    assert!(said.ends_with("everything was as it should be\n"), "{said}");
}

#[test]
fn an_app_binds_sockets_to_networks() {
    if !has("cc") {
        return;
    }
    let bed = Bed::start();
    let sockets = compiled(&bed, "tests/languages/sockets.c");
    let said = run(program(&sockets).arg(bed.endpoint("edge")).arg(&bed.ca));
    assert!(said.ends_with("everything was as it should be\n"), "{said}");
}

/// The header is also C++.
#[test]
fn the_header_compiles_as_cpp() {
    if !has("c++") {
        return;
    }
    let header = package().join("include/towline.h");
    run(Command::new("c++")
        .args(["-std=c++17", "-Wall", "-Werror", "-fsyntax-only", "-x", "c++"])
        .arg(header));
}

fn compiled(bed: &Bed, source: &str) -> PathBuf {
    let program = bed.folder.path().join("program");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-pthread", "-I"]);
    compiler.arg(package().join("include")).arg(package().join(source)).arg("-L").arg(library_folder());
    run(compiler.args(["-ltowline_ffi", "-o"]).arg(&program));
    program
}

fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.env("LD_LIBRARY_PATH", library_folder());
    command
}
