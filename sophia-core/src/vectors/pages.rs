//! Large pages for what a search reads here and there, where the system has them: each way to memory is shorter by the look-up of
//! where a page is, which on a virtual machine is a third of it.

/// Least size that is worth it: a page is 2 MB, and the last one is seldom full.
#[cfg(target_os = "linux")]
const MIN_BYTES: usize = 4 << 20;
#[cfg(target_os = "linux")]
const SMALL_PAGE_BYTES: usize = 4_096;

/// Makes room for exactly so many items more.
pub(crate) fn reserve<T>(items: &mut Vec<T>, more: usize) {
    items.reserve_exact(more);
    ask_for_large(items);
}

/// Makes room for so many items more, for at least as many again as there are if there was none.
pub(crate) fn grow<T>(items: &mut Vec<T>, more: usize) {
    if items.capacity() - items.len() < more {
        reserve(items, more.max(items.len()));
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large<T>(_: &Vec<T>) {}

/// A request: where the system does not hear it, pages stay as small as they are.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "advice about memory that is owned here; it changes no byte of it")]
fn ask_for_large<T>(items: &Vec<T>) {
    let bytes = items.capacity() * size_of::<T>();
    if bytes < MIN_BYTES {
        return;
    }
    let start = items.as_ptr() as *mut u8;
    let before = start.align_offset(SMALL_PAGE_BYTES);
    let length = (bytes - before) / SMALL_PAGE_BYTES * SMALL_PAGE_BYTES;
    // SAFETY: all of these pages lie within what `items` holds, and the advice leaves their contents alone.
    let _ = unsafe { rustix::mm::madvise(start.add(before).cast(), length, rustix::mm::Advice::LinuxHugepage) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_as_it_grows() {
        let mut items: Vec<u32> = Vec::new();
        for item in 0..5_000_000 {
            grow(&mut items, 1);
            items.push(item);
        }
        assert!(items.iter().copied().eq(0..5_000_000));
        assert!(items.capacity() < 3 * items.len());
        reserve(&mut items, 10);
        assert!(items.capacity() >= items.len() + 10);
    }
}
