//! Where a call of a binding begins: on the thread of the caller, as long as it needs nobody else.
//!
//! What is known is answered on the first poll, in place. Whatever has to be asked of others is begun by the runtime: begun in
//! place, each thing that is woken for it wakes a thread of the runtime of its own, beside the one that goes on with the call.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

thread_local! {
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// Polls a call once on this thread, as far as it needs nobody else. What is not ready has to be polled anew, with a waker.
pub fn poll_here<F: Future + ?Sized>(call: Pin<&mut F>) -> Poll<F::Output> {
    /// Ends it, also when the call panics.
    struct Here(bool);
    impl Drop for Here {
        fn drop(&mut self) {
            HERE.set(self.0);
        }
    }
    let _here = Here(HERE.replace(true));
    call.poll(&mut Context::from_waker(Waker::noop()))
}

/// Goes on at once, but not inside [`poll_here`].
pub(crate) async fn elsewhere() {
    poll_fn(|context| match HERE.get() {
        true => {
            // What polls several calls polls those again that were woken.
            context.waker().wake_by_ref();
            Poll::Pending
        }
        false => Poll::Ready(()),
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{FutureExt, StreamExt, stream};

    use super::*;

    #[test]
    fn what_needs_others_is_begun_by_whoever_polls_next() {
        let mut begun = 0;
        {
            let mut call = pin!(async {
                elsewhere().await;
                begun += 1;
            });
            assert_eq!(poll_here(call.as_mut()), Poll::Pending);
            assert_eq!(call.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()));
        }
        assert_eq!(begun, 1);
        assert_eq!(poll_here(pin!(async { 7 })), Poll::Ready(7));
    }

    #[test]
    fn calls_that_are_polled_together_go_on() {
        let one = |number: usize| async move {
            elsewhere().await;
            number
        };
        let mut calls = pin!(stream::iter(0..20).map(one).buffered(8).collect::<Vec<_>>());
        assert_eq!(poll_here(calls.as_mut()), Poll::Pending);
        assert_eq!(calls.now_or_never().unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_does_not_stay() {
        let panicked = std::panic::catch_unwind(|| poll_here(pin!(async { panic!("in a call") })));
        assert!(panicked.is_err() && !HERE.get());
    }
}
