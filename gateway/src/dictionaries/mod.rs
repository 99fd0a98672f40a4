//! Payload and header dictionaries on the gateway: what is published, to whom, and how new ones come about.
//!
//! ```text
//!  routes with `sample`, `sample_headers` --> samplers --> retrain (train, judge on held-back samples) --> library
//!                                                                                          |
//!            link: OFFER, FETCH, PIECE <-- edition: for this client, in this order <--------+-- rollout, rollback
//! ```

mod edition;
mod files;
mod header_sampler;
mod library;
mod redact;
mod reservoir;
mod retrain;
mod sampler;

pub use self::{
    edition::{Edition, Entry},
    header_sampler::HeaderSampler,
    library::{Library, LibraryError, Shelves},
    redact::{InvalidRule, Rule},
    retrain::{Judgement, RetrainError, retrain, train_headers_now, watch},
    sampler::{Sampler, Sampling, sampled},
};
pub(crate) use self::{
    files::{hex as shown_hash, kind_name as shown_kind, kind_of},
    header_sampler::{sample_list, sample_request},
};
