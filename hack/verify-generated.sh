#!/usr/bin/env bash
# Generates everything again and fails when that changes a file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly generated=(crds docs/reference wire/src/generated device-plugin/src/generated agent/src/generated)
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
for path in "${generated[@]}"; do
  mkdir -p "$before/$path"
  cp -r "$path/." "$before/$path"
done
make --no-print-directory generate
changed=0
for path in "${generated[@]}"; do
  diff -ru "$before/$path" "$path" || changed=1
done
if ((changed)); then
  echo "verify: generated files were out of date; they are written anew, look at the difference and commit it" >&2
  exit 1
fi
echo "verify: generated files are up to date"
