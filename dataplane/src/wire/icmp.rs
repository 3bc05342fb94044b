//! ICMP and ICMPv6 echo (RFC 792, RFC 4443 §4).

use super::checksum;

/// Octets of an echo message without data.
pub const HEADER_LEN: usize = 8;

/// Echo request, echo reply.
pub const ECHO_REQUEST: u8 = 8;
/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// ICMPv6 echo request.
pub const V6_ECHO_REQUEST: u8 = 128;
/// ICMPv6 echo reply.
pub const V6_ECHO_REPLY: u8 = 129;

/// Type and code of a message; `None` if it ends before its eight octets do.
#[inline]
pub fn kind(message: &[u8]) -> Option<(u8, u8)> {
    let [kind, code, ..] = *message.first_chunk::<HEADER_LEN>()?;
    Some((kind, code))
}

/// Changes the type of a message of at least four octets, and its checksum with it. The sum of an ICMPv6 pseudo-header
/// stays the same when its addresses change places. A shorter message stays as it is.
pub fn set_kind(message: &mut [u8], kind: u8) {
    let Some([old, code, hi, lo]) = message.first_chunk_mut() else { return };
    let field = u16::from_be_bytes([*hi, *lo]);
    let field = checksum::update(field, u16::from_be_bytes([*old, *code]), u16::from_be_bytes([kind, *code]));
    *old = kind;
    [*hi, *lo] = field.to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::Sum;

    #[test]
    fn a_request_becomes_a_reply() {
        let mut message = [8, 0, 0, 0, 0x12, 0x34, 0, 1, b'p', b'i', b'n'];
        let sum = Sum::of(&message).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(kind(&message), Some((8, 0)));
        set_kind(&mut message, ECHO_REPLY);
        assert!(Sum::of(&message).is_whole());
        assert_eq!(kind(&message), Some((0, 0)));
        assert_eq!(message[4..], [0x12, 0x34, 0, 1, b'p', b'i', b'n']);
        assert_eq!(kind(&message[..7]), None);
    }
}
