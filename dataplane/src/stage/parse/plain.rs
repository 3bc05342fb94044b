//! The frame that nearly every frame is: untagged, IPv4 without options, a whole TCP segment from a host's address to an
//! address of ours. Sixteen of them are read at a time, a field of all by one instruction.
//!
//! What is here only says yes. A frame that it does not take, for whatever reason, is read once more by the checks of
//! [`super`], which take it or name the reason; the two agree on what they both take (`tests.rs`).

use listener::columns;
use listener::drop_reason::DropReason;
use listener::segment::{TcpOptions, flag};
use listener::vector::{self, Vectors};

use super::full;
use crate::burst::{BURST_MAX, GROUP, Plain, part};
use crate::io::{Frame, HEAD, HeadInfo};
use crate::local::{FEW, Glance, LocalTable};
use crate::wire::checksum::Sum;
use crate::wire::ether::{self, ETHERTYPE_IPV4};
use crate::wire::ipv4::{self, PROTO_TCP};
use crate::wire::tcp;

pub(super) type Column = [u32; GROUP];

/// In place of a sum: the TCP checksum is known to be right.
pub(super) const WHOLE: u32 = u32::MAX;

const HEADERS_LEN: u32 = (ipv4::HEADER_LEN + tcp::HEADER_LEN) as u32;
const CONTROL: u8 = flag::SYN | flag::ACK | flag::RST | flag::FIN;
/// An MSS option's kind and length.
const MSS: u32 = 0x0204;

/// What the vectors say of a group, a bit a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// It is plain, with no option or a SYN's MSS.
    plain: u32,
    /// It is a SYN and nothing else, with an MSS or none.
    syn: u32,
    /// It is a RST and nothing else, without options.
    reset: u32,
    /// It is a SYN.
    opens: u32,
    /// Its headers are plain; its other options and its data are still to be looked at.
    open: u32,
    /// It is from an address that may be one of ours, or a broadcast.
    near: u32,
    /// It is to another address than the first of ours.
    elsewhere: u32,
}

/// Frames of a burst by what became of them here, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// Those whose rows are filled.
    pub plain: u64,
    /// Those of them that are SYNs.
    pub opens: u64,
    /// Those of these with an MSS at most, and nothing else.
    pub syns: u64,
    /// Likewise those with the options of Linux's SYNs.
    pub full: u64,
    /// Those that are a RST and nothing else.
    pub resets: u64,
    /// Octets of all frames that could be read.
    pub octets: usize,
}

/// Fills the rows of the frames that are plain. `options` gets those of each that is neither a SYN with an MSS at most, or
/// with the options of Linux's, nor a bare RST.
#[inline]
pub(super) fn read<F: Frame>(
    frames: &[Option<F>],
    vectors: Vectors,
    local: &LocalTable,
    plain: &mut Plain,
    mut options: impl FnMut(usize, TcpOptions, &Plain),
) -> Taken {
    let glance = local.glance();
    let mut taken = Taken::default();
    let mut saids = [Said::default(); BURST_MAX / GROUP];
    let saids = &mut saids[..frames.len().div_ceil(GROUP)];
    vectors.run(
        #[inline(always)]
        |vectors| {
            let mut heads = [[&NOTHING; GROUP]; BURST_MAX / GROUP];
            taken.octets = gather(frames, heads.as_flattened_mut(), &mut plain.heads.info);
            for (group, (said, heads)) in saids.iter_mut().zip(&heads).enumerate() {
                *said = match glance.few {
                    Some(few) => check(vectors, glance, |addr| is_of(few, addr), heads, plain, group * GROUP),
                    None => check(vectors, glance, |addr| glance.is_near(addr), heads, plain, group * GROUP),
                };
            }
        },
    );
    for (group, said) in saids.iter().enumerate() {
        let first = group * GROUP;
        let mut rows = said.plain | said.open;
        if rows & (said.near | said.elsewhere) != 0 {
            rows = look_up(rows, said, local, plain, first);
        }
        let (syns, resets) = (rows & said.syn, rows & said.reset);
        let mut bare = syns | resets;
        if rows & said.open != 0 {
            let full = full::read(vectors, frames, plain, first, rows & said.open);
            taken.full |= u64::from(full) << first;
            bare |= full;
        }
        if rows != bare {
            let group = Group { frames, plain, first };
            rows = bare | read_options(rows & !bare, said, group, &mut options);
        }
        taken.plain |= u64::from(rows) << first;
        taken.opens |= u64::from(rows & said.opens) << first;
        taken.syns |= u64::from(syns) << first;
        taken.resets |= u64::from(resets) << first;
    }
    taken
}

