//! What stands on the screen.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row};

use super::fit::{self, Column};
use super::text::{CORE_COLUMNS, core_cells, flooded, links_down, listener_name, short, syn_rows};
use crate::control::proto::{Top, TopCore};

/// Looks that a sparkline remembers.
const HISTORY: usize = 60;
/// Heights of a sparkline's bars.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What the keys do, the most important first.
const KEYS: [&str; 4] = ["q quit", "p pause", "+ - interval", "j k scroll"];
/// Rows of a frame: above and below.
const FRAME: u16 = 2;
/// The least height of the section of cores: two of them, below their header.
const CORES_MIN: u16 = FRAME + 3;
/// The same of the listeners.
const LISTENERS_MIN: u16 = FRAME + 2;
/// Height of drops and flood.
const MIDDLE: u16 = FRAME + 6;
/// The width of the flood's section with all of its text.
const FLOOD_WIDTH: u16 = 31;
/// The least width of the drops beside it.
const DROPS_WIDTH: u16 = 30;

/// What is drawn, and what the keys have changed.
#[derive(Debug)]
pub(super) struct View {
    top: Top,
    /// p99 of each core, the newest last.
    history: BTreeMap<u16, VecDeque<u64>>,
    scrolled: usize,
    pub(super) interval: Duration,
    pub(super) paused: bool,
}

impl View {
    pub(super) fn new(top: Top, interval: Duration) -> Self {
        Self { top, history: BTreeMap::new(), scrolled: 0, interval, paused: false }
    }

    /// Takes the next window.
    pub(super) fn update(&mut self, top: Top) {
        for core in &top.cores {
            let history = self.history.entry(core.core).or_default();
            history.push_back(core.p99_ns);
            while history.len() > HISTORY {
                history.pop_front();
            }
        }
        self.top = top;
    }

