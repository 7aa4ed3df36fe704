#!/bin/sh
# Runs t2ilib from this folder, on a machine that has torch and a few packages, and no internet.
#
#   sh run.sh                                          measures and trains for nine minutes on the GPU
#   sh run.sh gpu --minutes 9 --out "$OUT"             any command of t2ilib
#   sh run.sh python -m pytest tests/kernels -q        any command of Python
#
# PYTHON names another interpreter. Packages that it lacks are unpacked from wheels/ into packages/.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$here:$here/packages${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
export T2I_CACHE="${T2I_CACHE:-$here/cache}"
"$PYTHON" "$here/t2ilib/packing/unpack_wheels.py" "$here/wheels" "$here/packages"
if [ $# -eq 0 ]; then
    set -- gpu --minutes 9
fi
if [ "$1" = python ]; then
    shift
    exec "$PYTHON" "$@"
fi
exec "$PYTHON" -m t2ilib "$@"
