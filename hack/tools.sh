#!/usr/bin/env bash
# Builds the programs that the tests run against and keeps them, by version,
# outside of the build folders, so that each is built once per machine:
#
#   $ATOLL_CACHE (default $XDG_CACHE_HOME/atoll or ~/.cache/atoll)
#     /tools/<name>-<version or hash of its inputs>/<binary>
#
# Everything comes from the Go module proxy and from Debian; versions are
# pinned here and in the go.mod/go.sum files under tests/controlplane.
set -euo pipefail

readonly KUBERNETES=1.37.2 KWOK=0.8.0 CONTAINERD=2.4.2
# Debian packages of the real node: package and a file that proves it is there.
readonly DEBS="runc:/usr/sbin/runc containernetworking-plugins:/usr/lib/cni/bridge iproute2:/sbin/ip iptables:/usr/sbin/iptables"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
src=$root/tests/controlplane
tools=${ATOLL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/atoll}/tools

usage() {
  cat <<EOF
usage: hack/tools.sh [all | core | realnode | path NAME | paths]
  all         core, and realnode when that is possible here (default)
  core        control plane and simulated nodes: kube, kwok, filters, demo programs
  realnode    containerd, CoreDNS and, as root, runc and the CNI plugins
  path NAME   where the tool is; fails when it has not been built
  paths       name=path of every tool, built or not
EOF
}

# inputs_key FILE... prints a short hash of the files that a build reads.
inputs_key() { cat -- "$@" | sha256sum | cut -c1-12; }

