# What demo and test share: progress lines, Debian packages, the Rust toolchain, the built program. Sourced, not run.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
started_at=$SECONDS

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
  bold='' dim='' red='' green='' plain=''
fi

# say TEXT: a progress line with the minutes since the script began.
say() { printf '%s[%02d:%02d]%s %s%s%s\n' "$dim" $(((SECONDS - started_at) / 60)) $(((SECONDS - started_at) % 60)) "$plain" "$bold" "$*" "$plain" >&2; }
fail() { printf '%s%s%s\n' "$red" "$*" "$plain" >&2; exit 1; }

# packages COMMAND=PACKAGE...: installs the Debian packages whose command is not on the path.
packages() {
  local missing=() pair
  for pair in "$@"; do
    # `|| true` keeps a missing command from ending the script under `set -e`.
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -eq 0 ] && return
  [ "$(id -u)" = 0 ] || fail "missing packages: ${missing[*]} (run as root, or: sudo apt-get install ${missing[*]})"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >&2 || say "apt-get update failed, trying with the lists at hand"
  apt-get install -qy --no-install-recommends "${missing[@]}" >&2 </dev/null || fail "could not install ${missing[*]}"
}

# rust: a toolchain that is new enough, by rustup if none is there.
rust() {
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  packages cc=gcc ld=binutils
  [ -e /usr/include/stdlib.h ] || packages no-c-library-headers=libc6-dev
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -1)
  have=$(rustc --version 2>/dev/null | cut -d' ' -f2 || true)
  if [ -n "$have" ] && [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -1)" = "$wanted" ]; then return; fi
  if ! command -v rustup >/dev/null; then
    packages curl=curl
    [ -e /etc/ssl/certs/ca-certificates.crt ] || packages no-certificates=ca-certificates
    say "installing Rust (rustup, for this user)"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy --no-modify-path >&2 ||
      fail "could not install Rust: install rustc $wanted or newer, then run this again"
    . "$HOME/.cargo/env"
  else
    say "updating Rust: ${have:-none} is older than $wanted"
    rustup toolchain install stable --profile minimal -c rustfmt -c clippy >&2 || fail "could not update Rust to $wanted or newer"
  fi
}

# program PROFILE: where cargo puts the program.
program() {
  local triple
  triple=$(rustc -vV | sed -n 's/^host: //p')
  echo "${CARGO_TARGET_DIR:-$top/target}/$triple/$1/knarr"
}
