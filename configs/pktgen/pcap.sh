#!/usr/bin/env bash
# Pktgen replays a capture file: the only way to send it options, IPv6 or VLAN tags. `pcap.sh FILE DEVICE`, such as
# `pcap.sh v6.pcap net_af_packet0,iface=eth1`; without hugepages it takes 3 GB.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: $0 FILE.pcap DEVICE" >&2; exit 2; }
file=$(realpath "$1")
commands=$(mktemp --suffix=.pkt)
trap 'rm -f "$commands"' EXIT
printf '%s\n' 'stop all' 'enable 0 pcap' 'set 0 rate 10' 'set 0 count 0' 'start 0' >"$commands"
pktgen -l 0-1 --no-huge -m 3072 --no-pci --vdev "$2" -- -P -m '1.0' -s "0:$file" -f "$commands"
