//! Publishes a changed configuration to a running gateway.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, sync::Arc};

use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::config::{self, Mistakes};
use crate::{
    gateway::{Gateway, StartError},
    settings::{Listener, Settings},
};

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file has mistakes.
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
    /// A file that the configuration names cannot be used.
    #[error(transparent)]
    Unusable(#[from] StartError),
}

/// Reads the configuration again and puts it in force.
///
/// # Errors
/// What is wrong with the file or with what it names; the gateway goes on as before.
pub fn from_file(gateway: &Gateway, path: &Path) -> Result<(), ReloadError> {
    let providers = gateway.snapshot().settings.providers.clone();
    let settings = config::load(path, &providers).inspect_err(|_| count(gateway, "refused"))?;
    Ok(apply(gateway, settings)?)
}

/// Puts `settings` in force: routes, backends, users, certificates, limits, policy. What only a restart
/// can change keeps its value, and the log says so.
///
/// # Errors
/// A file that the settings name cannot be used; the gateway goes on as before.
pub fn apply(gateway: &Gateway, mut settings: Settings) -> Result<(), StartError> {
    let _publishing = gateway.publishing.lock();
    let old = gateway.snapshot.load_full();
    // They are the program's, not the file's.
    settings.providers = old.settings.providers.clone();
    let settings = keep_what_needs_a_restart(&old.settings, settings);
    let handshakes = (old.settings.limits.handshakes_max, settings.limits.handshakes_max);
    let checks = (old.settings.auth.password_checks_max, settings.auth.password_checks_max);
    let rebuilt = old.rebuild(settings).inspect_err(|_| count(gateway, "refused"))?;
    let configured = gateway.dictionaries.configure(&rebuilt.snapshot.settings);
    configured.inspect_err(|_| count(gateway, "refused"))?;
    // From here on nothing fails.
    let snapshot = rebuilt.install();
    gateway.sessions.follow(&snapshot.settings);
    let jwt = snapshot.settings.auth.jwt.as_ref();
    gateway.issuer_keys.follow(jwt.and_then(|jwt| jwt.jwks.as_ref()));
    gateway.mqtt.follow(&snapshot.settings.mqtt, &gateway.hub);
    let snapshot = Arc::new(snapshot);
    gateway.snapshot.store(Arc::clone(&snapshot));
    gateway.withdraw_changed(&old, &snapshot);
    gateway.policies.touch();
    gateway.hub.presence().follow(&gateway.snapshot().settings);
    gateway.upstreams.follow();
    gateway.denials.clear();
    gateway.login_denials.clear();
    resize(&gateway.handshakes, handshakes);
    resize(&gateway.password_checks, checks);
    count(gateway, "ok");
    info!("configuration reloaded");
    Ok(())
}

fn keep_what_needs_a_restart(old: &Settings, mut new: Settings) -> Settings {
    if sockets(&old.listeners) != sockets(&new.listeners) {
        warn!("changed addresses or transports of listeners need a restart; the listeners stay as they are");
        new.listeners.clone_from(&old.listeners);
    }
    if old.admin.bind != new.admin.bind {
        warn!("a changed admin.bind needs a restart; it stays {}", old.admin.bind);
        new.admin = old.admin.clone();
    }
    if old.data_dir != new.data_dir {
        warn!("a changed data_dir needs a restart; it stays {}", old.data_dir.display());
        new.data_dir.clone_from(&old.data_dir);
    }
    let (old_levels, new_levels) = (old.mqtt.topic_levels_max, &mut new.mqtt.topic_levels_max);
    if old_levels != *new_levels {
        warn!("a changed mqtt.topic_levels_max needs a restart; it stays {old_levels}");
        *new_levels = old_levels;
    }
    if (&old.log.filter, old.log.json) != (&new.log.filter, new.log.json) {
        warn!("a changed [log] needs a restart");
        new.log = old.log.clone();
    }
    new
}

/// What a listener's sockets are made from.
fn sockets(listeners: &[Listener]) -> BTreeSet<(&str, SocketAddr, bool, bool)> {
    listeners.iter().map(|listener| (&*listener.name, listener.bind, listener.tcp, listener.quic)).collect()
}

/// Places that are taken now go as soon as they are given back.
fn resize(all: &Arc<Semaphore>, (old, new): (usize, usize)) {
    all.add_permits(new.saturating_sub(old));
    let fewer = u32::try_from(old.saturating_sub(new)).unwrap_or(u32::MAX);
    if fewer > 0 {
        let all = Arc::clone(all);
        tokio::spawn(async move {
            if let Ok(places) = all.acquire_many_owned(fewer).await {
                places.forget();
            }
        });
    }
}

fn count(gateway: &Gateway, outcome: &str) {
    gateway.metrics.reloads.with_label_values(&[outcome]).inc();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::hook::parrot::parrot, settings::Hook};

    #[tokio::test]
    async fn a_refused_reload_leaves_the_keys_as_they_were() {
        let backends = vec![parrot("{\"verdict\":\"not_mine\"}")];
        let mut settings = Settings { backends, ..Settings::default() };
        settings.auth.hook = Some(Hook::new("accounts"));
        let gateway = Gateway::build(settings.clone()).unwrap();
        let has_tokens = || !gateway.snapshot().tokens().life().is_zero();
        assert!(!has_tokens(), "the hook is to be asked");
        settings.auth.hook = None;
        let mut unusable = settings.clone();
        unusable.compression.dictionaries = vec!["/nowhere/dictionary".into()];
        assert!(apply(&gateway, unusable).is_err());
        assert!(gateway.snapshot().hook.is_some() && !has_tokens());
        apply(&gateway, settings).unwrap();
        assert!(has_tokens());
    }
}
