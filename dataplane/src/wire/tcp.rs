//! TCP headers and options (RFC 9293 §3.1, RFC 2018, RFC 7323).

use listener::drop_reason::DropReason;
use listener::segment::{OutSegment, TcpOptions, flag};

use super::checksum::Sum;

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;
/// RFC 2385; its 18 octets.
const MD5: u8 = 19;
const MD5_LEN: u8 = 18;

/// What a header said, without its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpHeader {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, also where the ACK bit is not set.
    pub ack: u32,
    /// Octets of the header, options included: 20 to 60.
    pub header_len: u8,
    /// Control bits.
    pub flags: u8,
    /// The four bits in front of them.
    pub reserved: u8,
    /// Window, unscaled.
    pub wnd: u16,
}

impl TcpHeader {
    /// Reads the header of a segment that is all of `segment`; its checksum is the caller's affair.
    ///
    /// # Errors
    /// `TcpTruncated` or `TcpHeader`.
    ///
    /// # Source
    /// Linux v6.18 `tcp_v4_rcv`.
    #[inline(always)]
    pub fn parse(segment: &[u8]) -> Result<Self, DropReason> {
        let fixed: &[u8; HEADER_LEN] = segment.first_chunk().ok_or(DropReason::TcpTruncated)?;
        let header_len = fixed[12] >> 4 << 2;
        if usize::from(header_len) < HEADER_LEN {
            return Err(DropReason::TcpHeader);
        }
        if segment.len() < usize::from(header_len) {
            return Err(DropReason::TcpTruncated);
        }
        Ok(Self {
            sport: u16::from_be_bytes([fixed[0], fixed[1]]),
            dport: u16::from_be_bytes([fixed[2], fixed[3]]),
            seq: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ack: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            header_len,
            flags: fixed[13],
            reserved: fixed[12] & 0xf,
            wnd: u16::from_be_bytes([fixed[14], fixed[15]]),
        })
    }

    /// Reads the options of the segment that this is the header of. Not a part of the header, because they are better
    /// put where they are to stay.
    ///
    /// # Errors
    /// `TcpMd5` or `TcpAuthHdr`.
    #[inline(always)]
    pub fn read_options(&self, segment: &[u8], into: &mut TcpOptions) -> Result<(), DropReason> {
        let options = segment.get(HEADER_LEN..usize::from(self.header_len)).unwrap_or_default();
        read_options(options, self.flags, into)
    }
}

/// Reads the options of a segment with the control bits `flags`.
///
/// # Errors
/// `TcpMd5` or `TcpAuthHdr`.
///
/// # Source
/// Linux v6.18 `tcp_parse_options`.
#[inline(always)]
pub fn read_options(options: &[u8], flags: u8, into: &mut TcpOptions) -> Result<(), DropReason> {
    *into = TcpOptions::default();
    match *options {
        [] => {}
        // The least that a SYN brings, and all that most floods do.
        [MSS, 4, hi, lo] if flags & flag::SYN != 0 => into.mss = u16::from_be_bytes([hi, lo]),
        // Every segment of a connection with timestamps.
        [NOP, NOP, TIMESTAMPS, 10, a, b, c, d, e, f, g, h] => {
            into.timestamps = Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
        }
        _ => return parse_options(options, flags, into),
    }
    Ok(())
}

