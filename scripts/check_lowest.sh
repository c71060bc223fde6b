#!/usr/bin/env bash
# The lowest versions that pyproject.toml allows: install them beside .venv, and link two nodes with them.
#
#   bash scripts/check_lowest.sh          (make lowest; about a minute, most of it installation)
#
# Of direct dependencies the lowest, of theirs the newest: what a user may have who upgrades nothing. torch is
# left out, being hundreds of megabytes: it is linked from .venv, where it is that of constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

place=${LOWEST:-.lowest}
python=.venv/bin/python
uv=.venv/bin/uv
version=$($python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

mkdir -p "$place"
$python - >"$place/bounds.txt" <<'PYTHON'
import tomllib
with open("pyproject.toml", "rb") as file:
    bounds = tomllib.load(file)["project"]["dependencies"]
print("\n".join(each for each in bounds if not each.startswith("torch")))
PYTHON

echo "== the lowest versions that fit together"
$uv pip compile --quiet --resolution lowest-direct --python-version "$version" "$place/bounds.txt" -o "$place/lowest.txt"
# A bound below what can be installed beside the others says nothing, and is wrong of itself.
$python scripts/check_bounds.py "$place/bounds.txt" "$place/lowest.txt"

echo "== installing them into $place"
test -x "$place/venv/bin/python" || $python -m venv --without-pip "$place/venv"
$uv pip sync --quiet --python "$place/venv/bin/python" "$place/lowest.txt"
$uv pip install --quiet --python "$place/venv/bin/python" --no-deps -e .

echo "== two nodes"
"$place/venv/bin/python" -W error::DeprecationWarning:shoal scripts/link_two.py

# What torch needs besides is found behind all that was installed here.
from=$($python -c 'import torch; from pathlib import Path; print(Path(torch.__file__).parents[1])')
echo "== data and a model"
"$place/venv/bin/python" - "$from" <<'PYTHON'
import sys

sys.path.append(sys.argv[1])
import numpy
import sklearn
import torch

from shoal.methods.tasks.digits import Digits

task = Digits(share="1/2")
x, y = task.train_data()
loss = task.loss(task.model(), (x[:32], y[:32]))
loss.backward()
print(f"numpy {numpy.__version__}, scikit-learn {sklearn.__version__}, torch {torch.__version__}: loss {loss:.2f}")
PYTHON
