//! Code generated from `gateway/proto/`.

#![allow(missing_docs, reason = "generated; the .proto files hold the documentation")]
#![allow(unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]

/// What a backend implements to say who clients are and what they may do.
pub mod auth {
    tonic::include_proto!("towline.auth.v1");
}

/// The demo backend's services.
pub mod demo {
    tonic::include_proto!("towline.demo.v1");
}

/// What a backend implements to take published messages.
pub mod device {
    tonic::include_proto!("towline.device.v1");
}

/// The push API.
pub mod push {
    tonic::include_proto!("towline.push.v1");
}
