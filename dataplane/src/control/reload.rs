//! Changes while the server runs: the configuration file once more, as a whole or not at all.
//!
//! # Order
//! The file is read and checked; what needs a restart is refused by name; the listeners as they would be are opened on
//! a stack that is thrown away, together with those that were opened by hand. Only then anything changes: knobs first,
//! as they decide what may be opened, then new listeners, then those that are no longer wanted are closed, and last the
//! cores are told. A listener that stays is not touched, so its connections and its queues stay too. Should the stack
//! refuse something all the same, what was done is undone.

use std::collections::HashMap;
use std::path::PathBuf;

use listener::Stack;
use listener::error::ListenError;
use listener::sockaddr::Caller;
use listener::sockopt::SockOpt;
use listener::types::SockFd;

use super::proto::{Change, ChangeKind, Listen, Refusal, Reloaded};
use super::service::{Desk, local, open, refuse_listen};
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
    pub listeners: Vec<(Listen, SockFd)>,
}

impl Loaded {
    /// Forgets a listener that is closed.
    pub fn closed(&mut self, fd: SockFd) {
        self.listeners.retain(|(_, open)| *open != fd);
    }
}

/// What two listeners must have in common to be one and the same: all that listen(2) fixes.
type Identity = (std::net::SocketAddr, Option<String>, Option<bool>, bool);

fn identity(listen: &Listen) -> Identity {
    (listen.addr.0, listen.device.clone(), listen.v6only, listen.reuseport)
}

/// What is to be done.
#[derive(Default)]
struct Plan<'a> {
    open: Vec<(Listen, &'a Listener)>,
    close: Vec<(Listen, SockFd)>,
    keep: Vec<(Listen, Listen, SockFd)>,
}

impl<'a> Plan<'a> {
    fn new(loaded: &Loaded, new: &'a Config) -> Self {
        let mut plan = Self::default();
        let mut running: HashMap<Identity, Vec<(Listen, SockFd)>> = HashMap::new();
        // Backwards, so that of several alike the first comes out first.
        for (listen, fd) in loaded.listeners.iter().rev() {
            running.entry(identity(listen)).or_default().push((listen.clone(), *fd));
        }
        for listener in &new.listener {
            let listen = listen_of(listener);
            match running.get_mut(&identity(&listen)).and_then(Vec::pop) {
                Some((old, fd)) => plan.keep.push((old, listen, fd)),
                None => plan.open.push((listen, listener)),
            }
        }
        plan.close = running.into_values().flatten().collect();
        plan.close.sort_unstable_by_key(|(_, fd)| *fd);
        plan
    }

    fn changes(&self) -> Vec<Change> {
        let whole = |kind, listen: &Listen| {
            let name = describe(listen);
            Change { kind, what: format!("listener {name}"), from: None, to: None }
        };
        let mut changes = Vec::new();
        changes.extend(self.close.iter().map(|(listen, _)| whole(ChangeKind::Remove, listen)));
        changes.extend(self.open.iter().map(|(listen, _)| whole(ChangeKind::Add, listen)));
        for (old, new, _) in &self.keep {
            let values = |listen: &Listen| {
                [
                    ("backlog", listen.backlog.to_string()),
                    ("then", then_name(listen.then).to_owned()),
                    ("defer_accept", listen.defer_accept.to_string()),
                ]
            };
            for ((name, from), (_, to)) in values(old).into_iter().zip(values(new)) {
                if from != to {
                    let what = format!("listener {} {name}", old.addr);
                    changes.push(Change { kind: ChangeKind::Change, what, from: Some(from), to: Some(to) });
                }
            }
        }
        changes
    }
}

/// `198.18.0.1:80 on wan, backlog 128, then discard`
fn describe(listen: &Listen) -> String {
    let device = listen.device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default();
    let shared = if listen.reuseport { ", reuseport" } else { "" };
    let then = then_name(listen.then);
    format!("{}{device}, backlog {}, then {then}{shared}", listen.addr, listen.backlog)
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
    fn opened_by_hand(&self) -> Vec<(Listen, Caller)> {
        let ours: std::collections::HashSet<SockFd> =
            self.loaded.listeners.iter().map(|(_, fd)| *fd).collect();
        let rows = self.stack.listeners().into_iter().filter(|row| !ours.contains(&row.fd));
        let rows = rows.map(|row| {
            let device = usize::from(row.dev.0).checked_sub(1).and_then(|index| self.ports.get(index));
            let addr = crate::config::ListenAddr(local(&row));
            let listen = Listen {
                addr,
                backlog: 1,
                reuseport: row.reuseport,
                v6only: Some(row.v6only),
                device: device.cloned(),
                then: row.then.into(),
                defer_accept: 0,
            };
            (listen, Caller { uid: row.uid, cap_net_bind_service: true })
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
    fn apply(&mut self, plan: &Plan<'_>, new: &Config) -> Result<Vec<(Listen, SockFd)>, ConfigError> {
        let knobs = self.stack.set_sysctl(new.sysctl.values());
        let mut opened = Vec::with_capacity(plan.open.len());
        // First all that can be opened beside the old ones, so that most addresses are served without a gap.
        let (mut now, mut late) = (Ok(()), Vec::new());
        for (listen, listener) in &plan.open {
            match open(&self.stack, listen, caller()) {
                Ok(fd) => opened.push((listen.clone(), fd)),
                Err(ListenError::AddrInUse) if !plan.close.is_empty() => late.push((listen, *listener)),
                Err(error) => {
                    now = Err((error, *listener));
                    break;
                }
            }
        }
        let close = if now.is_ok() { &plan.close[..] } else { &[] };
        for (_, fd) in close {
            let _ = self.stack.close(*fd, false);
        }
        let late = now.and_then(|()| {
            late.into_iter().try_for_each(|(listen, listener)| {
                let fd = open(&self.stack, listen, caller()).map_err(|error| (error, listener))?;
                opened.push((listen.clone(), fd));
                Ok(())
            })
        });
        if let Err((error, listener)) = late {
            for (_, fd) in &opened {
                let _ = self.stack.close(*fd, false);
            }
            self.stack.set_sysctl(listener::sysctl::Sysctl::clone(&knobs));
            self.reopen(close);
            let refusal = refuse_listen(error, listener.addr.get_ref().0, &self.ports);
            return Err(new.error(&listener.addr, refusal.to_string()));
        }
        let clamp = knobs.somaxconn != self.stack.sysctl().somaxconn;
        for (old, wanted, fd) in &plan.keep {
            retune(&self.stack, old, wanted, *fd, clamp);
        }
        self.stack.tell_cores(new.limits.rst_per_second);
        opened.extend(plan.keep.iter().map(|(_, wanted, fd)| (wanted.clone(), *fd)));
        Ok(opened)
    }

    /// Opens again what was closed in vain.
    fn reopen(&mut self, closed: &[(Listen, SockFd)]) {
        for (listen, fd) in closed {
            self.loaded.closed(*fd);
            if let Ok(fd) = open(&self.stack, listen, caller()) {
                self.loaded.listeners.push((listen.clone(), fd));
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
