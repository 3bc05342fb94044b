//! What a sequence is made of, and how chance makes one.

/// SplitMix64: any state starts it well.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64, sequence: u64) -> Self {
        let mut rng = Self(seed ^ sequence.wrapping_mul(0xd134_2543_de82_ef95));
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opt {
    Reuse,
    Reuseport,
    V6Only,
    NoPort,
    Freebind,
}

/// A port by what it stands for in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Any,
    Fixed(u16),
    Privileged,
    /// Whatever socket `slot` is bound to now.
    Of(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Rst,
    Fin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Socket {
        slot: usize,
        v6: bool,
        uid: u32,
    },
    Set {
        slot: usize,
        opt: Opt,
        on: bool,
    },
    Device {
        slot: usize,
        name: &'static str,
    },
    Bind {
        slot: usize,
        addr: &'static str,
        port: Port,
        uid: u32,
    },
    Listen {
        slot: usize,
        backlog: i32,
    },
    Shutdown {
        slot: usize,
        how: usize,
    },
    Close {
        slot: usize,
    },
    Connect {
        addr: &'static str,
        port: Port,
    },
    Accept {
        slot: usize,
    },
    /// The `nth` living child, or client.
    CloseChild {
        nth: usize,
        end: End,
    },
    CloseClient {
        nth: usize,
        end: End,
    },
    SetChild {
        nth: usize,
        opt: Opt,
        on: bool,
    },
    Name {
        slot: usize,
    },
    Options {
        slot: usize,
    },
}

pub const SLOTS: usize = 5;
const V4: [&str; 4] = ["0.0.0.0", "127.0.0.1", "127.0.0.1", "127.0.0.2"];
const V4_ODD: [&str; 6] = ["192.0.2.1", "224.0.0.1", "255.255.255.255", "127.255.255.255", "0.1.2.3", "::1"];
const V6: [&str; 6] = ["::", "::", "::1", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"];
const V6_ODD: [&str; 6] =
    ["2001:db8::1", "ff02::1", "fe80::1", "::ffff:192.0.2.1", "127.0.0.1", "::ffff:224.0.0.1"];
const TARGETS: [&str; 5] = ["127.0.0.1", "127.0.0.1", "127.0.0.2", "::1", "::1"];

/// What most sockets of a sequence have set: without a leaning, two sockets seldom share a port.
#[derive(Clone, Copy, Debug)]
struct Leaning {
    reuse: usize,
    reuseport: usize,
    v6: usize,
    device: usize,
    other_uid: usize,
}

/// Sysctls of one sequence, both sides'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knobs {
    pub bindv6only: bool,
    pub ip_nonlocal_bind: bool,
    pub somaxconn: u32,
    pub autobind_reuse: bool,
}

pub fn knobs(rng: &mut Rng) -> Knobs {
    Knobs {
        bindv6only: rng.chance(10),
        ip_nonlocal_bind: rng.chance(10),
        somaxconn: rng.pick(&[4096, 4096, 1]),
        autobind_reuse: rng.chance(10),
    }
}

pub fn sequence(rng: &mut Rng) -> Vec<Op> {
    let leaning = Leaning {
        reuse: rng.pick(&[5, 50, 95]),
        reuseport: rng.pick(&[5, 50, 95]),
        v6: rng.pick(&[0, 50, 100]),
        device: rng.pick(&[0, 0, 40]),
        other_uid: rng.pick(&[0, 0, 30]),
    };
    let mut v6 = [false; SLOTS];
    let mut ops = Vec::new();
    for slot in 0..2 + rng.below(SLOTS - 1) {
        open(rng, &leaning, slot, &mut v6, &mut ops);
    }
    for _ in 0..6 + rng.below(14) {
        step(rng, &leaning, &mut v6, &mut ops);
    }
    ops
}

fn open(rng: &mut Rng, leaning: &Leaning, slot: usize, v6: &mut [bool; SLOTS], ops: &mut Vec<Op>) {
    v6[slot] = rng.chance(leaning.v6);
    let uid = if rng.chance(leaning.other_uid) { 1000 } else { 0 };
    ops.push(Op::Socket { slot, v6: v6[slot], uid });
    for (opt, percent) in
        [(Opt::Reuse, leaning.reuse), (Opt::Reuseport, leaning.reuseport), (Opt::V6Only, 15)]
    {
        if rng.chance(percent) {
            ops.push(Op::Set { slot, opt, on: true });
        }
    }
    if rng.chance(leaning.device) {
        ops.push(Op::Device { slot, name: rng.pick(&["lo", "d0"]) });
    }
    if rng.chance(70) {
        ops.push(bind(rng, slot, v6[slot]));
    }
    if rng.chance(50) {
        ops.push(listen(rng, slot));
    }
}

fn bind(rng: &mut Rng, slot: usize, v6: bool) -> Op {
    let odd = rng.chance(6);
    let addr = match (v6, odd) {
        (false, false) => rng.pick(&V4),
        (false, true) => rng.pick(&V4_ODD),
        (true, false) => rng.pick(&V6),
        (true, true) => rng.pick(&V6_ODD),
    };
    let (port, uid) = match rng.below(100) {
        0..3 => (Port::Privileged, 1000),
        3..10 => (Port::Any, 0),
        10..15 => (Port::Of(rng.below(SLOTS)), 0),
        15..30 => (Port::Fixed(1), 0),
        _ => (Port::Fixed(0), 0),
    };
    Op::Bind { slot, addr, port, uid }
}

fn listen(rng: &mut Rng, slot: usize) -> Op {
    Op::Listen { slot, backlog: rng.pick(&[0, 1, 2, 128, -1]) }
}

fn step(rng: &mut Rng, leaning: &Leaning, v6: &mut [bool; SLOTS], ops: &mut Vec<Op>) {
    let slot = rng.below(SLOTS);
    let on = rng.chance(60);
    match rng.below(100) {
        0..6 => {
            ops.push(Op::Close { slot });
            open(rng, leaning, slot, v6, ops);
        }
        6..10 => ops.push(Op::Set { slot, opt: Opt::Reuse, on }),
        10..14 => ops.push(Op::Set { slot, opt: Opt::Reuseport, on }),
        14..16 => ops.push(Op::Set { slot, opt: Opt::V6Only, on }),
        16..18 => ops.push(Op::Set { slot, opt: rng.pick(&[Opt::NoPort, Opt::Freebind]), on }),
        18..20 => ops.push(Op::Device { slot, name: rng.pick(&["lo", "", "d0", "none"]) }),
        20..32 => ops.push(bind(rng, slot, v6[slot])),
        32..48 => ops.push(listen(rng, slot)),
        48..52 => ops.push(Op::Shutdown { slot, how: rng.below(3) }),
        52..57 => ops.push(Op::Close { slot }),
        57..77 => {
            let port = if rng.chance(80) { Port::Fixed(0) } else { Port::Of(slot) };
            ops.push(Op::Connect { addr: rng.pick(&TARGETS), port });
        }
        77..86 => ops.push(Op::Accept { slot }),
        86..90 => ops.push(Op::CloseChild { nth: rng.below(3), end: rng.pick(&[End::Rst, End::Fin]) }),
        90..94 => ops.push(Op::CloseClient { nth: rng.below(3), end: rng.pick(&[End::Rst, End::Fin]) }),
        94..96 => {
            ops.push(Op::SetChild { nth: rng.below(3), opt: rng.pick(&[Opt::Reuse, Opt::Reuseport]), on });
        }
        96..98 => ops.push(Op::Name { slot }),
        _ => ops.push(Op::Options { slot }),
    }
}
