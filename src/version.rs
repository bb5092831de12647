//! What this program is: its version, and the commit that it was built from.

/// The commit: 12 hex digits, with `-dirty` if files differed from it. `unknown` in debug builds and where git was not
/// there; see `build.rs`.
pub const COMMIT: &str = env!("GENEBANK_COMMIT");

/// The version with the commit, as `--version` shows it.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("GENEBANK_COMMIT"), ")");
