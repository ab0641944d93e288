#!/bin/sh
# The figures of review: what one edit in 10 000 files costs to find, an apply of 1 000 files against `cp -r` of the
# same, also with `sync -f`, since an apply is on the disk when it ends, and the first screen of a diff of 10 000
# changed files.
#
#     cargo build --release --package forge-cli && benches/review.sh [target/release/forge]
#
# What is compared runs in turns within one run, and medians are shown.
set -eu
forge=$(realpath "${1:-target/release/forge}")
runs=${RUNS:-7}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export HOME="$place/home" FORGE_STATE_DIR="$place/state"
mkdir -p "$HOME" "$place/project"
cd "$place/project"

now() { date +%s%N; }
# The median of the lines of stdin, in milliseconds with one digit.
median() { sort -n | awk '{ all[NR] = $1 } END { printf "%.1f", all[int((NR + 1) / 2)] / 1e6 }'; }
timed() {
    begin=$(now)
    "$@" >/dev/null 2>&1
    echo $(($(now) - begin))
}

# 10 000 files of some 2 KiB in 100 directories.
make_files='for d in $(seq 100); do mkdir -p d$d; for f in $(seq 100); do head -c 2000 /dev/zero | tr "\\0" "x" >d$d/f$f; done; done'
sh -c "$make_files"
"$forge" exec -- sh -c 'echo edit >>d50/f50'
for _ in $(seq "$runs"); do timed "$forge" diff --name-only; done | median >one
echo "change set after one edit in 10 000 files, as forge diff --name-only: $(cat one) ms"
"$forge" discard --force 2>/dev/null
rm one

# Each run has a project and a session of its own, all made beforehand, and nothing is removed in between: ext4
# without a journal looks for inodes that were removed in the last minutes one by one, and the next thousand files
# take twenty times as long, whoever makes them.
in_each() { for n in $(seq "$runs"); do cd "$place/apply$n"; "$@" "$n"; done; }
prepare() {
    head -c 2000 /dev/zero | tr '\0' x >base
    "$forge" exec -- sh -c 'mkdir new; for d in $(seq 10); do mkdir new/d$d; for f in $(seq 100); do { echo $d $f; cat base; } >new/d$d/f$f; done; done' 2>/dev/null
}
compare() {
    sync -f .
    timed "$forge" apply >>"$place/apply"
    sync -f .
    timed cp -r new "$place/copy$1" >>"$place/copy"
    timed sh -c 'cp -r new "$0" && sync -f "$0"' "$place/synced$1" >>"$place/synced"
    diff -r new "$place/copy$1"
}
for n in $(seq "$runs"); do mkdir "$place/apply$n"; done
in_each prepare
in_each compare
cd "$place/project"
ratio() { echo "$apply $1" | awk '{ printf "%.1f", $1 / $2 }'; }
apply=$(median <"$place/apply") copy=$(median <"$place/copy") synced=$(median <"$place/synced")
echo "apply of 1 000 new files: $apply ms; cp -r of the same: $copy ms, ratio $(ratio "$copy"); with sync -f: $synced ms, ratio $(ratio "$synced")"

"$forge" exec -- sh -c 'for f in d*/f*; do echo edit >>$f; done' 2>/dev/null
for _ in $(seq "$runs"); do
    begin=$(now)
    "$forge" diff --color always | head -n 50 >/dev/null
    echo $(($(now) - begin))
done | median >"$place/first"
for _ in $(seq "$runs"); do timed "$forge" diff; done | median >"$place/whole"
echo "diff of 10 000 changed files: first screen $(cat "$place/first") ms, all $(cat "$place/whole") ms"
