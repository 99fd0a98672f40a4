//! The link protocol's machines, driven against each other and against broken peers.

mod answers;
mod calls;
mod carriers;
mod connections;
mod dictionaries;
mod frames;
mod ledgers;
mod pair;
mod quic_headers;
mod reconnects;
mod references;
mod rests;
mod runs;
mod short;
mod slow_readers;
mod uploads;
mod vectors;
mod world;