kube_key=$KUBERNETES-$(inputs_key "$src"/go.mod "$src"/go.sum "$src"/cmd/kube/*.go)
filters_key=$KUBERNETES-$(inputs_key "$src"/go.mod "$src"/go.sum "$src"/cmd/filters/*.go)
demo_key=$(inputs_key "$src"/cmd/pause/*.go "$src"/cmd/torch-demo/*.go "$src"/cmd/witness/*.go)
dns_key=$(inputs_key "$src"/dns/go.mod "$src"/dns/go.sum "$src"/dns/*.go)
readonly kube_key filters_key demo_key dns_key

# tool_path NAME prints where a tool is, or will be once it is built.
tool_path() {
  case $1 in
  kube) echo "$tools/kube-$kube_key/kube" ;;
  kwok) echo "$tools/kwok-$KWOK/kwok" ;;
  kube-filters) echo "$tools/kube-filters-$filters_key/kube-filters" ;;
  pause | torch-demo | witness) echo "$tools/demo-$demo_key/$1" ;;
  containerd | containerd-shim-runc-v2 | ctr) echo "$tools/containerd-$CONTAINERD/$1" ;;
  coredns) echo "$tools/coredns-$dns_key/coredns" ;;
  *)
    echo "tools.sh: no tool is named $1" >&2
    return 2
    ;;
  esac
}
readonly names="kube kwok kube-filters pause torch-demo witness containerd containerd-shim-runc-v2 ctr coredns"

# go_static runs go for static binaries, politely: tests and builds that a
# person waits for go first.
go_static() { CGO_ENABLED=0 nice -n 10 go "$@"; }

# Each build_NAME puts its binaries into the folder $1.
build_kube() {
  local v=k8s.io/component-base/version
  (cd "$src" && go_static build -trimpath -buildvcs=false -o "$1/kube" -ldflags \
    "-s -w -X $v.gitVersion=v$KUBERNETES -X $v.gitMajor=${KUBERNETES%%.*} -X $v.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES") -X $v.gitTreeState=clean" \
    ./cmd/kube)
}
build_kwok() {
  (cd "$1" && GOBIN=$1 go_static install -trimpath -ldflags "-s -w" "sigs.k8s.io/kwok/cmd/kwok@v$KWOK")
}
build_filters() {
  (cd "$src" && go_static build -trimpath -buildvcs=false -ldflags "-s -w" -o "$1/kube-filters" ./cmd/filters)
}
build_demo() {
  (cd "$src" && go_static build -trimpath -buildvcs=false -ldflags "-s -w" -o "$1/" ./cmd/pause ./cmd/torch-demo ./cmd/witness)
}
build_containerd() {
  local module=github.com/containerd/containerd/v2
  (cd "$1" && GOBIN=$1 go_static install -trimpath -ldflags "-s -w -X $module/version.Version=v$CONTAINERD" \
    "$module/cmd/containerd@v$CONTAINERD" \
    "$module/cmd/containerd-shim-runc-v2@v$CONTAINERD" \
    "$module/cmd/ctr@v$CONTAINERD")
}
build_coredns() {
  (cd "$src/dns" && go_static build -trimpath -buildvcs=false -ldflags "-s -w" -o "$1/coredns" .)
}

step=0 steps=0
say() { printf '[%d/%d] %s\n' "$step" "$steps" "$*" >&2; }

# provide FOLDER KIND WORDS builds one folder of tools unless it is there:
# into a temporary folder first, so that a half-built one is never seen, and
# under a lock, so that two runs do not build the same thing.
provide() {
  local dir=$tools/$1 kind=$2 words=$3 tmp started=$SECONDS lock
  step=$((step + 1))
  if [[ -d $dir ]]; then
    say "$words: there"
    return
  fi
  if ! command -v go >/dev/null; then
    echo "tools.sh: building $kind needs Go 1.26 or newer: https://go.dev/dl" >&2
    return 1
  fi
  mkdir -p "$tools"
  exec {lock}>"$tools/.$1.lock"
  if ! flock -n "$lock"; then
    say "$words: another run builds it, waiting"
    flock "$lock"
  fi
  if [[ ! -d $dir ]]; then
    say "$words …"
    rm -rf "$tools/.$1".tmp.*
    tmp=$tools/.$1.tmp.$$
    mkdir "$tmp"
    "build_$kind" "$tmp"
    mv "$tmp" "$dir"
    say "$words: built in $((SECONDS - started)) s"
  fi
  exec {lock}>&-
}

provide_core() {
  provide "kube-$kube_key" kube "kube $KUBERNETES (7–8 min the first time)"
  provide "kwok-$KWOK" kwok "kwok $KWOK (1–2 min the first time)"
  provide "kube-filters-$filters_key" filters "kube-filters, kube-scheduler's filter plugins"
  provide "demo-$demo_key" demo "pause, torch-demo and witness"
}

provide_realnode() {
  provide "containerd-$CONTAINERD" containerd "containerd $CONTAINERD (1–2 min the first time)"
  provide "coredns-$dns_key" coredns "CoreDNS (1–2 min the first time)"
  step=$((step + 1))
  local deb missing=()
  for deb in $DEBS; do
    [[ -e ${deb#*:} ]] || missing+=("${deb%%:*}")
  done
  if ((${#missing[@]} == 0)); then
    say "runc and CNI plugins: there"
  elif ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    say "left out, tests of real nodes will be skipped: as root on Debian, run: apt-get install ${missing[*]}"
  else
    say "apt-get install ${missing[*]} …"
    if ! apt-get install -y --no-install-recommends "${missing[@]}" >"$tools/apt.log" 2>&1; then
      { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$tools/apt.log" 2>&1 || {
        tail -n 20 "$tools/apt.log" >&2
        return 1
      }
    fi
  fi
}

case ${1:-all} in
all)
  steps=7
  provide_core
  provide_realnode
  ;;
core)
  steps=4
  provide_core
  ;;
realnode)
  steps=3
  provide_realnode
  ;;
path)
  path=$(tool_path "${2:?which tool? see hack/tools.sh help}")
  if [[ ! -x $path ]]; then
    echo "tools.sh: $2 has not been built; run: make tools" >&2
    exit 1
  fi
  echo "$path"
  ;;
paths)
  for name in $names; do
    echo "$name=$(tool_path "$name")"
  done
  ;;
help | -h | --help) usage ;;
*)
  usage >&2
  exit 2
  ;;
esac
