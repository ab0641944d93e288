//! The texts of the file port: each resolves its path in the guest, stays within the bounds, and prints a
//! word for what it found.

/// Begins every text. `$1` is the path, absolute; `resolve` sets `R` to what it names there, symlinks
/// followed part by part, the last one only where `follow` says so. The bounds are the workspace `W` and
/// the scratch space `K`, with their own symlinks resolved.
pub(crate) const BOUNDS: &str = r#"LC_ALL=C
export LC_ALL
resolve() {
  rest=$1 R= turns=0
  while [ -n "$rest" ]; do
    part=${rest%%/*}
    case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
    case $part in '' | .) continue ;; ..) R=${R%/*}; continue ;; esac
    if [ -L "$R/$part" ] && { [ -n "$rest" ] || [ "$2" = follow ]; }; then
      turns=$((turns + 1))
      [ $turns -le 40 ] || { echo loop; exit; }
      to=$(readlink -- "$R/$part"; echo .)
      to=${to%??}
      case $to in /*) R= ;; esac
      rest=$to${rest:+/$rest}
    else
      R=$R/$part
    fi
  done
}
bounded() {
  case $R/ in "$W"/* | "$K"/*) ;; *) echo outside; exit ;; esac
}
absent() {
  [ -e "$R" ] || [ -L "$R" ] || { echo missing; exit; }
}
"#;

/// `$2`: the offset, `$3`: how many bytes.
pub(crate) const READ: &str = r#"resolve "$1" follow; bounded; absent
[ ! -d "$R" ] || { echo directory; exit; }
[ -f "$R" ] || { echo special; exit; }
[ -r "$R" ] || { echo denied; exit; }
echo "ok $(stat -L -c %s -- "$R")"
tail -c "+$(($2 + 1))" -- "$R" | head -c "$3" | base64 -w 8192
"#;

/// `$2`: the mode or `-`, `$3`: `keep` or `replace`, `$4`: `here` with the contents as base64 in `$5`, or
/// `pieces` with the files that hold them.
pub(crate) const WRITE: &str = r#"resolve "$1" follow; bounded
[ ! -d "$R" ] || { echo directory; exit; }
case $1 in */ | */.) echo directory; exit ;; esac
[ ! -e "$R" ] || [ -f "$R" ] || { echo special; exit; }
[ "$3" = replace ] || [ ! -e "$R" ] || { echo exists; exit; }
parent=${R%/*}
mkdir -p -- "$parent" || exit
new=$(mktemp "$parent/.forge-XXXXXXXXXX") || exit
trap 'rm -f -- "$new"' EXIT
if [ "$2" != - ]; then mode=$2
elif [ -e "$R" ]; then
  mode=$(stat -c %a -- "$R")
  chown "$(stat -c %u:%g -- "$R")" "$new" 2>/dev/null
else mode=$(printf %o $((0666 & ~$(umask)))); fi
path=$R how=$3
case $4 in
here) printf %s "$5" | base64 -d >"$new" || exit ;;
pieces) shift 4; cat -- "$@" >"$new" || exit; rm -f -- "$@" ;;
esac
chmod "$mode" "$new" || exit
if [ "$how" = keep ]; then
  ln -- "$new" "$path" || { [ ! -e "$path" ] || echo exists; exit; }
else
  mv -f -T -- "$new" "$path" || exit
fi
echo ok
"#;

/// `$2`: `single` or `tree`.
pub(crate) const REMOVE: &str = r#"resolve "$1" keep; bounded; absent
case $W/ in "$R"/*) echo outside; exit ;; esac
case $K/ in "$R"/*) echo outside; exit ;; esac
if [ "$2" = tree ]; then rm -rf -- "$R"
elif [ -d "$R" ] && [ ! -L "$R" ]; then rmdir -- "$R"
else rm -f -- "$R"; fi || exit
echo ok
"#;

/// `$2`: a word that no name holds; it begins each entry.
pub(crate) const LIST: &str = r#"resolve "$1" follow; bounded; absent
[ -d "$R" ] || { echo file; exit; }
cd -- "$R" 2>/dev/null && [ -r . ] || { echo denied; exit; }
echo ok
find . -mindepth 1 -maxdepth 1 -exec stat -c "$2 %f %s %n" -- {} + | base64 -w 8192
"#;

/// Prints raw mode, size and time, and a symlink's target.
pub(crate) const STAT: &str = r#"resolve "$1" keep; bounded; absent
echo "ok $(stat -c '%f %s %Y' -- "$R")"
[ ! -L "$R" ] || readlink -- "$R" | base64 -w 8192
"#;

/// Needs GNU grep, and says so. Prints, each as base64 and with a line of dashes after it: the resolved workspace and root, the files
/// beneath the root, and the lines of every file with rules that count there.
pub(crate) const SEARCH: &str = r#"grep --version >/dev/null 2>&1 || { echo grep; exit; }
resolve "$1" follow; bounded; absent
[ -f "$R" ] || [ -d "$R" ] || { echo special; exit; }
echo ok
printf '%s\0%s\0' "$W" "$R" | base64 -w 8192
[ -d "$R" ] && echo directory || echo file
echo --
find "$R" -name .git -prune -o -type f -print0 | base64 -w 8192
echo --
{
  find "$R" -name .git -prune -o -type f \( -name .gitignore -o -name .ignore \) \
    -exec grep -aHnZ '' -- {} +
  above=$R
  case $R/ in "$W"/*)
    while [ "$above" != "$W" ]; do
      above=${above%/*}
      grep -asHnZ '' -- "$above/.gitignore" "$above/.ignore"
    done
    grep -asHnZ '' -- "$W/.git/info/exclude" ;;
  esac
} | base64 -w 8192
"#;

/// `$1`: how many bytes at the most. Greps the files whose names, each with a NUL, are in `$2` as base64,
/// or in the pieces that follow `-`; `GREP` stands for the options. Prints how many could not be read,
/// and then what was found.
pub(crate) const GREP: &str = r#"most=$1 here=$2
shift 2
names() { if [ "$here" = - ]; then cat -- "$@"; else printf %s "$here" | base64 -d; fi; }
errors=$(mktemp "$K/grep-XXXXXXXXXX") || exit
echo ok
names "$@" | xargs -0 grep -IHnZ GREP -- 2>"$errors" | head -c "$most" | base64 -w 8192
echo --
grep -c . "$errors"
rm -f -- "$errors" "$@"
"#;
