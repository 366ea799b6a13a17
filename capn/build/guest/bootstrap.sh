#!/bin/sh
# Makes this machine a node: waits for network and containerd, runs kubeadm, reports each stage over the console.
#
# Run by capn-bootstrap.service: at first boot, and at each later one, where it ends at once if the machine is done.
# Every step may be repeated. Needs (environment): CAPN_MODE init | join-control-plane | join-worker, CAPN_ENDPOINT_HOST
# and CAPN_ENDPOINT_PORT; CAPN_HOLDS_ENDPOINT where the control planes hold that address among themselves; a kubeadm
# configuration in /etc/capn/kubeadm.yaml. With CAPN_RESTORE (mode init) etcd begins with a snapshot that the controller
# brings: CAPN_NODE_NAME and CAPN_ADVERTISE_ADDRESS (empty: the machine's own) are its member's. Must not: print a secret.
set -u

CAPN_LIB="${CAPN_LIB:-/usr/local/lib/capn}"
# shellcheck source=report.sh
. "$CAPN_LIB/report.sh"

CONFIG="$CAPN_ROOT/etc/capn/kubeadm.yaml"
RUN="$CAPN_ROOT/run/capn"
LOG="$CAPN_ROOT/var/log/capn-bootstrap.log"
ATTEMPT_LOG="$RUN/attempt.log"
PODS="$CAPN_ROOT/var/log/pods"
WAIT_S="${CAPN_WAIT_S:-300}"
PAUSE_S="${CAPN_PAUSE_S:-5}"
SNAPSHOT="$CAPN_STATE/snapshot.db"
ETCD_DATA="$CAPN_ROOT/var/lib/etcd"
ATTEMPTS=3
STAGE="cloud-init"
ENDED=

# What a first attempt leaves behind; kubeadm's phases take it over, only its preflight checks object.
RERUN_IGNORE=DirAvailable--etc-kubernetes-manifests,DirAvailable--var-lib-etcd,Port-6443,Port-10250,Port-10257,Port-10259
RERUN_IGNORE=$RERUN_IGNORE,Port-2379,Port-2380,Port-${CAPN_ENDPOINT_PORT:-6443},FileAvailable--etc-kubernetes-kubelet.conf
RERUN_IGNORE=$RERUN_IGNORE,FileAvailable--etc-kubernetes-bootstrap-kubelet.conf,FileAvailable--etc-kubernetes-pki-ca.crt
# It got on with the runtime; one that is too busy for an answer now is no reason to give up.
RERUN_IGNORE=$RERUN_IGNORE,CRI,ContainerRuntimeVersion
for component in kube-apiserver kube-controller-manager kube-scheduler etcd; do
    RERUN_IGNORE=$RERUN_IGNORE,FileAvailable--etc-kubernetes-manifests-$component.yaml
done

NETWORK_TROUBLE='connection refused|connection reset|i/o timeout|no route to host|network is unreachable|handshake timeout'
NETWORK_TROUBLE=$NETWORK_TROUBLE'|deadline exceeded|Client.Timeout|unexpected EOF|etcdserver: |server is currently unable'
NETWORK_TROUBLE=$NETWORK_TROUBLE'|temporary failure|too many requests|timed out waiting'
# A component that says this will say it again at each start.
FLAG_TROUBLE='unknown (shorthand )?flag|invalid argument .* for .*flag|flag provided but not defined|failed to parse kubelet flag'
FLAG_TROUBLE=$FLAG_TROUBLE'|"command failed" err=.*(is not a valid|is a required flag|must be (one of|set|specified|greater))'

note() {
    printf '%s\n' "$1" >>"$LOG"
}

# enter STAGE: a stage that goes on already is not reported again.
enter() {
    [ "$STAGE" != "$1" ] || [ -n "${2:-}" ] || return 0
    STAGE=$1
    note "== $STAGE"
    capn_report running "$STAGE"
}

# fail [LOG]: the last word, with the end of the log.
fail() {
    ENDED=1
    capn_report failed "$STAGE" "${1:-$LOG}"
    exit 1
}

