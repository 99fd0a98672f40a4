//! TLCP by Tongsuo: ECC-SM2 key exchange with SM4-GCM or SM4-CBC, and two certificates.

use std::{
    fs, io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_tongsuo::SslStream;
use tongsuo::{
    error::ErrorStack,
    pkey::{PKey, Private},
    ssl::{
        AlpnError, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode,
        select_next_proto,
    },
    x509::X509,
};

use crate::{
    gateway::StartError,
    settings::{CertificateFiles, ListenerProtocol, TlcpCertificate},
    transport::{Rewind, tls},
};

/// GB/T 38636, section 6.4.5.2.1: the suites whose key exchange asks for no client certificate.
const SUITES: &str = "ECC-SM2-SM4-GCM-SM3:ECC-SM2-SM4-CBC-SM3";
/// Sessions that can be resumed, by listener: TLCP's live in the server. About a kilobyte each.
const SESSIONS_MAX: i32 = 4096;
/// Tongsuo keeps a resumable session for clients of this context only.
const SESSION_CONTEXT: &[u8] = b"towline";

/// What a listener offers over TLCP.
pub struct TlcpServer {
    context: SslContext,
}

impl TlcpServer {
    /// From two chains and their keys, for the protocols that a listener admits.
    ///
    /// # Errors
    /// Names the file that cannot be used and why.
    pub fn new(files: &TlcpCertificate, protocols: &[ListenerProtocol]) -> Result<Self, StartError> {
        let sign = Pair::read(&files.sign)?;
        let encrypt = Pair::read(&files.encrypt)?;
        let alpn = wire_format(&tls::alpn_protocols(protocols));
        let context = context(sign, encrypt, alpn)
            .map_err(|error| StartError::Settings(format!("TLCP: {}", text(&error))))?;
        Ok(Self { context })
    }

    /// A handshake. Whoever calls it bounds its time.
    ///
    /// # Errors
    /// What Tongsuo says of the peer, or the socket.
    pub async fn accept(&self, stream: Rewind<TcpStream>) -> io::Result<TlcpStream> {
        let ssl = Ssl::new(&self.context)?;
        let mut stream = SslStream::new(ssl, stream)?;
        Pin::new(&mut stream)
            .accept()
            .await
            .map_err(|error| error.into_io_error().unwrap_or_else(io::Error::other))?;
        Ok(TlcpStream(stream))
    }
}

fn context(sign: Pair, encrypt: Pair, alpn: Vec<u8>) -> Result<SslContext, ErrorStack> {
    let mut context = SslContextBuilder::new(SslMethod::ntls_server())?;
    context.enable_ntls();
    context.set_cipher_list(SUITES)?;
    // An empty record before CBC's (against BEAST) is not for TLCP, whose records carry their own IV.
    context.set_options(
        SslOptions::CIPHER_SERVER_PREFERENCE
            | SslOptions::DONT_INSERT_EMPTY_FRAGMENTS
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_TICKET,
    );
    context.set_mode(
        SslMode::AUTO_RETRY
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER
            | SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::RELEASE_BUFFERS,
    );
    context.set_session_cache_mode(SslSessionCacheMode::SERVER);
    context.set_session_cache_size(SESSIONS_MAX);
    context.set_session_id_context(SESSION_CONTEXT)?;
    context.set_sign_certificate(&sign.leaf)?;
    context.set_sign_private_key(&sign.key)?;
    context.set_enc_certificate(&encrypt.leaf)?;
    context.set_enc_private_key(&encrypt.key)?;
    // The message Certificate holds both leaves first, then what signed them (section 6.4.5.3).
    for issuer in sign.issuers {
        context.add_extra_chain_cert(issuer)?;
    }
    context.set_alpn_select_callback(move |_, offered| {
        select_next_proto(&alpn, offered).ok_or(AlpnError::ALERT_FATAL)
    });
    Ok(context.build())
}

/// A certificate with what issued it and its key.
struct Pair {
    leaf: X509,
    issuers: Vec<X509>,
    key: PKey<Private>,
}

impl Pair {
    fn read(files: &CertificateFiles) -> Result<Self, StartError> {
        let mut chain =
            X509::stack_from_pem(&read(&files.chain)?).map_err(|error| unusable(&files.chain, &error))?;
        if chain.is_empty() {
            let problem =
                "holds no certificate; write a PEM file with -----BEGIN CERTIFICATE-----, leaf first";
            return Err(StartError::Certificate { path: files.chain.clone(), problem: problem.to_owned() });
        }
        let leaf = chain.remove(0);
        let key_path = files.key_path();
        let key =
            PKey::private_key_from_pem(&read(&key_path)?).map_err(|error| unusable(&key_path, &error))?;
        let public = leaf.public_key().map_err(|error| unusable(&files.chain, &error))?;
        if !public.public_eq(&key) {
            let problem = format!("is not the key of the first certificate in {}", files.chain.display());
            return Err(StartError::Certificate { path: key_path, problem });
        }
        Ok(Self { leaf, issuers: chain, key })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    fs::read(path).map_err(|source| StartError::File { path: path.into(), source })
}

fn unusable(path: &Path, error: &ErrorStack) -> StartError {
    StartError::Certificate { path: path.into(), problem: format!("cannot be used: {}", text(error)) }
}

/// Tongsuo's reasons without the places in its source.
fn text(error: &ErrorStack) -> String {
    let reasons: Vec<_> = error.errors().iter().filter_map(|error| error.reason()).collect();
    if reasons.is_empty() { "for an unknown reason".to_owned() } else { reasons.join(", ") }
}

/// RFC 7301, section 3.1: each name after its length.
fn wire_format(names: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        bytes.push(name.len() as u8);
        bytes.extend(name);
    }
    bytes
}

/// After a TLCP handshake.
pub struct TlcpStream(SslStream<Rewind<TcpStream>>);

impl TlcpStream {
    /// What the handshake agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.ssl().selected_alpn_protocol()
    }
}

impl AsyncRead for TlcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlcpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
