//! Which cores the workers get, and which queues each of them polls.

use crate::config::{Config, ConfigError, Cores};

/// The cores that this process may use, by the kernel's numbers, ascending.
pub fn allowed() -> Vec<usize> {
    let mut cores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    cores.sort_unstable();
    cores
}

/// The cores that may carry a worker.
///
/// # Errors
/// One of `workers.cores` is none of `allowed`.
pub fn choose(config: &Config, allowed: &[usize]) -> Result<Vec<usize>, ConfigError> {
    let wanted = &config.workers.cores;
    match wanted.get_ref() {
        Cores::Auto => {
            let mut cores = allowed.to_vec();
            if cores.len() > 1 {
                cores.remove(0);
            }
            cores.truncate(usize::from(crate::config::QUEUES_MAX));
            Ok(cores)
        }
        Cores::These(cores) => match cores.iter().find(|core| !allowed.contains(core)) {
            None => Ok(cores.clone()),
            Some(core) => {
                let allowed = list(allowed);
                let message = format!(
                    "core {core} is none that this process may use; those are {allowed} (see \"taskset -p $$\" and \
                     the container's or unit's CPU set)"
                );
                Err(config.error(wanted, message))
            }
        },
    }
}

/// `0, 1, 5`
pub fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// Takes away the cores for which the devices have no queue, `queues` in all, and says so.
pub fn fit(mut cores: Vec<usize>, queues: usize, auto: bool) -> Vec<usize> {
    let queues = queues.max(1);
    if cores.len() > queues {
        let left = cores.len() - queues;
        cores.truncate(queues);
        let used = list(&cores);
        if auto {
            tracing::info!("{queues} workers on cores {used}: as many as the devices have queues");
        } else {
            tracing::warn!(
                "the devices have {queues} queues, so {left} of the configured cores stay idle: {queues} workers on cores {used}"
            );
        }
    }
    cores
}

/// The worker that polls each queue of each port, for ports with this many queues: round and round, one port after the
/// other, so that no worker has two queues more than another, and a device with few of them leaves the next device
/// to the workers that it did not need.
pub fn shares(queues: impl IntoIterator<Item = usize>, workers: usize) -> Vec<Vec<usize>> {
    let mut next = (0..workers.max(1)).cycle();
    queues.into_iter().map(|queues| next.by_ref().take(queues).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(workers: &str) -> Config {
        let text = format!("[[port]]\nname = \"p0\"\ndevice = \"net_ring0\"\n[workers]\n{workers}\n");
        Config::parse(std::path::Path::new("h.toml"), text).expect("a configuration")
    }

    #[test]
    fn one_core_is_left_to_the_control_thread_if_there_are_two() {
        assert_eq!(choose(&config(""), &[2, 5, 6]), Ok(vec![5, 6]));
        assert_eq!(choose(&config(""), &[2]), Ok(vec![2]));
    }

    #[test]
    fn a_core_outside_the_allowed_set_is_refused() {
        assert_eq!(choose(&config("cores = [5, 2]"), &[2, 5]), Ok(vec![5, 2]));
        let error = choose(&config("cores = [2, 3]"), &[2, 5]).expect_err("not allowed");
        assert_eq!(
            error.to_string(),
            "h.toml:5: core 3 is none that this process may use; those are 2, 5 (see \"taskset -p $$\" and the \
             container's or unit's CPU set)"
        );
    }

    #[test]
    fn cores_without_a_queue_are_left_out() {
        assert_eq!(fit(vec![1, 2, 3], 2, false), [1, 2]);
        assert_eq!(fit(vec![1, 2, 3], 8, true), [1, 2, 3]);
        assert_eq!(fit(vec![1, 2], 0, true), [1]);
    }

    #[test]
    fn what_one_device_does_not_need_serves_the_next() {
        assert_eq!(shares([5], 2), [[0, 1, 0, 1, 0]]);
        assert_eq!(shares([1, 1, 1], 2), [[0], [1], [0]]);
        assert_eq!(shares([2, 2], 2), [[0, 1], [0, 1]]);
        assert_eq!(shares([1, 2, 4], 4), [vec![0], vec![1, 2], vec![3, 0, 1, 2]]);
    }

    #[test]
    fn this_process_may_use_some_core() {
        assert!(!allowed().is_empty());
    }
}
