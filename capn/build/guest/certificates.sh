#!/bin/sh
# Renews the certificates that kubeadm made on this control plane, when less than a third of their life is left.
#
# Run by capn-certificates.timer once a day, and as `certificates.sh boot` before the kubelet starts; `certificates.sh now`
# renews whatever the dates are. etcd and the API server read the new files by themselves and go on running. The
# controller manager and the scheduler read theirs once: their containers are ended, and the kubelet starts them anew. No
# manifest is touched, so none can be lost. What was there before is kept until all have come back; it is put back when
# one does not, and at the next run or boot if this program or the machine died meanwhile (docs/adr/0023).
# The node's annotations capn.dev/certificates-end and -failure say how it stands. Must not: make a CA, print a secret.
set -u

CAPN_LIB="${CAPN_LIB:-/usr/local/lib/capn}"
# shellcheck source=report.sh
. "$CAPN_LIB/report.sh"

KUBERNETES="$CAPN_ROOT/etc/kubernetes"
WORK="$CAPN_STATE/certificates"
OLD="$WORK/old"
RUN="$CAPN_ROOT/run/capn-certificates"
LOG="$CAPN_ROOT/var/log/capn-certificates.log"
WAIT_S="${CAPN_WAIT_S:-900}"
PAUSE_S="${CAPN_PAUSE_S:-5}"
LEAVES="apiserver apiserver-kubelet-client apiserver-etcd-client front-proxy-client"
LEAVES="$LEAVES etcd/server etcd/peer etcd/healthcheck-client"
MODE=${1:-}
RESTARTED=
END=
DUE=
BEFORE=

note() {
    printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" >>"$LOG"
}

# wait_for COMMAND...: until it succeeds, for at most WAIT_S.
wait_for() {
    deadline=$(($(date +%s) + WAIT_S))
    until "$@" >/dev/null 2>"$RUN/wait.log"; do
        [ "$(date +%s)" -lt "$deadline" ] || return 1
        sleep "$PAUSE_S"
    done
}

# The files with certificates that kubeadm renews; the keys are beside those of pki/, and inside the others.
list_certificates() {
    for leaf in $LEAVES; do
        [ ! -e "$KUBERNETES/pki/$leaf.crt" ] || echo "pki/$leaf.crt"
    done
    for conf in admin super-admin controller-manager scheduler; do
        [ ! -e "$KUBERNETES/$conf.conf" ] || echo "$conf.conf"
    done
}

# Finds END, when the first certificate ends, and DUE, one that must be renewed. In emulation a process costs much, so few
# do it for all certificates at once.
read_dates() {
    END=
    DUE=
    now=$(date +%s)
    pems=
    confs=
    for file in $(list_certificates); do
        case "$file" in *.conf) confs="$confs $KUBERNETES/$file" ;; *) pems="$pems $KUBERNETES/$file" ;; esac
    done
    # shellcheck disable=SC2086  # lists of files without blanks
    { cat $pems && sed -n 's/^ *client-certificate-data: *"\{0,1\}\([^"]*\).*/\1/p' $confs | base64 -d; } \
        >"$RUN/all.pem" 2>/dev/null
    openssl storeutl -noout -text -certs "$RUN/all.pem" 2>/dev/null |
        sed -n -e 's/^ *Not Before: *//p' -e 's/^ *Not After *: *//p' | date -u -f - +%s >"$RUN/seconds"
    exec 3<"$RUN/seconds"
    for file in $(list_certificates); do
        { read -r start && read -r end; } <&3 || {
            END=
            fail "a certificate in /etc/kubernetes cannot be read"
        }
        if [ -z "$END" ] || [ "$end" -lt "$END" ]; then END=$end; fi
        if [ "$((end - now))" -lt "$(((end - start) / 3))" ] || [ "$start" -gt "$now" ]; then DUE=$file; fi
    done
    exec 3<&-
}

