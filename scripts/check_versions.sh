#!/usr/bin/env bash
# Lets a node of this commit train with one of an older one, installed from a wheel.
#
#   bash scripts/check_versions.sh [COMMIT]     (make versions COMMIT=...; half a minute)
#
# Without COMMIT it is the last release, by its tag. Before there is one, it is the commit that changed last what peers have
# to agree on (gossip/run_spec.py): since then nodes have to understand each other, whatever else was changed.
set -euo pipefail
cd "$(dirname "$0")/.."

other=${1:-$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || git log -1 --format=%h -- gossip/run_spec.py)}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

echo "== a wheel of $(git log -1 --format='%h %s' "$other")"
mkdir "$place/clone"
git archive "$other" | tar -x -C "$place/clone"
.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir "$place" "$place/clone"

echo "== installed beside the packages of this environment"
.venv/bin/python -m venv --without-pip "$place/venv"
site=$("$place/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -c 'import sys; print(*(each for each in sys.path if each.endswith("-packages")), sep="\n")' >"$site/borrowed.pth"
.venv/bin/python -m pip --python "$place/venv/bin/python" install --quiet --no-deps "$place"/shoal-*.whl
"$place/venv/bin/python" -P -c 'import shoal; print(shoal.__file__)' | grep "$place"

echo "== three rounds together"
.venv/bin/python scripts/link_two.py "$place/venv/bin/python"
