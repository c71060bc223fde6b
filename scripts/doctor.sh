#!/bin/sh
# Checks that this machine can build shoal's dependencies, and names the package to install where not.
#
#   scripts/doctor.sh [PYTHON]
#
# py-libp2p's fastecdsa is compiled when it is installed: that takes a C compiler, Python's headers and GMP's.
# Plain sh, because it must run where nothing is installed yet.

python=${1:-python3}
missing=0

# fail WHAT DEBIAN FEDORA MACOS: one line with the command for the system at hand.
fail() {
    missing=1
    if [ "$(uname)" = Darwin ]; then
        fix=$4
    elif command -v apt-get >/dev/null; then
        fix="sudo apt-get install $2"
    elif command -v dnf >/dev/null; then
        fix="sudo dnf install $3"
    else
        fix="install $2 (Debian) or $3 (Fedora)"
    fi
    echo "error: $1; fix: $fix" >&2
}

if ! command -v "$python" >/dev/null; then
    fail "no $python" python3 python3 "brew install python"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    found=$("$python" -c 'import platform; print(platform.python_version())')
    fail "$python is Python $found, 3.11 or newer is needed (another one: make PYTHON=python3.12)" \
        python3.11 python3.11 "brew install python"
else
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python has no venv module" python3-venv python3 "brew install python"
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        fail "$python has no C headers" python3-dev python3-devel "brew install python"
fi

compiler=${CC:-cc}
if ! command -v "${compiler%% *}" >/dev/null; then
    fail "no C compiler" build-essential gcc "xcode-select --install"
elif ! printf '#include <gmp.h>\n' | $compiler $CPPFLAGS $CFLAGS -E -x c - >/dev/null 2>&1; then
    # shellcheck disable=SC2016  # the text is for the reader's shell
    fail "no GMP headers (gmp.h)" libgmp-dev gmp-devel \
        'brew install gmp, then: export CPATH=$(brew --prefix)/include LIBRARY_PATH=$(brew --prefix)/lib'
fi

exit $missing
