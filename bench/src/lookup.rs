//! `hearken-bench lookup`: hearken's listening hash against `rte_hash` and maps that a program might take instead.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

use crate::compare::{self, Plan, Series, ratios, spread};
use crate::load::{CHUNK, Load};
use crate::machine::Machine;
use crate::peers::{self, BASELINE, Hearken, Peer};
use crate::plot;

mod extras;

/// Compare listener lookups, contestants taking turns on the same keys
#[derive(Clone, Debug, clap::Args)]
pub struct LookupArgs {
    /// Numbers of listeners
    #[arg(long, value_delimiter = ',', default_value = "1,16,1024,65536,1048576")]
    listeners: Vec<u32>,
    /// Segments in a hundred that meet a listener
    #[arg(long, value_delimiter = ',', default_value = "100,90,0")]
    hit: Vec<u32>,
    /// Listeners that a second thread opens and closes per second
    #[arg(long, value_delimiter = ',', default_value = "0,100000")]
    churn: Vec<u32>,
    /// Turns of each contestant; 9 or more for figures that are to be quoted
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Milliseconds that a turn spends in lookups
    #[arg(long, default_value_t = 10)]
    turn_ms: u64,
    /// Instruction set of hearken's lookup, instead of the best that this machine has
    #[arg(long)]
    kernel: Option<String>,
    /// Only contestants whose name begins so (and the baseline)
    #[arg(long)]
    only: Option<String>,
    /// Measure nothing; take the rows of these earlier runs, each made with --json
    #[arg(long, value_delimiter = ',', value_name = "FILE.json")]
    from: Vec<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Write a plot of the rows without churn at the first hit rate
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub contestant: String,
    /// Listeners in the table.
    pub listeners: u32,
    /// Segments in a hundred that met one.
    pub hit_percent: u32,
    /// Listeners opened and closed per second meanwhile.
    pub churn_per_second: u32,
    /// Million lookups per second, median of the rounds.
    pub mlookups_per_second: f64,
    /// Nanoseconds per lookup, median of the rounds.
    pub ns_per_lookup: f64,
    /// Speed over rte_hash's bulk lookup under the same churn: median of the rounds' ratios.
    pub ratio_to_rte_hash: Option<f64>,
    /// Least of the rounds' ratios.
    pub ratio_to_rte_hash_min: Option<f64>,
    /// Greatest of the rounds' ratios.
    pub ratio_to_rte_hash_max: Option<f64>,
}

/// What churn left of a contestant's own speed: median of the rounds' ratios.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    contestant: String,
    listeners: u32,
    hit_percent: u32,
    churn_per_second: u32,
    churn_per_second_reached: f64,
    ratio_to_own_without_churn: f64,
}

/// The machine, and what else this bench depends on.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Surroundings {
    #[serde(flatten)]
    machine: Machine,
    rustc: String,
    /// The setting is in brackets.
    transparent_hugepages: String,
    /// Reserved 2-MiB pages: what DPDK takes its memory from.
    hugepages: String,
    /// When the run began: somebody else's work in the figures.
    load_average: String,
    /// What hearken's lookup uses.
    instruction_set: String,
}

impl Surroundings {
    fn here(instruction_set: &str) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let rustc = Command::new("rustc").arg("--version").output();
        Self {
            machine: Machine::here(),
            rustc: rustc
                .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
                .unwrap_or_default(),
            transparent_hugepages: read("/sys/kernel/mm/transparent_hugepage/enabled"),
            hugepages: read("/proc/sys/vm/nr_hugepages"),
            load_average: read("/proc/loadavg"),
            instruction_set: instruction_set.to_owned(),
        }
    }
}

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    bench: String,
    machine: Surroundings,
    notes: Vec<String>,
    rows: Vec<Row>,
    kept_under_churn: Vec<Kept>,
}

const NOTES: [&str; 3] = [
    "Contestants take turns round by round on the same keys and gave the same answers before anything was timed.",
    "rte_hash (lock-free readers, 8-byte keys) looks one key up per segment; hearken answers as the kernel does: exact \
     address, then wildcard, devices and groups.",
    "Keys are in the first-level cache, as those of a burst just parsed are. The time of reading the clock is taken off, \
     and chunks of 256 lookups that took 8 times the median (the thread was not running) are left out, for all alike.",
];

