//! Both generations of the Hub's Rust client, as published. The tests only point them at another endpoint.

use std::path::Path;

use genebank::server::{Access, Limits};

use crate::{
    proxy::Proxy,
    support::{Server, TOKEN, bank_config, gene_bytes, models, private},
    ways::{GOOD, embedded},
};

const NAME: &str = "tiny-d5-w24";
const REPOSITORY: &str = "genebank/tiny-d5-w24";
const FILES: [&str; 4] = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"];

/// A server, a proxy that records the requests of its clients, and their cache.
struct Hub {
    server: Server,
    proxy: Proxy,
    cache: tempfile::TempDir,
}

impl Hub {
    async fn start(access: Access) -> Self {
        let folder = models(&gene_bytes());
        let bank = bank_config(folder.path());
        let server = Server::guarded(Limits::default(), folder, bank, access).await;
        let proxy = Proxy::start(server.address);
        Self { server, proxy, cache: tempfile::tempdir().unwrap() }
    }

    async fn commit(&self) -> String {
        let model = self.server.get(&format!("/api/models/{REPOSITORY}")).await.json();
        model["sha"].as_str().unwrap().to_owned()
    }

    /// Compares a file that a client wrote with the served one.
    async fn is_served(&self, name: &str, path: &Path) {
        let written = std::fs::read(path).unwrap();
        let served = self.server.get(&format!("/{REPOSITORY}/resolve/main/{name}")).await.body;
        assert!(written == served, "{name}");
        if name == "model.safetensors" {
            let model = embedded(&self.server.models(), GOOD).await.unwrap();
            assert!(written == model.bytes, "{name}");
        }
    }
}

fn methods(requests: &[String]) -> Vec<&str> {
    requests.iter().map(|line| line.split(' ').next().unwrap()).collect()
}

/// Version 0.5, which is blocking.
mod generation_0 {
    use hf_hub_05::{
        Cache, Repo, RepoType,
        api::sync::{Api, ApiBuilder, ApiError},
    };

    use super::*;

    fn api(hub: &Hub, token: Option<&str>) -> Api {
        let cache = Cache::new(hub.cache.path().to_owned());
        let builder = ApiBuilder::from_cache(cache).with_progress(false).with_endpoint(hub.proxy.url());
        builder.with_token(token.map(ToOwned::to_owned)).build().unwrap()
    }

