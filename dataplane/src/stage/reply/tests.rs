use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use listener::columns::Carries;
use listener::segment::{Outcome, TcpOptions, flag};
use listener::types::SegSeq;
use proptest::prelude::*;

use super::super::testing::*;
use super::*;
use crate::io::mem::MemFrame;
use crate::io::{HEAD, HeadInfo, RxMeta};
use crate::wire::checksum::{Sum, pseudo_v4};

fn syn_ack() -> OutSegment {
    OutSegment {
        flags: flag::SYN | flag::ACK,
        tos: 0,
        wnd: 64240,
        seq: SegSeq(0x0102_0304),
        ack: SegSeq(1001),
        options: TcpOptions { mss: 1460, ..TcpOptions::default() },
    }
}

fn answer(frame: Vec<u8>, meta: RxMeta, capabilities: Capabilities) -> (Vec<u8>, TxOffload) {
    let mut parsed = parse_with(&[frame], meta);
    assert_eq!(parsed.fates[0], Fate::Pending);
    parsed.fates[0] = Fate::Tcp(Verdict::Reply(Outcome::SynAck, syn_ack()));
    let Parsed { frames, heads, plain, segs, fates, lanes } = &mut parsed;
    let mut answers = Answers::EMPTY;
    let columns = Columns { heads, plain, segs, answers: &mut answers, fates };
    reply(frames, Vectors::best(), columns, lanes, &local(), capabilities);
    tell(&answers, fates);
    assert_eq!(parsed.fates[0], Fate::Ready(Outcome::SynAck));
    let frame = parsed.frames[0].as_ref().expect("the frame is still there");
    (frame.bytes().to_vec(), frame.tx_offload())
}

/// 198.18.0.1:80 → 198.18.0.2:40000, SYN ACK, seq 0x01020304, ack 1001, window 64240, MSS 1460.
#[rustfmt::skip]
const SYN_ACK: [u8; 58] = [
    2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0,
    0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0xae, 0xa4, 198, 18, 0, 1, 198, 18, 0, 2,
    0, 80, 0x9c, 0x40, 1, 2, 3, 4, 0, 0, 3, 0xe9, 0x60, 0x12, 0xfa, 0xf0, 0x6c, 0x7e, 0, 0, 2, 4, 5, 0xb4,
];

#[test]
fn a_syn_ack_stands_in_the_syns_frame() {
    let (bytes, offload) = answer(syn_v4(), RxMeta::default(), Capabilities::default());
    assert_eq!(bytes, SYN_ACK);
    assert_eq!(offload, TxOffload::default(), "nothing is left to the device");
    let mut padded = syn_v4();
    padded.resize(64, 0xee);
    assert_eq!(answer(padded, RxMeta::default(), Capabilities::default()).0, SYN_ACK);
}

#[test]
fn the_tags_go_back() {
    let in_frame = answer(tagged(syn_v4(), 0x8100, 0x6005), RxMeta::default(), Capabilities::default());
    assert_eq!(in_frame.0, tagged(SYN_ACK.to_vec(), 0x8100, 0x6005));
    assert_eq!((in_frame.1.l2_len, in_frame.1.vlan_tci), (18, None));
    let two = |frame| tagged(tagged(frame, 0x8100, 0x6005), 0x88a8, 7);
    assert_eq!(answer(two(syn_v4()), RxMeta::default(), Capabilities::default()).0, two(SYN_ACK.to_vec()));
    let stripped = RxMeta { vlan_tci: Some(0x6005), ..RxMeta::default() };
    let (bytes, offload) = answer(syn_v4(), stripped, Capabilities::default());
    assert_eq!((&bytes[..], offload.vlan_tci), (&SYN_ACK[..], Some(0x6005)));
}

