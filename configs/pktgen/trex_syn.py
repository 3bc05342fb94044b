"""SYNs for TRex's stateless mode: sources varied by its field engine, to ports that are open and ports that are not.

Not run by us, for want of a NIC that TRex drives. In TRex's console:
    start -f trex_syn.py -m 1mpps -t --dst 198.18.0.1 --port 80 --ports 32
TRex sends to the MAC address of the port's configuration (/etc/trex_cfg.yaml): give it hearken's.
"""

import argparse

from trex_stl_lib.api import (
    Ether,
    IP,
    STLPktBuilder,
    STLScVmRaw,
    STLStream,
    STLTXCont,
    STLVmFixChecksumHw,
    STLVmFlowVar,
    STLVmWrFlowVar,
    TCP,
    CTRexVmInsFixHwCs,
)


class SynFlood:
    """One continuous stream."""

    def get_streams(self, direction=0, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--dst", default="198.18.0.1", help="hearken's address")
        parser.add_argument("--port", type=int, default=80, help="the first port")
        parser.add_argument("--ports", type=int, default=1, help="how many ports from there on")
        args = parser.parse_args(tunables)

        syn = (
            Ether()
            / IP(src="198.19.0.1", dst=args.dst)
            / TCP(sport=1024, dport=args.port, flags="S", window=64240, options=[("MSS", 1460)])
        )
        engine = STLScVmRaw(
            [
                STLVmFlowVar("src", min_value="198.19.0.1", max_value="198.19.255.254", size=4, op="random"),
                STLVmFlowVar("sport", min_value=1024, max_value=65535, size=2, op="random"),
                STLVmFlowVar("dport", min_value=args.port, max_value=args.port + args.ports - 1, size=2, op="inc"),
                STLVmFlowVar("seq", min_value=0, max_value=0xFFFFFFFF, size=4, op="random"),
                STLVmWrFlowVar(fv_name="src", pkt_offset="IP.src"),
                STLVmWrFlowVar(fv_name="sport", pkt_offset="TCP.sport"),
                STLVmWrFlowVar(fv_name="dport", pkt_offset="TCP.dport"),
                STLVmWrFlowVar(fv_name="seq", pkt_offset="TCP.seq"),
                STLVmFixChecksumHw(
                    l3_offset="IP", l4_offset="TCP", l4_type=CTRexVmInsFixHwCs.L4_TYPE_TCP
                ),
            ]
        )
        return [STLStream(packet=STLPktBuilder(pkt=syn, vm=engine), mode=STLTXCont())]


def register():
    """What TRex calls."""
    return SynFlood()
