#!/usr/bin/env bash
# Prints the folder that holds `prometheus` and `promtool`: the path's own, or Debian's package unpacked into the cache. Nothing is
# installed, and no service is started.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if have prometheus && have promtool; then
  dirname "$(command -v promtool)"
  exit
fi
home=$DRIFTLINE_CACHE/prometheus
if [[ ! -x $home/usr/bin/promtool ]]; then
  have apt-get && have dpkg-deb || die "prometheus and promtool are missing, and there is no apt-get to fetch them with"
  mkdir -p "$DRIFTLINE_CACHE"
  staging=$(mktemp -d "$DRIFTLINE_CACHE/prometheus.XXXXXX")
  trap 'rm -rf "$staging"' EXIT
  say "fetching Prometheus"
  # As root, apt fetches as a user of its own, who must be able to write here.
  chmod 777 "$staging"
  cd "$staging"
  # A new machine has no package lists yet.
  apt-get download -qq prometheus >&2 || { apt-get update -qq >&2 && apt-get download -qq prometheus >&2; } ||
    die "apt-get could not fetch the package prometheus"
  dpkg-deb -x "$staging"/prometheus_*.deb "$staging/root"
  mv -T "$staging/root" "$home" 2>/dev/null || [[ -x $home/usr/bin/promtool ]]
fi
printf '%s\n' "$home/usr/bin"
