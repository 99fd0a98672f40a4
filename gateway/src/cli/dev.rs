//! `towline dev`: everything on one machine, from an empty folder.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{Failure, certificates, process::Signals, serve};
use crate::{control::config, demo, gateway::StartError, run::Serving, settings::Settings};

const CONFIG: &str = include_str!("dev.toml");

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where certificates and stored messages live
    #[arg(long, value_name = "DIR", default_value = "towline-data")]
    data_dir: PathBuf,
    /// Added to every port number, where the usual ones are taken: 10000 gives 17443, 11883, …
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=50_000))]
    port_offset: u16,
    /// Print the configuration that this start amounts to, and end
    #[arg(long)]
    print_config: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let ports = Ports::new(arguments.port_offset);
    let files = certificates::ensure(&arguments.data_dir)?;
    let signals = Signals::listen()?;
    let demo = start_demo(ports.demo).await?;
    let text = configuration(&arguments.data_dir, &files, &ports, demo.address)?;
    if arguments.print_config {
        print!("{text}");
        return Ok(());
    }
    let serving = serve::start(settings(&text)?).await.map_err(|failure| with_advice(failure, &arguments))?;
    // A closed standard output is no reason to end.
    let _ = io::stdout().write_all(welcome(&serving, &files.ca, &ports, demo.address).as_bytes());
    serve::until_told_to_end(serving, signals, None).await;
    Ok(())
}

/// The usual ports, moved together.
struct Ports {
    edge: u16,
    plain: u16,
    mqtt: u16,
    mqtts: u16,
    admin: u16,
    demo: u16,
}

impl Ports {
    fn new(offset: u16) -> Self {
        Self {
            edge: 7443 + offset,
            plain: 7080 + offset,
            mqtt: 1883 + offset,
            mqtts: 8883 + offset,
            admin: 7900 + offset,
            demo: 7081 + offset,
        }
    }
}

async fn start_demo(port: u16) -> Result<demo::Demo, Failure> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    demo::start(address).await.map_err(|error| {
        Failure::Other(format!(
            "demo backend: cannot bind TCP {address}: {error}; stop what listens there, \
             or move every port with --port-offset 10000"
        ))
    })
}

/// Absolute paths, so that the printed configuration works from any folder.
fn configuration(
    data_dir: &Path,
    files: &certificates::DevelopmentCertificates,
    ports: &Ports,
    demo: SocketAddr,
) -> Result<String, Failure> {
    let mut text = CONFIG.to_owned();
    let [_, sm2_chain, sm2_key] = &files.sm2;
    for (mark, path) in [
        ("@DATA_DIR@", data_dir),
        ("@CHAIN@", &files.chain),
        ("@KEY@", &files.key),
        ("@SM2_CHAIN@", sm2_chain),
        ("@SM2_KEY@", sm2_key),
    ] {
        let path =
            path.canonicalize().map_err(|error| Failure::Other(format!("{}: {error}", path.display())))?;
        let path =
            path.to_str().ok_or_else(|| Failure::Other(format!("{}: is not UTF-8", path.display())))?;
        text = text.replace(mark, &path.replace('\\', "\\\\").replace('"', "\\\""));
    }
    for (mark, port) in [
        ("@EDGE_PORT@", ports.edge),
        ("@PLAIN_PORT@", ports.plain),
        ("@MQTT_PORT@", ports.mqtt),
        ("@MQTTS_PORT@", ports.mqtts),
        ("@ADMIN_PORT@", ports.admin),
    ] {
        text = text.replace(mark, &port.to_string());
    }
    Ok(text.replace("@DEMO@", &demo.to_string()))
}

fn settings(text: &str) -> Result<Settings, Failure> {
    Ok(config::parse(Path::new("dev.toml"), text)?)
}

fn with_advice(failure: Failure, arguments: &Arguments) -> Failure {
    match failure {
        Failure::Start(StartError::Bind { listener, transport, address, source, .. }) => {
            let advice = if arguments.port_offset == 0 {
                "stop what listens there, or move every port with --port-offset 10000"
            } else {
                "stop what listens there, or choose another --port-offset"
            };
            Failure::Start(StartError::Bind { listener, transport, address, source, advice })
        }
        other => other,
    }
}

/// What listens where, and three commands that work as they are.
fn welcome(serving: &Serving, ca: &Path, ports: &Ports, demo: SocketAddr) -> String {
    let mut text = String::from("\nTowline keeps the line.\n\n");
    for bound in &serving.listeners {
        let what = match &*bound.name {
            "edge" => "TLS over TCP, and QUIC on UDP: link, HTTP/1.1, HTTP/2, gRPC, MQTT, wss:///mqtt",
            "plain" => "plaintext: link, HTTP/1.1, HTTP/2, gRPC",
            "mqtt" => "plaintext: MQTT 3.1, 3.1.1, 5.0; ws:///mqtt",
            _ => "TLS: MQTT 3.1, 3.1.1, 5.0; wss:///mqtt",
        };
        let _ = writeln!(text, "  {:<8} {:<18} {what}", bound.name, bound.address.to_string());
    }
    let _ = writeln!(
        text,
        "  {:<8} {:<18} status page, /metrics, /healthz, push API",
        "admin",
        serving.admin.to_string()
    );
    let _ = writeln!(text, "  {:<8} {:<18} the demo backend, behind the gateway", "demo", demo.to_string());
    let towline = std::env::current_exe().map_or_else(|_| "towline".to_owned(), |path| quoted(&path));
    let ca = quoted(&ca.canonicalize().unwrap_or_else(|_| ca.to_owned()));
    let (edge, mqtts) = (ports.edge, ports.mqtts);
    let _ = write!(
        text,
        "\nThree things to try in another terminal:\n\n\
         {towline} call --ca {ca} --connect 127.0.0.1:{edge} /towline.demo.v1.Echo/Unary --text 'hello from the link'\n\
         curl --cacert {ca} https://localhost:{edge}/hello\n\
         mosquitto_pub --cafile {ca} -h localhost -p {mqtts} -q 1 -t devices/d1/temperature -m 21.5\n\n\
         Ctrl-C ends.\n\n"
    );
    text
}

/// For a shell: quoted where it must be.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_configuration_has_no_mistakes() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("a \"quoted\" folder");
        let files = certificates::ensure(&data_dir).unwrap();
        let demo = SocketAddr::from(([127, 0, 0, 1], 7081));
        let text = configuration(&data_dir, &files, &Ports::new(50_000), demo).unwrap();
        assert!(!text.contains('@'), "every mark is filled in");
        let settings = settings(&text).unwrap();
        assert_eq!(settings.data_dir, data_dir.canonicalize().unwrap());
        assert!(settings.listeners.iter().all(|listener| listener.bind.ip().is_loopback()));
    }

    #[test]
    fn paths_are_quoted_for_a_shell_where_they_must_be() {
        let check = |path, expected| assert_eq!(quoted(Path::new(path)), expected);
        check("/a/b-c_d.pem", "/a/b-c_d.pem");
        check("/a b", "'/a b'");
        check("/it's", "'/it'\\''s'");
    }
}
