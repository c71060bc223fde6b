#!/usr/bin/env bash
# Installs shoal as its README says, where there is neither a C compiler nor GMP, and looks at what came of it.
#
#   bash scripts/check_no_compiler.sh     (make no-compiler; about a minute, most of it downloads)
#
# A helper alone, without torch: it may take 250 MB. Then the processor time of `shoal id` and of a daemon's
# import, the best of five, and two nodes that are linked.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-$PWD/.venv/bin/uv}
interpreter=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

# Only these are on the path, so that no compiler is found; and CC, which would be asked first, leads nowhere.
mkdir "$place/bin"
for tool in sh bash env uname; do
    ln -s "$(command -v $tool)" "$place/bin/$tool"
done
bare() { env PATH="$place/bin" CC=/no/compiler CXX=/no/compiler "$@"; }

echo "== a wheel"
.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir "$place" .
wheel=$(echo "$place"/shoal-*.whl)

echo "== uv pip install --overrides overrides.txt shoal, without a compiler"
bare "$uv" venv --quiet --python "$interpreter" "$place/venv"
bare "$uv" pip install --quiet --python "$place/venv/bin/python" --overrides overrides.txt "$wheel"

cd "$place"
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 SHOAL_HOME="$place/home"
"$place/venv/bin/shoal" init >/dev/null
megabytes=$(du -sm "$place/venv" | cut -f1)
seconds() {
    "$place/venv/bin/python" - "$@" <<'PYTHON'
import resource, subprocess, sys

def spent() -> float:
    """Return the processor time of children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime

best = 1e9
for _ in range(5):
    began = spent()
    subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
    best = min(best, spent() - began)
print(f"{best:.2f}")
PYTHON
}
echo "disk of a helper           $megabytes MB, at most 250"
echo "shoal id                   $(seconds "$place/venv/bin/shoal" id) s of processor time, at most 0.25"
echo "import of a daemon         $(seconds "$place/venv/bin/python" -c 'import shoal.node.daemon.process') s, at most 1.5"
test "$megabytes" -le 250

echo "== training says what it lacks"
if "$place/venv/bin/shoal" start --task digits --no-http 2>said; then
    echo "error: it started without torch" >&2
    exit 1
fi
grep "pip install 'shoal\[torch\]'" said

echo "== two nodes"
"$place/venv/bin/python" "$OLDPWD/scripts/link_two.py"
