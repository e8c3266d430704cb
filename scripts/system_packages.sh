#!/bin/sh
# system_packages.sh demo|tour|test|bench: installs the Debian packages that the named target uses and
# that are missing. It never fails: without a package the tests that need it are skipped by name
# (with CI=true they fail), the tour uses a Python server, and the nodes of the demo know each other's addresses.
case ${1:-test} in
    demo)  wanted="etcd:etcd-server" ;;
    tour)  wanted="nginx:nginx-light" ;;
    bench) wanted="nginx:nginx-light openssl:openssl node:nodejs wrk:wrk npm:npm h2load:nghttp2-client curl:curl" ;;
    *)     wanted="nginx:nginx-light openssl:openssl curl:curl node:nodejs npm:npm nghttpd:nghttp2-server"
           wanted="$wanted h2o:h2o haproxy:haproxy etcd:etcd-server etcdctl:etcd-client" ;;
esac

# nginx lives in /usr/sbin, which is not on everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin

missing=""
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed, and no apt-get to install them with:$missing"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "not installed (needs root):$missing    ->  sudo apt-get install$missing"
    exit 0
fi

echo "installing system packages:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 0' HUP INT TERM
export DEBIAN_FRONTEND=noninteractive
# Package scripts must not start the services that they bring: a policy of ours says so, and leaves again.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    trap 'rm -f "$log" "$policy"' EXIT
fi
apt-get update >"$log" 2>&1
# All at once, which is quicker; one at a time if that fails: a package that this release does not have costs the
# tests of that package, and not all of them.
# shellcheck disable=SC2086
apt-get install -y --no-install-recommends $missing >"$log" 2>&1 && exit 0
for package in $missing; do
    if ! apt-get install -y --no-install-recommends "$package" >"$log" 2>&1; then
        echo "apt-get could not install $package:"
        tail -n 5 "$log"
    fi
done
exit 0