on_exit() {
    status=$?
    rm -f "$RUN/kubeadm.pipe"
    [ -n "$ENDED" ] || {
        note "error: the bootstrap program ended unexpectedly with status $status"
        capn_report failed "$STAGE" "$LOG"
    }
}

# A machine that shuts down in mid-bootstrap has not failed: it goes on at the next boot.
on_stop() {
    ENDED=1
    exit 143
}

check_files() {
    enter "cloud-init" again
    case "${CAPN_MODE:-}" in
    init | join-control-plane | join-worker) ;;
    *)
        note "error: CAPN_MODE is '${CAPN_MODE:-}'; must be init, join-control-plane or join-worker"
        fail
        ;;
    esac
    [ -r "$CONFIG" ] || {
        note "error: cloud-init did not write $CONFIG"
        [ ! -r "$CAPN_ROOT/var/log/cloud-init.log" ] ||
            grep -E 'ERROR|CRITICAL|Traceback' "$CAPN_ROOT/var/log/cloud-init.log" | tail -n 10 >>"$LOG"
        fail
    }
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    left=$1
    shift
    until "$@" >/dev/null 2>"$RUN/wait.log"; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 2))
        sleep 2
    done
}

has_address() {
    [ -n "$(ip -o addr show scope global up)" ]
}

has_endpoint() {
    [ -n "$(ip -o addr show to "$CAPN_ENDPOINT_HOST")" ]
}

reach_endpoint() {
    # shellcheck disable=SC2016  # the inner shell expands its own arguments
    timeout 5 bash -c ': <"/dev/tcp/$0/$1"' "$CAPN_ENDPOINT_HOST" "$CAPN_ENDPOINT_PORT"
}

wait_network() {
    enter network
    wait_for "$WAIT_S" has_address || {
        note "error: no network: no interface got an address (DHCP) within $WAIT_S s"
        fail
    }
    if [ "$CAPN_MODE" = init ]; then
        [ -n "${CAPN_HOLDS_ENDPOINT:-}" ] || return 0
        wait_for "$WAIT_S" has_endpoint && return 0
        note "error: no network: this machine did not get the cluster's address $CAPN_ENDPOINT_HOST within $WAIT_S s"
        journalctl -u keepalived -n 20 -o cat --no-pager >>"$LOG" 2>&1 || :
        fail
    fi
    wait_for "$WAIT_S" reach_endpoint || {
        note "error: no network: cannot connect to the API server at $CAPN_ENDPOINT_HOST:$CAPN_ENDPOINT_PORT"
        fail
    }
}

wait_runtime() {
    enter runtime
    systemctl start containerd >>"$LOG" 2>&1 || :
    wait_for "$WAIT_S" ctr version || {
        note "error: containerd does not answer after $WAIT_S s"
        cat "$RUN/wait.log" >>"$LOG"
        journalctl -u containerd -n 20 -o cat --no-pager >>"$LOG" 2>&1 || :
        fail
    }
}

# The address that kubeadm gives etcd's member: the one it is told, else that of the interface with the default route.
own_address() {
    if [ -n "${CAPN_ADVERTISE_ADDRESS:-}" ]; then
        printf '%s\n' "$CAPN_ADVERTISE_ADDRESS"
    else
        ip -o route get 192.0.2.1 | sed -n 's/.* src \([^ ]*\).*/\1/p'
    fi
}

# Waits on the API server's port until the controller has brought the snapshot. No API server before that: an empty one
# would have the kubelets of nodes that live end all their pods.
receive_snapshot() {
    [ ! -e "$SNAPSHOT" ] || return 0
    enter restore/waiting
    python3 "$CAPN_LIB/receive.py" --port "${CAPN_RECEIVE_PORT:-6443}" --target "$SNAPSHOT" \
        --ca "$CAPN_ROOT/etc/kubernetes/pki/ca.crt" --certificate "$CAPN_ROOT/etc/capn/receive.crt" \
        --key "$CAPN_ROOT/etc/capn/receive.key" >>"$LOG" 2>&1 || fail
}

