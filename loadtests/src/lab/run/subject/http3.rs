//! HTTP/3 as browsers speak it: one connection that is kept, sessions resumed, no POST as early data.

use std::{future::poll_fn, net::Ipv4Addr, sync::Arc};

use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use http::{Request, StatusCode};
use quinn::crypto::rustls::QuicClientConfig;
use tokio::{net::lookup_host, task::AbortHandle, time::timeout};

use super::{PATIENCE, Started, body, host, path, tls};
use crate::{
    clock,
    lab::run::orders::{Sample, Setup},
};

/// The client.
pub(in crate::lab::run) struct Http3 {
    setup: Setup,
    /// Keeps the sessions that it has been given.
    known: quinn::ClientConfig,
    connection: Option<Connection>,
}

struct Connection {
    requests: SendRequest<h3_quinn::OpenStreams, Bytes>,
    driver: AbortHandle,
    quic: quinn::Connection,
    // Its socket is the connection's.
    _endpoint: quinn::Endpoint,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.quic.close(0u32.into(), b"");
        self.driver.abort();
    }
}

impl Http3 {
    pub(super) fn new(setup: Setup) -> Result<Self, String> {
        let known = config(&setup)?;
        Ok(Self { setup, known, connection: None })
    }

    pub(super) async fn cold(&mut self, name: &str, again: bool) -> Sample {
        self.connection = None;
        if !again {
            match config(&self.setup) {
                Ok(config) => self.known = config,
                Err(error) => return Started::now().sample(Err(error), None),
            }
        }
        let sample = self.call(name).await;
        self.connection = None;
        sample
    }

    pub(super) async fn call(&mut self, name: &str) -> Sample {
        let (started, mut connect) = (Started::now(), None);
        let outcome = timeout(PATIENCE, self.exchange(name, &mut connect)).await;
        let outcome = outcome.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if outcome.is_err() {
            // Another one next time: nothing says that this one lives.
            self.connection = None;
        }
        started.sample(outcome.map(|()| "h3".to_owned()), connect)
    }

    async fn exchange(&mut self, name: &str, connect: &mut Option<u64>) -> Result<(), String> {
        if self.connection.as_ref().is_some_and(|connection| connection.quic.close_reason().is_some()) {
            self.connection = None;
        }
        if self.connection.is_none() {
            let began = clock::now();
            self.connection = Some(self.connect().await?);
            *connect = Some(clock::now() - began);
        }
        let Some(connection) = &mut self.connection else { return Err("no connection".to_owned()) };
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let uri = format!("https://{}{}", self.setup.server, path(&self.setup, name));
        let request = Request::post(uri).body(()).map_err(|error| failed(&error))?;
        let mut stream = connection.requests.send_request(request).await.map_err(|error| failed(&error))?;
        let body = Bytes::from(body(&self.setup, name));
        stream.send_data(body).await.map_err(|error| failed(&error))?;
        stream.finish().await.map_err(|error| failed(&error))?;
        let answer = stream.recv_response().await.map_err(|error| failed(&error))?;
        let mut received = 0;
        while let Some(part) = stream.recv_data().await.map_err(|error| failed(&error))? {
            received += part.remaining();
        }
        match answer.status() {
            StatusCode::OK if received == self.setup.answer_bytes => Ok(()),
            status => Err(format!("status {status}, {received} bytes")),
        }
    }

    async fn connect(&self) -> Result<Connection, String> {
        let failed = |error: &dyn std::fmt::Display| format!("connect: {error}");
        let mut addresses = lookup_host(&self.setup.server).await.map_err(|error| failed(&error))?;
        let address = addresses.next().ok_or("the name has no address")?;
        let endpoint =
            quinn::Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into()).map_err(|error| failed(&error))?;
        let connecting = endpoint.connect_with(self.known.clone(), address, host(&self.setup.server));
        let quic = connecting.map_err(|error| failed(&error))?.await.map_err(|error| failed(&error))?;
        let opened = h3::client::new(h3_quinn::Connection::new(quic.clone())).await;
        let (mut driver, requests) = opened.map_err(|error| failed(&error))?;
        let driver = tokio::spawn(async move {
            // Why it ended, the next request says.
            let _ = poll_fn(|context| driver.poll_close(context)).await;
        });
        Ok(Connection { requests, driver: driver.abort_handle(), quic, _endpoint: endpoint })
    }
}

fn config(setup: &Setup) -> Result<quinn::ClientConfig, String> {
    let tls = tls(setup, b"h3")?;
    let quic = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    Ok(quinn::ClientConfig::new(Arc::new(quic)))
}
