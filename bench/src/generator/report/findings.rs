//! What the numbers of a run say, in sentences; each is made from them and from nothing else.

use super::{CoreReport, Percentiles, Report, StreamReport, rate};
use crate::generator::surroundings::Surroundings;
use crate::generator::tally::Count;

/// Share of the time for which a thread that polls has its CPU on a machine that is left to it.
const ON_CPU_MIN: f64 = 0.95;
/// Share of the time for which a thread of the server's may wait for a CPU.
const WAIT_MAX: f64 = 0.05;
/// Share of the time for which some task of the machine may.
const PRESSURE_MAX: f64 = 0.2;
/// Share of the CPUs that a hypervisor may take.
const STOLEN_MAX: f64 = 0.01;
/// Nanoseconds by which one SYN in a hundred may leave late.
const LAG_MAX: u64 = 1_000_000;
/// Share of the SYNs due that must have left.
const SENT_MIN: f64 = 0.99;

/// What is said in front of them.
pub const DISTURBED: &str = "A disturbed run: what follows says as much of this machine as of the server.";

/// Why the run says less of the server than it should; none if it was left alone.
pub fn disturbances(streams: &[StreamReport], cores: &[CoreReport], around: &Surroundings) -> Vec<String> {
    let mut found = Vec::new();
    for core in cores.iter().filter(|core| core.on_cpu < ON_CPU_MIN) {
        let (cpu, had) = (core.cpu, core.on_cpu * 100.0);
        found.push(format!("The generator's thread on CPU {cpu} had its CPU for {had:.0} % of the time."));
    }
    for (name, waited) in around.threads.iter().filter(|(_, waited)| *waited > WAIT_MAX) {
        let waited = waited * 100.0;
        found.push(format!(
            "The thread {name} of this process waited for a CPU for {waited:.0} % of the time."
        ));
    }
    if let Some(pressure) = around.pressure.filter(|pressure| *pressure > PRESSURE_MAX) {
        let pressure = pressure * 100.0;
        found.push(format!(
            "Tasks of this machine waited for a CPU for {pressure:.0} % of the time: something else runs."
        ));
    }
    if around.stolen > STOLEN_MAX {
        found.push(format!("The hypervisor took {:.0} % of the CPUs.", around.stolen * 100.0));
    }
    for core in cores.iter().filter(|core| core.lag.p99 > LAG_MAX) {
        let (cpu, late) = (core.cpu, core.lag.p99 as f64 / 1e6);
        found.push(format!("One SYN in a hundred left CPU {cpu} more than {late:.1} ms late, and latency counts from when it should have."));
    }
    for stream in streams.iter().filter(|stream| stream.rate < stream.due_rate * SENT_MIN) {
        let (name, sent, due) = (&stream.name, rate(stream.rate), rate(stream.due_rate));
        found.push(format!("Of stream \"{name}\" {sent}/s left and not the {due}/s that were due: the generator or its device did not keep up."));
    }
    found
}

/// The answer that most of the stream's SYNs had, and how long it took.
pub fn main_answer(stream: &StreamReport) -> Option<(&'static str, &Percentiles)> {
    let of = |key: &str, name| stream.latency.get(key).map(|latency| (name, latency));
    let answers = [of("synack", "SYN-ACK"), of("rst", "RST")].into_iter().flatten();
    answers.max_by_key(|(_, latency)| latency.count)
}

/// `part` of `whole` as a percentage that is 0 or 100 only if none or all of them are meant.
pub fn percent(part: u64, whole: u64) -> String {
    match (part, whole) {
        (_, 0) => "none sent".to_owned(),
        (0, _) => "0 %".to_owned(),
        (part, whole) if part >= whole => "100 %".to_owned(),
        (part, whole) => format!("{:.2} %", (part as f64 / whole as f64 * 100.0).clamp(0.01, 99.99)),
    }
}

