#!/usr/bin/env bash
# Puts a Kotlin compiler, coroutines and JNA into a folder, for the test that compiles and runs Kotlin on the JVM:
#   client-sdk/bindings/kotlin/jars.sh FOLDER && TOWLINE_KOTLIN=FOLDER cargo test -p towline-ffi --test languages kotlin
# The compiler comes in the PyPI package kotlin-jupyter-kernel, JNA in Debian's libjna-java and libjna-jni.
set -euo pipefail
folder="${1:?usage: jars.sh FOLDER}"
[ -f "$folder/complete" ] && exit 0
mkdir -p "$folder"
cd "$folder"
python3 -m pip download -q --no-deps --dest . kotlin-jupyter-kernel==0.19.0.944
python3 -m zipfile -e kotlin_jupyter_kernel-*.whl kernel
mv kernel/run_kotlin_kernel/jars/kotlin-jupyter-kernel-*-all.jar kernel/run_kotlin_kernel/jars/kotlin-stdlib-*.jar .
rm -rf kernel kotlin_jupyter_kernel-*.whl
apt-get download -q libjna-java libjna-jni
for package in libjna-*.deb; do dpkg-deb -x "$package" jna; done
cp "$(find jna -name 'jna-[0-9]*.jar' -type f | head -1)" jna.jar
# Debian's JNA looks for its library in the system's folders, and then on the class path.
native="com/sun/jna/linux-$(uname -m | tr _ -)"
mkdir -p "$native"
cp "$(find jna -name 'libjnidispatch*.so')" "$native/libjnidispatch.so"
rm -rf jna libjna-*.deb
touch complete
