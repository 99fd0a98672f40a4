//! nginx, in one process.

use std::process::Command;

use super::{Answer, Files, Ground, IDLE_TIMEOUT_S, Server, free_address};
use crate::beside::ground::program;

const CONFIG: &str = r#"
user root;
daemon off;
master_process off;
error_log stderr error;
pid @DIR@/nginx-@PORT@.pid;
events { worker_connections @CONNECTIONS@; }
http {
    access_log off;
    client_body_temp_path @DIR@/nginx-body;
    proxy_temp_path @DIR@/nginx-proxy;
    fastcgi_temp_path @DIR@/nginx-fastcgi;
    uwsgi_temp_path @DIR@/nginx-uwsgi;
    scgi_temp_path @DIR@/nginx-scgi;
    keepalive_timeout @IDLE@s;
    keepalive_requests 1000000000;
    client_header_timeout @IDLE@s;
    @UPSTREAM@
    server {
        listen @ADDRESS@ ssl http2 backlog=4096;
        ssl_certificate @CHAIN@;
        ssl_certificate_key @KEY@;
        ssl_protocols TLSv1.3;
        @EXTRA@
        location / { @ANSWER@ }
    }
}
"#;

/// HTTPS with HTTP/1.1 and HTTP/2; `extra` are lines of the server block.
pub(in crate::beside) fn nginx(
    ground: &Ground,
    files: &Files,
    answer: Answer,
    extra: &str,
) -> Result<Server, String> {
    let program = program("nginx")?;
    let address = free_address()?;
    let (upstream, answer) = match answer {
        Answer::Http2Backend(_) => return Err("nginx speaks HTTP/1.1 to backends".into()),
        Answer::Empty => (String::new(), "return 200;"),
        Answer::Backend(backend) => (
            format!("upstream backend {{ server {backend}; keepalive 1024; }}"),
            "proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";",
        ),
    };
    let connections = ground.limits.open_files.min(20_000).to_string();
    let text = CONFIG
        .replace("@DIR@", &ground.folder().to_string_lossy())
        .replace("@PORT@", &address.port().to_string())
        .replace("@CONNECTIONS@", &connections)
        .replace("@IDLE@", &IDLE_TIMEOUT_S.to_string())
        .replace("@UPSTREAM@", &upstream)
        .replace("@ADDRESS@", &address.to_string())
        .replace("@CHAIN@", &files.chain.to_string_lossy())
        .replace("@KEY@", &files.key.to_string_lossy())
        .replace("@EXTRA@", extra)
        .replace("@ANSWER@", answer);
    let file = ground.write(&format!("nginx-{}.conf", address.port()), &text)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(ground.folder()).arg("-c").arg(file).args(["-e", "stderr"]);
    Server::start(ground, "nginx", command, ground.cores.server, address)
}
