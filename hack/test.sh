#!/usr/bin/env bash
# Runs every test of the workspace and ends with a plain count.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --workspace --no-fail-fast 2>&1 | tee "$log" || status=$?

# "     Running tests/a.rs (target/…)" or "   Doc-tests a" begins a test binary and "test result: ok. 12 passed; 0 failed;
# 1 ignored; …" ends it; one that was killed has no result, and counts as failed. Doc-tests may have two results.
# "SKIPPED name: why" is our own: such a test passes. It may come in the middle of a line.
counts=$(awk '
  function lost() { if (running != "") { print "NO RESULT: " running; failed++ } running = ""; left_out = 0 }
  /^ +Running .*\(.*\)$/ || /^ +Doc-tests / { lost(); running = $0; sub(/^ +/, "", running) }
  /^test result:/ {
    passed -= left_out; skipped += left_out; running = ""; left_out = 0
    for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) passed += $(i - 1)
      if ($i ~ /^failed/) failed += $(i - 1)
      if ($i ~ /^ignored/) skipped += $(i - 1)
    }
  }
  match($0, /SKIPPED [A-Za-z0-9_:]+: /) { print substr($0, RSTART); left_out++ }
  END { lost(); printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }
' "$log")
echo
if [[ $counts != *" 0 failed"* && $status == 0 ]]; then
  status=1
fi
if [[ $counts == *" 0 failed"* && $status != 0 ]]; then
  echo "cargo test ended with status $status, and no test says why: see above"
  counts=${counts/" 0 failed"/" not all ran"}
fi
echo "$counts"
exit "$status"
