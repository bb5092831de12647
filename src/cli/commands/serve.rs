//! `genebank serve`: runs the server.

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{args, config, output},
    error::{Error, Result},
    server,
};

pub(in crate::cli) fn run(options: args::Serve) -> Result<()> {
    let config = config::server(options)?;
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(Error::io("runtime"))?;
    runtime.block_on(async {
        let app = config.build().await?;
        let stop = CancellationToken::new();
        tokio::spawn(server::signals(stop.clone()));
        output::line(format_args!("listening on {}", app.url()))?;
        app.serve(stop).await
    })
}
