#!/usr/bin/env bash
# The wheel for this machine, in dist/: python3 with pip is needed, and the index that pip is set up with.
#
# For another platform CARGO_BUILD_TARGET names it, or LIBRARY a file that was built for it; generated code is the same.
set -euo pipefail
cd "$(dirname "$0")"
. ../generate.sh

rm -rf build dist towline/towline_ffi.py towline/*towline_ffi.so towline/*towline_ffi.dylib
if [ -z "${LIBRARY:-}" ]; then
    cargo "${sdk[@]}" --crate-type cdylib
    LIBRARY="$(library "$target/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}sdk")"
fi
generate python towline
cp "$LIBRARY" towline/
pip wheel --no-deps --wheel-dir dist .
