#!/usr/bin/env bash
# Prints the folder that holds `prometheus` and `promtool`, or with the argument `alertmanager` the program of that name: the path's
# own, or Debian's package unpacked into the cache. Nothing is installed, and no service is started.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case ${1:-prometheus} in
  prometheus) package=prometheus program=promtool ;;
  alertmanager) package=prometheus-alertmanager program=prometheus-alertmanager ;;
  *) die "usage: scripts/prometheus.sh [alertmanager]" ;;
esac
# Debian calls Alertmanager by another name than everybody else.
found() { if [[ $package == prometheus ]]; then printf '%s\n' "$(dirname "$1")"; else printf '%s\n' "$1"; fi; }

if have "$package" && have "$program"; then
  found "$(command -v "$program")"
  exit
fi
if [[ $package != prometheus ]] && have alertmanager; then
  command -v alertmanager
  exit
fi
home=$DRIFTLINE_CACHE/$package
if [[ ! -x $home/usr/bin/$program ]]; then
  have apt-get && have dpkg-deb || die "$package is missing, and there is no apt-get to fetch it with"
  mkdir -p "$DRIFTLINE_CACHE"
  staging=$(mktemp -d "$DRIFTLINE_CACHE/$package.XXXXXX")
  trap 'rm -rf "$staging"' EXIT
  say "fetching $package"
  # As root, apt fetches as a user of its own, who must be able to write here.
  chmod 777 "$staging"
  cd "$staging"
  # A new machine has no package lists yet.
  apt-get download -qq "$package" >&2 || { apt-get update -qq >&2 && apt-get download -qq "$package" >&2; } ||
    die "apt-get could not fetch the package $package"
  dpkg-deb -x "$staging/${package}"_*.deb "$staging/root"
  mv -T "$staging/root" "$home" 2>/dev/null || [[ -x $home/usr/bin/$program ]]
fi
if [[ $package != prometheus ]]; then
  # Debian's reads its templates under /usr/share and nowhere else: it is given ours there, and nobody else sees it.
  program=alertmanager
  printf '#!/bin/sh\nexec unshare --map-root-user --mount sh -c %s sh "$@"\n' \
    "'mount --bind \"$home/usr/share\" /usr/share && exec \"$home/usr/bin/$package\" \"\$@\"'" >"$home/usr/bin/$program.$$"
  chmod +x "$home/usr/bin/$program.$$"
  mv -f "$home/usr/bin/$program.$$" "$home/usr/bin/$program"
fi
found "$home/usr/bin/$program"