    /// Moves the listeners by `rows`.
    pub(super) fn scroll(&mut self, rows: isize) {
        let last = self.top.listeners.len().saturating_sub(1);
        self.scrolled = self.scrolled.saturating_add_signed(rows).min(last);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, rest, keys] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
                .areas(frame.area());
        let Sections { cores, drops, flood, listeners } = Sections::of(rest, self.top.cores.len());
        frame.render_widget(Paragraph::new(self.head(head.width, flood.is_none())), head);
        self.draw_cores(frame, cores);
        if let Some(area) = drops {
            self.draw_drops(frame, area);
        }
        if let Some(area) = flood {
            self.draw_flood(frame, area);
        }
        if let Some(area) = listeners {
            self.draw_listeners(frame, area);
        }
        let text = fit::pieces(KEYS.to_vec(), keys.width, 3, |key| key.len()).join("   ");
        frame.render_widget(Paragraph::new(text).style(Style::new().add_modifier(Modifier::DIM)), keys);
    }

    /// The first line: what is wrong first, as far as the line is long. `flood` is told here if it has no section.
    fn head(&self, width: u16, flood: bool) -> Line<'_> {
        let sum = |of: fn(&TopCore) -> f64| short(self.top.cores.iter().map(of).sum::<f64>());
        let red = |text: String| Span::styled(text, Style::new().fg(Color::Red));
        let mut pieces = vec![Span::styled("hearken top", Style::new().add_modifier(Modifier::BOLD))];
        pieces.extend(links_down(&self.top).map(red));
        if flood && flooded(&self.top) {
            pieces.push(red("SYN flood".into()));
        }
        if self.paused {
            pieces.push(Span::styled("paused", Style::new().fg(Color::Yellow)));
        }
        pieces.push(Span::raw(format!("rx {}/s", sum(|core| core.rx_frames))));
        pieces.push(Span::raw(format!("tx {}/s", sum(|core| core.tx_frames))));
        pieces.push(Span::raw(format!("every {} s", self.interval.as_secs())));
        let shown = fit::pieces(pieces, width, 2, Span::width);
        Line::from_iter(shown.into_iter().flat_map(|piece| [piece, Span::raw("  ")]))
    }

    fn draw_cores(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = Block::bordered();
        let room = block.inner(area);
        let places = usize::from(room.height.saturating_sub(1));
        let shown = busiest(&self.top.cores, places);
        let mut columns: Vec<Column> =
            CORE_COLUMNS.iter().map(|(header, rank, least)| Column::numbers(header, *rank, *least)).collect();
        for core in &shown {
            for (column, cell) in columns.iter_mut().zip(core_cells(core)) {
                column.push(cell);
            }
        }
        // As far back as there is room.
        let bars = fit::left_over(&columns, room.width);
        let mut history = Column::text("p99 over time", 1);
        for core in &shown {
            let line = self.history.get(&core.core).map(sparkline).unwrap_or_default();
            history.push(line.chars().skip(line.chars().count().saturating_sub(bars)).collect());
        }
        columns.push(history);
        let title = match self.top.cores.len() {
            all if all > shown.len() => format!("cores, the {} busiest of {all}", shown.len()),
            _ => "cores".to_owned(),
        };
        let table = fit::table(&columns, room.width, |_, row| row);
        frame.render_widget(table.block(block.title(title)), area);
    }

    fn draw_drops(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = Block::bordered().title("drops");
        let mut columns = [
            Column::numbers("drops/s", 2, 7),
            Column::numbers("since start", 1, 11),
            Column::text("reason", 3),
        ];
        for drop in &self.top.drops {
            let cells = [short(drop.rate), drop.total.to_string(), drop.reason.clone()];
            columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(cell));
        }
        let calm = Style::new().add_modifier(Modifier::DIM);
        let dress = |row: usize, cells: Row<'static>| {
            if self.top.drops[row].rate > 0.0 { cells } else { cells.style(calm) }
        };
        let table = fit::table(&columns, block.inner(area).width, dress);
        frame.render_widget(table.block(block), area);
    }

    fn draw_flood(&self, frame: &mut Frame<'_>, area: Rect) {
        let flooded = flooded(&self.top);
        let state = if flooded {
            Span::styled("SYN flood: answers by cookies", Style::new().fg(Color::Red))
        } else {
            Span::styled("no flood", Style::new().fg(Color::Green))
        };
        let line = |(label, rate): (&str, f64)| Line::from(format!("{label:<18}{:>9}/s", short(rate)));
        let lines = syn_rows(&self.top).map(line);
        let lines: Vec<Line<'_>> = std::iter::once(Line::from(state)).chain(lines).collect();
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("flood")), area);
    }

    fn draw_listeners(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = Block::bordered().title("listeners");
        let shown = &self.top.listeners[self.scrolled.min(self.top.listeners.len())..];
        let mut columns = [
            Column::numbers("segs/s", 4, 6),
            Column::numbers("Recv-Q", 3, 6),
            Column::numbers("Send-Q", 2, 6),
            Column::text("listener", 5),
            Column::text("then", 1),
        ];
        for listener in shown {
            let cells = [
                short(listener.rate),
                listener.recv_q.to_string(),
                listener.send_q.to_string(),
                listener_name(listener),
                crate::config::then_name(listener.then).to_owned(),
            ];
            columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(cell));
        }
        let full = Style::new().fg(Color::Red);
        let dress = |row: usize, cells: Row<'static>| {
            if shown[row].recv_q > shown[row].send_q { cells.style(full) } else { cells }
        };
        let table = fit::table(&columns, block.inner(area).width, dress);
        frame.render_widget(table.block(block), area);
    }
}

/// Where what stands between the first line and the last. What has no room for anything worth reading is left out, the
/// cores last.
struct Sections {
    cores: Rect,
    drops: Option<Rect>,
    flood: Option<Rect>,
    listeners: Option<Rect>,
}

