//! `towline serve`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use towline_crypto::Providers;
use tracing::{error, info};

use super::{
    Failure,
    process::{self, Signal, Signals},
};
use crate::{
    control::{config, policy, reload, telemetry},
    gateway::Gateway,
    run::{self, Serving},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) async fn run(arguments: Arguments, providers: &Providers) -> Result<(), Failure> {
    let settings = config::load(&arguments.config, providers)?;
    let signals = Signals::listen()?;
    let serving = start(settings).await?;
    until_told_to_end(serving, signals, Some(&arguments.config)).await;
    Ok(())
}

/// Builds a gateway and opens its listeners.
pub(super) async fn start(settings: Settings) -> Result<Serving, Failure> {
    telemetry::start(&settings.log).map_err(|error| Failure::Other(format!("log.filter: {error}")))?;
    process::raise_open_files();
    let gateway = Gateway::open(settings)?;
    let serving = run::serve(gateway).await?;
    for bound in &serving.listeners {
        info!(listener = &*bound.name, address = %bound.address, tcp = bound.tcp, quic = bound.quic, "listening");
    }
    info!(address = %serving.admin, "admin listening");
    Ok(serving)
}

/// Serves until a signal says to end; then drains. A second such signal ends at once.
pub(super) async fn until_told_to_end(serving: Serving, mut signals: Signals, config: Option<&Path>) {
    loop {
        match (signals.next().await, config) {
            (Signal::Reload, Some(config)) => reload_from(&serving.gateway, config),
            (Signal::Reload, None) => info!("nothing to reload: the dev start has no configuration file"),
            (Signal::End, _) => break,
        }
    }
    let timeout = serving.gateway.snapshot().settings.drain_timeout;
    info!(?timeout, at_work = serving.gateway.drain.at_work(), "draining; a second signal ends at once");
    let left = tokio::select! {
        left = serving.drain() => left,
        () = signals.end() => {
            serving.gateway.drain.cut();
            serving.gateway.drain.at_work()
        }
    };
    info!(left, "ended");
}

/// A bad file changes nothing: the gateway goes on with what it has.
fn reload_from(gateway: &Arc<Gateway>, config: &Path) {
    if let Err(problem) = reload::from_file(gateway, config) {
        error!("configuration not reloaded, the old one stays in force:\n{problem}");
        return;
    }
    policy::tell(gateway);
}
