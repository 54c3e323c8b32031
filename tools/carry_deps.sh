#!/bin/sh
# Fills .carry/ with the few Debian packages that a bare GPU host lacks (headers and static libraries, under 4 MB), so that the project
# builds there without installing anything: see tools/gpu_check.sh.  Run it where `apt-get download` works.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
packages="libjson-c-dev libpcre2-dev libutf8proc-dev libcmocka-dev libcmocka0"
carry=$PWD/.carry
fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT

rm -rf "$carry"
mkdir "$carry"
# shellcheck disable=SC2086 # a list of words
(cd "$fetched" && apt-get -q download $packages)
for package in "$fetched"/*.deb; do dpkg-deb -x "$package" "$carry"; done

# The static libraries are what is wanted: a link to a shared one that is not there would win over them.
lib=$carry/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)
rm -f "$lib"/libjson-c.so* "$lib"/libpcre2*.so* "$lib"/libutf8proc.so*
rm -f "$lib"/libpcre2-16.a "$lib"/libpcre2-32.a "$lib"/libpcre2-posix.a
rm -rf "$carry/usr/share" "$carry/usr/bin"
du -sh "$carry"
