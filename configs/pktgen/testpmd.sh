#!/usr/bin/env bash
# Sends the frames of a capture file over and over, as fast as one core does: `testpmd.sh FILE DEVICE SECONDS`, such as
# `testpmd.sh syn.pcap net_af_packet0,iface=eth1 10`. Needs dpdk-testpmd (Debian: dpdk-dev) and root; no hugepages.
#
# net_pcap hands the file out for ever, testpmd forwards it to the device. What the device receives goes to the file's port,
# which frees it. The last lines say how many frames each port took.
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 FILE.pcap DEVICE SECONDS" >&2; exit 2; }
[ -r "$1" ] || { echo "$0: cannot read $1; write one with hearken-bench pcap --out $1" >&2; exit 2; }
command -v dpdk-testpmd >/dev/null || { echo "$0: dpdk-testpmd is not there; apt-get install dpdk-dev" >&2; exit 2; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{
    # It forwards once it has said so; the seconds count from there.
    for _ in $(seq 300); do
        grep -q 'packets/burst=' "$log" && break
        sleep 0.1
    done
    sleep "$3"
    echo stop
    echo quit
} | stdbuf -oL dpdk-testpmd -l 0,1 --no-huge --no-shconf -m 256 --file-prefix "flood-$$" --no-pci --no-telemetry \
    --vdev "net_pcap0,rx_pcap=$(realpath "$1"),infinite_rx=1" --vdev "$2" \
    -- -i --auto-start --forward-mode=io --port-topology=paired --total-num-mbufs=16384 --burst=32 >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    exit 1
}
sed -n '/Forward statistics for port/p; /[RT]X-packets:/p' "$log"
