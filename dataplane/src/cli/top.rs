//! `hearken top`

mod fit;
mod text;
mod view;

use std::io::{IsTerminal, Write, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::{CliError, Done, ServerArgs, Span};
use crate::control::client::Client;
use crate::control::proto::{Request, Top};
use view::View;

/// The server's windows are a second long, so nothing new comes sooner.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// How soon a key or a signal is answered.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Watch cores, drops, listeners and floods live
#[derive(Debug, Args)]
#[command(
    after_help = "Keys: q or Esc ends, p pauses, + and - change how often, j and k scroll the listeners."
)]
pub(super) struct TopArgs {
    /// Print one interval as text and end
    #[arg(long)]
    once: bool,
    /// Print JSON; with --once
    #[arg(long, requires = "once")]
    json: bool,
    /// Time between two looks; a second at least
    #[arg(long, default_value = "1s", value_name = "TIME")]
    interval: Span,
    #[command(flatten)]
    server: ServerArgs,
}

impl TopArgs {
    pub(super) fn run(&self, out: &mut impl Write) -> Done {
        let interval = self.interval.0.max(INTERVAL_MIN);
        let mut server = self.server.connect()?;
        let first = ask(&mut server)?;
        if self.once {
            std::thread::sleep(interval);
            let top = ask(&mut server)?;
            return super::print(out, self.json, &top, || text::once(&top));
        }
        if !stdout().is_terminal() {
            return Err(CliError::Usage("top draws on a terminal, and this is none; use --once".into()));
        }
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&ended))
                .map_err(|error| CliError::Run(format!("cannot take signals: {error}")))?;
        }
        // Restores the terminal also when something panics.
        let mut terminal = ratatui::try_init()
            .map_err(|error| CliError::Run(format!("cannot use this terminal: {error}; use --once")))?;
        let done = watch(&mut terminal, &mut server, View::new(first, interval), &ended);
        ratatui::restore();
        done
    }
}

fn ask(server: &mut Client) -> Result<Top, CliError> {
    Ok(server.call(&Request::Top {})?)
}

/// Draws until a key or a signal ends it.
fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    server: &mut Client,
    mut view: View,
    ended: &AtomicBool,
) -> Done {
    let failed = |error: std::io::Error| CliError::Run(format!("the terminal failed: {error}"));
    let mut due = Instant::now() + view.interval;
    while !ended.load(Ordering::Relaxed) {
        terminal.draw(|frame| view.draw(frame)).map_err(failed)?;
        while !ended.load(Ordering::Relaxed) {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if event::poll(left.min(LOOK_EVERY)).map_err(failed)? {
                match event::read().map_err(failed)? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => {
                        if !press(&mut view, key) {
                            return Ok(());
                        }
                        due = due.min(Instant::now() + view.interval);
                    }
                    _ => {}
                }
                terminal.draw(|frame| view.draw(frame)).map_err(failed)?;
            }
        }
        due = Instant::now() + view.interval;
        if !view.paused {
            view.update(ask(server)?);
        }
    }
    Ok(())
}

/// False if the key ends it.
fn press(view: &mut View, key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        // A terminal in raw mode makes no signal of it.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('p' | ' ') => view.paused = !view.paused,
        KeyCode::Char('+') => view.interval = (view.interval / 2).max(INTERVAL_MIN),
        KeyCode::Char('-') => view.interval = (view.interval * 2).min(Duration::from_secs(60)),
        KeyCode::Char('j') | KeyCode::Down => view.scroll(1),
        KeyCode::Char('k') | KeyCode::Up => view.scroll(-1),
        _ => {}
    }
    true
}
