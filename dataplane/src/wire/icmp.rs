//! ICMP and ICMPv6: echo, and errors about packets of ours (RFC 792, RFC 4443).

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

/// Errors: destination unreachable, time exceeded, parameter problem.
pub const UNREACHABLE: u8 = 3;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// ICMPv6 errors: destination unreachable, packet too big, time exceeded, parameter problem.
pub const V6_FIRST_ERROR: u8 = 1;
/// The last of them that is defined.
pub const V6_LAST_ERROR: u8 = 4;

/// Whether an error of this type and code ends a handshake. `None`: TCP is not told of it.
///
/// # Source
/// Linux v6.18 `icmp_unreach`, `tcp_v4_err`.
pub fn is_fatal(kind: u8, code: u8) -> Option<bool> {
    const NET: u8 = 0;
    const HOST: u8 = 1;
    const LAST_CODE: u8 = 15;
    const REASSEMBLY: u8 = 1;
    match (kind, code) {
        (UNREACHABLE, NET | HOST) | (PARAMETER_PROBLEM, _) => Some(true),
        (UNREACHABLE, ..=LAST_CODE) => Some(false),
        (TIME_EXCEEDED, REASSEMBLY) => None,
        (TIME_EXCEEDED, _) => Some(true),
        _ => None,
    }
}

/// The same of ICMPv6.
///
/// # Source
/// Linux v6.18 `icmpv6_err_convert`.
pub fn is_fatal_v6(kind: u8, code: u8) -> Option<bool> {
    match (kind, code) {
        // No route; beyond the scope; address unreachable.
        (1, 0 | 2 | 3) | (2 | 3, _) => Some(false),
        (1 | 4, _) => Some(true),
        _ => None,
    }
}

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