impl Sections {
    fn of(area: Rect, cores: usize) -> Self {
        let wanted = u16::try_from(cores).unwrap_or(u16::MAX).saturating_add(FRAME + 1);
        let has_listeners = area.height >= CORES_MIN + LISTENERS_MIN;
        let has_middle = area.height >= CORES_MIN + MIDDLE + LISTENERS_MIN;
        let others = u16::from(has_listeners) * LISTENERS_MIN + u16::from(has_middle) * MIDDLE;
        let [cores, middle, listeners] = Layout::vertical([
            Constraint::Length(if has_listeners { wanted.min(area.height - others) } else { area.height }),
            Constraint::Length(u16::from(has_middle) * MIDDLE),
            Constraint::Fill(1),
        ])
        .areas(area);
        let beside = area.width >= FLOOD_WIDTH + DROPS_WIDTH;
        let [drops, flood] = Layout::horizontal([
            Constraint::Fill(1),
            Constraint::Length(if beside { FLOOD_WIDTH.max(area.width * 2 / 5) } else { 0 }),
        ])
        .areas(middle);
        Self {
            cores,
            drops: has_middle.then_some(drops),
            flood: (has_middle && beside).then_some(flood),
            listeners: has_listeners.then_some(listeners),
        }
    }
}

/// The `count` cores that have most to do, by number; all, if there are no more.
fn busiest(cores: &[TopCore], count: usize) -> Vec<&TopCore> {
    let mut shown: Vec<&TopCore> = cores.iter().collect();
    if shown.len() > count {
        // One that does not even answer is busier than any.
        let busy = |core: &TopCore| if core.late { f64::INFINITY } else { core.busy_percent };
        shown.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
        shown.truncate(count);
        shown.sort_by_key(|core| core.core);
    }
    shown
}

