//! The first part: an unmodified nginx, its clients, and a flood of forged SYNs as fast as the wire carries it; Linux alone, then with
//! hearken in front.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hearken_bpf::flood::{Flood, Template};

use crate::beside::{Site, kernel_counter, nginx, wait_for};
use crate::lab::{Hearken, SERVER, run};

/// How long each of the three phases takes.
const PHASE: Duration = Duration::from_millis(1500);
/// The floods: one that both hold out against, and one as fast as the wire carries it.
const FLOODS: [(&str, Option<u64>); 2] = [("flood", Some(100_000)), ("fastest", None)];
/// A client gives up after this time.
const PATIENCE: Duration = Duration::from_secs(10);
const PAGE: &str = "Hello from nginx, unmodified.\n";

/// What the clients of one phase saw.
struct Seen {
    served: Histogram<u64>,
    failed: u32,
}

/// One row of the table.
struct Row {
    server: &'static str,
    phase: &'static str,
    seen: Seen,
    /// Forged SYNs a second that the wire took, and SYN-ACKs a second that came back.
    flood: Option<(f64, f64)>,
}

/// Shows it, or says why it cannot be shown here.
pub fn demo(stop: &AtomicBool) -> Result<(), Box<dyn Error>> {
    hearken_bpf::support::handover()?;
    let mut rows = Vec::new();
    for server in ["Linux alone", "hearken in front"] {
        rows.extend(contestant(server, stop)?);
    }
    println!("\nnginx, unmodified, during a flood of forged SYNs as fast as the wire carries them:\n");
    let header = ["", "", "SYNs/s in", "SYN-ACKs/s", "served", "failed", "median ms", "p99 ms", "worst ms"];
    println!(
        "{:17} {:7} {:>10} {:>10} {:>6} {:>6} {:>9} {:>8} {:>8}",
        header[0], header[1], header[2], header[3], header[4], header[5], header[6], header[7], header[8]
    );
    for row in rows {
        let ms = |quantile: f64| row.seen.served.value_at_quantile(quantile) as f64 / 1000.0;
        let [sent, answered] = row.flood.map_or(["-".into(), "-".into()], |(sent, answered)| {
            [format!("{sent:.0}"), format!("{answered:.0}")]
        });
        println!(
            "{:17} {:7} {sent:>10} {answered:>10} {:>6} {:>6} {:>9.2} {:>8.2} {:>8.2}",
            row.server,
            row.phase,
            row.seen.served.len(),
            row.seen.failed,
            ms(0.5),
            ms(0.99),
            ms(1.0)
        );
    }
    println!(
        "\nEach client connects anew, asks for a page and reads it to the end; sender, server and clients share this machine's cores.\n"
    );
    Ok(())
}

/// nginx and its clients before, during and after the flood, with or without hearken.
fn contestant(server: &'static str, stop: &AtomicBool) -> Result<Vec<Row>, Box<dyn Error>> {
    let site = Site::new()?;
    let root = tempfile::tempdir()?;
    std::fs::write(root.path().join("index.html"), PAGE)?;
    let _nginx = nginx(&site, root.path())?;
    let mut hearken = (server != "Linux alone").then(|| site.shield("redirect_per_ms = 64\n")).transpose()?;
    if let Some(hearken) = &hearken {
        wait_for("hearken in front of nginx", PATIENCE, || {
            hearken.ctl("ss").is_ok_and(|said| said.contains("nginx"))
        });
        println!("$ hearken shield hk0\n$ hearken ss\n{}", hearken.ctl("ss")?.trim_end());
    }
    keep_alive(&site)?;
    let mut rows = vec![Row { server, phase: "before", seen: clients(&site, stop)?, flood: None }];
    for (phase, rate) in FLOODS {
        let (seen, flood) = during(&site, rate, hearken.as_ref(), stop)?;
        rows.push(Row { server, phase, seen, flood: Some(flood) });
    }
    rows.push(Row { server, phase: "after", seen: clients(&site, stop)?, flood: None });
    if let Some(hearken) = &mut hearken {
        let handed = kernel_counter(hearken, "handed_over_to_kernel");
        let own = site.counter("TcpExt", "SyncookiesSent");
        println!("{handed} handshakes were handed over to the kernel, which itself sent {own} SYN cookies.");
        hearken.stop()?;
    }
    Ok(rows)
}