#[test]
fn a_device_gets_what_it_needs_to_complete_checksums() {
    let capabilities = Capabilities { tx_ip_csum: true, tx_tcp_csum: true, ..Capabilities::default() };
    let (bytes, offload) = answer(syn_v4(), RxMeta::default(), capabilities);
    assert_eq!(bytes[24..26], [0, 0]);
    let pseudo = pseudo_v4(u32::from_be_bytes(OUR_V4), u32::from_be_bytes(PEER_V4), 6, 24).folded();
    assert_eq!(bytes[50..52], pseudo.to_be_bytes());
    assert!(offload.ip_csum && offload.tcp_csum && !offload.ipv6);
    let (_, offload) = answer(syn_v6(), RxMeta::default(), capabilities);
    assert!(!offload.ip_csum && offload.tcp_csum && offload.ipv6 && offload.l3_len == 40);
}

#[test]
fn ipv6_answers_are_whole() {
    let (bytes, _) = answer(syn_v6(), RxMeta::default(), Capabilities::default());
    let sliced = SlicedPacket::from_ethernet(&bytes).expect("well formed");
    let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("IPv6") };
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("TCP") };
    assert_eq!((ip.header().source(), ip.header().destination()), (OUR_V6, PEER_V6));
    assert_eq!((tcp.source_port(), tcp.destination_port(), ip.header().hop_limit()), (80, 40000, 64));
    assert_eq!(tcp.calc_checksum_ipv6(OUR_V6, PEER_V6), Ok(tcp.checksum()));
}

/// A SYN from that port.
fn from_port(sport: u16) -> Vec<u8> {
    let mut frame = syn_v4();
    frame[34..36].copy_from_slice(&sport.to_be_bytes());
    frame[50..52].fill(0);
    let tcp_len = frame.len() as u16 - 34;
    let pseudo = pseudo_v4(u32::from_be_bytes(PEER_V4), u32::from_be_bytes(OUR_V4), 6, tcp_len);
    let sum = pseudo.plus(Sum::of(&frame[34..])).checksum();
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn what_was_dealt_with_as_columns_is_told() {
    let (mut answers, mut fates) = (Answers::EMPTY, [Fate::Pending; 4]);
    answers.add(0b0001, Outcome::SynAck, Carries::Mss);
    answers.add(0b1000, Outcome::Rst, Carries::Nothing);
    answers.ended = 0b0100;
    tell(&answers, &mut fates);
    let told = [
        Fate::Ready(Outcome::SynAck),
        Fate::Pending,
        Fate::Drop(DropReason::ReqRst),
        Fate::Ready(Outcome::Rst),
    ];
    assert_eq!(fates, told);
    assert_eq!(octets(&answers, u64::MAX), 58 + 54);
    answers.remove(0);
    assert_eq!((answers.outcome(0), answers.outcome(3)), (None, Some(Outcome::Rst)));
    assert_eq!(octets(&answers, u64::MAX), 54);
}

/// A frame whose buffer has no room for an answer.
struct Tight(MemFrame);

impl Frame for Tight {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }

    fn set_len(&mut self, _: usize) -> bool {
        false
    }

    fn rx_meta(&self) -> RxMeta {
        self.0.rx_meta()
    }

    fn set_tx_offload(&mut self, offload: TxOffload) {
        self.0.set_tx_offload(offload);
    }

    fn room<const N: usize>(&self) -> Option<&[u8; N]> {
        self.0.room()
    }

    fn head(&self) -> Option<(&[u8; HEAD], HeadInfo)> {
        self.0.head()
    }

    fn rewrite<const N: usize>(&mut self, len: usize, offload: TxOffload) -> Option<&mut [u8; N]> {
        // Every third one has room.
        self.0.bytes()[35].is_multiple_of(3).then(|| self.0.rewrite(len, offload)).flatten()
    }
}

