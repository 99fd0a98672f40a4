//! Durable calls of an app, and the disk that they lie on: it takes its time, is full now and then, and may have done
//! what an app that died never heard of.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::sleep;
use towline_client::{
    CallRequest, Client, DurableError, DurableOutcome, RpcError, Storage, StoredFile, Storing,
};

use crate::{
    app::outcome_of,
    determinism,
    model::End,
    world::{State, World},
};

/// The longest that either half of a write takes.
const WRITE_MAX: Duration = Duration::from_millis(100);
/// Before an acknowledgement that the disk refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The disk of one app, for one of its lives.
pub(crate) struct Phone {
    pub(crate) world: Arc<World>,
    pub(crate) app: usize,
    pub(crate) life: u32,
}

impl Storage for Phone {
    fn load(&self, _bytes_max: usize) -> io::Result<Vec<StoredFile>> {
        let state = self.world.state();
        let files = state.phones[self.app].iter();
        Ok(files
            .map(|(name, content)| StoredFile { name: name.clone(), content: Ok(content.clone()) })
            .collect())
    }

    fn put(&self, name: String, content: Vec<u8>) -> Storing {
        self.change(Some(content), name)
    }

    fn remove(&self, name: String) -> Storing {
        self.change(None, name)
    }
}

impl Phone {
    fn change(&self, content: Option<Vec<u8>>, name: String) -> Storing {
        let (world, app, life) = (Arc::clone(&self.world), self.app, self.life);
        Box::pin(async move {
            world.passes(life).await;
            if world.happens(world.plan.phone_faults) && content.is_some() {
                world.note(format!("the disk of app {app} is full"));
                world.state().model.phone_faults.push(determinism::elapsed());
                return Err(io::ErrorKind::StorageFull.into());
            }
            world.state().write(app, name, content);
            world.passes(life).await;
            Ok(())
        })
    }
}

impl World {
    /// Half of a write. Without an end where the app dies meanwhile.
    async fn passes(&self, life: u32) {
        let pause = self.draw_time(WRITE_MAX);
        sleep(pause).await;
        let is_alive = self.state().living_apps.contains(&life);
        if !is_alive {
            std::future::pending().await
        }
    }

    /// The app was handed how a call ended.
    fn handed(&self, id: u64, end: End) {
        self.note(format!("call {id}, durable: {end:?}"));
        let mut state = self.state();
        let Some(call) = state.model.calls.get_mut(&id) else { return };
        call.handed.push(format!("{end:?}"));
        if call.acknowledged {
            call.wrong = Some("its outcome was handed out again once it was acknowledged".to_owned());
        }
        if call.handed.len() == 1 {
            call.seen_at_end = call.seen;
            call.end = Some((determinism::elapsed(), end));
        }
    }

    async fn acknowledge(&self, client: &Client, id: u64) {
        let pause = self.draw_time(Duration::from_millis(500));
        sleep(pause).await;
        loop {
            match client.acknowledge(id.to_string()).await {
                Ok(()) => break,
                Err(DurableError::Storage(_)) => sleep(RETRY).await,
                // It was not taken in.
                Err(DurableError::Unknown) if self.is_full_at_times() => return,
                Err(error) => {
                    self.wrong(id, format!("is not acknowledged: {error}"));
                    return;
                }
            }
        }
        self.note(format!("call {id} is acknowledged"));
        if let Some(call) = self.state().model.calls.get_mut(&id) {
            call.acknowledged = true;
        }
    }

    fn is_full_at_times(&self) -> bool {
        self.plan.phone_faults > 0.0
    }

    fn wrong(&self, id: u64, what: String) {
        if let Some(call) = self.state().model.calls.get_mut(&id) {
            call.wrong = Some(what);
        }
    }
}

impl State {
    fn write(&mut self, app: usize, name: String, content: Option<Vec<u8>>) {
        let files = &mut self.phones[app];
        _ = match content {
            Some(content) => files.insert(name, content),
            None => files.remove(&name),
        };
    }
}

/// Takes outcomes until the app dies.
pub(crate) async fn take_outcomes(world: Arc<World>, client: Client) {
    let mut outcomes = client.durable_outcomes();
    while let Some(DurableOutcome { key, tag, result }) = outcomes.next().await {
        let id = key.parse().unwrap_or(0);
        if tag != tag_of(id) {
            world.wrong(id, "lost its tag".to_owned());
        }
        world.handed(
            id,
            outcome_of(
                id,
                result.map(|answer| (answer.headers, answer.messages)).map_err(|failed| failed.error),
            ),
        );
        world.acknowledge(&client, id).await;
    }
}

/// What the app puts beside a call.
pub(crate) fn tag_of(id: u64) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// Makes a durable call, which ends here only if it is not taken in: else a listener is handed its outcome, or it is
/// waited for.
pub(crate) async fn call(
    world: &Arc<World>,
    client: &Client,
    id: u64,
    request: CallRequest,
) -> Option<RpcError> {
    let request = request.durable(id.to_string(), tag_of(id));
    if world.draw() < 0.7 {
        return client.submit(request).await.err();
    }
    let outcome = client.call(request).await;
    world.handed(
        id,
        outcome_of(
            id,
            outcome.map(|answer| (answer.headers, answer.messages)).map_err(|failed| failed.error),
        ),
    );
    world.acknowledge(client, id).await;
    None
}
