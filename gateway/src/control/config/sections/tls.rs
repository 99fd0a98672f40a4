//! `[tls]`, and the keys of a listener that TLS is made from.

use std::{path::Path, sync::Arc, time::Duration};

use towline_crypto::{International, KeyReference, Provider};

use crate::{
    control::config::reader::Table,
    settings::{
        Authentication, CertificateFiles, ClientCertificates, Listener, TlcpCertificate, Tls, TlsMode,
    },
    transport::{
        tlcp::{self, TlcpServer},
        tls::{self, Certificate, TicketKeys},
    },
};

const CLIENT_CERTIFICATES: &[(&str, ClientCertificates)] = &[
    ("off", ClientCertificates::Off),
    ("optional", ClientCertificates::Optional),
    ("required", ClientCertificates::Required),
];
const HOUR: Duration = Duration::from_secs(3600);
/// RFC 8446, section 4.6.1: no ticket is used for longer.
const TICKET_LIFE_MAX: Duration = Duration::from_secs(7 * 86_400);
const EXAMPLE: &str = "certificate = { chain = \"chain.pem\", key = \"key.pem\" }";

pub(super) fn tls(mut table: Table<'_, '_>) -> Tls {
    let default = Tls::default();
    let settings = Tls {
        ticket_keys: table.optional_path("ticket_keys"),
        ticket_life: table.duration(
            "ticket_life",
            default.ticket_life,
            Duration::from_secs(60)..=TICKET_LIFE_MAX,
        ),
        expiry_warning: table.duration(
            "expiry_warning",
            default.expiry_warning,
            Duration::ZERO..=Duration::from_secs(3650 * 86_400),
        ),
    };
    if let Some(path) = &settings.ticket_keys
        && let Err(error) = TicketKeys::check(path)
    {
        table.mistake("ticket_keys", error);
    }
    table.finish();
    settings
}

/// Fills in what the listener's handshakes are made from.
pub(super) fn listener(table: &mut Table<'_, '_>, listener: &mut Listener) {
    let (set, crypto) = crypto(table, listener);
    listener.certificates = certificates(table, &crypto);
    listener.tlcp_certificate = tlcp_certificate(table);
    listener.client_certificates =
        table.word("client_certificates", listener.client_certificates, CLIENT_CERTIFICATES);
    listener.client_ca = client_ca(table);
    listener.forward_client_certificate =
        table.boolean("forward_client_certificate", listener.forward_client_certificate);
    listener.delegated_ecdsa = table.boolean("delegated_ecdsa", listener.delegated_ecdsa);
    listener.delegated_life =
        table.duration("delegated_life", listener.delegated_life, HOUR..=TICKET_LIFE_MAX);
    check_client_certificates(table, listener);
    check_uses(table, listener, set);
    check_crypto(table, listener, &crypto);
    check_tlcp(table, listener);
}

/// The listener's providers, and whether the file names them.
fn crypto(table: &mut Table<'_, '_>, listener: &mut Listener) -> (bool, Vec<Arc<dyn Provider>>) {
    let set = table.has("crypto");
    let mut names = table.strings("crypto");
    if !set {
        names = vec![International::NAME.to_owned()];
    } else if names.is_empty() {
        table.mistake("crypto", "is empty; write at least one name, as [\"international\"]");
    }
    let known = table.providers();
    let mut chosen: Vec<Arc<dyn Provider>> = Vec::new();
    for name in &names {
        match known.get(name) {
            Some(provider) if chosen.iter().any(|other| other.name() == provider.name()) => {
                table.mistake("crypto", format_args!("\"{name}\" stands there twice"));
            }
            Some(provider) => chosen.push(Arc::clone(provider)),
            None if name == tlcp::NAME => {}
            None => {
                let known = known.names().chain(tlcp::BUILT_IN.then_some(tlcp::NAME));
                let known: Vec<_> = known.map(|name| format!("\"{name}\"")).collect();
                table.mistake("crypto", format_args!("\"{name}\" is not known; known: {}", known.join(", ")));
            }
        }
    }
    listener.crypto = names.into_iter().map(Into::into).collect();
    (set, chosen)
}

fn certificates(table: &mut Table<'_, '_>, providers: &[Arc<dyn Provider>]) -> Vec<CertificateFiles> {
    let mut certificates = Vec::new();
    for mut files in table.one_or_more_tables("certificate") {
        let chain = files.optional_path("chain");
        let key = files.optional_string("key");
        for (absent, name) in [(chain.is_none(), "chain"), (key.is_none(), "key")] {
            if absent && !files.has(name) {
                files.mistake(name, format_args!("is missing; write {EXAMPLE}"));
            }
        }
        if let Some((chain, key)) = chain.zip(key) {
            let found = CertificateFiles { chain, key: KeyReference::parse(&key, files.base()) };
            if !providers.is_empty()
                && let Err(error) = Certificate::read(&found, providers)
            {
                table.mistake("certificate", error);
            }
            certificates.push(found);
        }
        files.finish();
    }
    certificates
}

