#!/usr/bin/env bash
# Everything that wants a GPU, in under 8 minutes: builds the kernels, tests, times and sanitises them.
#
#     bash benchmarks/gpu_check.sh OUT     # from the repository's root; needs PyTorch and nvcc, no network
#
# OUT gets summary.txt, a log of each stage and sampler-cuda.json. A stage that fails is recorded and the next
# one runs; the exit status tells whether all passed. PYTHON names the interpreter (default: python3).
set -uo pipefail
if [[ $# != 1 || ! -f setup.py ]]; then
  echo "usage: bash benchmarks/gpu_check.sh OUT, from the repository's root" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
python=${PYTHON:-python3}
deadline=470 failed=0
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} MAX_JOBS=${MAX_JOBS:-$(nproc)}
: >"$out/summary.txt"
say() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

# stage NAME SECONDS COMMAND...: its output goes to OUT/NAME.log, its end into the summary.
stage() {
  local name=$1 limit=$2 left=$((deadline - SECONDS)) start=$SECONDS status
  shift 2
  ((limit > left)) && limit=$((left > 1 ? left : 1))
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
  status=$?
  if [[ $status == 0 ]]; then
    say "$name: passed, $((SECONDS - start)) s: $(tail -n 1 "$out/$name.log" | cut -c 1-200)"
  else
    failed=1
    [[ $status == 124 || $status == 137 ]] && status="$status, stopped after $limit s"
    say "$name: FAILED (status $status), $((SECONDS - start)) s: $(tail -n 1 "$out/$name.log" | cut -c 1-200)"
  fi
}

# compute-sanitizer of the toolkit that the build uses, of one on PATH, or of a wheel.
find_sanitizer() {
  "$python" - <<'EOF'
import os, shutil, sys
from pathlib import Path

import torch

sys.path.insert(0, "build_support")
from cuda_toolkit import find_toolkit, wheel_folders

toolkit, _ = find_toolkit(torch.version.cuda or "", os.environ)
roots = ([toolkit.root] if toolkit else []) + [root for folder in wheel_folders() for root in folder.glob("*")]
places = [root / part for root in roots for part in ("bin", "compute-sanitizer")]
found = shutil.which("compute-sanitizer", path=os.pathsep.join([*map(str, places), os.environ.get("PATH", "")]))
print(found or "")
EOF
}

# The GPU's own architecture alone: less to compile.
architecture=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null)
[[ -n $architecture ]] && export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$architecture}

stage gpu 60 "$python" -c 'import torch; print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)'
STN_EXT_CUDA=1 stage build 200 "$python" setup.py build_ext --inplace
stage first 60 "$python" benchmarks/gpu_first.py --device cuda
operators=(tests/test_functional.py tests/test_autograd.py tests/test_properties.py tests/test_determinism.py)
operators+=(tests/test_errors.py tests/csrc/test_cuda_operators.py tests/test_warps.py tests/test_calculus.py)
operators+=(tests/test_labels.py tests/test_fill.py tests/test_extremes.py)
stage tests 200 "$python" -m pytest -q -p no:cacheprovider --device cuda "${operators[@]}"
passes=(--pass forward --pass forward+backward --pass forward+theta)
stage sampler 180 "$python" benchmarks/sampler.py --device cuda --seconds 0.7 "${passes[@]}" \
  --json "$out/sampler-cuda.json"

# Small cases of every kernel: both layouts, each padding and two dtypes, maps without an inverse, every kind of
# warp, nearest and shared images.
small=("$python" -m pytest -q -p no:cacheprovider --device cuda tests/csrc/test_cuda_operators.py tests/test_autograd.py)
small+=(tests/test_warps.py)
small+=(-k "half_images or many_channels or (references and one) or test_float32 or test_index or test_nearest")
sanitizer=$(find_sanitizer)
for tool in memcheck racecheck; do
  if [[ -n $sanitizer ]]; then
    # Each tensor in an allocation of its own, so that what lies beyond it is not PyTorch's to read.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage "$tool" 100 \
      "$sanitizer" --tool "$tool" --error-exitcode 1 "${small[@]}"
  else
    failed=1
    say "$tool: MISSING: no compute-sanitizer beside nvcc, on PATH or among the wheels"
  fi
done
say "all: $([[ $failed == 0 ]] && echo passed || echo FAILED), $SECONDS s"
exit "$failed"