# Makes etcd's data of the snapshot, whole or not at all. Revisions go on far above what anybody has seen, and those of
# before count as compacted, so that whoever still watches an older one begins anew.
restore_etcd() {
    if [ -z "${CAPN_RESTORE:-}" ] || [ -e "$CAPN_STATE/restored" ]; then return 0; fi
    if [ ! -d "$ETCD_DATA/member" ]; then
        receive_snapshot
        enter restore/etcd
        address=$(own_address)
        case "$address" in *:*) address="[$address]" ;; esac
        rm -rf "$ETCD_DATA.new"
        etcdutl snapshot restore "$SNAPSHOT" --data-dir "$ETCD_DATA.new" --name "$CAPN_NODE_NAME" \
            --initial-cluster "$CAPN_NODE_NAME=https://$address:2380" \
            --initial-advertise-peer-urls "https://$address:2380" \
            --bump-revision 1000000000 --mark-compacted >>"$LOG" 2>&1 || fail
        rm -rf "$ETCD_DATA"
        mv "$ETCD_DATA.new" "$ETCD_DATA" || fail
        sync
    fi
    : >"$CAPN_STATE/restored"
    rm -f "$SNAPSHOT"
}

# Whether kubeadm has configured the kubelet but it does not run. Reads files only: a process costs much in emulation.
kubelet_is_down() {
    [ -e "$CAPN_ROOT/var/lib/kubelet/kubeadm-flags.env" ] || return 1
    ! read -r _ 2>/dev/null <"$CAPN_ROOT/sys/fs/cgroup/system.slice/kubelet.service/cgroup.procs"
}

# crashed_component: prints why, if a static pod or the kubelet can never come up. Reads the log files that kubelet keeps
# of each start (0.log, 1.log, ...), so it costs no call to the runtime. A few early restarts are normal on a slow machine.
crashed_component() {
    set -- "$PODS"/kube-system_*/*/*.log
    if [ ! -e "$1" ]; then
        kubelet_is_down || return 1
        kubelet_log=$(journalctl -u kubelet -n 8 -o cat --no-pager 2>/dev/null)
        printf '%s\n' "$kubelet_log" | grep -qE "$FLAG_TROUBLE" || return 1
        printf 'error: the kubelet does not start; the end of its log:\n%s\n' "$kubelet_log"
        return 0
    fi
    crash_log=$(grep -lE "$FLAG_TROUBLE" "$@" 2>/dev/null | head -n 1)
    if [ -z "$crash_log" ]; then
        set -- "$PODS"/kube-system_*/*/4.log
        [ -e "$1" ] || return 1
        crash_log=$1
    fi
    crash_name=${crash_log%/*}
    printf 'error: %s does not start; the end of its log:\n' "${crash_name##*/}"
    tail -n 12 "$crash_log"
    grep -E "$FLAG_TROUBLE" "$crash_log" | tail -n 3
}

# Ends a kubeadm that would wait for 15 minutes for a component which cannot start.
watch_components() {
    while sleep "$PAUSE_S" && kill -0 "$1" 2>/dev/null; do
        if crashed_component >"$RUN/crash.new"; then
            mv "$RUN/crash.new" "$RUN/crash"
            kill "$1" 2>/dev/null
            return 0
        fi
    done
}

# Follows kubeadm's output: `[phase] text` is the stage; but for patches, which several phases apply on their way.
follow() {
    while IFS= read -r line || [ -n "$line" ]; do
        printf '%s\n' "$line" >>"$ATTEMPT_LOG"
        case "$line" in
        '['[a-z]*'] '*)
            phase=${line%%]*}
            phase=${phase#[}
            case "$phase" in *[!a-z0-9-]* | patches) ;; *) enter "kubeadm/$phase" ;; esac
            ;;
        esac
    done
}

