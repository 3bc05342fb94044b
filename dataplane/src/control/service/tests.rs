use std::sync::Arc;

use listener::config::{Device, Secret, StackConfig};
use listener::limits::Limits;
use listener::sysctl::Sysctl;
use listener::types::CoreId;

use super::*;
use crate::config::ThenName;
use crate::control::proto::{Closed, Listen, Listening};
use crate::histogram::{Interval, Mailbox, Reporter};

const ROOT: Peer = Peer { client: 1, uid: 0 };

impl Devices for Vec<BTreeMap<String, u64>> {
    fn counters(&self) -> Self {
        self.clone()
    }
}

pub(crate) type TestDesk = Desk<Vec<BTreeMap<String, u64>>>;

fn desk() -> TestDesk {
    desk_on(Sysctl::default())
}

/// A desk with one port, one core that never answers, and no listener.
pub(crate) fn desk_on(sysctl: Sysctl) -> TestDesk {
    let device = Device {
        name: "wan".into(),
        index: dev_index(0),
        addresses: vec![("198.18.0.1".parse::<std::net::IpAddr>().expect("an address").into(), 24)],
        any_ip: Vec::new(),
        mtu: 1500,
    };
    let (limits, secret) = (Limits::TINY, Secret::from_seed(1));
    let config = StackConfig { sysctl, devices: vec![device], cores: 1, limits, secret };
    Desk {
        stack: Arc::new(Stack::new(config).expect("a stack").0),
        reporter: Reporter::new([(CoreId(0), Arc::<Mailbox>::default())]).into(),
        numbers: Numbers::default(),
        devices: vec![BTreeMap::from([("imissed".to_owned(), 7)])],
        ports: vec!["wan".into()],
        cpus: vec![3],
        cookies: CookieDesk::open(None).expect("random keys"),
        accepted: HashMap::new(),
        loaded: Loaded { config: crate::config::Config::default(), listeners: Vec::new() },
        dry_runs: DryRuns::default(),
        captures: Captures::default(),
        top: TopWindow::default(),
        #[cfg(feature = "kernel")]
        kernel: None,
    }
}

fn listen(addr: &str) -> Listen {
    Listen {
        addr: addr.parse().expect("an address"),
        backlog: 4096,
        reuseport: false,
        v6only: None,
        device: None,
        then: ThenName::Queue,
        defer_accept: 0,
    }
}

fn which(addr: &str) -> Which {
    Which { addr: addr.parse().expect("an address"), device: None, fd: None, all: false }
}

/// What is answered at once.
pub(crate) fn ask(desk: &mut TestDesk, peer: Peer, request: Request) -> Result<Reply, Refusal> {
    match desk.call(peer, &request) {
        Poll::Ready(reply) => reply,
        Poll::Pending => panic!("{request:?} waits for the workers"),
    }
}

fn ss(desk: &mut TestDesk) -> Vec<proto::ListenerRow> {
    match ask(desk, ROOT, Request::Ss { from: 0 }) {
        Ok(Reply::Ss(ss)) => ss.listeners,
        other => panic!("{other:?}"),
    }
}

#[test]
fn listeners_come_and_go() {
    let mut desk = desk();
    let fancy =
        Listen { device: Some("wan".into()), then: ThenName::Discard, backlog: 9, ..listen("[::]:443") };
    let opened = ask(&mut desk, ROOT, Request::Listen(fancy)).expect("a listener");
    let Reply::Listening(Listening { fd, backlog: 9, .. }) = opened else { panic!("{opened:?}") };
    ask(&mut desk, ROOT, Request::Listen(Listen { backlog: -1, ..listen("198.18.0.1:80") }))
        .expect("a listener");
    let rows = ss(&mut desk);
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].fd, rows[0].send_q, rows[0].local), (fd, 9, "[::]:443".parse().expect("an address")));
    assert_eq!((rows[0].device.as_deref(), rows[0].then), (Some("wan"), ThenName::Discard));
    assert_eq!((rows[1].send_q, rows[1].then), (4096, ThenName::Queue));
    assert_eq!(
        ask(&mut desk, ROOT, Request::Close(which("[::]:443"))),
        Ok(Reply::Closed(Closed { closed: vec![fd] }))
    );
    assert_eq!(ss(&mut desk).len(), 1);
}

