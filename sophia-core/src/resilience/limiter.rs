//! At most so many at once, first come first served, with a bound on the wait.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, ErrorKind, Result, resilience::Deadline};

/// A fixed number of permits. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Limiter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    semaphore: Arc<Semaphore>,
    permits: usize,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    taken: AtomicUsize,
    peak: AtomicUsize,
    queued: AtomicUsize,
}

/// The right to work; returned when dropped.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
    counts: Arc<Counts>,
    has_waited: bool,
}

impl Permit {
    /// Returns whether it had to be waited for.
    pub fn has_waited(&self) -> bool {
        self.has_waited
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limiter {
    /// Creates a limiter with `permits` permits, at least one.
    pub fn new(permits: usize) -> Limiter {
        Limiter::counted(permits.clamp(1, Semaphore::MAX_PERMITS), Arc::default())
    }

    /// Creates a limiter with as many permits of its own, for work that waits for work which this one limits: with the same
    /// permits, it could wait for itself. Both are counted together.
    #[must_use]
    pub fn beside(&self) -> Limiter {
        Limiter::counted(self.shared.permits, Arc::clone(&self.shared.counts))
    }

    fn counted(permits: usize, counts: Arc<Counts>) -> Limiter {
        let semaphore = Arc::new(Semaphore::new(permits));
        Limiter { shared: Arc::new(Shared { semaphore, permits, counts }) }
    }

    /// Returns a permit if one is free and nobody waits for it.
    pub fn try_acquire(&self) -> Option<Permit> {
        let permit = Arc::clone(&self.shared.semaphore).try_acquire_owned().ok()?;
        Some(self.granted(permit, false))
    }

    /// Waits for a permit until the deadline.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when none came free in time.
    ///
    /// # Cancel safety
    /// A dropped call leaves the queue.
    pub async fn acquire(&self, operation: &'static str, deadline: Deadline) -> Result<Permit> {
        let shared = &self.shared;
        if let Some(permit) = self.try_acquire() {
            return Ok(permit);
        }
        let waiting = Queued::new(&shared.counts.queued);
        let acquired = tokio::time::timeout_at(deadline.instant(), Arc::clone(&shared.semaphore).acquire_owned()).await;
        drop(waiting);
        match acquired {
            Ok(Ok(permit)) => Ok(self.granted(permit, true)),
            // The semaphore is never closed, so the inner error cannot happen; it would mean the same.
            Ok(Err(_)) | Err(_) => Err(Error::new(ErrorKind::Timeout, operation, "no permit came free in time")
                .with("permits", shared.permits)
                .with("queue_depth", self.queue_depth())),
        }
    }

    /// Returns how many permits are taken.
    pub fn in_flight(&self) -> usize {
        self.shared.counts.taken.load(Ordering::Relaxed)
    }

    /// Returns the most permits that were ever taken at once.
    pub fn peak(&self) -> usize {
        self.shared.counts.peak.load(Ordering::Relaxed)
    }

    /// Returns how many callers wait.
    pub fn queue_depth(&self) -> usize {
        self.shared.counts.queued.load(Ordering::Relaxed)
    }

    fn granted(&self, permit: OwnedSemaphorePermit, has_waited: bool) -> Permit {
        let counts = Arc::clone(&self.shared.counts);
        let taken = counts.taken.fetch_add(1, Ordering::Relaxed) + 1;
        counts.peak.fetch_max(taken, Ordering::Relaxed);
        Permit { _permit: permit, counts, has_waited }
    }
}

/// Counts one waiter, also when its future is dropped.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Queued(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_fifty_first_waits_and_gives_up_at_its_deadline() {
        let limiter = Limiter::new(50);
        let deadline = Deadline::after(Duration::from_secs(1));
        let mut permits = Vec::new();
        for _ in 0..50 {
            permits.push(limiter.acquire("test", deadline).await.unwrap());
        }
        assert_eq!((limiter.in_flight(), limiter.peak()), (50, 50));
        assert_eq!(limiter.acquire("test", deadline).await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(limiter.queue_depth(), 0);
        permits.pop();
        let deadline = Deadline::after(Duration::from_secs(1));
        assert!(limiter.acquire("test", deadline).await.is_ok());
    }

    #[tokio::test]
    async fn a_limiter_beside_another_has_its_own_permits_and_is_counted_with_it() {
        let limiter = Limiter::new(1);
        let (beside, deadline) = (limiter.beside(), Deadline::after(Duration::from_secs(60)));
        let permits =
            (limiter.acquire("test", deadline).await.unwrap(), beside.acquire("test", deadline).await.unwrap());
        assert_eq!((limiter.in_flight(), beside.in_flight(), limiter.peak()), (2, 2, 2));
        drop(permits);
        assert_eq!((limiter.in_flight(), beside.peak()), (0, 2));
    }

    #[tokio::test]
    async fn a_cancelled_waiter_leaves_the_queue() {
        let limiter = Limiter::new(1);
        let deadline = Deadline::after(Duration::from_secs(60));
        let held = limiter.acquire("test", deadline).await.unwrap();
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.acquire("test", deadline).await.map(drop) }
        });
        while limiter.queue_depth() == 0 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        let _ = waiting.await;
        assert_eq!(limiter.queue_depth(), 0);
        drop(held);
        assert!(limiter.acquire("test", deadline).await.is_ok());
    }
}