    fn says(error: &ApiError, status: &str) {
        assert!(error.to_string().contains(status), "{error}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn files_are_those_of_the_server() {
        let hub = Hub::start(Access::default()).await;
        let repository = api(&hub, None).model(REPOSITORY.to_owned());
        for name in ["config.json", "model.safetensors"] {
            let path = tokio::task::block_in_place(|| repository.get(name)).unwrap();
            hub.is_served(name, &path).await;
            // The client requests one byte to get the headers, then the whole file.
            assert_eq!(methods(&hub.proxy.requests()), ["GET", "GET"]);
            assert_eq!(tokio::task::block_in_place(|| repository.get(name)).unwrap(), path);
            assert_eq!(hub.proxy.requests(), [""; 0], "a second time");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_commit_is_fetched_once() {
        let hub = Hub::start(Access::default()).await;
        let repo = Repo::with_revision(REPOSITORY.to_owned(), RepoType::Model, hub.commit().await);
        let path =
            tokio::task::block_in_place(|| api(&hub, None).repo(repo.clone()).get("model.safetensors"));
        hub.is_served("model.safetensors", &path.unwrap()).await;
        assert!(hub.proxy.requests().iter().any(|line| line.starts_with("GET ")));
        let again = tokio::task::block_in_place(|| api(&hub, None).repo(repo).get("model.safetensors"));
        hub.is_served("model.safetensors", &again.unwrap()).await;
        assert_eq!(hub.proxy.requests(), [""; 0]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_list_of_files_is_read() {
        let hub = Hub::start(Access::default()).await;
        let repository = api(&hub, None).model(REPOSITORY.to_owned());
        let info = tokio::task::block_in_place(|| repository.info()).unwrap();
        let names: Vec<_> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        assert_eq!((info.sha, names), (hub.commit().await, FILES.to_vec()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_does_not_exist_is_not_found() {
        let hub = Hub::start(Access::default()).await;
        let unknown = api(&hub, None).model("genebank/none-d5-w24".to_owned());
        let known = api(&hub, None).model(REPOSITORY.to_owned());
        let other = Repo::with_revision(REPOSITORY.to_owned(), RepoType::Model, "v1".to_owned());
        let other = api(&hub, None).repo(other);
        tokio::task::block_in_place(|| {
            says(&unknown.get("config.json").unwrap_err(), "404");
            says(&unknown.info().unwrap_err(), "404");
            says(&known.get("pytorch_model.bin").unwrap_err(), "404");
            says(&other.get("config.json").unwrap_err(), "404");
        });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_token_opens_a_private_gene() {
        let hub = Hub::start(private()).await;
        let get = |token| {
            let repository = api(&hub, token).model(REPOSITORY.to_owned());
            tokio::task::block_in_place(|| repository.get("model.safetensors"))
        };
        says(&get(None).unwrap_err(), "401");
        says(&get(Some("hf_other")).unwrap_err(), "401");
        let written = std::fs::read(get(Some(TOKEN)).unwrap()).unwrap();
        let model = embedded(&hub.server.models(), GOOD).await.unwrap();
        assert!(written == model.bytes);
    }
}

/// Version 1, which is asynchronous.
mod generation_1 {
    use hf_hub_1::{HFClient, HFError, HFRepository, RepoTypeModel};

    use super::*;

    fn repository(hub: &Hub, token: Option<&str>, name: &str) -> HFRepository<RepoTypeModel> {
        let builder = HFClient::builder().endpoint(hub.proxy.url()).cache_dir(hub.cache.path());
        let builder = if let Some(token) = token { builder.token(token) } else { builder };
        builder.build().unwrap().model("genebank", name)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn files_are_those_of_the_server() {
        let hub = Hub::start(Access::default()).await;
        let repository = repository(&hub, None, NAME);
        for name in ["config.json", "model.safetensors"] {
            let path = repository.download_file().filename(name).send().await.unwrap();
            hub.is_served(name, &path).await;
            assert_eq!(methods(&hub.proxy.requests()), ["HEAD", "GET"]);
            assert_eq!(repository.download_file().filename(name).send().await.unwrap(), path);
            // The client checks whether the branch has moved.
            assert_eq!(methods(&hub.proxy.requests()), ["HEAD"]);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_commit_is_fetched_once() {
        let hub = Hub::start(Access::default()).await;
        let commit = hub.commit().await;
        for first in [true, false] {
            let repository = repository(&hub, None, NAME);
            let download = repository.download_file().filename("model.safetensors").revision(commit.clone());
            hub.is_served("model.safetensors", &download.send().await.unwrap()).await;
            assert_eq!(hub.proxy.requests().is_empty(), !first);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_list_of_files_is_read() {
        let hub = Hub::start(Access::default()).await;
        let info = repository(&hub, None, NAME).info().send().await.unwrap();
        let files = info.siblings.unwrap();
        let names: Vec<_> = files.iter().map(|file| file.rfilename.as_str()).collect();
        assert_eq!((info.sha, names), (Some(hub.commit().await), FILES.to_vec()));
        assert!(repository(&hub, None, NAME).exists().send().await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_does_not_exist_is_not_found() {
        let hub = Hub::start(Access::default()).await;
        let unknown = repository(&hub, None, "none-d5-w24");
        // The client does not pass on the server's message for a download that is not found.
        let error = unknown.download_file().filename("config.json").send().await.unwrap_err();
        assert!(matches!(error, HFError::EntryNotFound { .. }), "{error}");
        assert!(matches!(unknown.info().send().await.unwrap_err(), HFError::RepoNotFound { .. }));
        assert!(!unknown.exists().send().await.unwrap());
        let known = repository(&hub, None, NAME);
        let error = known.download_file().filename("pytorch_model.bin").send().await.unwrap_err();
        assert!(matches!(error, HFError::EntryNotFound { .. }), "{error}");
        let other = known.download_file().filename("config.json").revision("v1".to_owned());
        let error = other.send().await.unwrap_err();
        assert!(matches!(error, HFError::EntryNotFound { .. }), "{error}");
        let other = known.info().revision("v1".to_owned()).send().await.unwrap_err();
        assert!(matches!(other, HFError::RevisionNotFound { .. }), "{other}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_token_opens_a_private_gene() {
        let hub = Hub::start(private()).await;
        for token in [None, Some("hf_other")] {
            let repository = repository(&hub, token, NAME);
            let error = repository.download_file().filename("model.safetensors").send().await.unwrap_err();
            assert!(matches!(error, HFError::AuthRequired { .. }), "{error}");
        }
        let repository = repository(&hub, Some(TOKEN), NAME);
        let path = repository.download_file().filename("model.safetensors").send().await.unwrap();
        let model = embedded(&hub.server.models(), GOOD).await.unwrap();
        assert!(std::fs::read(path).unwrap() == model.bytes);
    }
}