#[test]
fn refusals_carry_the_errno_and_the_next_step() {
    let mut desk = desk();
    ask(&mut desk, ROOT, Request::Listen(listen("0.0.0.0:80"))).expect("a listener");
    let user = Peer { client: 2, uid: 1000 };
    let cases = [
        (
            ROOT,
            listen("198.18.0.1:80"),
            "EADDRINUSE: cannot listen on 198.18.0.1:80: Another socket holds the port on \
          an overlapping address. Next: see \"hearken ss\"; close that one, or give both reuseport.",
        ),
        (
            ROOT,
            listen("198.18.7.7:81"),
            "EADDRNOTAVAIL: cannot listen on 198.18.7.7:81: The address is none of this \
          host's. Next: add the address to addresses (or its prefix to any_ip) of a [[port]], or set \
          sysctl.ip_nonlocal_bind.",
        ),
        (
            user,
            listen("198.18.0.1:443"),
            "EACCES: cannot listen on 198.18.0.1:443: Ports below \
          ip_unprivileged_port_start need CAP_NET_BIND_SERVICE. Next: run as root, or lower \
          sysctl.ip_unprivileged_port_start in the configuration.",
        ),
        (
            ROOT,
            Listen { device: Some("lan".into()), ..listen("198.18.0.1:81") },
            "ENODEV: cannot listen on \
          198.18.0.1:81: No device has this name. Next: the ports are: wan.",
        ),
    ];
    for (peer, listen, message) in cases {
        let refusal = ask(&mut desk, peer, Request::Listen(listen)).expect_err(message);
        assert_eq!(refusal.to_string(), message);
    }
    // A failed attempt leaves no socket behind: the next one gets the same descriptor.
    let Ok(Reply::Listening(first)) = ask(&mut desk, ROOT, Request::Listen(listen("198.18.0.1:82"))) else {
        panic!()
    };
    assert_eq!(first.fd, ss(&mut desk)[0].fd + 1);
}

#[test]
fn of_several_listeners_one_must_be_chosen() {
    let mut desk = desk();
    for _ in 0..3 {
        ask(&mut desk, ROOT, Request::Listen(Listen { reuseport: true, ..listen("198.18.0.1:80") }))
            .expect("a member");
    }
    let fds: Vec<u32> = ss(&mut desk).iter().map(|row| row.fd).collect();
    let refusal = ask(&mut desk, ROOT, Request::Close(which("198.18.0.1:80"))).expect_err("three of them");
    let [a, b, c] = fds[..] else { panic!("{fds:?}") };
    assert_eq!(
        refusal.to_string(),
        format!(
            "3 listeners are on 198.18.0.1:80: fd {a}, {b}, {c}; choose one with --fd, or all with --all"
        )
    );
    ask(&mut desk, ROOT, Request::Close(Which { fd: Some(b), ..which("198.18.0.1:80") }))
        .expect("one of them");
    ask(&mut desk, ROOT, Request::Close(Which { all: true, ..which("198.18.0.1:80") })).expect("the others");
    assert!(ss(&mut desk).is_empty());
    let refusal = ask(&mut desk, ROOT, Request::Close(which("198.18.0.1:80"))).expect_err("none left");
    assert_eq!(refusal.to_string(), "no such listener: 198.18.0.1:80; see \"hearken ss\"");
}

