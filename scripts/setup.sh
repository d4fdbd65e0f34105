#!/usr/bin/env bash
# Installs what a bare Debian or Ubuntu machine with Rust lacks. Quick, and does nothing, when all is there.
#
#   scripts/setup.sh            what the build needs: a C compiler, pkg-config, OpenSSL and zlib headers
#   scripts/setup.sh --tests    also what the full checks need: a JDK (17 or newer), Maven, Python with venv, Chromium, rustfmt and clippy

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

tests=no
case "${1:-}" in
  '') ;;
  --tests) tests=yes ;;
  *) die "usage: scripts/setup.sh [--tests]" ;;
esac

packages=()
# need PACKAGE CHECK…: the package is installed when the check fails.
need() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || packages+=("$package")
}

find_missing() {
  packages=()
  need build-essential eval 'have cc && have c++ && have make'
  need pkg-config have pkg-config
  need libssl-dev pkg-config --exists openssl
  need zlib1g-dev pkg-config --exists zlib
  if [[ $tests == yes ]]; then
    need default-jdk-headless have_jdk
    need maven have mvn
    need python3 have python3
    need python3-venv have_venv
    need openssl have openssl
    # For the tests of reports' pages.
    need chromium eval 'have chromium || have chromium-browser || have google-chrome'
    # For the image's steps, which only root can take.
    [[ $(id -u) -ne 0 ]] || need debootstrap have debootstrap
  fi
}

install_packages() {
  local as_root=()
  if [[ $(id -u) -ne 0 ]]; then
    if have sudo && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    elif have sudo && [[ -t 0 && ${CI:-} != true ]]; then
      as_root=(sudo)
    else
      say "not root, and sudo is not to be had without a password"
      return 1
    fi
  fi
  if ! have apt-get; then
    say "no apt-get here: install the like of these packages by your system's own means"
    return 1
  fi
  say "installing: $*"
  "${as_root[@]}" apt-get update -qq >&2 || say "apt-get update failed; trying with the package lists that are there"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

have cargo || die "cargo is missing: install Rust (1.94 or newer) with rustup first"

if [[ $tests == yes ]]; then
  for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 && continue
    have rustup || die "cargo $component is missing, and there is no rustup to add it"
    rustup component add "$component" >&2
  done
fi

find_missing
if [[ ${#packages[@]} -gt 0 ]]; then
  # One name that a distribution does not know refuses all of them: the others are then tried one by one.
  install_packages "${packages[@]}" || for package in "${packages[@]}"; do install_packages "$package" || true; done
  find_missing
fi
if [[ ${#packages[@]} -gt 0 ]]; then
  say "still missing: ${packages[*]}"
  for package in "${packages[@]}"; do
    case $package in
      build-essential | pkg-config | libssl-dev | zlib1g-dev) die "the build needs ${packages[*]}: install them, then run this again" ;;
    esac
  done
  # What is left is for checks only: they say loudly what they skip, and fail where nothing may be skipped.
  if require_all; then die "DRIFTLINE_REQUIRE_ALL=1, and these could not be installed"; fi
fi
