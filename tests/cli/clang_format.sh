#!/bin/sh
# clang_format.sh ROOT -- every .c and .h reads as `clang-format -i` would leave it.  Version 14, because others answer differently;
# 77 (skipped) where it is not installed.
set -eu
cd "$1"
tool=$(command -v clang-format-14) || { echo "clang-format-14 is not installed; fix: apt-get install clang-format-14"; exit 77; }
if answer=$(find include src tests -name '*.[ch]' -exec "$tool" --dry-run -Werror {} + 2>&1); then exit 0; fi
echo "$answer" | grep -v '^ ' | head -n 20
echo "not formatted; fix: clang-format-14 -i $(echo "$answer" | sed -n 's/:[0-9]*:[0-9]*: error:.*//p' | sort -u | tr '\n' ' ')"
exit 1