/// Reads options as the kernel does: what only a SYN may carry is skipped elsewhere, an option of the wrong length is
/// skipped, one that would end past the header ends the list, and the last of a kind counts.
///
/// # Errors
/// - `TcpMd5`: a signature that nobody here has a key for; whoever signs must not be answered unsigned.
/// - `TcpAuthHdr`: the list breaks, or a signature has the wrong length, where so much is left that one could stand there.
///   With less left nobody looks for signatures, and a list that breaks is read as far as it goes.
///
/// # Source
/// Linux v6.18 `tcp_parse_options`, `tcp_do_parse_auth_options`, `tcp_inbound_hash`, `tcp_v4_send_reset`, with TCP_MD5SIG and
/// without TCP_AO, which looks on until five octets are left.
#[inline(never)]
fn parse_options(mut bytes: &[u8], flags: u8, options: &mut TcpOptions) -> Result<(), DropReason> {
    let syn = flags & flag::SYN != 0;
    while let Some((&kind, rest)) = bytes.split_first() {
        match kind {
            END => break,
            NOP => {
                bytes = rest;
                continue;
            }
            _ => {}
        }
        let Some(&len) = rest.first() else { break };
        let Some((option, rest)) = bytes.split_at_checked(usize::from(len)) else { return broken(bytes) };
        match *option {
            [] | [_] => return broken(bytes),
            [MSS, _, hi, lo] if syn => {
                // 0 counts as absent.
                let mss = u16::from_be_bytes([hi, lo]);
                options.mss = if mss == 0 { options.mss } else { mss };
            }
            [WINDOW_SCALE, _, shift] if syn => options.wscale = Some(shift),
            [SACK_PERMITTED, _] if syn => options.sack_perm = true,
            [TIMESTAMPS, _, a, b, c, d, e, f, g, h] => {
                options.timestamps =
                    Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
            }
            [MD5, MD5_LEN, ..] => return Err(DropReason::TcpMd5),
            [MD5, ..] => broken(bytes)?,
            _ => {}
        }
        bytes = rest;
    }
    Ok(())
}

/// What becomes of a segment whose options are no list from `left` on.
const fn broken(left: &[u8]) -> Result<(), DropReason> {
    if left.len() < MD5_LEN as usize { Ok(()) } else { Err(DropReason::TcpAuthHdr) }
}

/// The option that names our MSS.
#[inline]
pub const fn mss_option(mss: u16) -> u32 {
    u32::from_be_bytes([MSS, 4, 0, 0]) | mss as u32
}

/// A header that is ready to be written into a frame.
#[derive(Clone, Copy, Debug)]
pub struct TcpOut<'a> {
    segment: &'a OutSegment,
    ports: u32,
    len: u8,
}

impl<'a> TcpOut<'a> {
    /// `segment` from our port `sport` to the peer's `dport`, with options in the kernel's order.
    ///
    /// # Source
    /// Linux v6.18 `tcp_options_write`.
    #[inline]
    pub fn new(segment: &'a OutSegment, sport: u16, dport: u16) -> Self {
        let TcpOptions { mss, wscale, sack_perm, timestamps } = &segment.options;
        let words = u8::from(*mss != 0)
            + u8::from(*sack_perm || timestamps.is_some())
            + 2 * u8::from(timestamps.is_some())
            + u8::from(wscale.is_some());
        Self { segment, ports: u32::from(sport) << 16 | u32::from(dport), len: HEADER_LEN as u8 + 4 * words }
    }

    /// Octets of the header: 20 to 40, a multiple of four.
    #[inline]
    pub const fn header_len(&self) -> u8 {
        self.len
    }

    /// Writes the header over `out`, as many octets as [`TcpOut::header_len`] says; a shorter `out` gets none. `pseudo` is
    /// the sum of its pseudo-header; a device that completes the checksum (`offload`) wants that in the field, otherwise
    /// the whole checksum goes there.
    #[inline(always)]
    pub fn write(&self, pseudo: Sum, offload: bool, out: &mut [u8]) {
        let Self { segment, ports, len } = *self;
        let Some((fixed, rest)) = out.split_first_chunk_mut::<HEADER_LEN>() else { return };
        // Summed from the values, as octets just written are slow to read in larger pieces.
        let offset = u32::from(len) << 26 | u32::from(segment.flags) << 16 | u32::from(segment.wnd);
        let (seq, ack) = (segment.seq.0, segment.ack.0);
        let sum = pseudo.word32(ports).word32(seq).word32(ack).word32(offset).plus(self.write_options(rest));
        let field = if offload { pseudo.folded() } else { sum.checksum() };
        let (fixed, _) = fixed.as_chunks_mut::<4>();
        for (slot, word) in fixed.iter_mut().zip([ports, seq, ack, offset, u32::from(field) << 16]) {
            *slot = word.to_be_bytes();
        }
    }

