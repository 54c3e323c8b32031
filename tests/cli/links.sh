#!/bin/sh
# links.sh ROOT -- what the documentation points to inside the tree is there.
set -eu
cd "$1"
# Targets with a colon are addresses elsewhere.
broken=$(for page in *.md $(find docs launch models -name '*.md'); do
    grep -o '](\([^)#:]*\)[)#]' "$page" | sed 's/^](//; s/[)#]$//' | while read -r target; do
        [ -z "$target" ] || [ -e "$(dirname "$page")/$target" ] || echo "$page: no such file: $target"
    done
done)
[ -z "$broken" ] && exit 0
echo "$broken"
exit 1
