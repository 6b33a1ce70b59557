//! The line to servers: how fast, and what went over it.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    cli::{mount::parse_size, output, output::Screen},
    store::{Settings, Traffic},
    sys::{Cancel, SystemClock},
};

/// Options about the line to a server; they mean nothing to a vault in a directory.
#[derive(clap::Args)]
pub struct Args {
    /// Send no more than this many bytes a second to a server
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    limit_upload: Option<u64>,
    /// Receive no more than this many bytes a second from a server
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    limit_download: Option<u64>,
    #[arg(skip)]
    traffic: Arc<Traffic>,
}

/// What went over the line, as an object.
#[derive(Serialize)]
struct Told {
    did: &'static str,
    requests: u64,
    retries: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

impl Args {
    /// How to speak to servers.
    pub fn settings(&self, cancel: &Cancel) -> Settings {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut settings = Settings::new(Arc::new(SystemClock), cancel.clone(), self.traffic.clone(), env);
        settings.limits = (self.limit_upload, self.limit_download);
        settings
    }

    /// Says what went over the line, if anything did: who rents a server pays for each request.
    pub fn tell(&self, screen: &Screen, verbose: bool) {
        let [requests, retries, bytes_sent, bytes_received] = self.traffic.so_far();
        if requests == 0 {
            return;
        }
        screen.fact(&Told { did: "traffic", requests, retries, bytes_sent, bytes_received }, || {
            let again = if retries > 0 { format!(" ({} of them again)", output::count(retries)) } else { String::new() };
            let text = format!(
                "{} requests{again}, {} sent, {} received",
                output::count(requests),
                output::bytes(bytes_sent),
                output::bytes(bytes_received)
            );
            verbose.then_some(text)
        });
    }
}
