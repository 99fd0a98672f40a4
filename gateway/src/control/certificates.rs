//! Keeps what TLS is made from fresh while the gateway runs: files that changed, certificates that end,
//! delegated certificates and keys of tickets and tokens that are due.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::{error, info, warn};

use crate::{files::Stamps, gateway::Gateway, transport::tls::Certificate};

/// How often files are looked at. A change is read when it looks the same twice, so that a file that is
/// still being written is left alone.
const PERIOD: Duration = Duration::from_secs(5);
/// How often a certificate near its end is warned of.
const WARN_PERIOD: Duration = Duration::from_secs(86_400);

/// Looks after the certificates as long as the gateway is there.
pub async fn watch(gateway: Weak<Gateway>) {
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    loop {
        period.tick().await;
        let Some(gateway) = gateway.upgrade() else { return };
        // Off the reactor: a file may be on a slow disk, and keys are made.
        let round = tokio::task::spawn_blocking(move || {
            watch.round(&gateway, SystemTime::now());
            watch
        });
        match round.await {
            Ok(after) => watch = after,
            Err(problem) => {
                error!("looking after certificates failed, and begins anew: {problem}");
                watch = Watch::default();
            }
        }
    }
}

/// What is remembered between two looks.
#[derive(Default)]
struct Watch {
    /// What the files looked like the last time.
    seen: Option<Stamps>,
    /// What could not be read, and why.
    refused: Option<(Stamps, String)>,
    /// When an end was warned of, by listener, name and end.
    warned: HashMap<(Arc<str>, Arc<str>, i64), SystemTime>,
}

impl Watch {
    fn round(&mut self, gateway: &Gateway, now: SystemTime) {
        self.reload_changed(gateway);
        let snapshot = gateway.snapshot.load_full();
        {
            let _publishing = gateway.publishing.lock();
            snapshot.tend_keys(now);
        }
        gateway.metrics.certificate_expiry_seconds.reset();
        let warning = snapshot.settings.tls.expiry_warning;
        for listener in snapshot.listeners() {
            let Some(tls) = &listener.tls else { continue };
            if let Err(why) = tls.tend(now) {
                warn!(listener = &*listener.settings.name, "a delegated certificate was not renewed: {why}");
            }
            for certificate in tls.certificates() {
                self.look_at(gateway, &listener.settings.name, certificate, warning, now);
            }
        }
        self.warned.retain(|_, at| now.duration_since(*at).is_ok_and(|age| age < 2 * WARN_PERIOD));
    }

