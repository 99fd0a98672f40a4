//! In place of quic.rs and streams.rs where QUIC is left out: no line of it is ever driven.

use towline_protocols::link::{self, Hello};

use super::{LineEnd, Setup};
use crate::{
    connect::{Path, QuicWire, Racing},
    core::{Core, Kept},
};

pub(super) async fn drive(wire: QuicWire, _: Setup, _: Hello, _: Racing, _: usize) -> LineEnd {
    match wire.path {}
}

pub(super) struct Streams {
    pub(super) path: Path,
}

impl Streams {
    pub(super) fn tell(&mut self, _: &link::Control, _: &mut Core, _: bool, _: bool) -> bool {
        match self.path {}
    }

    pub(super) fn attach(&mut self, _: &link::Control, _: &mut Core, _: &Kept) {
        match self.path {}
    }

    pub(super) async fn ended(&mut self) {
        match self.path {}
    }
}
