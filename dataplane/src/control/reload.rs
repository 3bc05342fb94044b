//! Changes while the server runs: the configuration file once more, as a whole or not at all.
//!
//! # Order
//! The file is read and checked; what needs a restart is refused by name; the listeners as they would be are opened on
//! a stack that is thrown away, together with those that were opened by hand. Only then anything changes: knobs first,
//! as they decide what may be opened, then new listeners, then those that are no longer wanted are closed, and last the
//! cores are told. A listener that stays is not touched, so its connections and its queues stay too. Should the stack
//! refuse something all the same, what was done is undone.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use listener::Stack;
use listener::error::ListenError;
use listener::sockaddr::Caller;
use listener::sockopt::SockOpt;
use listener::types::SockFd;

use super::listeners::{Opened, close_each, open, refuse_listen};
use super::proto::{Change, ChangeKind, Listen, Refusal, Reloaded};
use super::service::{Desk, local};
use crate::config::{Config, ConfigError, Listener, then_name};
use crate::start::stack::{caller, listen_of, rehearse_beside};

/// Changes that one reply names.
const CHANGES_MAX: usize = 2000;

/// The configuration that runs, and the listeners that stand in it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// As it was last read.
    pub config: Config,
    /// Its listeners that are open; one that was closed by hand is none of them.
    pub listeners: Vec<Opened>,
}

impl Loaded {
    /// Forgets listeners that are closed.
    pub fn closed(&mut self, fds: &HashSet<SockFd>) {
        self.listeners.retain(|open| !fds.contains(&open.fd));
    }
}

/// What two listeners must have in common to be one and the same: all that listen(2) fixes.
type Identity<'a> = (SocketAddr, Option<&'a str>, Option<bool>, bool);

fn identity(addr: SocketAddr, listen: &Listen) -> Identity<'_> {
    (addr, listen.device.as_deref(), listen.v6only, listen.reuseport)
}

/// A listener of the new configuration.
#[derive(Clone)]
struct Wanted<'a> {
    addr: SocketAddr,
    listen: Arc<Listen>,
    /// Where it stands.
    listener: &'a Listener,
}

impl Wanted<'_> {
    fn opened(&self, fd: SockFd) -> Opened {
        Opened { addr: self.addr, listen: Arc::clone(&self.listen), fd }
    }
}

/// What is to be done.
#[derive(Default)]
struct Plan<'a> {
    open: Vec<Wanted<'a>>,
    close: Vec<Opened>,
    keep: Vec<(Opened, Wanted<'a>)>,
}

impl<'a> Plan<'a> {
    fn new(loaded: &Loaded, new: &'a Config) -> Self {
        let mut plan = Self::default();
        let mut running: HashMap<Identity<'_>, Vec<&Opened>> = HashMap::with_capacity(loaded.listeners.len());
        // Backwards, so that of several alike the first comes out first.
        for open in loaded.listeners.iter().rev() {
            running.entry(identity(open.addr, &open.listen)).or_default().push(open);
        }
        for listener in &new.listener {
            let listen = Arc::new(listen_of(listener));
            let device = listener.device.as_ref().map(|device| device.get_ref().as_str());
            for addr in listen.addr.each() {
                let wanted = Wanted { addr, listen: Arc::clone(&listen), listener };
                match running.get_mut(&(addr, device, listen.v6only, listen.reuseport)).and_then(Vec::pop) {
                    Some(open) => plan.keep.push((open.clone(), wanted)),
                    None => plan.open.push(wanted),
                }
            }
        }
        plan.close = running.into_values().flatten().cloned().collect();
        plan.close.sort_unstable_by_key(|open| open.fd);
        plan
    }

    fn changes(&self) -> Vec<Change> {
        let whole =
            |kind, listen: &Listen| vec![Change { kind, what: describe(listen), from: None, to: None }];
        let close = self.close.iter().map(|open| (open.addr, whole(ChangeKind::Remove, &open.listen)));
        let open = self.open.iter().map(|wanted| (wanted.addr, whole(ChangeKind::Add, &wanted.listen)));
        let keep = self.keep.iter().map(|(old, wanted)| (old.addr, retuned(&old.listen, &wanted.listen)));
        let mut changes = in_runs(close);
        changes.extend(in_runs(open));
        changes.extend(in_runs(keep));
        changes
    }
}

