#!/usr/bin/env bash
# Makes a folder with Debian 13 and its package swiftlang (3 GB, of which half a gigabyte is fetched), for the test that
# compiles and runs Swift on Linux. It needs root and debootstrap.
#   client-sdk/bindings/swift/chroot.sh FOLDER && TOWLINE_SWIFT=FOLDER cargo test -p towline-ffi --test languages swift
set -euo pipefail
folder="${1:?usage: chroot.sh FOLDER}"
[ -f "$folder/complete" ] && exit 0
debootstrap --variant=minbase trixie "$folder" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
chroot "$folder" apt-get install -y -qq --no-install-recommends swiftlang libc6-dev libstdc++-14-dev >/dev/null
rm -rf "$folder"/var/cache/apt/archives/*.deb
touch "$folder/complete"