/// Those of `rows` whose addresses are right, of which that could not be told at a glance.
#[inline(never)]
fn look_up(rows: u32, said: &Said, local: &LocalTable, plain: &Plain, first: usize) -> u32 {
    let other = |lane: usize| local.is_foreign_v4(plain.columns.saddr[first + lane]);
    let ours = |lane: usize| local.is_local_v4(plain.columns.daddr[first + lane]);
    let foreign = lanes(rows & said.near).filter(|&lane| !other(lane)).fold(0, |set, lane| set | 1 << lane);
    let rows = rows & !foreign;
    rows & !lanes(rows & said.elsewhere).filter(|&lane| !ours(lane)).fold(0, |set, lane| set | 1 << lane)
}

/// The frames of a group and what was read of them.
#[derive(Clone, Copy)]
struct Group<'a, F> {
    frames: &'a [Option<F>],
    plain: &'a Plain,
    first: usize,
}

/// Gives `options` those of each of `rows`, and returns the rows whose options and data are as they should be.
#[inline(never)]
fn read_options<F: Frame>(
    mut rows: u32,
    said: &Said,
    group: Group<'_, F>,
    options: &mut impl FnMut(usize, TcpOptions, &Plain),
) -> u32 {
    let Group { frames, plain, first } = group;
    for lane in lanes(rows) {
        let row = first + lane;
        let read = match said.open >> lane & 1 {
            1 => frames[row].as_ref().map_or(Err(DropReason::EtherTooShort), |frame| {
                others(frame, plain, row, plain.heads.sums[row])
            }),
            _ => Ok(TcpOptions { mss: plain.columns.mss[row] as u16, ..TcpOptions::default() }),
        };
        match read {
            Ok(read) => options(row, read, plain),
            Err(_) => rows &= !(1 << lane),
        }
    }
    rows
}

/// The lanes of a set, the first one first.
#[inline(always)]
pub(super) fn lanes(set: u32) -> impl Iterator<Item = usize> {
    columns::rows(u64::from(set)).map(|lane| lane % GROUP)
}

/// True for one of a few addresses.
#[inline(always)]
const fn is_of([a, b, c, d]: [u32; FEW], addr: u32) -> bool {
    (addr == a) | (addr == b) | (addr == c) | (addr == d)
}

/// The head of no frame.
const NOTHING: [u8; HEAD] = [0; HEAD];

/// Where what is to be read of each frame lies, on its way already, and what is said of it. Returns the octets of those that
/// can be read.
#[inline(always)]
fn gather<'f, F: Frame>(
    frames: &'f [Option<F>],
    heads: &mut [&'f [u8; HEAD]],
    infos: &mut [u32; BURST_MAX],
) -> usize {
    // Of whole words: lengths are at their lower end, and do not add up to what stands above.
    let mut infos_sum = 0u64;
    for ((frame, head), info) in frames.iter().zip(heads).zip(&mut *infos) {
        *info = 0;
        if let Some(frame) = frame
            && let Some((octets, said)) = frame.head()
        {
            frame.prefetch();
            (*head, *info) = (octets, said.0);
            infos_sum += u64::from(said.0);
        }
    }
    infos[..vector::whole(frames.len())].iter_mut().skip(frames.len()).for_each(|info| *info = 0);
    (infos_sum & (u64::from(HeadInfo::LEN + 1) * BURST_MAX as u64 - 1)) as usize
}

/// A sum of 16-bit words, of no more than a header has: of both halves of some words, and of what is no longer than one.
#[derive(Clone, Copy)]
pub(super) struct Halves {
    /// The words as they are, modulo 2^32.
    words: u32,
    upper: u32,
}

impl Halves {
    pub(super) const ZERO: Self = Self { words: 0, upper: 0 };

    #[inline(always)]
    pub(super) const fn both(self, word: u32) -> Self {
        Self { words: self.words.wrapping_add(word), upper: self.upper.wrapping_add(word >> 16) }
    }

    #[inline(always)]
    pub(super) const fn one(self, half: u32) -> Self {
        Self { words: self.words.wrapping_add(half), ..self }
    }