# A clock from before the CA was made is wrong, and what it would have made now would be worth nothing later.
check_clock() {
    born=$(openssl x509 -noout -startdate -in "$KUBERNETES/pki/ca.crt" | cut -d= -f2)
    [ "$(date -u -d "$born" +%s)" -le "$(date +%s)" ]
}

# enter STEP: what is to be done if this ends here. `undo`: put back what was there; `restart`: the files are all new.
enter() {
    echo "$1" >"$WORK/step.new" && sync "$WORK/step.new" && mv "$WORK/step.new" "$WORK/step" && sync "$WORK"
}

leave() {
    rm -f "$WORK/step"
    sync "$WORK"
    rm -rf "$OLD"
}

# What was written survives a loss of power. Only these files: etcd waits while a whole disk is synchronized.
keep_written() {
    find "$OLD" "$KUBERNETES/pki" "$KUBERNETES"/*.conf -exec sync {} +
}

keep_old() {
    rm -rf "$OLD"
    mkdir -p "$OLD" || return 1
    for file in $(list_certificates); do
        set -- "$@" "$file"
        case "$file" in *.crt) set -- "$@" "${file%.crt}.key" ;; esac
    done
    (cd "$KUBERNETES" && cp -p --parents "$@" "$OLD") || return 1
    keep_written && enter undo
}

# May be repeated, and needs no room on the disk: what is not in OLD any more is back. Each file is whole at any time.
put_back() {
    enter undo || return 1
    for file in $(cd "$OLD" && find . -type f); do
        mv -f "$OLD/$file" "$KUBERNETES/$file" || return 1
    done
    keep_written || return 1
    leave
    note "put back what was there before"
}

# fail TEXT: the last word; things are as before.
fail() {
    note "error: $1"
    if [ -e "$WORK/step" ]; then
        put_back || note "error: the certificates of before cannot be put back; tried again at the next run"
        END=$BEFORE
        for component in $RESTARTED; do
            restart "$component" || note "error: $component does not come back with the certificates of before either"
        done
    fi
    tell "$1"
    exit 1
}

# tell [FAILURE]: on the node, when it is another thing than last time. The kubelet's own credentials are enough for it.
tell() {
    [ "$MODE" != boot ] || return 0
    [ "$END $1" != "$(cat "$WORK/said" 2>/dev/null)" ] || return 0
    said="$END $1"
    if [ -n "$1" ]; then set -- "capn.dev/certificates-failure=$1"; else set -- capn.dev/certificates-failure-; fi
    [ -z "$END" ] || set -- "$@" "capn.dev/certificates-end=$(date -u -d "@$END" +%Y-%m-%dT%H:%M:%SZ)"
    kubectl --kubeconfig "$KUBERNETES/kubelet.conf" --request-timeout 60s annotate --overwrite node "$(uname -n)" "$@" \
        >"$RUN/tell.log" 2>&1 || return 0
    printf '%s\n' "$said" >"$WORK/said"
}

# quote LOG: its error, or its last line, without secrets.
quote() {
    { grep '^error' "$1" || cat "$1"; } | tail -n 1 | capn_redact | tr -cd '\040-\176' | cut -c1-300
}

run_kubeadm() {
    check_clock || fail "the machine's clock is wrong: it is before the cluster's CA was made"
    for ca in ca etcd/ca front-proxy-ca; do
        [ -r "$KUBERNETES/pki/$ca.key" ] || fail "the key of the CA is not there: /etc/kubernetes/pki/$ca.key"
    done
    BEFORE=$END
    keep_old || fail "cannot keep a copy of the certificates in $WORK"
    # With a configuration kubeadm needs no API server, and with an address (of those for documentation; it is not used: the
    # names are those of the old certificates) no network. The algorithm is that of capn/build/kubeadm.py.
    printf '%s\n' "apiVersion: kubeadm.k8s.io/v1beta4" "kind: InitConfiguration" \
        "localAPIEndpoint: {advertiseAddress: 192.0.2.1}" "---" \
        "apiVersion: kubeadm.k8s.io/v1beta4" "kind: ClusterConfiguration" \
        "kubernetesVersion: $(kubeadm version -o short)" "encryptionAlgorithm: ECDSA-P256" >"$RUN/kubeadm.yaml"
    kubeadm certs renew all --config "$RUN/kubeadm.yaml" >"$RUN/kubeadm.log" 2>&1 ||
        fail "kubeadm certs renew all: $(quote "$RUN/kubeadm.log")"
    read_dates
    [ -z "$DUE" ] || fail "kubeadm certs renew all left /etc/kubernetes/$DUE as it was"
    { keep_written && enter restart; } || fail "cannot write to $WORK"
}

# Whether the API server takes who comes with this kubeconfig: to others than its own it says 401.
is_accepted() {
    kubectl --kubeconfig "$KUBERNETES/$1.conf" --request-timeout 60s get --raw /livez
}

# serves ADDRESS FILE: whether what listens there has read the new certificate.
serves() {
    [ "$(timeout 30 openssl s_client -connect "$1" </dev/null 2>/dev/null | openssl x509 -noout -fingerprint)" = \
        "$(openssl x509 -noout -fingerprint -in "$KUBERNETES/pki/$2.crt")" ]
}

# By openssl too: busybox's own TLS does not get on with Go's.
is_healthy() {
    printf 'GET /healthz HTTP/1.0\r\n\r\n' | timeout 15 openssl s_client -quiet -connect "127.0.0.1:$1" 2>/dev/null |
        grep -q '^HTTP/1.0 200 '
}

# restart COMPONENT: its container ends, the kubelet starts another; until that is healthy.
restart() {
    case "$1" in kube-scheduler) default=10259 ;; *) default=10257 ;; esac
    port=$(sed -n 's/.*--secure-port=\([0-9][0-9]*\).*/\1/p' "$KUBERNETES/manifests/$1.yaml" | head -n 1)
    containers=$(crictl ps -q --label "io.kubernetes.container.name=$1" 2>>"$LOG") || return 1
    for container in $containers; do
        crictl stop --timeout 30 "$container" >>"$LOG" 2>&1 || return 1
    done
    wait_for is_healthy "${port:-$default}"
}

