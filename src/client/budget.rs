//! Which sizes fit a budget, as a server chooses them.

use super::Client;
use crate::{
    bank::{Budget, Choices},
    error::Result,
    wire::budget,
};

impl Client {
    /// The best sizes of the gene called `gene` within `budget`, at most `limit`. An empty name means the server's
    /// default gene.
    ///
    /// # Errors
    /// [`crate::error::Error::Invalid`] where `limit` or the batch is 0; [`crate::error::Error::Remote`].
    pub async fn plan_model(&self, gene: &str, budget: &Budget, limit: usize) -> Result<Choices> {
        let message = budget::to_proto(gene, budget, limit)?;
        let answer = self.service.clone().plan_model(self.request(message)).await;
        let answer = answer.map_err(|status| self.remote(&status))?;
        Ok(budget::choices_from_proto(answer.into_inner()))
    }
}
