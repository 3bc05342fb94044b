//! The SYN as Linux sends it, and whoever took that for a model: behind plain headers an MSS, SACK permitted, timestamps
//! with nothing to echo, and a window scale, in that order. Sixteen are read at a time.
//!
//! As in [`super::plain`], what is here only says yes.

use listener::segment::flag;
use listener::vector::Vectors;

use super::plain::{Column, Halves, WHOLE, is_whole, lanes, put};
use crate::burst::{GROUP, Plain, part};
use crate::io::Frame;
use crate::wire::ether;
use crate::wire::ipv4;
use crate::wire::tcp;

/// The word of the frame whose second half is the first of the MSS option.
const FIRST: usize = (ether::HEADER_LEN + ipv4::HEADER_LEN + tcp::HEADER_LEN) / 4;
/// Words from there to the one whose first half is the last of the window scale.
const WORDS: usize = 6;
/// Octets up to its end.
const ROOM: usize = 4 * (FIRST + WORDS);
const OPTIONS_LEN: u32 = 20;
const TOTAL_LEN: u32 = (ipv4::HEADER_LEN + tcp::HEADER_LEN) as u32 + OPTIONS_LEN;
/// Data offset and control bits.
const CONTROL: u32 = ((tcp::HEADER_LEN as u32 + OPTIONS_LEN) / 4) << 12 | flag::SYN as u32;

/// Those of `rows`, of the group that begins with row `first`, that are such SYNs and whole. Their headers have been read
/// into `plain`, where their options go.
#[inline(never)]
pub(super) fn read<F: Frame>(
    vectors: Vectors,
    frames: &[Option<F>],
    plain: &mut Plain,
    first: usize,
    rows: u32,
) -> u32 {
    let heads = rows & heads(vectors, plain, first);
    if heads == 0 {
        return 0;
    }
    let mut words = [[0; GROUP]; WORDS];
    let mut read = 0;
    for lane in lanes(heads) {
        let Some(room) = frames.get(first + lane).and_then(Option::as_ref).and_then(Frame::room::<ROOM>)
        else {
            continue;
        };
        for (column, word) in words.iter_mut().zip(&room.as_chunks().0[FIRST..]) {
            column[lane] = u32::from_be_bytes(*word);
        }
        read |= 1 << lane;
    }
    vectors.run(
        #[inline(always)]
        |vectors| read & options(vectors, &words, plain, first),
    )
}

/// Rows that are SYNs and nothing else, with so many octets of options and no data.
#[inline(always)]
fn heads(vectors: Vectors, plain: &Plain, first: usize) -> u32 {
    vectors.run(
        #[inline(always)]
        |vectors| {
            let (control, total_len) = (part(&plain.control, first), part(&plain.total_len, first));
            let mut fit = [0; GROUP];
            for lane in 0..GROUP {
                let fits = (control[lane] >> 16 == CONTROL) & (total_len[lane] >> 16 == TOTAL_LEN);
                fit[lane] = u32::from(fits);
            }
            vectors.nonzero(&fit)
        },
    )
}

/// Reads `words` into `plain`; the rows whose options they are, and whose sums are right.
#[inline(always)]
fn options(vectors: Vectors, words: &[Column; WORDS], plain: &mut Plain, first: usize) -> u32 {
    let sums = part(&plain.heads.sums, first);
    // Other rows keep theirs.
    let mut mss = part(&plain.columns.mss, first);
    let (mut tsval, mut wscale) = ([0; GROUP], [0; GROUP]);
    let mut fit = [0; GROUP];
    for lane in 0..GROUP {
        let word = |at: usize| words[at][lane];
        // Each kind with its length; of the last option, its own length stands in front of the value.
        let kinds = (word(0) & 0xffff == 0x0204)
            & (word(1) & 0xffff == 0x0402)
            & (word(2) >> 16 == 0x080a)
            & (word(3) & 0xffff == 0)
            & (word(4) == 0x0103)
            & (word(5) >> 24 == 3);
        let sum = Halves::ZERO.one(word(0) & 0xffff).both(word(1)).both(word(2)).both(word(3)).both(word(4));
        let whole = (sums[lane] == WHOLE) | is_whole(sum.one(word(5) >> 16).sum().wrapping_add(sums[lane]));
        fit[lane] = u32::from(kinds & whole);
        mss[lane] = if kinds { word(1) >> 16 } else { mss[lane] };
        tsval[lane] = word(2) << 16 | word(3) >> 16;
        wscale[lane] = word(5) >> 16 & 0xff;
    }
    put(&mut plain.columns.mss, first, &mss);
    put(&mut plain.columns.tsval, first, &tsval);
    put(&mut plain.columns.wscale, first, &wscale);
    vectors.nonzero(&fit)
}