/// A bar for each value, up to the highest of them.
fn sparkline(values: &VecDeque<u64>) -> String {
    let max = values.iter().copied().max().unwrap_or(0).max(1);
    let bar = |value: &u64| BARS[(value * 8).div_ceil(max).min(8) as usize];
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::config::ThenName;
    use crate::control::proto::{TopCore, TopDrop, TopListener};

    fn top(cookies: f64) -> Top {
        let core = |core, p99_ns| TopCore {
            core,
            cpu: Some(usize::from(core) + 2),
            rx_frames: 1_234_567.0,
            tx_frames: 1_200_000.0,
            rx_bits: 6.3e8,
            busy_percent: 42.25,
            p50_ns: 900,
            p99_ns,
            p99_9_ns: 123_456,
            late: false,
        };
        let listener = |fd, port, recv_q| TopListener {
            fd,
            local: std::net::SocketAddr::from(([198, 18, 0, 1], port)),
            device: None,
            then: ThenName::Queue,
            recv_q,
            send_q: 128,
            rate: 1e6 / f64::from(fd + 1),
        };
        Top {
            seconds: 1.0,
            cores: vec![core(0, 2500), core(1, 5000)],
            outcomes: BTreeMap::new(),
            drops: vec![TopDrop { reason: "tcp_csum".into(), rate: 12.0, total: 3456 }],
            snmp: BTreeMap::from([("SyncookiesSent".to_owned(), cookies)]),
            kernel: BTreeMap::new(),
            listeners: vec![listener(0, 80, 3), listener(1, 443, 129)],
            links_down: vec![],
        }
    }

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a backend");
        terminal.draw(|frame| view.draw(frame)).expect("drawn");
        let rows = terminal.backend().buffer().content().chunks(width.into());
        let line = |row: &[ratatui::buffer::Cell]| row.iter().map(|cell| cell.symbol()).collect::<String>();
        rows.map(|row| line(row).trim_end().to_owned() + "\n").collect()
    }

    fn of(cores: u16) -> View {
        let mut top = top(0.0);
        let core = |number| TopCore {
            core: number,
            cpu: Some(usize::from(number) + 2),
            rx_frames: 31_000.0 * f64::from(number + 1),
            busy_percent: if number == 5 { 100.0 } else { f64::from(number % 7) * 10.5 },
            p50_ns: 99_000 + u64::from(number),
            p99_ns: 123_456 * u64::from(number + 1),
            late: number == 3,
            ..top.cores[0].clone()
        };
        top.cores = (0..cores).map(core).collect();
        let mut view = View::new(top.clone(), Duration::from_secs(1));
        for second in 0..2 * HISTORY as u64 {
            let p99 = |core: &TopCore| 123_456 * u64::from(core.core + 1) + second % 7 * 40_000;
            top.cores.iter_mut().for_each(|core| core.p99_ns = p99(core));
            view.update(top.clone());
        }
        view
    }

    #[test]
    fn the_screen_at_usual_sizes() {
        for (width, height) in [(40, 12), (80, 24), (120, 40), (200, 60)] {
            for cores in [1, 4, 32] {
                let name = format!("{width}x{height}_cores_{cores}");
                insta::assert_snapshot!(name, screen(&of(cores), width, height));
            }
        }
    }

    /// Whatever the size: a cell that is shown is shown whole, and so is every unit.
    #[test]
    fn nothing_is_cut_in_the_middle() {
        for width in 30..=220 {
            let text = screen(&of(4), width, 30);
            let header = text.lines().find(|line| line.contains("busy %")).expect("a header");
            let shown =
                |name: &str| header.contains(&format!(" {name} ")) || header.contains(&format!("│{name} "));
            for core in &of(4).top.cores {
                let cells = core_cells(core);
                let row = text.lines().find(|line| line.starts_with(&format!("│{:>4} ", core.core)));
                let row = row.unwrap_or_else(|| panic!("{width}: no core {}:\n{text}", core.core));
                for ((name, ..), cell) in CORE_COLUMNS.iter().zip(cells).filter(|((name, ..), _)| shown(name))
                {
                    assert!(
                        row.contains(&format!("{cell} ")) || row.contains(&format!("{cell}│")),
                        "{width}: {name} {cell}:\n{text}"
                    );
                }
            }
            let first = text.lines().next().expect("a head");
            assert!(["hearken top", "/s", " s"].iter().any(|end| first.ends_with(end)), "{width}: {first}");
        }
    }

    #[test]
    fn what_is_wrong_stands_first() {
        let mut view = View::new(top(9e6), Duration::from_secs(1));
        view.top.links_down = vec!["wan".into()];
        view.paused = true;
        let narrow = screen(&view, 40, 12);
        assert!(narrow.starts_with("hearken top  link down: wan  SYN flood\n"), "{narrow}");
        let wide = screen(&view, 110, 24);
        assert!(
            wide.starts_with("hearken top  link down: wan  paused  rx 2.47 M/s  tx 2.40 M/s  every 1 s\n"),
            "{wide}"
        );
        assert!(wide.contains("SYN flood: answers by cookies"), "{wide}");
        assert!(wide.contains("cookies sent         9.00 M/s"), "{wide}");
    }

    #[test]
    fn beside_the_kernel_the_rows_are_those_of_its_programs() {
        let kernel = |syns: f64, made: f64| {
            let mut top = top(5e5);
            let rates =
                [("claim_redirected", syns), ("claim_answered", 5e5), ("handed_over_to_kernel", made)];
            top.kernel = rates.map(|(name, rate)| (name.to_owned(), rate)).into();
            screen(&View::new(top, Duration::from_secs(1)), 110, 24)
        };
        let flood = kernel(64_000.0, 210.0);
        assert!(flood.contains("SYN flood: answers by cookies"), "{flood}");
        for row in [
            "SYNs to workers      64.0 k/s",
            "answered earlier      500 k/s",
            "connections made        210/s",
        ] {
            assert!(flood.contains(row), "{row} in:\n{flood}");
        }
        // Every SYN is answered by a cookie, and these come back.
        let crowd = kernel(1e5, 5.9e5);
        assert!(crowd.contains("no flood") && !crowd.contains("cookies sent"), "{crowd}");
    }

    #[test]
    fn listeners_are_scrolled() {
        let mut view = View::new(top(0.0), Duration::from_secs(1));
        assert!(screen(&view, 110, 22).contains("198.18.0.1:80 "));
        view.scroll(1);
        assert!(!screen(&view, 110, 22).contains("198.18.0.1:80 "));
        view.scroll(99);
        view.scroll(-99);
        assert_eq!(view.scrolled, 0);
    }

    #[test]
    fn a_small_terminal_is_no_trouble() {
        for (width, height) in [(1, 1), (2, 3), (20, 5), (80, 10), (300, 100)] {
            screen(&of(4), width, height);
        }
    }

    #[test]
    fn bars_reach_up_to_the_highest() {
        assert_eq!(sparkline(&VecDeque::from([0, 1, 4, 8])), " ▁▄█");
        assert_eq!(sparkline(&VecDeque::from([0, 0])), "  ");
    }
}
