//! The link protocol's machines, driven against each other and against broken peers.

mod calls;
mod pair;
mod reconnects;
mod vectors;
mod world;
