#!/usr/bin/env bash
# The Swift package's two made parts: towlineFFI.xcframework and Sources/Towline/Towline.swift. On macOS with Xcode:
#   rustup target add aarch64-apple-ios aarch64-apple-ios-sim x86_64-apple-ios aarch64-apple-darwin x86_64-apple-darwin
set -euo pipefail
cd "$(dirname "$0")"
. ../generate.sh
export IPHONEOS_DEPLOYMENT_TARGET=15.0 MACOSX_DEPLOYMENT_TARGET=12.0

triples=(aarch64-apple-ios aarch64-apple-ios-sim x86_64-apple-ios aarch64-apple-darwin x86_64-apple-darwin)
for triple in "${triples[@]}"; do
    cargo "${sdk[@]}" --target "$triple" --crate-type staticlib
done

made="$(mktemp -d)"
trap 'rm -rf "$made"' EXIT
generate swift "$made/generated"
mkdir -p "$made/headers/towlineFFI" "$made/simulator" "$made/mac"
cp "$made/generated/towlineFFI.h" "$made/headers/towlineFFI/"
cp "$made/generated/towlineFFI.modulemap" "$made/headers/towlineFFI/module.modulemap"
cp "$made"/generated/*.swift Sources/Towline/

# One library for each platform, with every architecture of it.
library() { printf '%s/%s/sdk/libtowline_ffi.a' "$target" "$1"; }
lipo -create "$(library aarch64-apple-ios-sim)" "$(library x86_64-apple-ios)" -output "$made/simulator/libtowline_ffi.a"
lipo -create "$(library aarch64-apple-darwin)" "$(library x86_64-apple-darwin)" -output "$made/mac/libtowline_ffi.a"
rm -rf towlineFFI.xcframework
xcodebuild -create-xcframework \
    -library "$(library aarch64-apple-ios)" -headers "$made/headers" \
    -library "$made/simulator/libtowline_ffi.a" -headers "$made/headers" \
    -library "$made/mac/libtowline_ffi.a" -headers "$made/headers" \
    -output towlineFFI.xcframework
