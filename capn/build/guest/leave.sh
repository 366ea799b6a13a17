#!/bin/sh
# Takes a control plane out of service before it is removed: another one takes the endpoint's address, then the API
# server ends in order, which also takes it out of the Service `kubernetes`.
#
# Run by capn-leave.service when the mark is there (capn/build/virtual_address.py), at each boot until it is done. Needs
# CAPN_ENDPOINT_HOST. Must not: stop anything while no other control plane has taken the address.
set -u

CAPN_ROOT="${CAPN_ROOT:-}"
DONE="$CAPN_ROOT/var/lib/etcd/capn-left"
MANIFEST="$CAPN_ROOT/etc/kubernetes/manifests/kube-apiserver.yaml"
PAUSE_S="${CAPN_PAUSE_S:-1}"
# A connection that never ends keeps an API server from ending; the machine goes all the same.
END_LIMIT="${CAPN_END_LIMIT:-45}"

holds_endpoint() {
    [ -n "$(ip -o addr show to "$CAPN_ENDPOINT_HOST")" ]
}

api_server_runs() {
    pgrep -x kube-apiserver >/dev/null
}

# keepalived sees the mark itself and gives way to the others.
while holds_endpoint; do sleep "$PAUSE_S"; done
systemctl stop keepalived
[ ! -e "$MANIFEST" ] || mv "$MANIFEST" "${MANIFEST%/manifests/*}/kube-apiserver.left"
left=$END_LIMIT
while [ "$left" -gt 0 ] && api_server_runs; do
    left=$((left - 1))
    sleep "$PAUSE_S"
done
: >"$DONE"
