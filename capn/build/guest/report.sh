#!/bin/sh
# Tells the controller how the bootstrap stands, over the serial console. The format is in capn/build/report.py.
#
# Sourced by bootstrap.sh for its functions; run as `report.sh loop` by capn-report.service, it repeats the last report
# for as long as the machine lives, since a controller that (re)starts must hear it. CAPN_ROOT and CAPN_CONSOLE exist for
# the tests, which run these programs below a directory of their own.
set -u

CAPN_ROOT="${CAPN_ROOT:-}"
CAPN_CONSOLE="${CAPN_CONSOLE:-/dev/ttyS0}"
CAPN_STATE="$CAPN_ROOT/var/lib/capn"
CAPN_INTERVAL="${CAPN_INTERVAL:-3}"
CAPN_INTERVAL_DONE="${CAPN_INTERVAL_DONE:-10}"

# Prints the last report on the console. One printf, so that the kernel's messages rarely land inside the line.
capn_emit() {
    capn_line=
    [ ! -r "$CAPN_STATE/report" ] || read -r capn_line <"$CAPN_STATE/report" || :
    [ -z "$capn_line" ] || printf '\n%s\n' "$capn_line" 2>/dev/null >>"$CAPN_CONSOLE" || :
}

# Removes what could be a secret: bootstrap tokens, values of secret flags and fields, private keys, long base64 runs.
capn_redact() {
    sed -E \
        -e '/-----BEGIN [A-Z ]*PRIVATE KEY-----/,/-----END [A-Z ]*PRIVATE KEY-----/s/.*/[redacted]/' \
        -e 's/(--(token|tls-bootstrap-token|discovery-token|certificate-key)[= ]+)[^ ]+/\1[redacted]/g' \
        -e 's/((key-data|token|password|certificateKey)"?: *)[^ ,}]+/\1[redacted]/g' \
        -e 's/[a-z0-9]{6}\.[a-z0-9]{16}/[redacted]/g' \
        -e 's/[A-Za-z0-9+\/=]{100,}/[redacted]/g'
}

# The end of a log as the inside of a JSON string: printable ASCII, at most 2900 bytes before escaping, and no half line
# at its beginning.
capn_tail() {
    capn_end=$(tail -c 20000 "$1" | tr '\t' ' ' | tr -cd '\n\040-\176' | capn_redact)
    [ "${#capn_end}" -le 2900 ] || capn_end=$(printf '%s' "$capn_end" | tail -c 2900 | sed '1{$!d}')
    [ -z "$capn_end" ] || printf '%s\n' "$capn_end" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' | awk '{ printf "%s\\n", $0 }'
}

# capn_report STATE STAGE [LOG]: makes it the last report (whole or not at all) and prints it at once.
capn_report() {
    capn_seq=0
    [ ! -r "$CAPN_STATE/seq" ] || read -r capn_seq <"$CAPN_STATE/seq" || :
    case "$capn_seq" in '' | *[!0-9]*) capn_seq=0 ;; esac
    capn_seq=$((capn_seq + 1))
    capn_text=
    [ -z "${3:-}" ] || [ ! -r "$3" ] || capn_text=$(capn_tail "$3")
    capn_json=$(printf '{"stage":"%s","state":"%s","seq":%d,"tail":"%s"}' "$2" "$1" "$capn_seq" "$capn_text")
    capn_sum=$(printf '%s' "$capn_json" | sha256sum)
    capn_body=$(printf '%s' "$capn_json" | base64 -w 0)
    printf '%s\n' "$capn_seq" >"$CAPN_STATE/seq"
    printf 'CAPN1 %.12s %s\n' "$capn_sum" "$capn_body" >"$CAPN_STATE/report.new"
    mv "$CAPN_STATE/report.new" "$CAPN_STATE/report"
    capn_emit
}

if [ "${1:-}" = loop ]; then
    while :; do
        capn_emit
        if [ -e "$CAPN_STATE/done" ]; then sleep "$CAPN_INTERVAL_DONE"; else sleep "$CAPN_INTERVAL"; fi
    done
fi
