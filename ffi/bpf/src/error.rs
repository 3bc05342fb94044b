//! What goes wrong between us and the kernel.

use std::io;

/// A step that the kernel, or its file system of types, refused.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The kernel has no type information, so programs cannot be fitted to it.
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux); hand-over needs a kernel that is built with CONFIG_DEBUG_INFO_BTF, as \
         those of Debian, Ubuntu, Fedora and RHEL are"
    )]
    NoBtf,
    /// The kernel lacks a function that a program calls.
    #[error("this kernel has no {function}; hand-over needs Linux {since} or newer, see \"uname -r\"")]
    NoFunction {
        /// Its name.
        function: &'static str,
        /// The first version that has it.
        since: &'static str,
    },
    /// A program was refused.
    #[error("the kernel did not take the program {program}: {source}{}", hint(source))]
    Load {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// A program could not be put on an interface.
    #[error("cannot attach {program} to interface number {ifindex}: {source}{}", hint(source))]
    Attach {
        /// Its name.
        program: &'static str,
        /// The interface.
        ifindex: u32,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// An XDP program of somebody else is on the interface.
    #[error(
        "the XDP program \"{name}\" (id {id}) is on the interface and is not hearken's; remove it with \"ip link set dev IFACE \
         xdp off\", or leave this interface to it"
    )]
    Foreign {
        /// Its name.
        name: String,
        /// Its number.
        id: u32,
    },
    /// A tc filter of somebody else has our place.
    #[error(
        "the tc filter \"{name}\" (id {id}) has hearken's place on the ingress of the interface (priority 1, handle 0x686b); give it \
         another with \"tc filter\""
    )]
    ForeignFilter {
        /// Its program's name.
        name: String,
        /// The program's number.
        id: u32,
    },
    /// Another hearken has the interface.
    #[error(
        "another hearken (process {pid}) has this interface; stop that one first, or choose another interface"
    )]
    Taken {
        /// That one's process.
        pid: u64,
    },
    /// A map could not be read or written.
    #[error("the map {map}: {source}{}", hint(source))]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// The listeners could not be read.
    #[error("cannot list the kernel's listeners: {0}")]
    List(#[source] io::Error),
}

/// What to do about an error that has one usual cause.
fn hint(source: &libbpf_rs::Error) -> &'static str {
    match source.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => {
            "; it needs root, or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN (see \"hearken doctor\")"
        }
        _ => "",
    }
}

/// An error about something of ours that is not where it should be.
pub(crate) fn missing(what: &str) -> libbpf_rs::Error {
    io::Error::new(io::ErrorKind::NotFound, what).into()
}
