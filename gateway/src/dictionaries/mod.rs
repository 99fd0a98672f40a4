//! Payload and header dictionaries on the gateway: what is published, to whom, and how new ones come about.
//!
//! ```text
//!  routes with `sample` --> sampler --> retrain (train, judge on held-back samples) --> library: published
//!                                                                                          |
//!            link: OFFER, FETCH, PIECE <-- edition: for this client, in this order <-------+-- rollout, rollback
//! ```

mod edition;
mod files;
mod library;
mod redact;
mod retrain;
mod sampler;

pub(crate) use self::files::{hex as shown_hash, kind_name as shown_kind, kind_of};
pub use self::{
    edition::{Edition, Entry},
    library::{Library, LibraryError},
    redact::{InvalidRule, Rule},
    retrain::{Judgement, RetrainError, retrain, watch},
    sampler::{Sampler, Sampling, sampled},
};
