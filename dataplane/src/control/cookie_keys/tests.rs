use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use listener::config::{Secret, StackConfig};
use listener::limits::Limits;
use listener::sysctl::Sysctl;
use listener::types::Nanos;

use super::*;

/// A stack of two cores whose workers turn as long as `work` runs.
fn with_workers(work: impl FnOnce(&Stack)) {
    let (limits, secret) = (Limits::TINY, Secret::from_seed(1));
    let config = StackConfig { sysctl: Sysctl::default(), devices: vec![], cores: 2, limits, secret };
    let (stack, cores) = Stack::new(config).expect("a stack");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut core in cores {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    core.tick(Nanos(1), 8, |_| true);
                    std::thread::yield_now();
                }
            });
        }
        work(&stack);
        stop.store(true, Ordering::Relaxed);
    });
}

/// Changes the keys to the end, as rounds of the control thread do.
fn rotate(desk: &mut CookieDesk, stack: &Stack) -> Result<CookieKeysReply, Refusal> {
    loop {
        if let Poll::Ready(ended) = desk.rotate(stack, 1, |_| Ok(())) {
            assert!(desk.change.is_none());
            return ended;
        }
        desk.turn(stack);
        std::thread::yield_now();
    }
}

fn write(path: &Path, lines: &[char]) {
    let text: String = lines.iter().map(|digit| digit.to_string().repeat(96) + "\n").collect();
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("our own");
}

#[test]
fn random_keys_turn_over() {
    let mut desk = CookieDesk::open(None).expect("random numbers");
    let first = desk.show();
    assert_eq!((first.file, first.rotations, first.other), (None, 0, None));
    with_workers(|stack| {
        let second = rotate(&mut desk, stack).expect("workers turn");
        assert_ne!(second.current, first.current);
        assert_eq!((second.rotations, second.other.as_ref()), (1, Some(&first.current)));
        let third = rotate(&mut desk, stack).expect("workers turn");
        assert_eq!((third.rotations, third.other), (2, Some(second.current)));
    });
    assert!(!desk.keys().shared);
}

#[test]
fn a_file_is_read_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret");
    write(&path, &['1']);
    let mut desk = CookieDesk::open(Some(path.clone())).expect("a good file");
    let first = desk.show().current;
    with_workers(|stack| {
        let said = rotate(&mut desk, stack).expect_err("nothing new").to_string();
        assert!(said.contains("holds what is in use already"), "{said}");
        // As it is done on several machines: first all learn the new one, then all use it.
        write(&path, &['1', '2']);
        let learned = rotate(&mut desk, stack).expect("workers turn");
        assert_eq!(learned.current, first);
        let second = learned.other.expect("both");
        write(&path, &['2', '1']);
        let used = rotate(&mut desk, stack).expect("workers turn");
        assert_eq!((&used.current, used.other.as_ref(), used.rotations), (&second, Some(&first), 2));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("our own");
        assert!(rotate(&mut desk, stack).expect_err("not any more").to_string().contains("0644"));
        assert_eq!(desk.show().current, second, "a bad file changes nothing");
    });
    assert!(desk.keys().shared);
}

#[test]
fn a_worker_that_does_not_turn_is_named_and_nothing_changes() {
    let (limits, secret) = (Limits::TINY, Secret::from_seed(1));
    let config = StackConfig { sysctl: Sysctl::default(), devices: vec![], cores: 1, limits, secret };
    let (stack, _cores) = Stack::new(config).expect("a stack");
    let mut desk = CookieDesk::open(None).expect("random numbers");
    let before = desk.show();
    let said = rotate(&mut desk, &stack).expect_err("nobody turns").to_string();
    assert!(said.contains("late cores"), "{said}");
    assert_eq!((desk.show().current, desk.show().rotations), (before.current, 0));
}

#[test]
fn a_change_goes_on_without_its_client_and_another_one_waits() {
    let mut desk = CookieDesk::open(None).expect("random numbers");
    let before = desk.show().current;
    with_workers(|stack| {
        assert!(desk.rotate(stack, 1, |_| Ok(())).is_pending());
        assert!(desk.rotate(stack, 2, |_| panic!("not yet")).is_pending());
        desk.gone(1);
        while desk.change.is_some() {
            desk.turn(stack);
            std::thread::yield_now();
        }
        let between = desk.show();
        assert_eq!((between.rotations, between.other), (1, Some(before)));
        assert_eq!(rotate(&mut desk, stack).expect("workers turn").rotations, 2);
    });
}