    #[inline(always)]
    const fn and(self, other: Self) -> Self {
        Self { words: self.words.wrapping_add(other.words), upper: self.upper.wrapping_add(other.upper) }
    }

    #[inline(always)]
    pub(super) const fn sum(self) -> u32 {
        // An upper half has counted 2^16 times.
        self.words.wrapping_sub(self.upper << 16).wrapping_add(self.upper)
    }
}

/// Reads the heads of a group into `plain`, from row `first` on, and sums up their TCP headers with the pseudo-header.
///
/// A link header has fourteen octets, so what lies behind it begins in the middle of a word.
#[inline(always)]
fn check(
    vectors: Vectors,
    glance: &Glance,
    is_near: impl Fn(u32) -> bool,
    heads: &[&[u8; HEAD]; GROUP],
    plain: &mut Plain,
    first: usize,
) -> Said {
    let columns = vectors.read_rows(heads).0;
    let infos = part(&plain.heads.info, first);
    let mut read = [[0; GROUP]; 12];
    let mut bits = [[0; GROUP]; 7];
    // One loop without another in it and without a branch: the compiler makes each line an instruction or two.
    for lane in 0..GROUP {
        let word = |at: usize| u32::from_be(columns[at][lane]);
        let across = |at: usize| word(at) << 16 | word(at + 1) >> 16;
        let (control, option) = (across(11), across(13));
        let (saddr, daddr) = (across(6), across(7));
        let total_len = word(4) >> 16;
        let header_len = control >> 28 << 2;
        let behind = total_len.wrapping_sub(HEADERS_LEN);
        let info = infos[lane];

        let link = (info & HeadInfo::PLAIN != 0)
            & (word(0) == glance.mac_first)
            & (word(1) >> 16 == glance.mac_last)
            & (word(3) >> 8 == u32::from(ETHERTYPE_IPV4) << 8 | 0x45);
        let network = (word(5) & 0x3fff_00ff == u32::from(PROTO_TCP))
            & (total_len + ether::HEADER_LEN as u32 <= info & HeadInfo::LEN);
        let lengths = (total_len >= HEADERS_LEN)
            & (header_len >= tcp::HEADER_LEN as u32)
            & (header_len + ipv4::HEADER_LEN as u32 <= total_len);
        let addresses = Halves::ZERO.one(word(6) & 0xffff).both(word(7)).one(word(8) >> 16);
        let ip = addresses.one(word(3) & 0xffff).both(word(4)).both(word(5)).one(word(6) >> 16);
        let ip_whole = (info & HeadInfo::IP_WHOLE != 0) | is_whole(ip.sum());

        let has_mss = (behind == 4) & (option >> 16 == MSS) & (control >> 16 & u32::from(flag::SYN) != 0);
        let simple = ((behind == 0) | has_mss) & (header_len.wrapping_sub(tcp::HEADER_LEN as u32) == behind);
        let pseudo = u32::from(PROTO_TCP) + (total_len.wrapping_sub(ipv4::HEADER_LEN as u32) & 0xffff);
        let numbers = Halves::ZERO.both(word(9)).both(word(10)).both(word(11)).both(word(12));
        let tcp = addresses.and(numbers).one(word(8) & 0xffff).one(word(13) >> 16).one(pseudo).sum();
        let options = if has_mss { (word(13) & 0xffff) + (word(14) >> 16) } else { 0 };
        let tcp_whole = (info & HeadInfo::L4_WHOLE != 0) | is_whole(tcp + options);

        let good = link & network & lengths & ip_whole & glance.is_host(saddr);
        let plain = good & simple & tcp_whole;
        bits[PLAIN][lane] = u32::from(plain);
        bits[OPEN][lane] = u32::from(good & !simple);
        let only = |flag: u8| control >> 16 & 0xfff == u32::from(flag);
        bits[SYN][lane] = u32::from(plain & only(flag::SYN));
        bits[RESET][lane] = u32::from(plain & only(flag::RST) & (behind == 0));
        bits[OPENS][lane] = u32::from(control >> 16 & u32::from(CONTROL) == u32::from(flag::SYN));
        bits[NEAR][lane] = u32::from(is_near(saddr));
        bits[ELSEWHERE][lane] = u32::from((daddr != glance.first) | (daddr == u32::MAX));
        read[SADDR][lane] = saddr;
        read[DADDR][lane] = daddr;
        read[PORTS][lane] = across(8);
        read[SEQ][lane] = across(9);
        read[MSS_OF][lane] = if has_mss & simple { option & 0xffff } else { 0 };
        read[TOS][lane] = word(3) & 0xff;
        read[MAC_FIRST][lane] = word(1);
        read[MAC_LAST][lane] = word(2);
        read[ACK][lane] = across(10);
        read[CONTROL_OF][lane] = control;
        read[LEN_OF][lane] = word(4);
        // What is known to be whole is made to look so.
        read[SUM][lane] = if info & HeadInfo::L4_WHOLE != 0 { WHOLE } else { tcp };
    }
    store(&read, plain, first);
    Said {
        plain: vectors.nonzero(&bits[PLAIN]),
        open: vectors.nonzero(&bits[OPEN]),
        syn: vectors.nonzero(&bits[SYN]),
        reset: vectors.nonzero(&bits[RESET]),
        opens: vectors.nonzero(&bits[OPENS]),
        near: vectors.nonzero(&bits[NEAR]),
        elsewhere: vectors.nonzero(&bits[ELSEWHERE]),
    }
}

