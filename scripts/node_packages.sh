#!/bin/sh
# Installs the npm packages that tests/peers/package.json names, once. It never fails: without them the tests
# that need them are skipped by name (with CI=true they fail).
folder=$(dirname "$0")/../tests/peers
[ "$folder/node_modules/.package-lock.json" -nt "$folder/package.json" ] && exit 0

if ! command -v npm >/dev/null 2>&1; then
    echo "npm is not installed: the tests against Node's gRPC are skipped"
    exit 0
fi
echo "installing npm packages for the tests"
npm install --prefix "$folder" --no-audit --no-fund --no-package-lock --silent || echo "npm could not install them"
exit 0