impl LookupArgs {
    /// Runs the bench and prints to `out`.
    ///
    /// # Errors
    /// Contestants that disagree, DPDK without memory, a file that cannot be written.
    pub fn run(&self, out: &mut impl Write) -> Result<()> {
        let report = if self.from.is_empty() { self.measure()? } else { self.collect()? };
        if let Some(path) = &self.plot {
            plot::lookup(path, &report.rows, self.hit[0], &report.machine.machine)?;
        }
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
        } else {
            print(out, &report)?;
        }
        Ok(())
    }

    /// Runs all contestants.
    fn measure(&self) -> Result<Report> {
        ensure!(
            self.listeners.iter().all(|count| (1..=1 << 20).contains(count)),
            "--listeners takes 1 to 1048576"
        );
        ensure!(self.hit.iter().all(|&hit| hit <= 100), "--hit takes 0 to 100");
        let kernel = self.kernel.as_deref();
        let instruction_set = Hearken::new(&Load::new(1, 100, 0), kernel).0.kernel_name();
        let machine = Surroundings::here(instruction_set);
        let eal = peers::start_eal()?;
        let (mut rows, mut kept) = (Vec::new(), Vec::new());
        for &listeners in &self.listeners {
            for &hit in &self.hit {
                let load = Load::new(listeners, hit, 42);
                let hearken = Hearken::new(&load, kernel);
                let rte = peers::RteTable::new(&eal, &load)?;
                let mut all = peers::all(&load, &hearken, &rte);
                if let Some(only) = &self.only {
                    all.retain(|peer| peer.name().starts_with(only.as_str()) || peer.name() == BASELINE);
                }
                compare::agree(&load, &all, (1 << 20) / CHUNK)?;
                let plan =
                    Plan { rounds: self.rounds.max(1), turn: Duration::from_millis(self.turn_ms.max(1)) };
                let series = compare::measure(&load, &all, &self.churn, plan);
                let baseline = all.iter().position(|peer| peer.name() == BASELINE);
                let (more_rows, more_kept) = judge(&load, hit, &all, &series, baseline);
                rows.extend(more_rows);
                kept.extend(more_kept);
                if hit == 100 && self.only.is_none() {
                    rows.extend(extras::rows(&load, &hearken, &rte, plan)?);
                }
            }
        }
        let notes = NOTES.map(str::to_owned).to_vec();
        Ok(Report { bench: "lookup".to_owned(), machine, notes, rows, kept_under_churn: kept })
    }

    /// The rows of earlier runs in one report, which says of the machine what the first of them says.
    fn collect(&self) -> Result<Report> {
        let read = |path: &PathBuf| -> Result<Report> {
            let text = fs::read(path).with_context(|| path.display().to_string())?;
            serde_json::from_slice(&text)
                .with_context(|| format!("{}: no report of this bench", path.display()))
        };
        let mut reports = self.from.iter().map(read).collect::<Result<Vec<_>>>()?.into_iter();
        let mut all = reports.next().context("--from names a file at least")?;
        for report in reports {
            all.rows.extend(report.rows);
            all.kept_under_churn.extend(report.kept_under_churn);
        }
        Ok(all)
    }
}

/// The rows of one table's series, and what churn left of each contestant's speed.
fn judge(
    load: &Load,
    hit: u32,
    peers: &[Box<dyn Peer + '_>],
    series: &[Series],
    baseline: Option<usize>,
) -> (Vec<Row>, Vec<Kept>) {
    let (mut rows, mut kept) = (Vec::new(), Vec::new());
    let of = |peer, churn| series.iter().find(|other| other.peer == peer && other.churn == churn);
    for one in series {
        let contestant = peers[one.peer].name().to_owned();
        let base = baseline.and_then(|peer| of(peer, one.churn));
        let ratio = base.map(|base| spread(&ratios(&base.ns, &one.ns)));
        let ns = spread(&one.ns)[0];
        rows.push(Row {
            contestant: contestant.clone(),
            listeners: load.len(),
            hit_percent: hit,
            churn_per_second: one.churn,
            mlookups_per_second: 1e3 / ns,
            ns_per_lookup: ns,
            ratio_to_rte_hash: ratio.map(|[median, ..]| median),
            ratio_to_rte_hash_min: ratio.map(|[_, least, _]| least),
            ratio_to_rte_hash_max: ratio.map(|[.., greatest]| greatest),
        });
        if let Some(quiet) = of(one.peer, 0)
            && one.churn > 0
        {
            kept.push(Kept {
                contestant,
                listeners: load.len(),
                hit_percent: hit,
                churn_per_second: one.churn,
                churn_per_second_reached: one.churned as f64 / one.churn_time.as_secs_f64(),
                ratio_to_own_without_churn: spread(&ratios(&quiet.ns, &one.ns))[0],
            });
        }
    }
    (rows, kept)
}

fn print(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let machine = &report.machine;
    writeln!(out, "{}", machine.machine)?;
    writeln!(out, "{}, lookup in {}, load {}", machine.rustc, machine.instruction_set, machine.load_average)?;
    for note in &report.notes {
        writeln!(out, "{note}")?;
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "contestant",
        "listeners",
        "hits %",
        "churn/s",
        "M/s",
        "ns",
        "to rte_hash",
        "least",
        "greatest",
        "kept",
    ]);
    for row in &report.rows {
        let kept = report.kept_under_churn.iter().find(|kept| {
            (kept.contestant.as_str(), kept.listeners, kept.hit_percent, kept.churn_per_second)
                == (row.contestant.as_str(), row.listeners, row.hit_percent, row.churn_per_second)
        });
        let two = |number: Option<f64>| number.map(|number| format!("{number:.2}")).unwrap_or_default();
        table.add_row([
            row.contestant.clone(),
            row.listeners.to_string(),
            row.hit_percent.to_string(),
            row.churn_per_second.to_string(),
            format!("{:.1}", row.mlookups_per_second),
            format!("{:.2}", row.ns_per_lookup),
            two(row.ratio_to_rte_hash),
            two(row.ratio_to_rte_hash_min),
            two(row.ratio_to_rte_hash_max),
            kept.map(|kept| {
                format!("{:.2} at {:.0}/s", kept.ratio_to_own_without_churn, kept.churn_per_second_reached)
            })
            .unwrap_or_default(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(out, "{table}")
}