# The API server first, since the others need it. Each step may be repeated.
load_everywhere() {
    wait_for serves 127.0.0.1:2379 etcd/server || fail "etcd does not serve its new certificate"
    wait_for serves 127.0.0.1:6443 apiserver || fail "the API server does not serve its new certificate"
    for conf in admin controller-manager scheduler; do
        wait_for is_accepted "$conf" || fail "the API server does not accept the new certificate of $conf.conf"
    done
    for component in kube-controller-manager kube-scheduler; do
        RESTARTED="$RESTARTED $component"
        restart "$component" || fail "$component does not come back with its new certificate"
    done
    leave
    note "all certificates are renewed and in use"
}

# What an earlier run has left undone. At boot nothing runs yet that could have read the files of before.
resume() {
    step=
    [ ! -r "$WORK/step" ] || read -r step <"$WORK/step" || :
    case "$step-$MODE" in
    -*) ;;
    restart-boot) leave ;;
    restart-*) load_everywhere ;;
    *) put_back || fail "the certificates of before cannot be put back" ;;
    esac
}

main() {
    umask 077
    [ -e "$CAPN_STATE/done" ] || exit 0
    mkdir -p "$WORK" "$RUN" "${LOG%/*}"
    exec 9>"$RUN/lock"
    flock -n 9 || exit 0
    resume
    read_dates
    if [ -n "$DUE" ] || [ "$MODE" = now ]; then
        note "renewing: ${DUE:-asked for}"
        run_kubeadm
        if [ "$MODE" = boot ]; then leave; else load_everywhere; fi
    fi
    tell ""
}

main
