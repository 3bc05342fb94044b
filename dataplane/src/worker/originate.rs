//! Frames that no frame asked for: retransmissions, FINs and RSTs of the control side, announcements. They are built in
//! fresh buffers and wait here until the device takes them.

use listener::segment::Originated;

use crate::burst::BURST_DEFAULT;
use crate::io::{Capabilities, Frame, PacketIo, TxOffload};
use crate::local::{LocalTable, unpack_route};
use crate::stage::neighbour::advertisement_packet;
use crate::stage::reply::write_segment;
use crate::stats::CoreStats;
use crate::wire::arp::{self, ArpPacket};
use crate::wire::ether::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EtherHeader, MacAddr};
use crate::wire::ndp::{self, Advertisement};
use crate::wire::vlan::{self, Tags};

/// Frames that may wait.
const OUTBOX_MAX: usize = BURST_DEFAULT;

/// Frames of one port that wait for the device.
pub(super) struct Outbox<I: PacketIo> {
    frames: [Option<I::Frame>; OUTBOX_MAX],
    lens: [usize; OUTBOX_MAX],
    waiting: usize,
    /// This queue is the one of its device that announces addresses.
    announcer: bool,
    /// The next address to announce; `None` once all are, or if another queue does it.
    announce: Option<usize>,
}

impl<I: PacketIo> Outbox<I> {
    pub(super) fn new(announce: bool) -> Self {
        Self {
            frames: [const { None }; OUTBOX_MAX],
            lens: [0; OUTBOX_MAX],
            waiting: 0,
            announcer: announce,
            announce: announce.then_some(0),
        }
    }

    /// Builds a segment; false if there is no room or no buffer.
    pub(super) fn push(
        &mut self,
        io: &mut I,
        local: &LocalTable,
        capabilities: Capabilities,
        originated: &Originated,
    ) -> bool {
        let Originated { flow, route, segment, .. } = originated;
        let (dst, tags) = unpack_route(*route);
        let ethertype = if flow.is_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let l2 = LinkHeader { dst, src: local.mac(), tags, ethertype };
        self.put(io, |frame| {
            let Ok(offload) = write_segment(frame, l2.len() as u8, flow, segment, capabilities) else {
                return false;
            };
            l2.write(frame);
            frame.set_tx_offload(offload);
            true
        })
    }

    /// Announces addresses as far as there is room: ARP requests for oneself (RFC 5227 §2.3), and advertisements that
    /// nobody solicited (RFC 4861 §7.2.6). What could not be built now follows at the next tick.
    pub(super) fn announce(&mut self, io: &mut I, local: &LocalTable) {
        while let Some(next) = self.announce {
            let v4 = local.v4().get(next).copied();
            let v6 = next.checked_sub(local.v4().len()).and_then(|next| local.v6().get(next));
            let built = match (v4, v6) {
                (Some(addr), _) => self.put(io, |frame| gratuitous_arp(frame, local.mac(), addr)),
                (None, Some(&(addr, _))) => self.put(io, |frame| {
                    let told = Advertisement {
                        target: addr,
                        mac: local.mac(),
                        dst: ndp::ALL_NODES,
                        solicited: false,
                    };
                    let dst = MacAddr::ipv6_group(ndp::ALL_NODES.lo() as u32);
                    let l2 =
                        LinkHeader { dst, src: local.mac(), tags: Tags::NONE, ethertype: ETHERTYPE_IPV6 };
                    l2.write_with(frame, &advertisement_packet(&told))
                }),
                (None, None) => {
                    self.announce = None;
                    return;
                }
            };
            if !built {
                return;
            }
            self.announce = Some(next + 1);
        }
    }

    /// The link is down: forgets what waits, as a kernel does, for what is worth it is sent again; and has addresses announced
    /// once it is up, for switches may have forgotten them. Returns how many frames were given up.
    #[inline]
    pub(super) fn give_up(&mut self) -> usize {
        self.announce = self.announcer.then_some(0);
        let lost = std::mem::take(&mut self.waiting);
        self.frames[..lost].fill_with(|| None);
        lost
    }

    /// Hands what waits to the device, and counts what it took and what it rejected.
    #[inline]
    pub(super) fn flush(&mut self, io: &mut I, stats: &CoreStats) {
        if self.waiting == 0 {
            return;
        }
        let sent = io.tx_burst(&mut self.frames[..self.waiting]);
        let lens = self.lens[..sent.done].iter().enumerate();
        let octets = lens.filter(|(slot, _)| sent.rejected >> slot & 1 == 0).map(|(_, len)| len).sum();
        stats.originated(sent, octets);
        self.frames[..self.waiting].rotate_left(sent.done);
        self.lens[..self.waiting].rotate_left(sent.done);
        self.waiting -= sent.done;
    }

    /// True if one more frame can wait.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.waiting < OUTBOX_MAX
    }

    fn put(&mut self, io: &mut I, build: impl FnOnce(&mut I::Frame) -> bool) -> bool {
        if !self.has_room() {
            return false;
        }
        let Some(mut frame) = io.alloc() else { return false };
        if !build(&mut frame) {
            return false;
        }
        self.lens[self.waiting] = frame.bytes().len();
        self.frames[self.waiting] = Some(frame);
        self.waiting += 1;
        true
    }
}

fn gratuitous_arp<F: Frame>(frame: &mut F, mac: MacAddr, addr: u32) -> bool {
    let packet = ArpPacket { op: arp::REQUEST, sha: mac, spa: addr, tha: MacAddr::default(), tpa: addr };
    let l2 = LinkHeader { dst: MacAddr::BROADCAST, src: mac, tags: Tags::NONE, ethertype: ETHERTYPE_ARP };
    l2.write_with(frame, &packet.emit())
}

/// A link header that is written from nothing.
struct LinkHeader {
    dst: MacAddr,
    src: MacAddr,
    tags: Tags,
    ethertype: u16,
}

impl LinkHeader {
    fn len(&self) -> usize {
        ether::HEADER_LEN + self.tags.len()
    }

    /// Writes it over the first octets of a frame that is at least as long.
    fn write<F: Frame>(&self, frame: &mut F) {
        // From the inside out: each tag says what follows it, and takes that one's place.
        let (mut ethertype, mut end) = (self.ethertype, self.len());
        let bytes = frame.bytes_mut();
        let inner = self.tags.tci.map(|tci| (vlan::TPID_8021Q, tci));
        for (tpid, tci) in [inner, self.tags.outer].into_iter().flatten() {
            bytes[end - vlan::TAG_LEN..end].copy_from_slice(&vlan::emit(tci, ethertype));
            (ethertype, end) = (tpid, end - vlan::TAG_LEN);
        }
        let header = EtherHeader { dst: self.dst, src: self.src, ethertype }.emit();
        bytes[..ether::HEADER_LEN].copy_from_slice(&header);
    }

    /// Makes the frame this header with `payload` behind it.
    fn write_with<F: Frame>(&self, frame: &mut F, payload: &[u8]) -> bool {
        if !frame.set_len(self.len() + payload.len()) {
            return false;
        }
        frame.bytes_mut()[self.len()..].copy_from_slice(payload);
        self.write(frame);
        frame.set_tx_offload(TxOffload::default());
        true
    }
}
