//! When SYN-ACKs go out again, on the wire, from Linux and from hearken at the same time: `reqsk_timer_handler`.

use std::time::{Duration, Instant};

use super::frame::{self, ACK, RST, SYN, Tcp, option};
use super::reply::{Body, Packet};
use super::server::{Server, Setup, Then};
use super::talk::{ISN, TSVAL, Talk};

/// Requests that nobody finishes.
const PLAIN: u16 = 7000;
/// Waits for data for 3 s.
const DEFER: u16 = 7001;
/// Its accept queue is full when the final ACK comes.
const FULL: u16 = 7002;
/// The port of the flow that fills it.
const FILLER: u16 = 2000;

/// One flow: where from, where to, how, and the seconds at which its SYN-ACKs are due.
struct Flow {
    what: &'static str,
    v6: bool,
    sport: u16,
    dport: u16,
    options: Vec<u8>,
    /// Whether the SYN-ACK is acknowledged at once.
    acked: bool,
    due: Vec<u64>,
}

/// A time that a frame took, in ms.
type Ms = u64;

/// The server's listeners. The short form gives up after two retransmissions, which is not waited for.
pub fn setup(long: bool) -> Setup {
    let setup = Setup::default().listen(PLAIN, 64, Then::Queue, 0).listen(DEFER, 64, Then::Queue, 3).listen(
        FULL,
        0,
        Then::Queue,
        0,
    );
    if long { setup } else { setup.sysctl("tcp_synack_retries", "2") }
}

fn flows(long: bool) -> Vec<Flow> {
    let all = if long { vec![0, 1, 3, 7, 15, 31] } else { vec![0, 1, 3] };
    let mut flows = Vec::new();
    for (v6, sport) in [(false, 1001), (true, 1101)] {
        let flow = |what, add: u16, dport, options, acked, due: &[u64]| Flow {
            what,
            v6,
            sport: sport + add,
            dport,
            options,
            acked,
            due: due.to_vec(),
        };
        flows.push(flow("plain", 0, PLAIN, option::mss(1460), false, &all));
        flows.push(flow("with all options", 1, PLAIN, option::all(TSVAL), false, &all));
        // While data is awaited nothing is sent; the last period gives the peer another chance, and from then on.
        flows.push(flow("deferred", 2, DEFER, option::mss(1460), true, &[&[0], &all[2..]].concat()));
        flows.push(flow("before a full accept queue", 3, FULL, option::mss(1460), true, &all));
    }
    flows
}

/// Holds the same conversations with both, and sets the times of their SYN-ACKs side by side.
///
/// # Panics
/// When hearken is early or late, or does what Linux does not.
pub fn compare(linux: &Server, hearken: &Server, long: bool) {
    let flows = flows(long);
    let watch = if long { 64_500 } else { 3_600 };
    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| times(linux, &flows, Duration::from_millis(watch)));
        let ours = times(hearken, &flows, Duration::from_millis(watch));
        (theirs.join().expect("no panic"), ours)
    });
    for ((flow, theirs), ours) in flows.iter().zip(&theirs).zip(&ours) {
        let name = format!("{} v{}", flow.what, if flow.v6 { 6 } else { 4 });
        eprintln!("{name}: due at {:?} s; Linux {theirs:?} ms, hearken {ours:?} ms", flow.due);
        assert_eq!((theirs.len(), ours.len()), (flow.due.len(), flow.due.len()), "{name}: how many");
        for ((due, theirs), ours) in flow.due.iter().zip(theirs).zip(ours) {
            // Linux's own timer wheel is coarser the further off: up to an eighth of the wait for the timer.
            let due = due * 1000;
            assert!((due..=due + due / 8 + 200).contains(theirs), "{name}: Linux is not on time");
            assert!((due..=due + 200).contains(ours), "{name}: hearken is not on time");
        }
    }
    if long {
        for server in [linux, hearken] {
            given_up(server, &flows);
        }
    }
}

/// Opens the flows; for each when its SYN-ACKs came.
fn times(server: &Server, flows: &[Flow], watch: Duration) -> Vec<Vec<Ms>> {
    let mut opened = Vec::new();
    for flow in flows {
        let mut talk = Talk::new(server, flow.v6, flow.sport, flow.dport);
        let start = Instant::now();
        talk.syn(flow.options.clone());
        if flow.dport == FULL {
            let mut filler = Talk::new(server, flow.v6, FILLER + flow.sport, flow.dport);
            filler.handshake(option::mss(1460));
        }
        if flow.acked {
            talk.send("final ACK", &talk.tcp(ACK));
        }
        let answers = talk.trace.iter().map(|exchange| exchange.replies.len()).sum::<usize>();
        assert_eq!(answers, 1, "{}: {}: {:?}", server.name, flow.what, talk.trace);
        opened.push((start, vec![0]));
    }
    let deadline = Instant::now() + watch;
    while let Some(octets) = server.wire.recv(deadline).expect("the wire") {
        let now = Instant::now();
        let Some(Packet { dst: Some(dst), body: Body::Tcp(tcp), .. }) = Packet::read(&octets) else {
            continue;
        };
        let ours = |flow: &Flow| flow.sport == tcp.dport && flow.v6 == dst.is_ipv6();
        if let Some(index) = flows.iter().position(ours)
            && tcp.flags & (SYN | ACK | RST) == SYN | ACK
        {
            assert_eq!(tcp.ack, ISN.wrapping_add(1));
            let (start, times) = &mut opened[index];
            times.push((now - *start).as_millis() as Ms);
        }
    }
    opened.into_iter().map(|(_, times)| times).collect()
}

/// After 63 s nobody knows the handshake any more: its ACK is answered by a RST.
fn given_up(server: &Server, flows: &[Flow]) {
    for flow in flows.iter().filter(|flow| flow.dport == PLAIN) {
        let mut talk = Talk::new(server, flow.v6, flow.sport, flow.dport);
        let ack = Tcp { ack: 77, ..talk.tcp(frame::ACK) };
        talk.send("final ACK", &ack);
        let said = format!("{:?}", talk.trace);
        assert!(said.contains("\"flags\", \"R\""), "{}: {}: {said}", server.name, flow.what);
        talk.send("the SYN again", &talk.tcp(SYN));
        let said = format!("{:?}", talk.trace.last());
        assert!(said.contains("\"flags\", \"SA\""), "{}: {}: {said}", server.name, flow.what);
    }
}
