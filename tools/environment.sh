# Sourced by quickstart.sh and run_tests.sh: makes or reuses the virtual environment and activates it.
# U2SEG_VENV names another place than .venv; PYTHON another interpreter.

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python python3.13 python3.12 python3.11 python3.10; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo "$candidate"; return; }
  done
  echo "no Python 3.10 or newer found; install one, or name it: PYTHON=/path/to/python bash $0" >&2
  return 1
}

say() { printf '== %s\n' "$*" >&2; }

quiet_pip() { python -m pip --disable-pip-version-check --no-input "$@"; }

# ensure_environment EXTRAS: everything that the project needs, with these extras of setup.py. Does nothing the second time.
ensure_environment() {
  local extras="$1" root venv stamp wanted python
  root=$(pwd)
  venv="${U2SEG_VENV:-$root/.venv}"
  if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python) || return 1
    say "making $venv with $python"
    "$python" -m venv "$venv" || return 1
  fi
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
  stamp="$venv/u2seg-$(printf '%s' "$extras" | tr -c 'a-z0-9\n' '-').stamp"
  wanted=$(cat setup.py tools/requirements/*.txt tools/environment.sh | python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted $root" ] && return 0
  install_all "$extras" || return 1
  printf '%s' "$wanted $root" > "$stamp"
}

install_all() {
  local extras="$1" site
  say "installing torch and what setup.py asks for with [$extras] (several GB the first time)"
  if python -c 'import torch, torchvision' 2>/dev/null; then
    quiet_pip install -q 'setuptools<81' -e ".[$extras]" || return 1
  else
    quiet_pip install -q -r tools/requirements/torch.txt -e ".[$extras]" || return 1
  fi
  python -c 'import panopticapi' 2>/dev/null || {
    say "installing panopticapi"
    quiet_pip install -q --no-deps --require-hashes -r tools/requirements/panopticapi.txt || return 1
  }
  if python -c 'import detectron2' 2>/dev/null; then
    say "keeping the Detectron2 that is there"
  else
    say "installing Detectron2"
    site=$(python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    # The wheel is tagged for CPython 3.10 and works on later ones; --target is the way past the tag.
    quiet_pip install -q --no-deps --require-hashes --only-binary=:all: --python-version 3.10 --implementation cp \
      --abi none --platform any --upgrade --target "$site" -r tools/requirements/detectron2.txt || return 1
  fi
  python -c 'import pydensecrf' 2>/dev/null || install_crf
}

# DenseCRF needs a C++ compiler; everything but that one refiner works without.
install_crf() {
  if command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1; then
    say "building DenseCRF"
    quiet_pip install -q --require-hashes -r tools/requirements/crf.txt && return 0
  fi
  say "DenseCRF was not built (no C++ compiler, or it failed); the refiner 'bilateral' needs none"
}
