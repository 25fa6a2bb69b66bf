//! [`PerProcess`]: what a process makes at its first use, and the child of a fork makes anew.

use std::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

/// One value of this process. What a child inherits has threads and locks that are not there: it is leaked.
pub struct PerProcess<T>(AtomicPtr<T>);

impl<T: Send + Sync + 'static> PerProcess<T> {
    pub const fn new() -> PerProcess<T> {
        PerProcess(AtomicPtr::new(ptr::null_mut()))
    }

    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: what is stored came from `Box::into_raw` in `set`, and is freed by who calls `take` alone.
        #[allow(unsafe_code, reason = "reads what `Box::into_raw` made")]
        unsafe {
            self.0.load(Ordering::Acquire).as_ref()
        }
    }

    /// Keeps a value, unless another thread was first. Returns what is kept, and whether it is this one.
    pub fn set(&self, made: T) -> (&'static T, bool) {
        let made = Box::into_raw(Box::new(made));
        let (kept, is_first) = match self.0.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => (made, true),
            Err(first) => {
                // SAFETY: it was never shared.
                #[allow(unsafe_code, reason = "takes back what was made in vain")]
                drop(unsafe { Box::from_raw(made) });
                (first, false)
            }
        };
        // SAFETY: as in `get`.
        #[allow(unsafe_code, reason = "reads what `Box::into_raw` made")]
        (unsafe { &*kept }, is_first)
    }

    /// Forgets the value, and leaks it. A store to an atomic: the child of a threaded process may do no more.
    pub fn forget(&self) {
        self.0.store(ptr::null_mut(), Ordering::SeqCst);
    }

    /// Takes the value out.
    ///
    /// # Safety
    /// Nobody may use a reference to it any more.
    #[allow(unsafe_code, reason = "what was lent out may be in use")]
    pub unsafe fn take(&self) -> Option<Box<T>> {
        let taken = self.0.swap(ptr::null_mut(), Ordering::SeqCst);
        // SAFETY: it came from `Box::into_raw` in `set`, and the swap made this the only owner.
        (!taken.is_null()).then(|| unsafe { Box::from_raw(taken) })
    }
}
