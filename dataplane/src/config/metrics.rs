//! `[metrics]`: the page for Prometheus.

use std::net::SocketAddr;

use serde::Deserialize;
use toml::Spanned;

/// `[metrics]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Address and port of the kernel's stack for `/metrics` and `/healthz`, such as `127.0.0.1:9464`; port 0 takes any
    /// that is free. Default: none, because whoever reaches it may read it.
    /// Example: `listen = "127.0.0.1:9464"`.
    pub listen: Option<Spanned<SocketAddr>>,
}
