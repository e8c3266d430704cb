#!/bin/sh
# make_venv.sh PYTHON DIRECTORY: a virtual environment, or one clear sentence about what is missing.
python=$1
directory=$2

if [ -z "$python" ]; then
    echo "dodici needs Python 3.11 or newer and found none. Install one, or name it: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
    echo "$python does not start. Name another one: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$python is Python $version; dodici needs 3.11 or newer: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
# An environment that works is kept: its packages are brought up to date by the next step.
if [ -x "$directory/bin/python" ] && "$directory/bin/python" -c 'import pip' >/dev/null 2>&1; then
    exit 0
fi
if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    echo "$python has no venv module (Debian and Ubuntu ship it apart): apt-get install python$version-venv" >&2
    exit 1
fi
echo "making $directory with Python $version"
"$python" -m venv "$directory"
