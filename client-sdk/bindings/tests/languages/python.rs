//! Python, with asyncio.

use std::{fs, process::Command};

use uniffi::TargetLanguage;

use crate::{
    bed::{Bed, has, library_folder, library_in, package, run},
    generated,
};

#[test]
fn an_app_in_python() {
    if !has("python3") {
        return;
    }
    let bed = Bed::start();
    let mut python = python(&bed);
    python.arg(package().join("tests/languages/app.py"));
    let said = run(python.args([bed.endpoint("edge"), bed.endpoint("plain")]).arg(&bed.ca));
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 16, "{said}");
}

#[test]
fn the_sample_calls_and_tells_of_networks() {
    if !has("python3") {
        return;
    }
    let bed = Bed::start();
    let said = run(python(&bed)
        .arg(package().join("python/sample/sample.py"))
        .arg(bed.endpoint("edge"))
        .arg(&bed.ca));
    for line in ["call: 200 ", "push: greetings/python hi"] {
        assert!(said.lines().any(|it| it.starts_with(line)), "`{line}` is not in\n{said}");
    }
    run(python(&bed).arg(package().join("tests/languages/networks.py")).arg(package().join("python/sample")));
}

#[test]
fn the_interpreter_ends_while_the_library_calls_it() {
    if !has("python3") {
        return;
    }
    let bed = Bed::start();
    for way in ["binding", "waiting"] {
        let mut python = python(&bed);
        python.arg(package().join("tests/languages/ending.py"));
        let said = run(python.args([way, &bed.endpoint("edge")]).arg(&bed.ca));
        assert_eq!(said, "ends\n", "{way}");
    }
}

/// An interpreter that has the package.
fn python(bed: &Bed) -> Command {
    let module = bed.folder.path().join("towline");
    if !module.exists() {
        fs::create_dir(&module).unwrap();
        fs::copy(package().join("python/towline/__init__.py"), module.join("__init__.py")).unwrap();
        fs::copy(library_in(&library_folder()), library_in(&module)).unwrap();
        generated::write(TargetLanguage::Python, &module);
    }
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", bed.folder.path()).args(["-B", "-X", "dev"]);
    python
}