# run_kubeadm: one attempt; its output is in ATTEMPT_LOG.
run_kubeadm() {
    rm -f "$RUN/kubeadm.pipe" "$RUN/crash"
    : >"$ATTEMPT_LOG"
    mkfifo -m 0600 "$RUN/kubeadm.pipe"
    set -- "${CAPN_MODE%%-*}" --config "$CONFIG"
    ignored=
    [ ! -e "$CAPN_STATE/restored" ] || ignored=DirAvailable--var-lib-etcd
    [ ! -e "$CAPN_STATE/attempted" ] || ignored=$RERUN_IGNORE
    [ -z "$ignored" ] || set -- "$@" "--ignore-preflight-errors=$ignored"
    : >"$CAPN_STATE/attempted"
    kubeadm "$@" >"$RUN/kubeadm.pipe" 2>&1 </dev/null &
    kubeadm_pid=$!
    watch_components "$kubeadm_pid" &
    watch_pid=$!
    follow <"$RUN/kubeadm.pipe"
    status=0
    wait "$kubeadm_pid" || status=$?
    kill "$watch_pid" 2>/dev/null
    wait "$watch_pid" 2>/dev/null
    [ ! -s "$RUN/crash" ] || cat "$RUN/crash" >>"$ATTEMPT_LOG"
    capn_redact <"$ATTEMPT_LOG" >>"$LOG"
    return "$status"
}

# Whether another attempt can help: not for a wrong configuration, only for trouble with the network or a slow API.
may_retry() {
    [ ! -s "$RUN/crash" ] || return 1
    if [ "$CAPN_MODE" = init ]; then
        case "$STAGE" in
        kubeadm/upload-* | kubeadm/mark-* | kubeadm/bootstrap-token | kubeadm/kubelet-finalize | kubeadm/addons) ;;
        *) return 1 ;;
        esac
    fi
    tail -n 30 "$ATTEMPT_LOG" | grep -qE "$NETWORK_TROUBLE"
}

# A worker that has its own certificate has joined; only kubeadm's last word was lost (a reboot).
has_joined() {
    [ "$CAPN_MODE" = join-worker ] &&
        [ -e "$CAPN_ROOT/etc/kubernetes/kubelet.conf" ] &&
        [ -e "$CAPN_ROOT/var/lib/kubelet/pki/kubelet-client-current.pem" ]
}

bootstrap_node() {
    has_joined && return 0
    enter kubeadm/preflight
    attempt=1
    until run_kubeadm; do
        has_joined && return 0
        if [ "$attempt" -ge "$ATTEMPTS" ] || ! may_retry; then fail "$ATTEMPT_LOG"; fi
        attempt=$((attempt + 1))
        note "attempt $attempt of $ATTEMPTS follows"
        capn_report running "$STAGE" "$ATTEMPT_LOG"
        sleep "$PAUSE_S"
    done
}

# Secrets that a finished node has no use for: the configuration holds the token, cloud-init's copies hold that and the
# CAs' keys. With them gone cloud-init must not look for its data again.
remove_secrets() {
    rm -f "$CONFIG" "$ATTEMPT_LOG" "$CAPN_ROOT/etc/capn/receive.key"
    for cloud in "$CAPN_ROOT"/var/lib/cloud/instance "$CAPN_ROOT"/var/lib/cloud/instances/*; do
        rm -f "$cloud"/user-data.txt* "$cloud"/cloud-config.txt "$cloud"/obj.pkl "$cloud"/scripts/runcmd
    done
    rm -f "$CAPN_ROOT"/run/cloud-init/instance-data-sensitive.json "$CAPN_ROOT"/run/cloud-init/combined-cloud-config.json
    mkdir -p "$CAPN_ROOT/etc/cloud"
    : >"$CAPN_ROOT/etc/cloud/cloud-init.disabled"
}

main() {
    umask 077
    mkdir -p "$CAPN_STATE" "$RUN" "${LOG%/*}"
    trap on_exit EXIT
    trap on_stop TERM INT HUP
    if [ ! -e "$CAPN_STATE/done" ]; then
        check_files
        wait_network
        restore_etcd
        wait_runtime
        bootstrap_node
        : >"$CAPN_STATE/done"
    fi
    remove_secrets
    STAGE="done"
    ENDED=1
    capn_report succeeded "done"
}

main