/// What became of a stream.
pub fn sentence(stream: &StreamReport) -> String {
    let count = |count: Count| stream.counts.get(count.name()).copied().unwrap_or(0);
    let sent = count(Count::Sent);
    let (synacks, rsts) = (count(Count::SynAck), count(Count::Rst) + count(Count::Refused));
    let grouped = super::page::grouped;
    let mut text = format!(
        "{}: of {} SYNs ({}/s) {} were answered by a SYN-ACK ({})",
        stream.name,
        grouped(sent),
        rate(stream.rate),
        grouped(synacks),
        percent(synacks, sent)
    );
    if rsts > 0 {
        text += &format!(", {} by a RST ({})", grouped(rsts), percent(rsts, sent));
    }
    text += &format!(", {} not at all ({})", grouped(stream.silent), percent(stream.silent, sent));
    if stream.copies > 0 {
        text += &format!(", and {} were copies that need no answer", grouped(stream.copies));
    }
    if let Some(completed) = stream.completed {
        text +=
            &format!("; {} connections were completed ({})", grouped(completed), percent(completed, sent));
    }
    if stream.wrong > 0 {
        text += &format!("; {} answers were wrong", grouped(stream.wrong));
    }
    if let Some((answer, latency)) = main_answer(stream) {
        let us = |ns: u64| ns as f64 / 1000.0;
        let (half, most) = (us(latency.p50), us(latency.p99_9));
        text += &format!(
            "; the {answer} came within {half:.1} us in half of the cases, within {most:.1} us in 99.9 %"
        );
    }
    text + "."
}

/// What became of each stream.
pub fn sentences(report: &Report) -> Vec<String> {
    report.streams.iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    #[test]
    fn a_percentage_says_all_and_none_only_of_all_and_none() {
        assert_eq!([percent(0, 5), percent(5, 5), percent(1, 3)], ["0 %", "100 %", "33.33 %"]);
        assert_eq!([percent(1, 1 << 40), percent((1 << 40) - 1, 1 << 40)], ["0.01 %", "99.99 %"]);
        assert_eq!(percent(0, 0), "none sent");
    }

    #[test]
    fn sentences_follow_the_numbers() {
        let quick = Percentiles { count: 90, p50: 2000, p99_9: 9000, ..Percentiles::default() };
        let slow = Percentiles { count: 10, p50: 70_000, ..Percentiles::default() };
        let mut stream = StreamReport {
            name: "clients".into(),
            counts: [("sent".into(), 3000), ("synack".into(), 2000), ("refused".into(), 10)].into(),
            silent: 990,
            completed: Some(1500),
            latency: [("synack".to_owned(), slow), ("rst".to_owned(), quick)].into(),
            ..StreamReport::default()
        };
        let said = sentence(&stream);
        for part in [
            "of 3,000 SYNs",
            "2,000 were answered by a SYN-ACK (66.67 %)",
            "10 by a RST (0.33 %)",
            "990 not at all (33.00 %)",
            "1,500 connections were completed (50.00 %)",
            "the RST came within 2.0 us in half of the cases, within 9.0 us in 99.9 %.",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("wrong") && !said.contains("copies"), "{said}");
        stream.wrong = 3;
        stream.copies = 4;
        let said = sentence(&stream);
        assert!(said.contains("; 3 answers were wrong") && said.contains("4 were copies"), "{said}");
    }

    #[test]
    fn a_run_that_was_not_left_alone_says_why() {
        let core = CoreReport { cpu: 3, on_cpu: 1.0, ..CoreReport::default() };
        let stream =
            StreamReport { name: "s".into(), rate: 99.5, due_rate: 100.0, ..StreamReport::default() };
        let quiet = Surroundings { threads: vec![("w".into(), 0.01)], stolen: 0.0, pressure: Some(0.05) };
        assert!(disturbances(from_ref(&stream), from_ref(&core), &quiet).is_empty());
        let starved = CoreReport {
            on_cpu: 0.33,
            lag: Percentiles { p99: 12_300_000, ..Percentiles::default() },
            ..core
        };
        let slow = StreamReport { rate: 67.0, ..stream };
        let busy = Surroundings { threads: vec![("worker".into(), 0.4)], stolen: 0.2, pressure: Some(0.9) };
        let said = disturbances(&[slow], &[starved], &busy);
        for (part, said) in [
            "CPU 3 had its CPU for 33 %",
            "thread worker of this process waited for a CPU for 40 %",
            "waited for a CPU for 90 %",
            "hypervisor took 20 %",
            "more than 12.3 ms late",
            "67.0/s left and not the 100.0/s",
        ]
        .iter()
        .zip(&said)
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(said.len(), 6);
    }
}