fn tlcp_certificate(table: &mut Table<'_, '_>) -> Option<TlcpCertificate> {
    let set = table.has("tlcp_certificate");
    let mut files = table.table("tlcp_certificate");
    let mut path = |name| {
        let path = files.optional_path(name);
        if set && path.is_none() && !files.has(name) {
            files.mistake(
                name,
                "is missing; TLCP signs with one certificate and key and decrypts with another: \
                write { sign_chain = \"…\", sign_key = \"…\", encrypt_chain = \"…\", encrypt_key = \"…\" }",
            );
        }
        path
    };
    let mut pair =
        |chain, key| path(chain).zip(path(key)).map(|(chain, key)| CertificateFiles::pem(chain, key));
    let (sign, encrypt) = (pair("sign_chain", "sign_key"), pair("encrypt_chain", "encrypt_key"));
    files.finish();
    let certificate = sign.zip(encrypt).map(|(sign, encrypt)| TlcpCertificate { sign, encrypt });
    if set && !tlcp::BUILT_IN {
        table.mistake("tlcp_certificate", tlcp::NOT_BUILT_IN);
    } else if let Some(files_named) = &certificate
        && let Err(error) = TlcpServer::new(files_named, &[])
    {
        table.mistake("tlcp_certificate", error);
    }
    certificate
}

fn client_ca(table: &mut Table<'_, '_>) -> Option<std::path::PathBuf> {
    let path = table.optional_path("client_ca")?;
    if let Err(error) = tls::read_authorities(Path::new(&path)) {
        table.mistake("client_ca", error);
    }
    Some(path)
}

fn check_client_certificates(table: &Table<'_, '_>, listener: &Listener) {
    let asks = listener.client_certificates != ClientCertificates::Off;
    if asks && !table.has("client_ca") {
        let text =
            "is missing: the authorities that sign clients' certificates; write client_ca = \"clients.pem\"";
        table.mistake("client_ca", text);
    }
    if !asks && table.has("client_ca") {
        table.mistake(
            "client_ca",
            "would never be used; write client_certificates = \"required\" or \"optional\"",
        );
    }
    if !asks && listener.forward_client_certificate {
        let text = "needs client certificates; write client_certificates = \"required\" or \"optional\"";
        table.mistake("forward_client_certificate", text);
    }
    let required = listener.client_certificates == ClientCertificates::Required;
    if required && listener.tcp && listener.tls != TlsMode::Required {
        let text = "\"required\" could be got round in plaintext; write tls = \"required\"";
        table.mistake("client_certificates", text);
    }
    if listener.authentication == Authentication::Certificate && !asks {
        let text = "\"certificate\" needs client_certificates = \"required\" (or \"optional\", to tell clients \
                    in their own protocol that they are not admitted)";
        table.mistake("authentication", text);
    }
}

fn check_uses(table: &Table<'_, '_>, listener: &Listener, crypto_set: bool) {
    let uses_tls = listener.quic || (listener.tcp && listener.tls != TlsMode::Off);
    let speaks_tls = listener.crypto.iter().any(|name| &**name != tlcp::NAME);
    if uses_tls && (speaks_tls || listener.quic) && !table.has("certificate") {
        let text = format!(
            "is missing, and TLS and QUIC need it; write {EXAMPLE}, or tls = \"off\" and quic = false"
        );
        table.mistake("certificate", text);
    }
    if uses_tls {
        return;
    }
    let given = [
        ("certificate", table.has("certificate")),
        ("tlcp_certificate", table.has("tlcp_certificate")),
        ("crypto", crypto_set),
        ("client_certificates", listener.client_certificates != ClientCertificates::Off),
    ];
    for (key, _) in given.iter().filter(|(_, given)| *given) {
        let text = "would never be used with tls = \"off\" and quic = false; leave it out, or set tls";
        table.mistake(key, text);
    }
}

/// Each kind of cryptography needs a certificate of its own kind.
fn check_crypto(table: &Table<'_, '_>, listener: &Listener, providers: &[Arc<dyn Provider>]) {
    let read: Vec<_> =
        listener.certificates.iter().filter_map(|files| Certificate::read(files, providers).ok()).collect();
    if read.is_empty() || read.len() < listener.certificates.len() {
        return;
    }
    for provider in providers {
        if !read.iter().any(|certificate| *certificate.provider == *provider.name()) {
            let text = format_args!(
                "\"{}\" has no certificate of its kind; add one to certificate = [ … ], or leave it out",
                provider.name()
            );
            table.mistake("crypto", text);
        }
    }
    if listener.quic && providers.iter().all(|provider| provider.quic_initial().is_none()) {
        table.mistake("crypto", "has no name that QUIC can use; set quic = false, or add \"international\"");
    }
}

fn check_tlcp(table: &Table<'_, '_>, listener: &Listener) {
    let speaks = listener.crypto.iter().any(|name| &**name == tlcp::NAME);
    if speaks && !tlcp::BUILT_IN {
        table.mistake("crypto", tlcp::NOT_BUILT_IN);
    } else if speaks && !table.has("tlcp_certificate") {
        table.mistake(
            "tlcp_certificate",
            "is missing, and \"tlcp\" needs it; see the example of the configuration",
        );
    }
    if !speaks && table.has("tlcp_certificate") && tlcp::BUILT_IN {
        table.mistake("tlcp_certificate", "would never be used; add \"tlcp\" to crypto, or leave it out");
    }
    if speaks && listener.client_certificates == ClientCertificates::Required {
        let text =
            "\"required\" could be got round by TLCP, which asks for none here; take \"tlcp\" out of crypto";
        table.mistake("client_certificates", text);
    }
}
