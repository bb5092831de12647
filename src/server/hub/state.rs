//! What the handlers of the protocol share.

use std::sync::Arc;

use moka::future::Cache;

use crate::{
    bank::{Admitted, RepositoryName},
    error::{Error, Result},
    server::state::State,
};

use super::snapshot::Snapshot;

/// Bytes of repositories that are kept: their small files and their blueprints.
const SNAPSHOT_BYTES: u64 = 64 << 20;

/// The server's state and the repositories that were asked for.
#[derive(Debug, Clone)]
pub(in crate::server) struct Hub {
    pub(super) state: State,
    /// By name. Only repositories that exist are kept, so that a client cannot fill it with names.
    snapshots: Cache<String, Arc<Snapshot>>,
}

impl Hub {
    pub(in crate::server) fn new(state: State) -> Self {
        let weigh =
            |_: &String, snapshot: &Arc<Snapshot>| u32::try_from(snapshot.bytes()).unwrap_or(u32::MAX);
        let snapshots = Cache::builder().max_capacity(SNAPSHOT_BYTES).weigher(weigh).build();
        Self { state, snapshots }
    }

    /// The repository called `name`, of the admitted gene.
    ///
    /// # Errors
    /// Those of [`crate::bank::Bank::repository`].
    pub(super) async fn snapshot(
        &self,
        admitted: Admitted<'_>,
        name: &RepositoryName,
    ) -> Result<Arc<Snapshot>> {
        let bank = &self.state.bank;
        let make = async { Ok(Arc::new(Snapshot::new(bank.repository(&admitted, name.clone()).await?))) };
        self.snapshots.try_get_with(name.to_string(), make).await.map_err(Error::Shared)
    }
}
