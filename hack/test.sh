#!/usr/bin/env bash
# Runs every test of the workspace and ends with a plain count.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --workspace --no-fail-fast 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

# "test result: ok. 12 passed; 0 failed; 1 ignored; …", once per test binary, and our own "SKIPPED name: why".
sum() { awk -v word="$1" '/^test result:/ {for (i = 2; i <= NF; i++) if ($i ~ "^" word) total += $(i - 1)} END {print total + 0}' "$log"; }
skipped=$(grep -c '^SKIPPED ' "$log")
echo
if ((skipped > 0)); then
  grep '^SKIPPED ' "$log"
fi
echo "$(($(sum passed) - skipped)) passed, $(sum failed) failed, $(($(sum ignored) + skipped)) skipped"
exit "$status"