/// Two requests of curl's on one connection: what keep-alive is for.
fn keep_alive(site: &Site) -> io::Result<()> {
    let url = format!("http://{SERVER}/");
    let said = run(site.client.command("curl").args([
        "-sS",
        "--max-time",
        "10",
        "-w",
        "%{num_connects}\n",
        &url,
        &url,
    ]))?;
    // The number of new connections that each request took.
    if said == format!("{PAGE}1\n{PAGE}0\n") {
        return Ok(());
    }
    Err(io::Error::other(format!("curl did not get the page twice on one connection: {said}")))
}

/// The clients of a phase with a flood of `rate` SYNs a second, and the SYNs and SYN-ACKs a second that there were.
fn during(
    site: &Site,
    rate: Option<u64>,
    hearken: Option<&Hearken>,
    stop: &AtomicBool,
) -> Result<(Seen, (f64, f64)), Box<dyn Error>> {
    let answered = || -> Result<u64, Box<dyn Error>> {
        let Some(hearken) = hearken else { return Ok(site.counter("TcpExt", "SyncookiesSent")) };
        let by_workers = hearken.json("stats")?["total"]["outcomes"]["synack"].as_u64().unwrap_or_default();
        Ok(by_workers + kernel_counter(hearken, "claim_answered"))
    };
    let template = template(site)?;
    let index = site.client.ip("-o link show dev hk1")?;
    let index: u32 = index.split(':').next().unwrap_or_default().parse()?;
    let before = answered()?;
    let begin = Instant::now();
    let (seen, sent) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            site.client
                .enter(|| Flood::new(index, &template).and_then(|flood| flood.run(u64::MAX, rate, PHASE)))
        });
        let seen = clients(site, stop);
        (seen, flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let seconds = begin.elapsed().as_secs_f64();
    let rates = (sent?? as f64 / seconds, (answered()? - before) as f64 / seconds);
    Ok((seen?, rates))
}

/// Clients one after the other, as long as a phase takes.
fn clients(site: &Site, stop: &AtomicBool) -> io::Result<Seen> {
    let mut seen = Seen { served: Histogram::new(3).map_err(io::Error::other)?, failed: 0 };
    let begin = Instant::now();
    while begin.elapsed() < PHASE {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted; all is taken down"));
        }
        let start = Instant::now();
        let got = site.connect((SERVER, 80), PATIENCE).and_then(page);
        let took = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        match got {
            Ok(true) => seen.served.record(took).map_err(io::Error::other)?,
            _ => seen.failed += 1,
        }
    }
    Ok(seen)
}

/// Asks for the page; true if it is the one.
fn page(mut stream: TcpStream) -> io::Result<bool> {
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said.ends_with(PAGE))
}

/// A SYN with the options of Linux, from 65,536 sources of 198.19.0.0/16 that nobody has.
fn template(site: &Site) -> Result<Template, Box<dyn Error>> {
    let mac = |namespace: &crate::lab::Namespace, device: &str| -> Result<[u8; 6], Box<dyn Error>> {
        let link = namespace.ip(&format!("-o link show dev {device}"))?;
        let mac = link
            .split_whitespace()
            .skip_while(|word| *word != "link/ether")
            .nth(1)
            .ok_or("no MAC address")?;
        let octets: Result<Vec<u8>, _> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
        octets?.try_into().map_err(|_| "no MAC address".into())
    };
    let builder = etherparse::PacketBuilder::ethernet2(mac(&site.client, "hk1")?, mac(&site.server, "hk0")?)
        .ipv4([198, 19, 0, 0], SERVER.octets(), 64)
        .tcp(1024, 80, 7, 64_240)
        .syn();
    use etherparse::TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
    };
    let options = [
        MaximumSegmentSize(1460),
        SelectiveAcknowledgementPermitted,
        Timestamp(1000, 0),
        Noop,
        WindowScale(7),
    ];
    let mut frame = Vec::new();
    builder.options(&options)?.write(&mut frame, &[])?;
    Ok(Template { frame, hosts: 65_536, forge_ack: false })
}
