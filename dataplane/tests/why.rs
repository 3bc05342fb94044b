//! `hearken why` on several workers, with Linux's own TCP as the client: whose flow a segment belongs to, where else it may
//! come, and that asking changes nothing.

#![cfg(feature = "dpdk")]

mod lab;

use std::path::Path;

use lab::{CLIENT, Hearken, SERVER, Wire, connect, skip};
use serde_json::Value;

const QUEUE: u16 = 7000;

/// What [`Hearken::json`] says of stats, without what grows by itself.
fn counted(hearken: &Hearken) -> (Value, Value, Vec<u64>) {
    let stats = hearken.json("stats").expect("stats");
    let cores = stats["cores"].as_array().expect("cores");
    let handed = cores.iter().flat_map(|core| ["handed_over", "taken_over"].map(|name| core[name].as_u64()));
    let total = &stats["total"];
    (total["snmp"].clone(), total["outcomes"].clone(), handed.map(|count| count.expect("a count")).collect())
}

#[test]
fn a_segment_at_another_worker_is_handed_to_the_one_that_knows_it() {
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(error) => return skip("why on two workers", error),
    };
    let hearken = Hearken::start(Path::new(env!("CARGO_BIN_EXE_hearken")), &wire.server, |socket| {
        lab::config(socket, "net_af_packet0,iface=hk0,qpairs=2", 2, &[(QUEUE, "queue")])
    })
    .expect("hearken starts on net_af_packet");
    let stream = wire.client.enter(|| connect(QUEUE)).expect("entered").expect("a connection");
    let sport = stream.local_addr().expect("an address").port();
    // connect() returns with the SYN-ACK: the ACK behind it has come once the connection waits.
    let begun = std::time::Instant::now();
    while hearken.json("ss").expect("ss")["listeners"][0]["recv_q"] != 1 {
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{}", hearken.ctl("ss").expect("ss"));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let before = counted(&hearken);
    let ask = |sport: u16, more: &str| {
        let words = format!("why {CLIENT}:{sport} {SERVER}:{QUEUE} --flags A {more}");
        let text = hearken.ctl(&words).expect("why answers");
        (hearken.json(&words).expect("why answers"), text)
    };
    // Where its own segments come, nothing is handed over.
    let (own, text) = ask(sport, "");
    let owner = own["owner"].as_u64().expect("somebody knows the connection");
    assert_eq!((own["core"].as_u64(), own.get("handed_to")), (Some(owner), None), "{own}");
    assert!(!text.contains("handed "), "{text}");
    // At the other worker it would be.
    let other = 1 - owner;
    let (handed, text) = ask(sport, &format!("--core {other}"));
    assert_eq!((&handed["core"], &handed["handed_to"]), (&Value::from(other), &Value::from(vec![owner])));
    for field in ["verdict", "outcome", "reason", "reply", "belongs"] {
        assert_eq!(handed.get(field), own.get(field), "{field}: {handed} {own}");
    }
    assert_eq!(handed["belongs"], "a connection in ESTABLISHED");
    let line =
        format!("handed    core {other} does not know the flow: over to core {owner}, whose flow it is\n");
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("handed_over, taken_over would grow"), "{text}");
    // Of a flow that nobody knows the last one decides.
    let (stray, text) = ask(1, "--core 1");
    assert_eq!((&stray["handed_to"], stray.get("owner")), (&Value::from(vec![0]), None), "{stray}");
    assert_eq!(
        (&stray["verdict"], &stray["outcome"]),
        (&Value::from("reply"), &Value::from("rst")),
        "{stray}"
    );
    assert!(text.contains("over to core 0, the last that is asked: nobody knows the flow\n"), "{text}");
    // A SYN stays where it is.
    let syn = hearken.json(&format!("why {CLIENT}:2 {SERVER}:{QUEUE} --core 1")).expect("why answers");
    assert_eq!((&syn["outcome"], syn.get("handed_to")), (&Value::from("synack"), None), "{syn}");
    assert_eq!(counted(&hearken), before, "asking counts nothing");
}
