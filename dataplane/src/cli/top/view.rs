//! What stands on the screen.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};

use super::text::{COOKIES, CORE_COLUMNS, core_cells, flooded, listener_name, short};
use crate::control::proto::Top;

/// Looks that a sparkline remembers.
const HISTORY: usize = 60;
/// Heights of a sparkline's bars.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

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
        let cores = u16::try_from(self.top.cores.len()).unwrap_or(u16::MAX).saturating_add(3);
        let [head, cores, middle, listeners, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Max(cores),
            Constraint::Length(8),
            Constraint::Min(4),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let [drops, flood] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(middle);
        frame.render_widget(Paragraph::new(self.head()), head);
        self.draw_cores(frame, cores);
        self.draw_drops(frame, drops);
        self.draw_flood(frame, flood);
        self.draw_listeners(frame, listeners);
        let text = "q quit   p pause   + - interval   j k scroll";
        frame.render_widget(Paragraph::new(text).style(Style::new().add_modifier(Modifier::DIM)), keys);
    }

    fn head(&self) -> Line<'_> {
        let sum = |of: fn(&crate::control::proto::TopCore) -> f64| self.top.cores.iter().map(of).sum::<f64>();
        let paused = if self.paused { "  paused" } else { "" };
        let seconds = self.interval.as_secs();
        Line::from(vec![
            Span::styled("hearken top", Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!(
                "  rx {}/s  tx {}/s",
                short(sum(|c| c.rx_frames)),
                short(sum(|c| c.tx_frames))
            )),
            Span::raw(format!("  every {seconds} s")),
            Span::styled(paused, Style::new().fg(Color::Yellow)),
        ])
    }

    fn draw_cores(&self, frame: &mut Frame<'_>, area: Rect) {
        let header = ["core"].into_iter().chain(CORE_COLUMNS).map(|name| format!("{name:>8}"));
        let header = Row::new(header.chain(["p99 over time".to_owned()]).map(Cell::from));
        let rows = self.top.cores.iter().map(|core| {
            let cells = std::iter::once(core.core.to_string()).chain(core_cells(core));
            let history = self.history.get(&core.core).map(sparkline).unwrap_or_default();
            Row::new(cells.map(|cell| Cell::from(format!("{cell:>8}"))).chain([Cell::from(history)]))
        });
        let widths = [Constraint::Length(8); 9].into_iter().chain([Constraint::Fill(1)]);
        let table = Table::new(rows, widths).header(header.style(Style::new().add_modifier(Modifier::BOLD)));
        frame.render_widget(table.block(Block::bordered().title("cores")), area);
    }

    fn draw_drops(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.top.drops.iter().map(|drop| {
            let style = if drop.rate > 0.0 { Style::new() } else { Style::new().add_modifier(Modifier::DIM) };
            let cells =
                [format!("{:>9}", short(drop.rate)), format!("{:>11}", drop.total), drop.reason.clone()];
            Row::new(cells).style(style)
        });
        let widths = [Constraint::Length(9), Constraint::Length(11), Constraint::Fill(1)];
        let header = Row::new(["  drops/s", "since start", "reason"]);
        let table = Table::new(rows, widths).header(header.style(Style::new().add_modifier(Modifier::BOLD)));
        frame.render_widget(table.block(Block::bordered().title("drops")), area);
    }

    fn draw_flood(&self, frame: &mut Frame<'_>, area: Rect) {
        let flooded = flooded(&self.top);
        let state = if flooded {
            Span::styled("SYN flood: answering by cookies", Style::new().fg(Color::Red))
        } else {
            Span::styled("no flood", Style::new().fg(Color::Green))
        };
        let rate = |name: &str| short(self.top.snmp.get(name).copied().unwrap_or_default());
        let lines = COOKIES.iter().map(|(name, label)| Line::from(format!("{label:<18}{:>9}/s", rate(name))));
        let lines: Vec<Line<'_>> = std::iter::once(Line::from(state)).chain(lines).collect();
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("flood")), area);
    }

    fn draw_listeners(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.top.listeners.iter().skip(self.scrolled).map(|listener| {
            let full = listener.recv_q > listener.send_q;
            let style = if full { Style::new().fg(Color::Red) } else { Style::new() };
            Row::new([
                format!("{:>9}", short(listener.rate)),
                format!("{:>8}", listener.recv_q),
                format!("{:>8}", listener.send_q),
                listener_name(listener),
                crate::config::then_name(listener.then).to_owned(),
            ])
            .style(style)
        });
        let widths = [
            Constraint::Length(9),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Fill(1),
            Constraint::Length(8),
        ];
        let header = Row::new(["   segs/s", "  Recv-Q", "  Send-Q", "listener", "then"]);
        let table = Table::new(rows, widths).header(header.style(Style::new().add_modifier(Modifier::BOLD)));
        frame.render_widget(table.block(Block::bordered().title("listeners")), area);
    }
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
            listeners: vec![listener(0, 80, 3), listener(1, 443, 129)],
            links_down: vec![],
        }
    }

    fn screen(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(110, 22)).expect("a backend");
        terminal.draw(|frame| view.draw(frame)).expect("drawn");
        let rows = terminal.backend().buffer().content().chunks(110);
        let line = |row: &[ratatui::buffer::Cell]| row.iter().map(|cell| cell.symbol()).collect::<String>();
        rows.map(|row| line(row).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn the_screen_shows_all_of_it() {
        let mut view = View::new(top(0.0), Duration::from_secs(1));
        view.update(top(0.0));
        let calm = screen(&view);
        for wanted in [
            "hearken top  rx 2.47 M/s  tx 2.40 M/s  every 1 s",
            "       0        2   1.23 M   1.20 M    630 M     42.2   900 ns  2.50 us   123 us █",
            "       12        3456 tcp_csum",
            "│no flood",
            "   1.00 M        3      128 198.18.0.1:80",
            "    500 k      129      128 198.18.0.1:443",
            "q quit   p pause   + - interval   j k scroll",
        ] {
            assert!(calm.contains(wanted), "{wanted}\n{calm}");
        }
        view.update(top(9e6));
        view.scroll(1);
        view.paused = true;
        let flood = screen(&view);
        assert!(flood.contains("SYN flood: answering by cookies"), "{flood}");
        assert!(flood.contains("cookies sent         9.00 M/s"), "{flood}");
        assert!(flood.contains("  paused") && !flood.contains("198.18.0.1:80 "), "{flood}");
        view.scroll(99);
        view.scroll(-99);
        assert_eq!(view.scrolled, 0);
    }

    #[test]
    fn a_small_terminal_is_no_trouble() {
        let view = View::new(top(0.0), Duration::from_secs(1));
        for (width, height) in [(1, 1), (20, 5), (80, 10), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a backend");
            terminal.draw(|frame| view.draw(frame)).expect("drawn");
        }
    }

    #[test]
    fn bars_reach_up_to_the_highest() {
        assert_eq!(sparkline(&VecDeque::from([0, 1, 4, 8])), " ▁▄█");
        assert_eq!(sparkline(&VecDeque::from([0, 0])), "  ");
    }
}
