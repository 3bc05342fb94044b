//! The one list of reasons for which a frame gets no answer: a name, and a sentence for people. The names are the
//! kernel's drop-reason words where it has one (`include/net/dropreason-core.h`, Linux v6.18). They are the same in
//! the CLI, in JSON, in metrics and in this source; every reason has a counter per core.

macro_rules! drop_reasons {
    ($($variant:ident = $name:literal: $sentence:literal,)*) => {
        /// Why a frame got no answer; as a number it is the index of its counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum DropReason {
            $(#[doc = $sentence] $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name that the CLI, JSON and metrics show.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

drop_reasons! {
    // The link.
    EtherTooShort = "ether_too_short": "The frame ends inside its Ethernet or VLAN header.",
    EtherOtherHost = "otherhost": "The destination MAC address is another host's.",
    EtherType = "unhandled_proto": "The EtherType is none that hearken speaks.",
    VlanNested = "vlan_nested": "Three VLAN tags or more, or two of which the inner one is a service tag.",
    VlanTpid = "vlan_tpid": "The device took the outer of two tags out of the frame and did not say of which kind it was (802.1Q or 802.1ad).",
    VlanReserved = "vlan_reserved": "The VLAN identifier is 0xfff, which IEEE 802.1Q reserves.",
    MultiSegment = "multi_segment": "The frame is spread over several buffers (jumbo or coalesced), which hearken does not take.",
    ArpMalformed = "arp_malformed": "The ARP packet is truncated or not Ethernet/IPv4.",
    ArpNotForUs = "arp_not_for_us": "An ARP request for an address that is not ours, or from one that cannot be answered, or a reply.",
    NdpMalformed = "ndp_malformed": "The neighbour discovery message is malformed (RFC 4861 section 7.1).",
    NdpNotForUs = "ndp_not_for_us": "A neighbour discovery message that asks nothing of us.",
    // The network layer.
    IpTruncated = "pkt_too_small": "The packet ends inside its IP header, or before its total length.",
    IpHeader = "ip_inhdr": "The IP version, header length or total length is wrong.",
    IpCsum = "ip_csum": "The IPv4 header checksum is wrong.",
    IpFragment = "ip_fragment": "An IP fragment; hearken does not reassemble.",
    IpOptions = "ip_options": "An IPv4 option that asks for source routing or is labelled by CIPSO, or malformed options.",
    IpNotLocal = "ip_not_local": "The destination address is none of ours.",
    IpNotUnicast = "ip_not_unicast": "TCP to a broadcast or multicast address, or from one.",
    IpMartianSource = "ip_martian_source": "The source address cannot be answered (unspecified, loopback, mapped or our own).",
    IpProto = "ip_noproto": "The IP protocol is none that hearken speaks.",
    Ipv6Ext = "ipv6_bad_exthdr": "An IPv6 extension header that is malformed or not understood.",
    IcmpMalformed = "icmp_malformed": "The ICMP message is truncated.",
    IcmpCsum = "icmp_csum": "The ICMP checksum is wrong.",
    IcmpType = "icmp_type": "An ICMP message other than an echo request to us, or an error about a segment of ours.",
    IcmpNoSocket = "icmp_no_socket": "An ICMP error about a segment of no handshake or connection that this core knows.",
    IcmpOutOfWindow = "icmp_out_of_window": "An ICMP error that quotes a number which is not out (OutOfWindowIcmps).",
    // TCP, without a connection.
    TcpTruncated = "tcp_too_small": "The segment ends inside its TCP header or options.",
    TcpHeader = "tcp_header": "The TCP data offset is below 5.",
    TcpCsum = "tcp_csum": "The TCP checksum is wrong.",
    TcpMd5 = "tcp_md5unexpected": "The segment carries an MD5 signature (RFC 2385), for which there is no key.",
    TcpAuthHdr = "tcp_auth_hdr": "The list of TCP options breaks where an MD5 signature would still find room.",
    NoSocketRst = "no_socket_rst": "A RST, or a SYN with RST, that belongs to no connection: never answered.",
    RstLimit = "rst_limit": "A RST was due, and the limit for RSTs was reached.",
    // TCP at a listener.
    ListenFlags = "tcp_flags": "At a listener: no SYN, ACK or RST, or a SYN with FIN.",
    ListenRst = "listen_rst": "A RST at a listener: never answered.",
    ListenOverflow = "listen_overflow": "The accept queue is full (ListenOverflows).",
    ReqQFull = "tcp_reqqfull": "The listener's SYN queue is full and cookies are off (TCPReqQFullDrop).",
    SynBacklogReserve = "syn_backlog_reserve": "The last quarter of tcp_max_syn_backlog is kept for known peers and cookies are off.",
    RequestTableFull = "request_table_full": "This core has no free request entry.",
    KernelFlow = "kernel_flow": "At a listener whose connections are the kernel's: not a SYN, so the kernel answers it.",
    Draining = "draining": "A new SYN at a listener while the server drains: it takes none any more.",
    ConnTableFull = "conn_table_full": "This core has no free connection entry.",
    // TCP at a request.
    ReqDuplicateSyn = "req_duplicate_syn": "A repeated SYN within tcp_invalid_ratelimit (TCPACKSkippedSynRecv).",
    ReqOutOfWindow = "req_out_of_window": "Outside the window of the handshake, answer rate-limited or a RST.",
    ReqRst = "req_rst": "A RST or SYN that ended a half-open handshake (EmbryonicRsts).",
    ReqNoAck = "req_no_ack": "In a handshake: neither ACK nor anything else that moves it on.",
    ReqDeferred = "req_deferred": "A bare ACK while TCP_DEFER_ACCEPT waits for data (TCPDeferAcceptDrop).",
    AcceptOverflow = "accept_overflow": "A final ACK met a full accept queue (ListenOverflows).",
    ListenerGone = "listener_gone": "The listener of a half-open handshake was closed meanwhile.",
    // TCP on a connection.
    TcpOldData = "tcp_old_data": "Only data that was received before, answer rate-limited.",
    TcpOutOfWindow = "tcp_invalid_sequence": "The sequence number is outside the receive window, answer rate-limited or a RST.",
    TcpPaws = "tcp_rfc7323_paws": "The timestamp is older than the last one seen (PAWS), answer rate-limited or a RST.",
    TcpInvalidAck = "tcp_invalid_ack": "The acknowledgement is for something never sent, or too old, answer rate-limited.",
    TcpNoAck = "tcp_no_ack": "A segment of a connection without the ACK bit.",
    TcpChallengeLimit = "tcp_challenge_limit": "A challenge ACK was due (RFC 5961), and its limit was reached.",
    TcpReset = "tcp_reset": "A RST that ended a connection.",
    TcpClosed = "tcp_close": "A segment for a connection that is closed already.",
    TcpAborted = "tcp_abort_on_data": "Data after close: the connection was reset earlier.",
    // Our own side.
    NoBuffer = "nobuffer": "No free buffer for an answer.",
    TxFull = "tx_full": "The device's transmit queue had no room for the answer.",
    TxRejected = "tx_rejected": "The device's driver rejected the answer (rte_eth_tx_prepare): it cannot do the checksums of this one.",
    HandoffFull = "handoff_full": "Another worker may know the connection, and the ring to it is full.",
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_numbers_dense() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(reason.sentence().ends_with('.'), "{}", reason.name());
        }
    }
}
