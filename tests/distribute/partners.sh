#!/bin/bash
# Installs the programs that slow tests talk to into .partners/, and writes .partners/environment to be sourced.
# Usage: tests/distribute/partners.sh [folder]. What cannot be had on a machine is told and left out.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:-$root/.partners}
mkdir -p "$out"
: > "$out/environment"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
missing=()  # what could not be had
excused=()  # the variables that stay unset

found() { printf 'export %s=%q\n' "$1" "$2" >> "$out/environment"; }

# an environment of locked packages, made again when the lock or the interpreter changes
environment() {  # name, interpreter
  local name=$1 python=$2 lock=$here/partners_lock/$1.lock stamp
  stamp=$(cat "$lock" <("$python" -VV) | sha256sum)
  if [ "$(cat "$out/$name/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "${out:?}/$name"
    "$python" -m venv "$out/$name" \
      && timeout 600 "$out/$name/bin/python" -m pip install -qq --require-hashes -r "$lock" \
      && printf '%s' "$stamp" > "$out/$name/stamp" || return 1
  fi
}

newer_python() {  # 3.13 or later, for one server; also where a version manager keeps it
  local python
  for python in python3.14 python3.13 "$HOME"/.pyenv/versions/3.1[3-9]*/bin/python3; do
    if command -v "$python" >/dev/null && "$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 13))' 2>/dev/null; then
      command -v "$python"
      return
    fi
  done
  return 1
}

python=${PYTHON:-python3}
if environment kubo "$python"; then found HEADWATER_KUBO_PYTHON "$out/kubo/bin/python"; else missing+=(kubo); excused+=(HEADWATER_KUBO_PYTHON); fi
if environment s3 "$python"; then found HEADWATER_S3_PYTHON "$out/s3/bin/python"; else missing+=(s3); excused+=(HEADWATER_S3_PYTHON); fi
if newer=$(newer_python) && environment mongo "$newer" && environment girder "$python"; then
  found HEADWATER_MONGO_PYTHON "$out/mongo/bin/python"
  found HEADWATER_GIRDER_PYTHON "$out/girder/bin/python"
else
  missing+=("girder (its database stand-in needs Python 3.13)")
  excused+=(HEADWATER_MONGO_PYTHON HEADWATER_GIRDER_PYTHON)
fi

if command -v npm >/dev/null; then
  mkdir -p "$out/importer"
  cp "$here/importer/package.json" "$here/importer/package-lock.json" "$out/importer/"
  if [ -d "$out/importer/node_modules/ipfs-unixfs-importer" ] || (cd "$out/importer" && timeout 600 npm ci --silent --ignore-scripts --no-audit --no-fund >/dev/null 2>&1); then
    found HEADWATER_IMPORTER "$out/importer"
  else
    missing+=(importer)
    excused+=(HEADWATER_IMPORTER)
  fi
  mkdir -p "$out/js-ipfs"
  [ -f "$out/js-ipfs/package.json" ] || echo '{"private": true}' > "$out/js-ipfs/package.json"
  if [ -d "$out/js-ipfs/node_modules/ipfs" ] || (cd "$out/js-ipfs" && timeout 900 npm install --silent --no-audit --no-fund --no-package-lock ipfs@0.66.1 >/dev/null 2>&1); then
    found HEADWATER_JSIPFS "$out/js-ipfs"
  else
    missing+=(js-ipfs)
    excused+=(HEADWATER_JSIPFS)
  fi
else
  missing+=(importer js-ipfs)
  excused+=(HEADWATER_IMPORTER HEADWATER_JSIPFS)
fi
found HEADWATER_PARTNERS_ABSENT "${excused[*]}"
for name in "${missing[@]}"; do echo "not available: $name"; done
exit 0
