//! Swift, with Foundation and the library as two modules, as an app has them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use uniffi::TargetLanguage;

use crate::{
    bed::{Bed, has, library_folder, library_in, package, run},
    generated,
};

#[test]
fn an_app_in_swift() {
    let Some(swift) = Swift::found() else { return };
    let bed = Bed::start();
    let folder = swift.folder();
    for source in ["swift/Sources/Towline/Sequences.swift", "tests/languages/App.swift"] {
        copy(&package().join(source), folder.path());
    }
    copy(&library_in(&library_folder()), folder.path());
    copy(&bed.ca, folder.path());
    generated::write(TargetLanguage::Swift, folder.path());
    fs::rename(folder.path().join("towlineFFI.modulemap"), folder.path().join("module.modulemap")).unwrap();
    let compile = |arguments: &[&str]| {
        let mut compiler = swift.command(&folder, "swiftc");
        compiler.args([
            "-swift-version",
            "6",
            "-warnings-as-errors",
            "-parse-as-library",
            "-I",
            ".",
            "-L",
            ".",
        ]);
        run(compiler.args(["-Xlinker", "-rpath=$ORIGIN"]).args(arguments));
    };
    let module = ["-emit-module", "-emit-library", "-module-name", "Towline", "-o", "libTowline.so"];
    compile(&[&module[..], &["-ltowline_ffi", "Towline.swift", "Sequences.swift"]].concat());
    compile(&["-lTowline", "-ltowline_ffi", "-o", "app", "App.swift"]);
    let mut app = swift.command(&folder, "./app");
    app.args([bed.endpoint("edge"), bed.endpoint("plain")]).arg(bed.ca.file_name().unwrap());
    let said = run(&mut app);
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 12, "{said}");
}

/// Where Swift is: here, or in a system of its own.
struct Swift {
    /// The folder that `swift/chroot.sh` filled.
    root: Option<PathBuf>,
}

impl Swift {
    fn found() -> Option<Self> {
        let root = env::var_os("TOWLINE_SWIFT").map(PathBuf::from);
        if let Some(root) = &root {
            let compiler = root.join("usr/bin/swiftc");
            assert!(
                compiler.exists(),
                "TOWLINE_SWIFT names no folder of swift/chroot.sh: it has no usr/bin/swiftc"
            );
        }
        (root.is_some() || has("swiftc")).then_some(Self { root })
    }

    /// A folder for one test's files, which Swift sees.
    fn folder(&self) -> TempDir {
        let place = self.root.as_ref().map_or_else(env::temp_dir, |root| root.join("tmp"));
        tempfile::tempdir_in(place).unwrap()
    }

    /// `program`, to be run in `folder`.
    fn command(&self, folder: &TempDir, program: &str) -> Command {
        let Some(root) = &self.root else {
            let mut command = Command::new(program);
            command.current_dir(folder.path());
            return command;
        };
        // Swift reads /proc, which is mounted for this command alone.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--mount-proc", "--pid", "--fork", "--root"]).arg(root);
        let inside = Path::new("/").join(folder.path().strip_prefix(root).unwrap());
        command.arg("--wd").arg(inside).arg(program);
        command
    }
}

fn copy(file: &Path, folder: &Path) {
    fs::copy(file, folder.join(file.file_name().unwrap())).unwrap();
}
