//! `openssl s_client -quic`, a QUIC stack that shares nothing with ours.

use crate::{
    bed::Bed,
    peer::{Peer, check},
};

#[tokio::test]
async fn a_handshake_over_quic() {
    let Some(openssl) = Peer::openssl() else { return };
    let bed = Bed::start().await;
    let address = bed.address("edge").to_string();
    for group in ["X25519MLKEM768", "X25519", "P-256"] {
        let mut arguments = vec!["s_client", "-quic", "-alpn", "towline/1", "-connect", &address];
        arguments.extend(["-servername", "localhost", "-verify_hostname", "localhost"]);
        arguments.extend(["-CAfile", "dev-ca.pem", "-verify_return_error", "-groups", group]);
        let talk = openssl.start(bed.path(), &arguments);
        let said = talk.hear("Verify return code: 0 (ok)").await;
        check(&said, &["Protocol: QUICv1", "ALPN protocol: towline/1"]);
        talk.finish().await;
    }
}
