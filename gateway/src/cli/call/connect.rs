//! The options that `towline call` and `towline listen` share: where to connect, whom to trust, as whom.

use std::{fs, path::PathBuf};

use towline_client::{
    BundledAddresses, Client, ClientCertificate, ClientConfig, Credentials, Endpoint, Security, Tls,
    Transports,
};
use towline_crypto::{International, KeyReference, Pin, Providers};

/// Where, whom to trust, as whom.
#[derive(clap::Args, Debug)]
pub struct ConnectArgs {
    /// Gateway; repeat it to name several
    #[arg(long = "connect", value_name = "HOST:PORT", default_value = "127.0.0.1:7443")]
    endpoints: Vec<Endpoint>,
    /// Addresses of a gateway's name, used before DNS has answered; repeat it for several names
    #[arg(long = "address", value_name = "HOST=ADDRESS,…")]
    addresses: Vec<BundledAddresses>,
    /// PEM file of the certificate authority to trust
    #[arg(long, value_name = "FILE", required_unless_present = "plaintext")]
    ca: Option<PathBuf>,
    /// Pin of a key that the gateway's chain must have, as `towline cert pin` prints it; repeat it to name several
    #[arg(long = "pin", value_name = "PIN", conflicts_with = "plaintext")]
    pins: Vec<Pin>,
    /// PEM file of the client's own certificate, with its chain
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "plaintext")]
    cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Kinds of cryptography to offer, the preferred first: international, shangmi
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = International::NAME)]
    crypto: Vec<String>,
    /// Speak without encryption, over TCP; the gateway has to allow it
    #[arg(long, conflicts_with = "ca")]
    plaintext: bool,
    /// Transports to use
    #[arg(long, value_enum, default_value = "auto")]
    transport: TransportArg,
    /// Name of this client; random when left out
    #[arg(long, value_name = "NAME")]
    client_id: Option<String>,
    /// File that keeps the client's name and secret, so that its session survives a restart
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// User name, where the gateway asks for one
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// File whose first line is the password
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Parameter of a strategy, such as hedge.enabled=false or short.after_min=50ms, until the gateway's policy sets it;
    /// `towline policy parameters` lists them; repeat it to set several
    #[arg(long = "strategy", value_name = "NAME=VALUE")]
    strategies: Vec<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum TransportArg {
    /// QUIC first, TCP beside it when QUIC is slow to answer
    Auto,
    Quic,
    Tcp,
}

impl ConnectArgs {
    /// The client's configuration.
    pub fn config(&self) -> Result<ClientConfig, String> {
        let mut config = if self.plaintext {
            if self.transport == TransportArg::Quic {
                return Err("QUIC is always encrypted: --plaintext goes with --transport tcp".to_owned());
            }
            ClientConfig::plaintext(self.endpoints.clone())
        } else {
            let path = self.ca.as_ref().ok_or("name the certificate authority with --ca FILE")?;
            let mut config = ClientConfig::new(self.endpoints.clone(), read(path)?);
            config.security = Security::Tls(self.tls(read(path)?)?);
            config
        };
        if !self.plaintext {
            config.transports = match self.transport {
                TransportArg::Auto => Transports::QuicAndTcp,
                TransportArg::Quic => Transports::Quic,
                TransportArg::Tcp => Transports::Tcp,
            };
        }
        config.bundled_addresses.clone_from(&self.addresses);
        for assignment in &self.strategies {
            config.strategies.set_text(assignment).map_err(|error| format!("--strategy: {error}"))?;
        }
        config.client_id = self.client_id.clone();
        config.identity_file = self.identity.clone();
        config.credentials = self.credentials()?;
        config.agent = concat!("towline-cli/", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(config)
    }

    fn tls(&self, roots_pem: Vec<u8>) -> Result<Tls, String> {
        let mut tls = Tls::new(roots_pem);
        tls.pins.clone_from(&self.pins);
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            let key = KeyReference::File(key.clone());
            tls.certificate = Some(ClientCertificate { chain_pem: read(cert)?, key });
        }
        let known = Providers::default();
        let find = |name: &String| {
            let names = || known.names().collect::<Vec<_>>().join(", ");
            known
                .get(name)
                .cloned()
                .ok_or_else(|| format!("--crypto {name} is not known; known: {}", names()))
        };
        tls.crypto = self.crypto.iter().map(find).collect::<Result<_, _>>()?;
        Ok(tls)
    }

    /// A client that connects in the background.
    pub fn start(&self) -> Result<Client, String> {
        Client::start(self.config()?).map_err(|error| error.to_string())
    }

    fn credentials(&self) -> Result<Option<Credentials>, String> {
        let (Some(user), Some(path)) = (&self.user, &self.password_file) else { return Ok(None) };
        let bytes = read(path)?;
        let text = String::from_utf8(bytes).map_err(|_| format!("{}: is not UTF-8", path.display()))?;
        let password = text.lines().next().unwrap_or_default().to_owned();
        Ok(Some(Credentials { user: user.clone(), password }))
    }
}

/// Reads a whole file and names it when that fails.
pub fn read(path: &PathBuf) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
