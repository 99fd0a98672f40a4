//! `towline cert`: authorities and certificates to try things with or to run a fleet of devices by, pins, and
//! keys of session tickets.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use towline_crypto::Pin;

use super::{
    Failure,
    certificates::{Authority, Key, KeyType, set_life, unmade, unwritten, write},
};
use crate::{key_ring, transport::tls};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an authority: OUT.pem for those who trust it, OUT.key to keep secret
    Ca(CaArguments),
    /// Make a certificate that an authority signs: OUT.pem and OUT.key
    Leaf(LeafArguments),
    /// Print the pins of a PEM file's certificates, for `towline call --pin` and the SDK
    Pin {
        /// The PEM file
        file: PathBuf,
    },
    /// Put a fresh key in front of those in a ticket key file, or begin one
    TicketKey {
        /// The file that [tls] ticket_keys names
        file: PathBuf,
        /// How many of the keys before stay, to open tickets that they sealed
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=15))]
        keep: u8,
    },
}

#[derive(Debug, clap::Args)]
struct CaArguments {
    /// Name of the authority
    #[arg(long, default_value = "Towline CA")]
    name: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct LeafArguments {
    /// The authority's certificate
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The authority's key
    #[arg(long, value_name = "FILE")]
    ca_key: PathBuf,
    /// DNS name, address, mail address or URI; repeat it to name several. The first is the common name too
    #[arg(long = "name", value_name = "NAME", required = true)]
    names: Vec<String>,
    /// For a client, not a server
    #[arg(long)]
    client: bool,
    /// The second certificate of TLCP: others encrypt to its key, which signs nothing
    #[arg(long, conflicts_with = "client")]
    tlcp_encrypt: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Kind of the key
    #[arg(long, value_enum, default_value = "ecdsa")]
    kind: KeyType,
    /// How many days it is valid
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Path of the files without .pem and .key
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Ca(arguments) => ca(&arguments),
        Command::Leaf(arguments) => leaf(&arguments),
        Command::Pin { file } => pins(&file),
        Command::TicketKey { file, keep } => ticket_key(&file, usize::from(keep)),
    }
}

fn ca(arguments: &CaArguments) -> Result<(), Failure> {
    let mut params = authority_params(&arguments.name).map_err(unmade)?;
    set_life(&mut params, arguments.common.life());
    let key = Key::generate(arguments.common.kind).map_err(unmade)?;
    let certificate = key.self_signed(&params).map_err(unmade)?;
    arguments.common.write(&certificate, &key)
}