/// The changes of each listener, of which `what` is still without the address. Listeners at ports in a row that change alike
/// are one change.
fn in_runs(each: impl Iterator<Item = (SocketAddr, Vec<Change>)>) -> Vec<Change> {
    let mut runs: Vec<(SocketAddr, u16, Vec<Change>)> = Vec::new();
    for (addr, changes) in each.filter(|(_, changes)| !changes.is_empty()) {
        match runs.last_mut() {
            Some((first, last, alike))
                if first.ip() == addr.ip()
                    && last.checked_add(1) == Some(addr.port())
                    && *alike == changes =>
            {
                *last = addr.port();
            }
            _ => runs.push((addr, addr.port(), changes)),
        }
    }
    let named = runs.into_iter().flat_map(|(first, last, changes)| {
        let range = if first.port() == last { String::new() } else { format!("-{last}") };
        changes
            .into_iter()
            .map(move |change| Change { what: format!("listener {first}{range}{}", change.what), ..change })
    });
    named.collect()
}

/// What a listener that stays has otherwise, as [`in_runs`] takes it.
fn retuned(old: &Listen, new: &Listen) -> Vec<Change> {
    let values = |listen: &Listen| {
        [
            (" backlog", listen.backlog.to_string()),
            (" then", then_name(listen.then).to_owned()),
            (" defer_accept", listen.defer_accept.to_string()),
        ]
    };
    let pairs = values(old).into_iter().zip(values(new)).filter(|((_, from), (_, to))| from != to);
    let change = |((name, from), (_, to)): ((&str, String), (&str, String))| Change {
        kind: ChangeKind::Change,
        what: name.to_owned(),
        from: Some(from),
        to: Some(to),
    };
    pairs.map(change).collect()
}

/// Of `198.18.0.1:80 on wan, backlog 128, then discard` what stands behind the address.
fn describe(listen: &Listen) -> String {
    let device = listen.device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default();
    let shared = if listen.reuseport { ", reuseport" } else { "" };
    format!("{device}, backlog {}, then {}{shared}", listen.backlog, then_name(listen.then))
}

impl<D> Desk<D> {
    /// Reads the configuration file again and takes over what changed; with `check` only says what it would do.
    ///
    /// # Errors
    /// What is wrong with the file and on which line, what needs a restart, or what the stack refuses; nothing has
    /// changed then.
    pub fn reload(&mut self, check: bool) -> Result<Reloaded, Refusal> {
        let unchanged = |why: String| Refusal::new(format!("{why}\nNothing was changed."));
        let file: PathBuf = self.loaded.config.file().to_owned();
        let new = Config::load(&file).map_err(|error| unchanged(error.to_string()))?;
        let differences = self.loaded.config.differences(&new);
        let fixed: Vec<String> = differences.iter().filter(|key| !key.is_live()).map(needs_restart).collect();
        if !fixed.is_empty() {
            let list = fixed.join("\n  ");
            return Err(unchanged(format!("this needs a restart; restart, or take it back:\n  {list}")));
        }
        let plan = Plan::new(&self.loaded, &new);
        if !plan.open.is_empty() || differences.iter().any(|key| key.key.starts_with("sysctl.")) {
            let others = self.opened_by_hand();
            rehearse_beside(&new, &others).map_err(|error| unchanged(error.to_string()))?;
        }
        let keys = differences.into_iter().map(|key| Change {
            kind: ChangeKind::Change,
            what: key.key,
            from: key.from.or_else(|| Some("(default)".into())),
            to: key.to.or_else(|| Some("(default)".into())),
        });
        let mut changes: Vec<Change> = keys.chain(plan.changes()).collect();
        let total = changes.len();
        changes.truncate(CHANGES_MAX);
        let applied = !check;
        if applied {
            let listeners = self.apply(&plan, &new).map_err(|error| unchanged(error.to_string()))?;
            self.loaded = Loaded { config: new, listeners };
            tracing::info!(file = %file.display(), changes = total, "reloaded");
        }
        Ok(Reloaded { file: file.display().to_string(), applied, total, changes })
    }

