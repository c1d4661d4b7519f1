#!/usr/bin/env bash
# Everything that needs a GPU, in under 9 minutes: builds the extension with CUDA in place, runs the GPU tests of pruning,
# goes the whole way (search, transfer, prune, 2:4, channels), measures. Needs nvcc, torch, pybind11, setuptools and pytest
# of the machine's own Python; no network. What that lacks (Optuna, say) can lie in a folder named by PYTHONPATH.
#   bash benchmarks/run_gpu.sh            PYTHON=python3.12 OUT=results bash benchmarks/run_gpu.sh
# With OUT set, what it measured and printed is copied there. The exit status is that of the build, the tests and the
# whole way.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-$(command -v python3 || command -v python)}
work=$(mktemp -d) || exit 1
log=$work/run_gpu.log
exec > >(tee "$log") 2>&1

echo "chip, driver: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo 'nvidia-smi is missing')"
echo "commit: $(git describe --always --dirty 2>/dev/null || echo 'unknown (no git here)')"
echo "python: $("$python" --version), torch $("$python" -c 'import torch; print(torch.__version__)')"

keep() { # copies what there is to OUT
  if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT"
    cp benchmarks/results/prune_{kernels,upkeep}_cuda.json "$OUT" 2>/dev/null
    cp "$log" "$OUT"
  fi
  rm -rf "$work"
}
trap keep EXIT

# Code for the GPU that is here alone, if setup.py can be told so: that of seven architectures takes minutes to compile.
architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || exit 1
export LIGHTNING_AUTOARCH_CUDA=1 LIGHTNING_AUTOARCH_CUDA_ARCHITECTURES=$architecture
start=$SECONDS
"$python" setup.py -q build_ext --inplace --force || exit 1
echo "the build took $((SECONDS - start)) s"

# Pruning needs torch alone, but the package around it imports Lightning and Optuna. Where they are missing, an empty
# package of that name stands in for it, with the checkout's modules inside.
given=${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH=$PWD$given
if ! "$python" -c 'import lightning_autoarch' 2>/dev/null; then
  mkdir "$work/lightning_autoarch"
  printf '__path__ = ["%s/lightning_autoarch"]\nfrom lightning_autoarch._version import __version__\n' "$PWD" \
    >"$work/lightning_autoarch/__init__.py"
  export PYTHONPATH=$work$given
fi
"$python" -c 'from lightning_autoarch.prune._ops import build_info; print("built:", build_info())' || exit 1

start=$SECONDS
timeout 160 "$python" -m pytest -q -m gpu tests/prune
tests=$?
echo "tests took $((SECONDS - start)) s, status $tests"

start=$SECONDS
timeout 160 "$python" benchmarks/prune_kernels.py --device cuda || echo "the benchmark did not finish (status $?)"
echo "benchmark took $((SECONDS - start)) s"

# What follows runs in Lightning, and the package has to be whole.
lacks() { # what an import says that does not work; false where it works
  ! said=$("$python" -c "import $1" 2>&1) && echo "skipped, ${said##*$'\n'}"
}
start=$SECONDS
whole=0
if reason=$(lacks 'sklearn, lightning_autoarch.callbacks.transfer'); then
  echo "the whole way: $reason"
else
  timeout 120 "$python" benchmarks/whole_run.py --device cuda
  whole=$?
  echo "the whole way took $((SECONDS - start)) s, status $whole"
fi

start=$SECONDS
if reason=$(lacks 'lightning_autoarch.callbacks.prune'); then
  echo "masked training: $reason"
else
  timeout 80 "$python" benchmarks/prune_upkeep.py --device cuda || echo "masked training did not finish (status $?)"
  echo "masked training took $((SECONDS - start)) s"
fi
[ "$tests" -ne 0 ] || tests=$whole
exit "$tests"