#[test]
fn ports_in_a_range_come_and_go_together() {
    let mut desk = desk();
    ask(&mut desk, ROOT, Request::Listen(listen("198.18.0.1:20"))).expect("a listener");
    let opened =
        ask(&mut desk, ROOT, Request::Listen(listen("198.18.0.1:30,10-19"))).expect("eleven listeners");
    let Reply::Listening(Listening { addr, listeners: 11, .. }) = opened else { panic!("{opened:?}") };
    assert_eq!(addr.port(), 10);
    let refusal =
        ask(&mut desk, ROOT, Request::Listen(listen("198.18.0.1:1-25"))).expect_err("some are taken");
    assert!(refusal.to_string().starts_with("EADDRINUSE: cannot listen on 198.18.0.1:10: "), "{refusal}");
    assert_eq!(ss(&mut desk).len(), 12, "all or none");
    // What there is between the first and the last goes; of two alike one must be chosen.
    let closed = ask(&mut desk, ROOT, Request::Close(which("198.18.0.1:15-25"))).expect("six of them");
    let Reply::Closed(Closed { closed }) = closed else { panic!("{closed:?}") };
    assert_eq!((closed.len(), ss(&mut desk).len()), (6, 6));
    for _ in 0..2 {
        ask(&mut desk, ROOT, Request::Listen(Listen { reuseport: true, ..listen("198.18.0.1:40-41") }))
            .expect("members");
    }
    let refusal =
        ask(&mut desk, ROOT, Request::Close(which("198.18.0.1:1-65535"))).expect_err("two at one port");
    assert!(refusal.to_string().starts_with("2 listeners are on 198.18.0.1:40: fd "), "{refusal}");
    ask(&mut desk, ROOT, Request::Close(Which { all: true, ..which("198.18.0.1:1-65535") })).expect("all");
    assert!(ss(&mut desk).is_empty());
    let refusal = ask(&mut desk, ROOT, Request::Close(which("198.18.0.1:1-65535"))).expect_err("none left");
    assert_eq!(refusal.to_string(), "no such listener: 198.18.0.1:1-65535; see \"hearken ss\"");
    desk.stack.assert_invariants();
}

#[test]
fn a_listener_belongs_to_its_user() {
    let mut desk = desk();
    let (owner, other) = (Peer { client: 2, uid: 1000 }, Peer { client: 3, uid: 1001 });
    ask(&mut desk, owner, Request::Listen(listen("198.18.0.1:8080"))).expect("a listener");
    for request in [Request::Close(which("198.18.0.1:8080")), Request::Accept(which("198.18.0.1:8080"))] {
        let refusal = ask(&mut desk, other, request).expect_err("somebody else's");
        assert_eq!(refusal.errno.as_deref(), Some("EPERM"));
        assert!(refusal.message.contains("belongs to user 1000"), "{refusal}");
    }
    ask(&mut desk, owner, Request::Close(which("198.18.0.1:8080"))).expect("its own");
}

#[test]
fn an_empty_accept_queue_says_so() {
    let mut desk = desk();
    ask(&mut desk, ROOT, Request::Listen(listen("198.18.0.1:80"))).expect("a listener");
    ask(&mut desk, ROOT, Request::Listen(Listen { then: ThenName::Discard, ..listen("198.18.0.1:9") }))
        .expect("a listener");
    let refusal = ask(&mut desk, ROOT, Request::Accept(which("198.18.0.1:80"))).expect_err("an empty queue");
    assert_eq!(refusal.to_string(), "EAGAIN: on 198.18.0.1:80: No connection waits in the accept queue.");
    let refusal = ask(&mut desk, ROOT, Request::Accept(which("198.18.0.1:9"))).expect_err("no queue");
    assert!(refusal.message.ends_with("it was opened with then = discard."), "{refusal}");
    let refusal =
        ask(&mut desk, ROOT, Request::CloseConnection { fd: 3, reset: false }).expect_err("not accepted");
    assert_eq!(
        refusal.to_string(),
        "EBADF: fd 3 was not accepted by this client: No socket has this descriptor."
    );
}

#[test]
fn many_listeners_come_in_pages() {
    let mut desk = desk();
    let count = u16::try_from(proto::SS_ROWS_MAX + 5).expect("fits");
    for port in 1..=count {
        ask(&mut desk, ROOT, Request::Listen(listen(&format!("198.18.0.1:{port}")))).expect("a listener");
    }
    let Ok(Reply::Ss(first)) = ask(&mut desk, ROOT, Request::Ss { from: 0 }) else { panic!() };
    assert_eq!(first.listeners.len(), proto::SS_ROWS_MAX);
    let from = first.next.expect("there are more");
    let Ok(Reply::Ss(second)) = ask(&mut desk, ROOT, Request::Ss { from }) else { panic!() };
    assert_eq!((second.listeners.len(), second.next), (5, None));
    assert_eq!(second.listeners[0].local.port(), count - 4);
}

