#!/usr/bin/env bash
# The AAR: towline/build/outputs/aar/towline-release.aar, with the library for every ABI in ANDROID_ABIS.
#
# It needs the Android SDK and NDK 27 or newer (ANDROID_NDK_HOME), gradle, cargo-ndk (cargo install cargo-ndk) and
#   rustup target add aarch64-linux-android armv7-linux-androideabi x86_64-linux-android
set -euo pipefail
cd "$(dirname "$0")"
. ../generate.sh
read -ra abis <<<"${ANDROID_ABIS:-arm64-v8a armeabi-v7a x86_64}"

# Android 15 maps libraries in pages of 16 KB, and Google Play asks for it: NDK 28 aligns so by itself, 27 when told.
# Relocations are packed, as Android knows it since its API 23, and functions of equal code are one.
link=(-Wl,-z,max-page-size=16384 -Wl,--pack-dyn-relocs=android -Wl,--icf=all)
# On arm64 LLVM makes functions of code that occurs several times, and says what that saves without what unwinding such a
# function takes in tables, 28 bytes at least: so only what saves more.
outline=-outliner-benefit-threshold=40
export RUSTFLAGS="${RUSTFLAGS:-} ${link[*]/#/-C link-arg=} -C llvm-args=$outline"
rm -rf towline/src/main/jniLibs towline/src/generated
cargo ndk "${abis[@]/#/--target=}" --platform 26 --output-dir towline/src/main/jniLibs \
    -- "${sdk[@]}" --crate-type cdylib
unset RUSTFLAGS

# The generated half is the same for every ABI.
generate kotlin towline/src/generated/kotlin

gradle :towline:assembleRelease
