//! Ports whose frames come with their time of arrival: by which clock, and how that is read.
//!
//! # Which driver stamps by which clock
//! Read in the drivers' sources; tried with the two virtual ones only.
//!
//! | driver | a tick | read by |
//! |---|---|---|
//! | net_pcap on an interface | 1 µs of the machine's date; it stamps without being asked to, and does not list the offload | the date |
//! | net_af_packet, where it lists the offload (24.11; 22.11 does not) | 1 ns of the machine's date | the date |
//! | net_ice | 1 ns of the NIC's PTP clock | `rte_eth_timesync_read_time` |
//! | mlx5_pci | one of the NIC's core clock (mlx5dv_ts_to_ns(3)), whose rate is measured | `rte_eth_read_clock` |
//! | mlx5_pci with the firmware's real-time stamps | 1 ns of UTC, while `rte_eth_read_clock` is the core clock: not usable | |
//! | any other that lists the offload | its PTP clock's ns, or what it likes | the first of the two that it answers |
//!
//! The PTP clock is asked for first: where there are both, `rte_eth_read_clock` may be another one than that of the stamps
//! (net_igc's is the machine's). The rate is measured in any case. Stamps that do not fit are counted and not used.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dpdk::{Eal, RxTimestampField, Started};

use crate::config::{Device, Port};
use crate::control::proto::{Begin, PortClock};
use crate::io::arrival::Calibrator;

/// What reads the clock of a port's stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The machine's date, in ticks of so many ns.
    Date(u16),
    /// `rte_eth_timesync_read_time`, in ns.
    Timesync,
    /// `rte_eth_read_clock`, in ticks of unknown rate.
    ReadClock,
}

/// The stamps of a port, for the control thread.
#[derive(Debug)]
pub(super) struct Stamps {
    source: Source,
    calibrator: Calibrator,
    /// For the queues.
    pub(super) field: RxTimestampField,
}

/// What there is to say of a port's time of arrival.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Frames are stamped, and the stamps can be used.
    Stamped(Stamps),
    /// They are not; true if the device could, were it asked to.
    Unstamped { could: bool },
}

impl Arrival {
    /// Of a port that runs: `rx_timestamps` was asked for or not.
    ///
    /// # Errors
    /// Why what was asked for is not there.
    pub(super) fn of(eal: &Eal, port: &Port, driver: &str, started: &Started) -> Result<Self, String> {
        if !port.rx_timestamps {
            let info = eal.port_info(started.id()).map_err(|error| error.to_string())?;
            return Ok(Self::Unstamped {
                could: info.capabilities.offloads.rx_timestamp || unasked(port, driver),
            });
        }
        if !started.offloads().rx_timestamp && !unasked(port, driver) {
            return Err("the device stamps no frames".into());
        }
        let source = match driver {
            "net_pcap" => Source::Date(1000),
            "net_af_packet" => Source::Date(1),
            _ if started.timesync_read_time().is_ok() => Source::Timesync,
            _ => match started.read_clock() {
                Ok(_) => Source::ReadClock,
                Err(error) => {
                    return Err(format!("the clock of the device's stamps cannot be read: {error}"));
                }
            },
        };
        let field = eal.rx_timestamp_field().map_err(|error| error.to_string())?;
        let known = match source {
            Source::Date(ns) => Some(f64::from(ns)),
            Source::Timesync => Some(1.0),
            Source::ReadClock => None,
        };
        let calibrator = Calibrator::new(known, || source.read(started));
        Ok(Self::Stamped(Stamps { source, calibrator, field }))
    }

    /// Reads the clocks if it is time.
    pub(super) fn tick(&mut self, started: &Started, now: Instant) {
        if let Self::Stamped(Stamps { source, calibrator, .. }) = self {
            calibrator.tick(now, || source.read(started));
        }
    }

    /// For people.
    pub(super) fn clock(&self) -> PortClock {
        match self {
            Self::Unstamped { could } => PortClock { could: *could, ..PortClock::default() },
            Self::Stamped(Stamps { source, calibrator, .. }) => {
                let clock = calibrator.clock();
                PortClock {
                    begin: if let Source::Date(_) = source { Begin::Kernel } else { Begin::Device },
                    hz: clock.hz().map(|hz| hz.round() as u64),
                    unusable: clock.unusable(),
                    could: true,
                }
            }
        }
    }
}

impl Stamps {
    /// What the port's queues need.
    pub(super) fn clock(&self) -> std::sync::Arc<crate::io::arrival::ArrivalClock> {
        self.calibrator.clock()
    }
}

impl Source {
    fn read(self, started: &Started) -> Option<u64> {
        match self {
            Self::Date(ns) => {
                let unix = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
                Some(unix.as_nanos() as u64 / u64::from(ns))
            }
            Self::Timesync => started.timesync_read_time().ok(),
            Self::ReadClock => started.read_clock().ok(),
        }
    }
}

/// net_pcap stamps what it captures; a file's frames are of another time.
fn unasked(port: &Port, driver: &str) -> bool {
    let live = |device: &crate::config::DpdkDevice| {
        ["iface", "rx_iface", "rx_iface_in"].iter().any(|key| device.arg(key).is_some())
    };
    driver == "net_pcap" && matches!(port.device.get_ref(), Device::Dpdk(device) if live(device))
}