#[test]
fn an_answer_without_room_is_dropped_by_name() {
    let full = TcpOptions { wscale: Some(7), sack_perm: true, timestamps: Some((1, 2)), ..syn_ack().options };
    for options in [syn_ack().options, full] {
        let ports: Vec<_> = (0..40).map(from_port).collect();
        let mut parsed = parse(&ports);
        let mut frames: Vec<_> = parsed.frames.drain(..).map(|frame| frame.map(Tight)).collect();
        let answer = Verdict::Reply(Outcome::SynAck, OutSegment { options, ..syn_ack() });
        parsed.fates[..40].fill(Fate::Tcp(answer));
        let Parsed { heads, plain, segs, fates, lanes, .. } = &mut parsed;
        let mut answers = Answers::EMPTY;
        let columns = Columns { heads, plain, segs, answers: &mut answers, fates };
        reply(&mut frames, Vectors::best(), columns, lanes, &local(), Capabilities::default());
        tell(&answers, fates);
        for (port, fate) in fates[..40].iter().enumerate() {
            let has_room = port.is_multiple_of(3);
            let wanted =
                if has_room { Fate::Ready(Outcome::SynAck) } else { Fate::Drop(DropReason::NoBuffer) };
            assert_eq!((*fate, answers.rows >> port & 1), (wanted, u64::from(has_room)), "port {port}");
        }
    }
}

/// None, an MSS, or all that Linux has.
fn options() -> impl Strategy<Value = TcpOptions> {
    any::<(Option<u16>, Option<(u32, u32, u8)>)>().prop_map(|(mss, rest)| match rest {
        None => TcpOptions { mss: mss.unwrap_or(0), ..TcpOptions::default() },
        Some((tsval, tsecr, wscale)) => TcpOptions {
            mss: mss.unwrap_or(0).max(1),
            wscale: Some(wscale),
            sack_perm: true,
            timestamps: Some((tsval, tsecr)),
        },
    })
}

proptest! {
    /// The short way writes what the long one does, many at once, whatever the machine's instructions.
    #[test]
    fn plain_answers_are_written_alike(
        answers in prop::collection::vec((any::<(u8, u8, u16, u32, u32)>(), options()), 1..40),
        (tx_ip_csum, tx_tcp_csum) in any::<(bool, bool)>(),
    ) {
        let capabilities = Capabilities { tx_ip_csum, tx_tcp_csum, ..Capabilities::default() };
        let segment = |&((flags, tos, wnd, seq, ack), options): &((u8, u8, u16, u32, u32), TcpOptions)| {
            OutSegment { flags, tos, wnd, seq: SegSeq(seq), ack: SegSeq(ack), options }
        };
        let frames: Vec<_> = (0..answers.len()).map(|row| from_port(row as u16)).collect();
        for vectors in Vectors::available() {
            let (mut short, mut long) = (parse(&frames), parse(&frames));
            for (fate, answer) in short.fates.iter_mut().zip(&answers) {
                *fate = Fate::Tcp(Verdict::Reply(Outcome::SynAck, segment(answer)));
            }
            let Parsed { frames, heads, plain, segs, fates, lanes } = &mut short;
            let mut columns = Answers::EMPTY;
            let read = Columns { heads, plain, segs, answers: &mut columns, fates };
            reply(frames, vectors, read, lanes, &local(), capabilities);
            prop_assert_eq!(columns.rows, (1 << answers.len()) - 1);
            tell(&columns, fates);
            let lens = short.frames.iter().flatten().map(|frame| frame.bytes().len());
            prop_assert_eq!(octets(&columns, columns.rows), lens.sum::<usize>());
            for (row, answer) in answers.iter().enumerate() {
                let Some(frame) = &mut long.frames[row] else { panic!("the frame is still there") };
                let (head, seg) = (&long.heads[row], &long.segs[row]);
                let offload = write_segment(frame, head.l2_len, &seg.flow, &segment(answer), capabilities);
                let offload = offload.expect("room");
                L2::of(head).answer_with(frame, MacAddr(OUR_MAC), head.src_mac, offload);
                prop_assert_eq!(short.bytes(row), long.bytes(row), "{}, row {}", vectors.name(), row);
                let asked = short.frames[row].as_ref().map(MemFrame::tx_offload);
                let any = tx_ip_csum || tx_tcp_csum;
                prop_assert_eq!(asked, Some(if any { offload } else { TxOffload::default() }));
                prop_assert_eq!(short.fates[row], Fate::Ready(Outcome::SynAck));
            }
        }
    }
}