// Where [`check`] puts what it reads, and what it finds.
const SADDR: usize = 0;
const DADDR: usize = 1;
const PORTS: usize = 2;
const SEQ: usize = 3;
const MSS_OF: usize = 4;
const TOS: usize = 5;
const MAC_FIRST: usize = 6;
const MAC_LAST: usize = 7;
const ACK: usize = 8;
const CONTROL_OF: usize = 9;
const LEN_OF: usize = 10;
const SUM: usize = 11;
const PLAIN: usize = 0;
const OPEN: usize = 1;
const SYN: usize = 2;
const OPENS: usize = 3;
const NEAR: usize = 4;
const ELSEWHERE: usize = 5;
const RESET: usize = 6;

/// Writes the fields of a group into `plain`.
#[inline(always)]
fn store(read: &[Column; 12], plain: &mut Plain, first: usize) {
    let rows = &mut plain.columns;
    put(&mut rows.saddr, first, &read[SADDR]);
    put(&mut rows.daddr, first, &read[DADDR]);
    put(&mut rows.ports, first, &read[PORTS]);
    put(&mut rows.seq, first, &read[SEQ]);
    put(&mut rows.mss, first, &read[MSS_OF]);
    put(&mut rows.tos, first, &read[TOS]);
    put(&mut plain.src_mac[0], first, &read[MAC_FIRST]);
    put(&mut plain.src_mac[1], first, &read[MAC_LAST]);
    put(&mut plain.ack, first, &read[ACK]);
    put(&mut plain.control, first, &read[CONTROL_OF]);
    put(&mut plain.total_len, first, &read[LEN_OF]);
    put(&mut plain.heads.sums, first, &read[SUM]);
}

/// Writes a column's part of one group.
#[inline(always)]
pub(super) fn put<const N: usize>(column: &mut [u32; N], first: usize, group: &Column) {
    if let Some(to) = column.get_mut(first..).and_then(|column| column.first_chunk_mut()) {
        *to = *group;
    }
}

/// True if 16-bit words, not all of them 0, whose sum this is add up to all ones; a sum of less than 2^24: if folding it once
/// leaves more than 16 bits, the rest is small.
#[inline(always)]
pub(super) const fn is_whole(sum: u32) -> bool {
    (sum >> 16) + (sum & 0xffff) == 0xffff
}

/// The options of a frame whose headers are plain, and sum up to `sum`, if its options and its data are as they should be.
fn others<F: Frame>(frame: &F, plain: &Plain, row: usize, sum: u32) -> Result<TcpOptions, DropReason> {
    let (control, total_len) = (plain.control[row], plain.total_len[row] >> 16);
    let options_len = ((control >> 28 << 2) - tcp::HEADER_LEN as u32) as usize;
    let packet = frame.bytes().get(ether::HEADER_LEN..).and_then(|packet| packet.get(..total_len as usize));
    let rest = packet.and_then(|packet| packet.get(HEADERS_LEN as usize..)).ok_or(DropReason::IpHeader)?;
    if sum != WHOLE && !Sum::of(rest).word32(sum).is_whole() {
        return Err(DropReason::TcpCsum);
    }
    let mut read = TcpOptions::default();
    tcp::read_options(rest.get(..options_len).unwrap_or_default(), (control >> 16) as u8, &mut read)?;
    Ok(read)
}
