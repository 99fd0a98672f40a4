#!/usr/bin/env bash
# The wheel for this machine, in dist/: python3 with pip is needed, and the index that pip is set up with.
#
# For another platform: CARGO_BUILD_TARGET names it, and LIBRARY the file that is built for it; generated code is the same.
set -euo pipefail
cd "$(dirname "$0")"
repository="$(cd ../../.. && pwd)"
target="${CARGO_TARGET_DIR:-$repository/target}"

cargo rustc --locked --profile sdk -p towline-ffi --crate-type cdylib
library="${LIBRARY:-$(ls "$target"/sdk/libtowline_ffi.{so,dylib} 2>/dev/null | head -1)}"
rm -rf build dist towline/towline_ffi.py towline/*towline_ffi.so towline/*towline_ffi.dylib
# A stripped library tells nothing of its interface: a build with symbols is asked.
cargo build --locked -p towline-ffi
plain="$(ls "$target"/debug/libtowline_ffi.{so,dylib} 2>/dev/null | head -1)"
cargo run --locked -p towline-ffi --example bindgen -- python "$plain" towline
cp "$library" towline/
pip wheel --no-deps --wheel-dir dist .