    /// A change that cannot be used changes nothing and is tried again: at each look while it is fresh, so that a
    /// chain and a key that are replaced one after the other need no third event.
    fn reload_changed(&mut self, gateway: &Gateway) {
        let _publishing = gateway.publishing.lock();
        let snapshot = gateway.snapshot.load_full();
        let now = Stamps::of(&snapshot.settings);
        let settled = self.seen.replace(now.clone()).is_some_and(|before| before == now);
        if !settled || now == *snapshot.tls_files() {
            return;
        }
        match snapshot.with_tls_read_again() {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                gateway.snapshot.store(Arc::clone(&fresh));
                gateway.withdraw_distrusted(&snapshot, &fresh);
                gateway.metrics.certificate_reloads.with_label_values(&["ok"]).inc();
                info!("certificates and keys reloaded, because their files changed");
                self.refused = None;
            }
            Err(problem) => self.refuse(gateway, now, problem.to_string()),
        }
    }

    /// Told once for each state of the files.
    fn refuse(&mut self, gateway: &Gateway, files: Stamps, problem: String) {
        let refused = Some((files, problem));
        if self.refused != refused {
            gateway.metrics.certificate_reloads.with_label_values(&["refused"]).inc();
            if let Some((_, problem)) = &refused {
                error!("changed certificates not loaded, the old ones stay in force: {problem}");
            }
            self.refused = refused;
        }
    }

    fn look_at(
        &mut self,
        gateway: &Gateway,
        listener: &Arc<str>,
        certificate: &Certificate,
        warning: Duration,
        now: SystemTime,
    ) {
        let now_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        let left = certificate.not_after.saturating_sub(now_s);
        let labels = [listener, &*certificate.name, certificate.kind.label()];
        gateway.metrics.certificate_expiry_seconds.with_label_values(&labels).set(left);
        if left > warning.as_secs() as i64 {
            return;
        }
        let key = (Arc::clone(listener), Arc::clone(&certificate.name), certificate.not_after);
        let due = self
            .warned
            .get(&key)
            .is_none_or(|at| now.duration_since(*at).is_ok_and(|age| age >= WARN_PERIOD));
        if due {
            self.warned.insert(key, now);
            let (listener, name, days) = (&**listener, &*certificate.name, left.div_euclid(86_400));
            if left < 0 {
                error!(listener, name, "the certificate has expired; it is served, and clients refuse it");
            } else {
                warn!(listener, name, days, "the certificate expires soon; renew it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        cli::development_certificates,
        settings::{CertificateFiles, Listener, Settings},
    };

    struct Scene {
        gateway: Arc<Gateway>,
        watch: Watch,
        folder: tempfile::TempDir,
        other: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let files = development_certificates(folder.path()).unwrap();
            development_certificates(other.path()).unwrap();
            let mut listener = Listener::plain("a", ([127, 0, 0, 1], 0).into());
            listener.certificates = vec![CertificateFiles::pem(files.chain, files.key)];
            let gateway =
                Gateway::build(Settings { listeners: vec![listener], ..Settings::default() }).unwrap();
            Self { gateway, watch: Watch::default(), folder, other }
        }

        fn rounds(&mut self, count: usize) {
            (0..count).for_each(|_| self.watch.round(&self.gateway, SystemTime::now()));
        }

        fn replace(&self, name: &str) {
            replace(&self.other.path().join(name), &self.folder.path().join(name));
        }

        fn reloads(&self, outcome: &str) -> u64 {
            self.gateway.metrics.certificate_reloads.with_label_values(&[outcome]).get()
        }

        fn leaf(&self) -> Vec<u8> {
            let snapshot = self.gateway.snapshot();
            let tls = snapshot.listener("a").unwrap().tls.as_ref().unwrap();
            tls.certificates().next().unwrap().key.cert[0].to_vec()
        }
    }

    fn replace(from: &Path, to: &Path) {
        let aside = to.with_extension("aside");
        fs::copy(from, &aside).unwrap();
        fs::rename(aside, to).unwrap();
    }

    #[test]
    fn changed_files_are_read_once_they_look_the_same_twice() {
        let mut scene = Scene::new();
        scene.rounds(3);
        assert_eq!((scene.reloads("ok"), scene.reloads("refused")), (0, 0));
        let before = scene.leaf();
        scene.replace("dev-cert.pem");
        scene.replace("dev-key.pem");
        scene.rounds(1);
        assert_eq!(scene.leaf(), before, "seen once, it may still be written");
        scene.rounds(1);
        assert_ne!(scene.leaf(), before);
        scene.rounds(3);
        assert_eq!((scene.reloads("ok"), scene.reloads("refused")), (1, 0));
    }

    #[test]
    fn half_of_a_change_changes_nothing_and_the_other_half_completes_it() {
        let mut scene = Scene::new();
        let before = scene.leaf();
        scene.replace("dev-cert.pem");
        scene.rounds(4);
        assert_eq!(scene.leaf(), before, "the key is still the old one's");
        assert_eq!((scene.reloads("ok"), scene.reloads("refused")), (0, 1), "told once");
        fs::write(scene.folder.path().join("dev-key.pem"), "-----BEGIN PRIV").unwrap();
        scene.rounds(2);
        assert_eq!(scene.leaf(), before);
        scene.replace("dev-key.pem");
        scene.rounds(2);
        assert_ne!(scene.leaf(), before);
        assert_eq!(scene.reloads("ok"), 1);
    }

    #[test]
    fn an_end_that_is_near_is_measured_and_warned_of_once_a_day() {
        let mut scene = Scene::new();
        scene.rounds(1);
        let rendered = scene.gateway.metrics.render();
        let gauge = "towline_certificate_expiry_seconds{kind=\"ecdsa\",listener=\"a\",name=\"localhost\"} ";
        let at = rendered.find(gauge).expect("the gauge") + gauge.len();
        let left: u64 = rendered[at..].lines().next().unwrap().parse().unwrap();
        assert!((819 * 86_400..=820 * 86_400).contains(&left), "{left}");
        assert!(scene.watch.warned.is_empty());
        let late = SystemTime::now() + Duration::from_secs(800 * 86_400);
        scene.watch.round(&scene.gateway, late);
        let warned = scene.watch.warned.values().next().copied();
        assert_eq!(warned, Some(late));
        scene.watch.round(&scene.gateway, late + WARN_PERIOD / 2);
        assert_eq!(scene.watch.warned.values().next().copied(), warned);
        scene.watch.round(&scene.gateway, late + WARN_PERIOD);
        assert_ne!(scene.watch.warned.values().next().copied(), warned);
    }
}
