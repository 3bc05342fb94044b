//! Why the listen API said no, and the errno that the kernel's caller would see.

use std::fmt;

macro_rules! errnos {
    ($($name:ident = $number:literal: $sentence:literal,)*) => {
        /// An errno by its Linux number (asm-generic, as on x86-64 and arm64).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(clippy::upper_case_acronyms)]
        #[non_exhaustive]
        pub enum Errno {
            $(#[doc = $sentence] $name = $number,)*
        }

        impl Errno {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// `"EADDRINUSE"` and so on.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What strerror(3) says.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }
        }
    };
}

errnos! {
    EBADF = 9: "Bad file descriptor",
    EAGAIN = 11: "Resource temporarily unavailable",
    ENOMEM = 12: "Cannot allocate memory",
    EACCES = 13: "Permission denied",
    ENODEV = 19: "No such device",
    EINVAL = 22: "Invalid argument",
    EMFILE = 24: "Too many open files",
    EPIPE = 32: "Broken pipe",
    ENOPROTOOPT = 92: "Protocol not available",
    EAFNOSUPPORT = 97: "Address family not supported by protocol",
    EADDRINUSE = 98: "Address already in use",
    EADDRNOTAVAIL = 99: "Cannot assign requested address",
    ECONNRESET = 104: "Connection reset by peer",
    ENOBUFS = 105: "No buffer space available",
    ENOTCONN = 107: "Transport endpoint is not connected",
    ETIMEDOUT = 110: "Connection timed out",
}

impl Errno {
    /// The number, as in `errno.h`.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! listen_errors {
    ($($variant:ident => $errno:ident: $sentence:literal,)*) => {
        /// Why the listen API said no. One variant a cause; several causes may share an errno.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum ListenError {
            $(#[doc = $sentence] $variant,)*
        }

        impl ListenError {
            /// All causes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The errno that the system call would set.
            pub const fn errno(self) -> Errno {
                match self { $(Self::$variant => Errno::$errno,)* }
            }

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

listen_errors! {
    BadDescriptor => EBADF: "No socket has this descriptor.",
    TooManySockets => EMFILE: "No descriptor is left.",
    // bind
    AddrTooShort => EINVAL: "The address is shorter than its family's sockaddr.",
    AddrFamily => EAFNOSUPPORT: "The address is of another family than the socket.",
    AddrNotLocal => EADDRNOTAVAIL: "The address is none of this host's.",
    AddrMulticast => EINVAL: "An IPv6 stream socket does not bind to a multicast address.",
    AddrMappedV6Only => EINVAL: "The address is IPv4 and the socket takes IPv6 only.",
    AddrNeedsScope => EINVAL: "A link-local address needs a device: a scope id, or SO_BINDTODEVICE before.",
    PrivilegedPort => EACCES: "Ports below ip_unprivileged_port_start need CAP_NET_BIND_SERVICE.",
    AlreadyBound => EINVAL: "The socket is bound, listening or connected already.",
    AddrInUse => EADDRINUSE: "Another socket holds the port on an overlapping address.",
    NoFreePort => EADDRINUSE: "No port of the ephemeral range is free on this address.",
    // listen, accept, shutdown
    NotUnconnectedStream => EINVAL: "Only an unconnected socket can listen.",
    NotListening => EINVAL: "The socket does not listen.",
    QueueEmpty => EAGAIN: "No connection waits in the accept queue.",
    NotConnected => ENOTCONN: "The socket is neither connected nor listening.",
    ListenersFull => ENOBUFS: "As many sockets listen as limits.listeners_max allows.",
    GroupFull => ENOMEM: "The reuseport group has 65535 members.",
    // options
    NoSuchDevice => ENODEV: "No device has this name.",
    NoSuchOption => ENOPROTOOPT: "The socket's family does not know this option.",
    BadOptionValue => EINVAL: "The option does not take this value.",
    OptionAfterBind => EINVAL: "IPV6_V6ONLY cannot change once the socket has a port.",
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.errno(), self.sentence())
    }
}

impl std::error::Error for ListenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_have_their_linux_names_and_numbers() {
        let kernel =
            [(Errno::EADDRINUSE, 98), (Errno::EINVAL, 22), (Errno::ENOBUFS, 105), (Errno::EADDRNOTAVAIL, 99)];
        for (errno, number) in kernel {
            assert_eq!(errno.number(), number);
            assert_eq!(std::io::Error::from_raw_os_error(number.into()).raw_os_error(), Some(number.into()));
        }
        for errno in Errno::ALL {
            let system = std::io::Error::from_raw_os_error(errno.number().into()).to_string();
            assert!(system.starts_with(errno.sentence()), "{errno}: {system}");
        }
    }

    #[test]
    fn every_cause_reads_as_a_sentence() {
        for cause in ListenError::ALL {
            assert!(cause.sentence().ends_with('.'));
            assert!(cause.to_string().starts_with(cause.errno().name()));
        }
        assert_eq!(size_of::<ListenError>(), 1);
    }
}
