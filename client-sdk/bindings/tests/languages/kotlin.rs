//! Kotlin on the JVM, with JNA as on Android.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use uniffi::TargetLanguage;

use crate::{
    bed::{Bed, has, library_folder, package, run},
    generated,
};

#[test]
fn an_app_in_kotlin() {
    let Some(folder) = tools() else { return };
    let jars = jars(&folder);
    let bed = Bed::start();
    let (generated, classes) = (bed.folder.path().join("generated"), bed.folder.path().join("classes"));
    generated::write(TargetLanguage::Kotlin, &generated);
    let mut compiler = Command::new("java");
    // A compiler that runs once is not worth optimizing: this halves its CPU time.
    compiler.arg("-XX:TieredStopAtLevel=1");
    compiler.arg("-cp").arg(&jars).arg("org.jetbrains.kotlin.cli.jvm.K2JVMCompiler");
    compiler.args(["-no-stdlib", "-no-reflect", "-nowarn", "-cp"]).arg(&jars).arg("-d").arg(&classes);
    compiler.arg(generated).arg(package().join("kotlin/towline/src/main/kotlin"));
    run(compiler.arg(package().join("tests/languages/App.kt")));
    let mut class_path = OsString::from(&classes);
    class_path.push(":");
    class_path.push(&jars);
    let mut app = Command::new("java");
    app.arg("-cp").arg(class_path);
    app.arg(format!("-Djna.library.path={}", library_folder().display()));
    let said = run(app.args(["AppKt", &bed.endpoint("edge"), &bed.endpoint("plain")]).arg(&bed.ca));
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 10, "{said}");
}

/// The folder that `kotlin/jars.sh` filled.
fn tools() -> Option<PathBuf> {
    let Some(folder) = env::var_os("TOWLINE_KOTLIN").map(PathBuf::from) else {
        eprintln!("skipped: TOWLINE_KOTLIN names no folder that kotlin/jars.sh has filled");
        return None;
    };
    has("java").then_some(folder)
}

/// A class path of the compiler, coroutines and JNA.
fn jars(folder: &Path) -> OsString {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut jars: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "jar")).collect();
    assert!(!jars.is_empty(), "{} has no jar", folder.display());
    // JNA's own library is a resource there.
    jars.push(folder.to_owned());
    env::join_paths(jars).unwrap()
}
