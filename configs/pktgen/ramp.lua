-- SYNs at a rate that climbs, ten seconds a step: pktgen … -- -P -m '1.0' -f ramp.lua
-- Needs nothing of Pktgen.lua, which Pktgen looks for in its working directory only; flags.pkt has to lie there.
local port = "0"
local steps = { 1, 2, 5, 10, 20, 50, 100 } -- per cent of the link

pktgen.stop(port)
pktgen.range.dst_mac(port, "start", "02:00:00:00:00:01")
pktgen.range.ip_proto(port, "tcp")
pktgen.range.dst_ip(port, "start", "198.18.0.1")
pktgen.range.dst_ip(port, "min", "198.18.0.1")
pktgen.range.dst_ip(port, "max", "198.18.0.1")
pktgen.range.dst_ip(port, "inc", "0.0.0.0")
pktgen.range.src_ip(port, "start", "198.19.0.1")
pktgen.range.src_ip(port, "min", "198.19.0.1")
pktgen.range.src_ip(port, "max", "198.19.255.254")
pktgen.range.src_ip(port, "inc", "0.0.0.1")
pktgen.range.src_port(port, "start", 1024)
pktgen.range.src_port(port, "min", 1024)
pktgen.range.src_port(port, "max", 65535)
pktgen.range.src_port(port, "inc", 7)
pktgen.range.dst_port(port, "start", 80)
pktgen.range.dst_port(port, "min", 80)
pktgen.range.dst_port(port, "max", 80)
pktgen.range.dst_port(port, "inc", 0)
pktgen.range.pkt_size(port, "start", 64)
pktgen.range.pkt_size(port, "min", 64)
pktgen.range.pkt_size(port, "max", 64)
pktgen.range.pkt_size(port, "inc", 0)
pktgen.load("flags.pkt")
pktgen.set_range(port, "on")
pktgen.set(port, "count", 0)

for _, percent in ipairs(steps) do
    pktgen.set(port, "rate", percent)
    pktgen.start(port)
    pktgen.delay(10000)
    local rate = pktgen.portStats(port, "rate")[0]
    print(string.format("%3d %%: %d frames a second sent, %d received", percent, rate.pkts_tx, rate.pkts_rx))
end
pktgen.stop(port)
pktgen.quit()
