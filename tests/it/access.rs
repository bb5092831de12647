//! Whoever may have models of a public gene may not for that reason start tuning jobs.

use genebank::{
    bank::{self, Length, ModelRequest, Tune},
    client::Client,
    digest::{hex, sha256},
    error::Kind,
    gene::store,
    server::{Access, Limits},
    tensor::codec,
};

use crate::support::{GENE, Server, TOKEN, bank_config, fashion_meta, models, sample_data, weights};

/// Access rules with a token, in which every gene is public.
fn all_public() -> Access {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let text = format!("[[token]]\nname = \"ci\"\nsha256 = \"{}\"\n", hex(&sha256(TOKEN.as_bytes())));
    codec::write_atomic(&path, [text.as_bytes()]).unwrap();
    Access::open(&path).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tokens_tuning_a_public_gene_needs_one() {
    let meta = fashion_meta();
    let models = models(&store::render(meta.clone(), &weights(&meta), 7).unwrap().1);
    let bank = bank::Config { data: Some(sample_data()), ..bank_config(models.path()) };
    let server = Server::guarded(Limits::default(), models, bank, all_public()).await;
    let out = tempfile::tempdir().unwrap();
    let plain = ModelRequest { gene: GENE.to_owned(), ..ModelRequest::default() };
    let tune = Tune {
        dataset: "fashion-mnist".to_owned(),
        length: Length::Steps(1),
        learning_rate_e9: None,
        seed: 1,
    };
    let tuned = ModelRequest { tune: Some(tune), ..plain.clone() };
    let client = || async { Client::connect(&server.url()).await.unwrap() };
    let (anyone, holder) = (client().await, client().await.with_token(TOKEN).unwrap());

    anyone.init_model(&plain, &out.path().join("plain"), |_| ()).await.unwrap();
    let refused = async || anyone.init_model(&tuned, &out.path().join("refused"), |_| ()).await.unwrap_err();
    assert_eq!(refused().await.kind(), Kind::NoToken);
    holder.init_model(&tuned, &out.path().join("tuned"), |_| ()).await.unwrap();
    // Nor is the stored result for everyone.
    assert_eq!(refused().await.kind(), Kind::NoToken);
}