    /// Listeners that stand in no file.
    fn opened_by_hand(&self) -> Vec<(SocketAddr, Listen, Caller)> {
        let ours: HashSet<SockFd> = self.loaded.listeners.iter().map(|open| open.fd).collect();
        let rows = self.stack.listeners().into_iter().filter(|row| !ours.contains(&row.fd));
        let rows = rows.map(|row| {
            let device = usize::from(row.dev.0).checked_sub(1).and_then(|index| self.ports.get(index));
            let addr = local(&row);
            let listen = Listen {
                addr: addr.into(),
                backlog: 1,
                reuseport: row.reuseport,
                v6only: Some(row.v6only),
                device: device.cloned(),
                then: row.then.into(),
                defer_accept: 0,
            };
            (addr, listen, Caller { uid: row.uid, cap_net_bind_service: true })
        });
        rows.collect()
    }
}

fn needs_restart(key: &crate::config::Difference) -> String {
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "(default)".into());
    let place = key.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
    format!("{}: {} -> {}{place}", key.key, or(&key.from), or(&key.to))
}

impl<D> Desk<D> {
    /// Does what `plan` says; returns the listeners of `new` with their descriptors.
    ///
    /// # Errors
    /// What the stack refused; then all is as before, but for what waited in the queues of listeners that had to be
    /// closed to make room.
    fn apply(&mut self, plan: &Plan<'_>, new: &Config) -> Result<Vec<Opened>, ConfigError> {
        let knobs = self.stack.set_sysctl(new.sysctl.values());
        let mut opened = Vec::with_capacity(plan.open.len() + plan.keep.len());
        // First all that can be opened beside the old ones, so that most addresses are served without a gap.
        let (mut now, mut late) = (Ok(()), Vec::new());
        for wanted in &plan.open {
            match open(&self.stack, wanted.addr, &wanted.listen, caller()) {
                Ok(fd) => opened.push(wanted.opened(fd)),
                Err(ListenError::AddrInUse) if !plan.close.is_empty() => late.push(wanted),
                Err(error) => {
                    now = Err((error, wanted));
                    break;
                }
            }
        }
        let close = if now.is_ok() { &plan.close[..] } else { &[] };
        close_each(&self.stack, close);
        let late = now.and_then(|()| {
            late.into_iter().try_for_each(|wanted| {
                let fd = open(&self.stack, wanted.addr, &wanted.listen, caller());
                opened.push(wanted.opened(fd.map_err(|error| (error, wanted))?));
                Ok(())
            })
        });
        if let Err((error, wanted)) = late {
            close_each(&self.stack, &opened);
            self.stack.set_sysctl(listener::sysctl::Sysctl::clone(&knobs));
            self.reopen(close);
            let refusal = refuse_listen(error, wanted.addr, &self.ports);
            return Err(new.error(&wanted.listener.addr, refusal.to_string()));
        }
        let clamp = knobs.somaxconn != self.stack.sysctl().somaxconn;
        for (old, wanted) in &plan.keep {
            retune(&self.stack, &old.listen, &wanted.listen, old.fd, clamp);
        }
        self.stack.tell_cores(new.limits.rst_per_second);
        opened.extend(plan.keep.iter().map(|(old, wanted)| wanted.opened(old.fd)));
        Ok(opened)
    }

    /// Opens again what was closed in vain.
    fn reopen(&mut self, closed: &[Opened]) {
        self.loaded.closed(&closed.iter().map(|open| open.fd).collect());
        for was in closed {
            if let Ok(fd) = open(&self.stack, was.addr, &was.listen, caller()) {
                self.loaded.listeners.push(Opened { fd, ..was.clone() });
            }
        }
    }
}

/// Gives a listener that stays its new values. None of these calls fails on a listener.
fn retune(stack: &Stack, old: &Listen, wanted: &Listen, fd: SockFd, clamp: bool) {
    if old.backlog != wanted.backlog || clamp {
        let _ = stack.listen(fd, wanted.backlog);
    }
    if old.then != wanted.then {
        let _ = stack.set_then(fd, wanted.then.into());
    }
    if old.defer_accept != wanted.defer_accept {
        let _ = stack.setsockopt(fd, SockOpt::DeferAccept(wanted.defer_accept));
    }
}

#[cfg(test)]
mod tests;
