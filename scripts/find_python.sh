#!/bin/sh
# Prints a Python that is 3.11 or newer and really starts: a version manager's shim may be on the
# PATH and stand for nothing. One that can make an environment is preferred to one that cannot.
fallback=""
for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
    found=$(command -v "$name" 2>/dev/null) || continue
    "$found" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    if "$found" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        echo "$found"
        exit 0
    fi
    fallback=${fallback:-$found}
done
echo "$fallback"
