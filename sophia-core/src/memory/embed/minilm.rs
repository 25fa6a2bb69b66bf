//! [`MiniLmEmbedder`]: the all-MiniLM-L6-v2 sentence transformer in this process.
//!
//! - `bert.rs`: the encoder, after Devlin et al., "BERT" (2018).
//! - `weights.rs`: reading `model.safetensors`.

mod bert;
mod weights;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use self::bert::{Bert, Shape};
use super::{BUNDLED_MIN_SIMILARITY, Embedder, EmbedderConfig, batch};
use crate::{
    Error, ErrorKind, Result,
    resilience::{Deadline, Limiter},
};

const OPERATION: &str = "memory.embed";
/// Name under which vectors are kept, unless it is set.
const MODEL: &str = "all-MiniLM-L6-v2";
/// The files of a model.
const WEIGHTS: &str = "model.safetensors";
const SHAPE: &str = "config.json";
const VOCABULARY: &str = "vocab.txt";
/// Texts, and bytes of text, that are read together: half a second of one core, after which others have their turn.
const MAX_TEXTS: usize = 32;
const MAX_BYTES: usize = 16 * 1024;
/// Longest wait for a core.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Embeds with the all-MiniLM-L6-v2 sentence transformer, or a model of its family: BERT, uncased, mean of all tokens.
///
/// The weights take 90 MB, read with the first text. A sentence costs some milliseconds of one core; half of the cores work at
/// most, on threads where blocking is allowed. Of a text, the first 256 tokens are read, as the model was trained: some 200
/// words; cut documents into passages. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MiniLmEmbedder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    model: String,
    shape: Shape,
    loaded: Mutex<Option<Arc<Bert>>>,
    cores: Limiter,
}

impl MiniLmEmbedder {
    /// Opens the model in a folder with `model.safetensors`, `config.json` and `vocab.txt`, as they are published. Reads the
    /// small one of them; the weights are read by the first text.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where a file is missing, or describes another kind of model.
    pub fn open(folder: impl Into<PathBuf>) -> Result<MiniLmEmbedder> {
        let folder = folder.into();
        MiniLmEmbedder::named(&folder, MODEL).map_err(|what| Error::invalid("memory.embedder", "path", what))
    }

    /// Opens the model that a configuration names. `path` is where it stands.
    pub(crate) fn configured(path: &str, config: &EmbedderConfig) -> Result<MiniLmEmbedder> {
        let folder = config.path.clone().unwrap_or_default();
        MiniLmEmbedder::named(&folder, config.model.as_deref().unwrap_or(MODEL))
            .map_err(|what| Error::invalid_config(&format!("{path}.path"), what))
    }

    fn named(folder: &Path, model: &str) -> std::result::Result<MiniLmEmbedder, String> {
        for name in [WEIGHTS, SHAPE, VOCABULARY] {
            if !folder.join(name).is_file() {
                return Err(format!("is `{}`, where there is no file `{name}`", folder.display()));
            }
        }
        let shape = folder.join(SHAPE);
        let json = fs::read(&shape).map_err(|error| format!("holds `{SHAPE}`, which cannot be read: {error}"))?;
        let shape = Shape::read(&json).map_err(|what| format!("holds `{SHAPE}`, {what}"))?;
        let cores = available_parallelism().map_or(1, |cores| cores.get() / 2).max(1);
        Ok(MiniLmEmbedder(Arc::new(Shared {
            folder: folder.to_owned(),
            model: model.to_owned(),
            shape,
            loaded: Mutex::default(),
            cores: Limiter::new(cores),
        })))
    }

    async fn run(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        let _core = self.0.cores.acquire(OPERATION, Deadline::after(MAX_WAIT)).await?;
        let shared = self.0.clone();
        let work = tokio::task::spawn_blocking(move || Ok(shared.bert()?.embed(&texts)));
        work.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Internal, OPERATION, "the model stopped").with_source(error))
        })
    }
}

impl Shared {
    /// Returns the model, read by the first who asks.
    fn bert(&self) -> Result<Arc<Bert>> {
        let mut loaded = self.loaded.lock();
        if let Some(bert) = &*loaded {
            return Ok(bert.clone());
        }
        let unusable = |what: String| {
            let message = format!("the model in `{}` cannot be used: {what}", self.folder.display());
            Error::new(ErrorKind::InvalidConfig, OPERATION, message)
        };
        let vocabulary =
            fs::read_to_string(self.folder.join(VOCABULARY)).map_err(|error| unusable(error.to_string()))?;
        let bert = Bert::read(self.shape, &self.folder.join(WEIGHTS), vocabulary).map_err(unusable)?;
        Ok(loaded.insert(Arc::new(bert)).clone())
    }
}

#[async_trait]
impl Embedder for MiniLmEmbedder {
    fn model(&self) -> &str {
        &self.0.model
    }

    fn dimensions(&self) -> Option<usize> {
        Some(self.0.shape.hidden)
    }

    fn min_similarity(&self) -> Option<f64> {
        Some(BUNDLED_MIN_SIMILARITY)
    }

    /// # Errors
    /// `InvalidConfig` where the files are not those of the model; `Timeout` where no core was free for a minute.
    ///
    /// # Cancel safety
    /// Can be dropped at any time; the texts that are being read are read to their end.
    async fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let cut: Vec<_> = texts.iter().map(|text| batch::cut(text, MAX_BYTES)).collect();
        let runs: Vec<_> = batch::runs(&cut, MAX_TEXTS, MAX_BYTES)
            .map(|run| self.run(run.iter().map(|text| (*text).to_owned()).collect()))
            .collect();
        let made: Vec<_> = stream::iter(runs).buffered(MAX_TEXTS).try_collect().await?;
        Ok(made.into_iter().flatten().collect())
    }
}