#[test]
fn stats_name_every_reason_and_every_core() {
    let mut desk = desk();
    let stats = desk.stats();
    assert_eq!((stats.cores.len(), stats.cores[0].core, stats.cores[0].cpu), (1, Some(0), Some(3)));
    assert!(stats.cores[0].late, "nobody answers for this core");
    assert_eq!(stats.total.drops.len(), DropReason::COUNT);
    assert_eq!(stats.total.outcomes.len(), Outcome::ALL.len());
    assert!(stats.total.snmp.contains_key("ListenOverflows"));
    assert_eq!(stats.devices[0].counters["imissed"], 7);
    let refusal = desk.latency(Some(4)).expect_err("no such core");
    assert_eq!(refusal.message, "there is no core 4; the cores are 0 to 0");
}

#[test]
fn who_asks_for_numbers_is_answered_when_the_workers_have_answered() {
    let mailbox = Arc::<Mailbox>::default();
    let mut desk = Desk { reporter: Reporter::new([(CoreId(0), mailbox.clone())]).into(), ..desk() };
    assert_eq!(desk.stats().total.outcomes["synack"], 0);
    assert!(desk.call(ROOT, &Request::Stats {}).is_pending());
    let mut last = Box::<Interval>::default();
    last.counters.outcomes[Outcome::SynAck as usize] = 5;
    mailbox.finish(last);
    let Ok(Reply::Stats(stats)) = ask(&mut desk, ROOT, Request::Stats {}) else { panic!("there are stats") };
    assert_eq!((stats.total.outcomes["synack"], stats.cores[0].late), (5, false));
}

#[test]
fn nobody_waits_for_a_core_that_stands_still() {
    let mut desk = desk();
    let clients: Vec<Peer> = (1..20).map(|client| Peer { client, uid: 0 }).collect();
    let slow = [
        Request::Stats {},
        Request::Latency { core: None },
        Request::Histograms { core: None },
        Request::Top {},
    ];
    let rotate = Request::CookieKeys { rotate: true };
    // Each is told later; what needs no worker is answered meanwhile.
    for (peer, request) in clients.iter().zip(slow.iter().chain([&rotate])) {
        assert!(desk.call(*peer, request).is_pending(), "{request:?}");
        assert!(ss(&mut desk).is_empty());
    }
    let begun = std::time::Instant::now();
    let mut waiting: Vec<_> = clients.iter().zip(slow.iter().chain([&rotate])).collect();
    while !waiting.is_empty() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{waiting:?}");
        desk.round();
        waiting.retain(|(peer, request)| desk.call(**peer, request).is_pending());
        std::thread::yield_now();
    }
}

#[test]
fn quantiles_are_those_of_the_histogram() {
    let mut report = CoreReport {
        core: CoreId(2),
        counters: Default::default(),
        latency: histogram::Latency::new(),
        fresh: true,
    };
    for ns in 1..=1000 {
        report.latency.record(Outcome::SynAck, ns, 1);
    }
    report.counters.outcomes[Outcome::SynAck as usize] = 1000;
    let latency = latency_of(&[report.clone(), report]);
    let row = &latency.cores[0].outcomes[0];
    assert_eq!((row.outcome.as_str(), row.count, row.frames), ("synack", 1000, 1000));
    assert_eq!((row.min_ns, row.p50_ns, row.p90_ns, row.p99_ns, row.max_ns), (1, 500, 900, 990, 1000));
    assert_eq!(latency.total[0].count, 2000);
    let rst = &latency.cores[0].outcomes[1];
    assert_eq!((rst.outcome.as_str(), rst.count, rst.min_ns, rst.max_ns), ("rst", 0, 0, 0));
}