    /// Writes the options alone over `out`, which has room for them, and returns their sum.
    ///
    /// # Source
    /// Linux v6.18 `tcp_options_write`.
    #[inline(always)]
    pub fn write_options(&self, out: &mut [u8]) -> Sum {
        let mut sum = Sum::ZERO;
        let (words, _) = out.as_chunks_mut::<4>();
        let mut words = words.iter_mut();
        let mut option = |word: u32| {
            if let Some(slot) = words.next() {
                *slot = word.to_be_bytes();
                sum = sum.word32(word);
            }
        };
        let TcpOptions { mss, wscale, sack_perm, timestamps } = self.segment.options;
        if mss != 0 {
            option(mss_option(mss));
        }
        match (timestamps, sack_perm) {
            (Some(_), true) => option(u32::from_be_bytes([SACK_PERMITTED, 2, TIMESTAMPS, 10])),
            (Some(_), false) => option(u32::from_be_bytes([NOP, NOP, TIMESTAMPS, 10])),
            (None, true) => option(u32::from_be_bytes([NOP, NOP, SACK_PERMITTED, 2])),
            (None, false) => {}
        }
        if let Some((value, echo)) = timestamps {
            option(value);
            option(echo);
        }
        if let Some(shift) = wscale {
            option(u32::from_be_bytes([NOP, WINDOW_SCALE, 3, shift]));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use listener::types::SegSeq;

    fn written(options: TcpOptions) -> Vec<u8> {
        let segment = OutSegment { options, ..OutSegment::default() };
        let out = TcpOut::new(&segment, 1, 2);
        let mut bytes = vec![0; usize::from(out.len)];
        out.write(Sum::ZERO, false, &mut bytes);
        assert_eq!(usize::from(bytes[12] >> 4) * 4, bytes.len());
        bytes.split_off(HEADER_LEN)
    }

    #[test]
    fn options_go_out_in_the_kernels_order() {
        let all = TcpOptions {
            mss: 1460,
            wscale: Some(10),
            sack_perm: true,
            timestamps: Some((0x0102_0304, 0x0506_0708)),
        };
        assert!(written(TcpOptions::default()).is_empty());
        assert_eq!(
            written(all),
            [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 10],
            "MSS, SACK permitted, timestamps, NOP, window scale"
        );
        assert_eq!(written(TcpOptions { timestamps: None, ..all }), [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 10]);
        assert_eq!(
            written(TcpOptions { sack_perm: false, wscale: None, ..all }),
            [2, 4, 5, 0xb4, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert_eq!(
            written(TcpOptions { mss: 1460, wscale: Some(0), ..TcpOptions::default() }),
            [2, 4, 5, 0xb4, 1, 3, 3, 0]
        );
    }

    #[test]
    fn options_are_read_as_the_kernel_reads_them() {
        let try_read = |bytes: &[u8], flags| {
            let mut segment = vec![0; HEADER_LEN];
            segment.extend_from_slice(bytes);
            // The end of the list, to the next word.
            segment.resize(segment.len().next_multiple_of(4), END);
            (segment[12], segment[13]) = ((segment.len() << 2) as u8, flags);
            let mut options = TcpOptions { mss: 7, ..TcpOptions::default() };
            let header = TcpHeader::parse(&segment).expect("well formed");
            header.read_options(&segment, &mut options).map(|()| options)
        };
        let read = |bytes: &[u8], flags| try_read(bytes, flags).expect("unsigned");
        let syn = |bytes: &[u8]| read(bytes, flag::SYN);
        let none = TcpOptions::default();
        assert_eq!(syn(&[2, 4, 5, 0xb4]).mss, 1460);
        assert_eq!(syn(&[2, 4, 5, 0xb4, 2, 4, 0, 0]).mss, 1460, "0 is as if absent");
        assert_eq!(syn(&[1, 3, 3, 15]).wscale, Some(15), "as sent");
        assert_eq!(syn(&[0, 0, 4, 2]), none, "nothing counts behind the end");
        assert_eq!(
            syn(&[2, 3, 5, 4, 2, 0]),
            TcpOptions { sack_perm: true, ..none },
            "wrong length is skipped"
        );
        assert_eq!(syn(&[2, 5, 5, 0xb4]), none, "one that ends past the header");
        assert_eq!(syn(&[99, 0, 4, 2]), none);
        assert_eq!(syn(&[99, 1, 4, 2]), none);
        assert_eq!(syn(&[4]), none);
        assert_eq!(syn(&[99, 2, 4, 2]), TcpOptions { sack_perm: true, ..none });
        let bytes = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7];
        let timestamps = Some((1, 2));
        assert_eq!(syn(&bytes), TcpOptions { mss: 1460, wscale: Some(7), sack_perm: true, timestamps });
        assert_eq!(read(&bytes, flag::ACK), TcpOptions { timestamps, ..none }, "not a SYN");
        let signed = [&[1, 1, 19, 18][..], &[7; 16]].concat();
        assert_eq!(try_read(&signed, flag::ACK), Err(DropReason::TcpMd5));
        assert_eq!(syn(&[19, 4, 0, 0]), none, "no signature");
    }

    #[test]
    fn a_list_that_breaks_counts_as_long_as_a_signature_could_follow() {
        let read = |bytes: &[u8]| {
            let mut options = TcpOptions::default();
            read_options(bytes, flag::SYN, &mut options).map(|()| options.mss)
        };
        // Behind an MSS and some NOPs, so that the list has whole words and the fault `left` octets in front of its end.
        let with = |fault: &[u8], left: usize| {
            let mut bytes = vec![2, 4, 5, 0xb4];
            bytes.resize(4 + (4 - left % 4) % 4, NOP);
            bytes.extend_from_slice(fault);
            bytes.resize(bytes.len() + left - fault.len(), NOP);
            read(&bytes)
        };
        for fault in
            [[99, 0].as_slice(), &[99, 1], &[99, 37], &[2, 255], &[19, 0], &[19, 17], &[19, 4], &[19, 19]]
        {
            for left in fault.len()..=36 {
                // A signature of the wrong length is passed over where it is none of the kernel's concern.
                let expected = if left < 18 { Ok(1460) } else { Err(DropReason::TcpAuthHdr) };
                assert_eq!(with(fault, left), expected, "{fault:?} with {left} left");
            }
        }
        for left in 18..=36 {
            assert_eq!(with(&[0, 99, 0], left), Ok(1460), "nothing counts behind the end, with {left} left");
            assert_eq!(with(&[19, 18], left), Err(DropReason::TcpMd5), "with {left} left");
        }
    }

    #[test]
    fn headers_and_their_faults() {
        let segment = OutSegment {
            flags: flag::SYN | flag::ACK,
            wnd: 64240,
            seq: SegSeq(7),
            ack: SegSeq(9),
            ..OutSegment::default()
        };
        let mut bytes = vec![0; HEADER_LEN];
        TcpOut::new(&segment, 80, 40000).write(Sum::ZERO, false, &mut bytes);
        assert!(Sum::of(&bytes).is_whole());
        let read = TcpHeader::parse(&bytes).expect("well formed");
        assert_eq!((read.sport, read.dport, read.seq, read.ack, read.wnd), (80, 40000, 7, 9, 64240));
        assert_eq!(TcpHeader::parse(&bytes[..19]), Err(DropReason::TcpTruncated));
        bytes[12] = 0x40;
        assert_eq!(TcpHeader::parse(&bytes), Err(DropReason::TcpHeader));
        bytes[12] = 0x60;
        assert_eq!(TcpHeader::parse(&bytes), Err(DropReason::TcpTruncated));
    }
}