fn leaf(arguments: &LeafArguments) -> Result<(), Failure> {
    let authority = Authority::read(&arguments.ca, &arguments.ca_key)?;
    let mut params = CertificateParams::default();
    for name in &arguments.names {
        params.subject_alt_names.push(subject_name(name).map_err(unmade)?);
    }
    let common_name = arguments.names.first().map(String::as_str).unwrap_or_default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = match arguments.tlcp_encrypt {
        true => vec![
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::DataEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ],
        false => vec![KeyUsagePurpose::DigitalSignature],
    };
    params.extended_key_usages = vec![match arguments.client {
        true => ExtendedKeyUsagePurpose::ClientAuth,
        false => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    set_life(&mut params, arguments.common.life());
    let key = Key::generate(arguments.common.kind).map_err(unmade)?;
    let certificate = authority.sign(&params, &key)?;
    arguments.common.write(&certificate, &key)
}

/// The subject is the authority's name.
pub(super) fn authority_params(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn subject_name(name: &str) -> Result<rcgen::SanType, rcgen::Error> {
    Ok(match name {
        _ if name.parse::<std::net::IpAddr>().is_ok() => rcgen::SanType::IpAddress(
            name.parse().map_err(|_| rcgen::Error::InvalidIpAddressOctetLength(name.len()))?,
        ),
        _ if name.contains(':') => rcgen::SanType::URI(name.try_into()?),
        _ if name.contains('@') => rcgen::SanType::Rfc822Name(name.try_into()?),
        _ => rcgen::SanType::DnsName(name.try_into()?),
    })
}

impl Common {
    fn life(&self) -> Duration {
        Duration::from_secs(u64::from(self.days) * 86_400)
    }

    /// A key is never overwritten by accident.
    fn write(&self, certificate: &str, key: &Key) -> Result<(), Failure> {
        let (pem, key_path) = (self.file("pem"), self.file("key"));
        for path in [&pem, &key_path] {
            if path.exists() && !self.force {
                let text = format!("{}: is there already; choose another --out, or --force", path.display());
                return Err(Failure::Other(text));
            }
        }
        let key_pem = key.to_pem().map_err(unmade)?;
        write(&key_path, &key_pem, 0o600).map_err(|error| unwritten(&key_path, error))?;
        write(&pem, certificate, 0o644).map_err(|error| unwritten(&pem, error))?;
        println!("{}\n{}", pem.display(), key_path.display());
        Ok(())
    }

    /// `out` may hold dots of its own.
    fn file(&self, extension: &str) -> PathBuf {
        let mut path = self.out.clone().into_os_string();
        path.push(".");
        path.push(extension);
        path.into()
    }
}

fn pins(file: &Path) -> Result<(), Failure> {
    for certificate in tls::read_certificates(file)? {
        let pin = Pin::of_certificate(&certificate);
        println!("{}", pin.ok_or_else(|| Failure::Other(format!("{}: is no certificate", file.display())))?);
    }
    Ok(())
}

fn ticket_key(file: &Path, keep: usize) -> Result<(), Failure> {
    let before = match fs::read_to_string(file) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Default::default(),
        Err(error) => return Err(unwritten(file, error)),
    };
    let is_key = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let mut text = zeroize::Zeroizing::new(format!(
        "# Keys of TLS session tickets and session tokens: the first seals, all open. Keep it as secret as a private key.\n{}\n",
        *key_ring::key_line()?
    ));
    for line in before.lines().filter(is_key).take(keep) {
        text.push_str(line);
        text.push('\n');
    }
    write(file, &text, 0o600).map_err(|error| unwritten(file, error))?;
    key_ring::check(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use towline_crypto::{
        Providers,
        x509::{self, KeyKind, SubjectName},
    };

    use std::time::SystemTime;

    use super::*;
    use crate::{
        metrics::Metrics,
        settings::{CertificateFiles, Listener, Settings, Tls},
        snapshot::Snapshot,
        transport::tls::TicketKeys,
    };

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn towline_cert(line: &str) -> Result<(), Failure> {
        let line: Line = clap::Parser::try_parse_from(line.split(' ')).unwrap();
        run(line.arguments)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_each_kind_of_authority_signs_serves_a_listener() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let kinds = [
            ("ecdsa", KeyKind::EcdsaP256, "international"),
            ("rsa", KeyKind::Rsa, "international"),
            ("ed25519", KeyKind::Ed25519, "international"),
            ("sm2", KeyKind::Sm2, "shangmi"),
        ];
        for (kind, expected, crypto) in kinds {
            let (ca, leaf) = (at(&format!("{kind}-ca")), at(&format!("{kind}.edge")));
            towline_cert(&format!("cert ca --kind {kind} --out {}", ca.display())).unwrap();
            towline_cert(&format!(
                "cert leaf --kind {kind} --ca {0}.pem --ca-key {0}.key --name edge.example --name 192.0.2.1 \
                 --days 90 --out {1}",
                ca.display(),
                leaf.display()
            ))
            .unwrap();
            let files =
                CertificateFiles::pem(at(&format!("{kind}.edge.pem")), at(&format!("{kind}.edge.key")));
            assert_eq!((mode(&files.chain), mode(&files.key_path())), (0o644, 0o600));
            let leaf = tls::read_certificates(&files.chain).unwrap().remove(0);
            let parsed = x509::Certificate::parse(&leaf).unwrap();
            assert_eq!(parsed.key_kind(), expected);
            assert_eq!(parsed.names().next(), Some(SubjectName::Dns("edge.example")));
            let mut listener = Listener::plain("a", ([127, 0, 0, 1], 0).into());
            listener.certificates = vec![files];
            listener.crypto = vec![crypto.into()];
            let settings = Settings { listeners: vec![listener], ..Settings::default() };
            let snapshot =
                Snapshot::build(settings, &Metrics::new(), crate::dictionaries::Shelves::default(), None)
                    .unwrap();
            let served = snapshot.listener("a").unwrap().tls.as_ref().unwrap().certificates().next().unwrap();
            assert_eq!(served.problems(SystemTime::now()), Vec::<String>::new(), "{kind}");
        }
        assert!(Providers::default().get("shangmi").is_some());
    }

    #[test]
    fn keys_are_not_overwritten_and_kinds_of_cryptography_not_mixed() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca");
        let make = format!("cert ca --out {}", ca.display());
        towline_cert(&make).unwrap();
        let error = towline_cert(&make).unwrap_err().to_string();
        assert!(error.contains("is there already"), "{error}");
        towline_cert(&format!("{make} --force")).unwrap();
        let leaf = |kind: &str| {
            let line = format!(
                "cert leaf --kind {kind} --ca {0}.pem --ca-key {0}.key --name a --out {0}-{kind}",
                ca.display()
            );
            towline_cert(&line).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(leaf("rsa"), "", "an ECDSA authority signs RSA keys");
        assert!(leaf("sm2").contains("SM2"), "{}", leaf("sm2"));
    }

    #[test]
    fn a_ticket_key_comes_first_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let line = format!("cert ticket-key --keep 2 {}", file.display());
        let keys = || {
            let text = fs::read_to_string(&file).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        towline_cert(&line).unwrap();
        assert_eq!(mode(&file), 0o600);
        let first = keys();
        towline_cert(&line).unwrap();
        let second = keys();
        assert_eq!((second.len(), &second[1]), (2, &first[0]));
        towline_cert(&line).unwrap();
        towline_cert(&line).unwrap();
        assert_eq!(keys().len(), 3);
        assert!(!keys().contains(&first[0]));
        let settings = Tls { ticket_keys: Some(file.clone()), ..Tls::default() };
        TicketKeys::new(&settings, Metrics::new().tls_tickets, SystemTime::now()).unwrap();
    }
}
