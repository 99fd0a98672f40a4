//! What a run stands on: namespaces, the link between them, and the servers at its far end.

mod certificates;
mod netns;
mod servers;
mod wire;

pub(super) use self::{
    netns::{check, end_own, remove_leftovers, remove_own},
    servers::{Ground, Programs, Runs, Servers},
    wire::Wire,
};
