//! The line in which producers of `run` wait for a permit.

use tokio::sync::watch;

use super::super::{limited::forever, metrics::Operation};
use crate::{
    Error, ErrorKind, Result,
    resilience::{Limiter, Permit},
};

/// Most producers inside of each other: what is deeper calls itself.
const MAX_DEPTH: usize = 8;

/// Permits of producers: as many for each depth, since one waits for those inside of it. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RunLine([Limiter; MAX_DEPTH]);

/// What those share who wait for one run.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// The producers that stand around the deepest of them.
    around: watch::Sender<Vec<String>>,
}

impl RunLine {
    pub fn beside(limiter: &Limiter) -> RunLine {
        RunLine(std::array::from_fn(|_| limiter.beside()))
    }

    /// Waits for a permit of the depth of the company, also where somebody deeper joins meanwhile: what they hold is not waited
    /// for.
    ///
    /// # Errors
    /// InvalidInput where it is too deep.
    pub async fn acquire(&self, company: &Company) -> Result<Permit> {
        const OPERATION: &str = Operation::Run.name();
        let mut around = company.around.subscribe();
        loop {
            let now = around.borrow_and_update().len();
            let Some(limiter) = self.0.get(now) else {
                let message = format!("more than {MAX_DEPTH} producers stand inside of each other");
                return Err(Error::new(ErrorKind::InvalidInput, OPERATION, message));
            };
            tokio::select! {
                biased;
                permit = limiter.acquire(OPERATION, forever()) => return permit,
                Ok(()) = around.changed() => {}
            }
        }
    }
}

impl Company {
    /// Takes one more in, around whom these producers stand.
    pub fn join(&self, around: &[String]) {
        self.around.send_if_modified(|deepest| {
            let is_deeper = around.len() > deepest.len();
            if is_deeper {
                *deepest = around.to_vec();
            }
            is_deeper
        });
    }

    /// Returns the producers that stand around the deepest.
    pub fn around(&self) -> Vec<String> {
        self.around.borrow().clone()
    }
}
