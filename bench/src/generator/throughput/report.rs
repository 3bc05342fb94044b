//! What `hearken-load throughput` found, as table and JSON.

use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

use super::Sample;
use crate::compare::{ratios, spread};
use crate::generator::report::rate;
use crate::machine::Machine;

/// Median, least and greatest of the rounds.
pub type Spread = [f64; 3];

/// One figure, and its ratio to that of the native program that only passes, in the same rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Gbit/s, or requests a second.
    pub value: Spread,
    /// Ratio within a round.
    pub to_passing: Spread,
}

/// The figures of a contestant on a calm wire, or beside the flood.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// One stream to the server, Gbit/s.
    pub to_server: Figure,
    /// One stream from the server, Gbit/s.
    pub from_server: Figure,
    /// Requests a second on connections that are kept.
    pub requests: Figure,
}

/// One contestant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What stands at the server's end.
    pub contestant: String,
    /// Without a flood.
    pub calm: Figures,
    /// With it.
    pub flooded: Figures,
}

/// The comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Throughput {
    /// The machine.
    pub machine: Machine,
    /// The command line.
    pub command: String,
    /// Rounds.
    pub rounds: usize,
    /// Seconds of a measurement.
    pub seconds: u32,
    /// Forged SYNs a second beside the connections.
    pub flood_per_second: f64,
    /// CPUs that other work kept busy before each turn.
    pub others: Spread,
    /// The contestants.
    pub rows: Vec<Row>,
}

/// CPUs kept busy by others that a calm machine stays below.
const DISTURBED: f64 = 0.2;

/// The figures of `samples`, each compared with that of `passing` in the same round.
pub(super) fn figures(samples: &[Sample], passing: &[Sample], of: fn(&Sample) -> &[f64; 3]) -> Figures {
    let figure = |at: usize| {
        let column = |samples: &[Sample]| samples.iter().map(|sample| of(sample)[at]).collect::<Vec<_>>();
        let (own, passing) = (column(samples), column(passing));
        Figure { value: spread(&own), to_passing: spread(&ratios(&own, &passing)) }
    };
    Figures { to_server: figure(0), from_server: figure(1), requests: figure(2) }
}

const HEAD: [&str; 5] = ["", "flood", "to server Gbit/s", "from server Gbit/s", "requests/s"];

fn cell(figure: &Figure, digits: usize) -> String {
    let ([value, ..], [ratio, least, most]) = (figure.value, figure.to_passing);
    let value = if digits == 0 { rate(value) } else { format!("{value:.digits$}") };
    format!("{value}  {ratio:.2} [{least:.2}, {most:.2}]")
}

impl Throughput {
    /// For a terminal.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(HEAD);
        for row in &self.rows {
            for (flood, figures) in
                [("none".to_owned(), &row.calm), (format!("{}/s", rate(self.flood_per_second)), &row.flooded)]
            {
                table.add_row([
                    row.contestant.clone(),
                    flood,
                    cell(&figures.to_server, 1),
                    cell(&figures.from_server, 1),
                    cell(&figures.requests, 0),
                ]);
            }
        }
        for column in 2..HEAD.len() {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let note = match self.others[2] {
            busy if busy > DISTURBED => {
                format!("other work kept up to {busy:.1} CPUs busy: these figures are disturbed\n")
            }
            _ => String::new(),
        };
        format!(
            "{}\n{note}one veth pair; medians of {} rounds of {} s, and the ratio to XDP_PASS, native, in the same round [least, greatest]\n\n{table}\n",
            self.machine, self.rounds, self.seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let sample = |of: f64| Sample { calm: [of, of * 2.0, of * 1e4], flooded: [of / 2.0; 3] };
        let passing = [sample(4.0), sample(8.0), sample(2.0)];
        let own = [sample(2.0), sample(8.0), sample(3.0)];
        let calm = figures(&own, &passing, |sample| &sample.calm);
        assert_eq!(calm.to_server.value, [3.0, 2.0, 8.0]);
        assert_eq!(calm.requests.to_passing, [1.0, 0.5, 1.5]);
        let flooded = figures(&own, &passing, |sample| &sample.flooded);
        assert_eq!(flooded.from_server.value, [1.5, 1.0, 4.0]);
        let result = Throughput {
            machine: Machine { cpu: "CPU".into(), cpus: 2, kernel: "6".into(), dpdk: "DPDK".into() },
            command: "hearken-load throughput".into(),
            rounds: 3,
            seconds: 1,
            flood_per_second: 1e5,
            others: [0.0, 0.0, 1.5],
            rows: vec![Row { contestant: "hearken".into(), calm, flooded }],
        };
        let table = result.table();
        assert!(table.contains("3.0  1.00 [0.50, 1.50]") && table.contains("30.0k  1.00"), "{table}");
        assert!(table.contains("up to 1.5 CPUs busy"), "{table}");
    }
}
