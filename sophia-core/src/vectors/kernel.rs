//! Dot products of one vector with many whose values are halves of bytes: the loop that a search spends its time in.
//!
//! The fastest kernel that the processor has is chosen once, at run time. Each gives the very numbers of the scalar one.
#![allow(unsafe_code, reason = "SIMD intrinsics; each kernel is tested against the scalar one")]

use std::sync::OnceLock;

/// Writes the dot product of `query` with each row: a byte of a row holds a value 0 to 15 in its lower four bits, for the
/// first slice of the query, and one in its upper four, for the second slice. `rows` holds `out.len()` rows.
type Kernel = fn(query: [&[i8]; 2], rows: &[u8], out: &mut [i32]);

/// Longest row, in bytes, for which no sum overflows 32 bits, also where two of them are put together.
pub(crate) const MAX_WIDTH: usize = i32::MAX as usize / (128 * 255) / 2;

/// Writes the dot product of `query` with each row of `rows`, one after the other, into `out`. The values of the query are
/// from -127 to 127, those of the rows as [`Kernel`] says.
pub(crate) fn dots(query: [&[i8]; 2], rows: &[u8], out: &mut [i32]) {
    let width = query[0].len();
    assert!(width <= MAX_WIDTH && query[1].len() == width && rows.len() == width * out.len());
    if width == 0 {
        out.fill(0);
        return;
    }
    static BEST: OnceLock<Kernel> = OnceLock::new();
    BEST.get_or_init(|| kernels().pop().map_or(scalar as Kernel, |(_, kernel)| kernel))(query, rows, out);
}

/// Asks memory for bytes that are read soon: many ways to it then go side by side.
pub(crate) fn ask_for(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        /// What comes from memory at once.
        const LINE: usize = 64;
        for line in bytes.chunks(LINE) {
            // SAFETY: every processor of this architecture has SSE, and what is asked for is never read here.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Returns the kernels that this processor can run, the fastest last.
fn kernels() -> Vec<(&'static str, Kernel)> {
    #[allow(unused_mut, reason = "other processors have the scalar one only")]
    let mut kernels: Vec<(&'static str, Kernel)> = vec![("scalar", scalar)];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") {
            kernels.push(("avx2", x86::avx2));
        }
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni") {
            kernels.push(("avx512-vnni", x86::avx512_vnni));
        }
    }
    #[cfg(target_arch = "aarch64")]
    kernels.push(("neon", arm::neon));
    kernels
}

fn scalar(query: [&[i8]; 2], rows: &[u8], out: &mut [i32]) {
    for (row, out) in rows.chunks_exact(query[0].len()).zip(out) {
        *out = dot(query, row, 0);
    }
}

/// Returns the dot product from a byte on.
fn dot(query: [&[i8]; 2], row: &[u8], from: usize) -> i32 {
    let pairs = query[0][from..].iter().zip(&query[1][from..]);
    let products = |((first, second), byte): ((&i8, &i8), &u8)| {
        i32::from(*first) * i32::from(byte & 0x0f) + i32::from(*second) * i32::from(byte >> 4)
    };
    pairs.zip(&row[from..]).map(products).sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::dot;

    /// Needs AVX2; only [`super::kernels`] hands it out.
    pub(super) fn avx2(query: [&[i8]; 2], rows: &[u8], out: &mut [i32]) {
        // SAFETY: handed out after AVX2 was found on this processor.
        unsafe { avx2_rows(query, rows, out) }
    }

    /// Needs AVX-512 BW and VNNI; only [`super::kernels`] hands it out.
    pub(super) fn avx512_vnni(query: [&[i8]; 2], rows: &[u8], out: &mut [i32]) {
        // SAFETY: handed out after AVX-512 BW and VNNI, and with them F, were found on this processor.
        unsafe { avx512_vnni_rows(query, rows, out) }
    }

    #[target_feature(enable = "avx2")]
    fn avx2_rows(query: [&[i8]; 2], rows: &[u8], out: &mut [i32]) {
        let width = query[0].len();
        // Four at a time: the query is read once for them, and their sums are put together at once.
        let (fours, left) = out.as_chunks_mut::<4>();
        let (of_fours, of_left) = rows.split_at(fours.len() * 4 * width);
        for (rows, out) in of_fours.chunks_exact(4 * width).zip(fours) {
            let four = avx2_add_up(avx2_sums(query, rows));
            // SAFETY: `out` has room for four numbers.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), four) };
        }
        let none = _mm256_setzero_si256();
        for (row, out) in of_left.chunks_exact(width).zip(left) {
            let [sum] = avx2_sums(query, row);
            *out = _mm_cvtsi128_si32(avx2_add_up([sum, none, none, none]));
        }
        let whole = width / AVX2_LANES * AVX2_LANES;
        if whole < width {
            for (row, out) in rows.chunks_exact(width).zip(out) {
                *out += dot(query, row, whole);
            }
        }
    }

    /// Bytes of a row that are compared at once.
    const AVX2_LANES: usize = 32;
    /// How far ahead of what is compared memory is asked for, in bytes: the processor's own guess ends with each small page.
    const AHEAD: usize = 2_048;

    /// Adds up the numbers of each sum.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn avx2_add_up(sums: [__m256i; 4]) -> __m128i {
        let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
        _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs))
    }

    /// Returns for each row numbers that add up to its dot product, but for the bytes at its end that are less than a register.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn avx2_sums<const ROWS: usize>(query: [&[i8]; 2], rows: &[u8]) -> [__m256i; ROWS] {
        // A lane takes four products of at most 15 · 127 from each: so many fit 16 bits.
        const FEW: usize = 4 * AVX2_LANES;
        let [first, second] = query;
        let width = first.len();
        let whole = width / AVX2_LANES * AVX2_LANES;
        assert!(second.len() == width && rows.len() == ROWS * width);
        let (half, ones) = (_mm256_set1_epi8(0x0f), _mm256_set1_epi16(1));
        let mut sums = [_mm256_setzero_si256(); ROWS];
        for from in (0..whole).step_by(FEW) {
            let mut few = [_mm256_setzero_si256(); ROWS];
            for at in (from..whole.min(from + FEW)).step_by(AVX2_LANES) {
                // SAFETY: both slices are at least `at + AVX2_LANES` bytes long, and loads may be unaligned.
                let (a, b) = unsafe {
                    (
                        _mm256_loadu_si256(first.as_ptr().add(at).cast()),
                        _mm256_loadu_si256(second.as_ptr().add(at).cast()),
                    )
                };
                for (row, few) in few.iter_mut().enumerate() {
                    // SAFETY: there are so many rows of `width` bytes, which is at least `at + AVX2_LANES`.
                    let here = unsafe { rows.as_ptr().add(row * width + at) };
                    _mm_prefetch::<_MM_HINT_T0>(here.wrapping_add(AHEAD).cast());
                    // SAFETY: as above.
                    let bytes = unsafe { _mm256_loadu_si256(here.cast()) };
                    let lower = _mm256_and_si256(bytes, half);
                    let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half);
                    let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(lower, a), _mm256_maddubs_epi16(upper, b));
                    *few = _mm256_add_epi16(*few, pairs);
                }
            }
            for (sum, few) in sums.iter_mut().zip(few) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(few, ones));
            }
        }
        sums
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn avx512_vnni_rows(query: [&[i8]; 2], rows: &[u8], out: &mut [i32]) {
        const LANES: usize = 64;
        let [first, second] = query;
        let whole = first.len() / LANES * LANES;
        let half = _mm512_set1_epi8(0x0f);
        for (row, out) in rows.chunks_exact(first.len()).zip(out) {
            let mut sum = _mm512_setzero_si512();
            for at in (0..whole).step_by(LANES) {
                // SAFETY: all three slices are at least `at + LANES` bytes long, and loads may be unaligned.
                let (a, b, bytes) = unsafe {
                    (
                        _mm512_loadu_si512(first.as_ptr().add(at).cast()),
                        _mm512_loadu_si512(second.as_ptr().add(at).cast()),
                        _mm512_loadu_si512(row.as_ptr().add(at).cast()),
                    )
                };
                sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(bytes, half), a);
                sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), half), b);
            }
            *out = _mm512_reduce_add_epi32(sum) + dot(query, row, whole);
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::dot;

    /// Every processor of this architecture has NEON.
    pub(super) fn neon(query: [&[i8]; 2], rows: &[u8], out: &mut [i32]) {
        const LANES: usize = 16;
        let [first, second] = query;
        let whole = first.len() / LANES * LANES;
        for (row, out) in rows.chunks_exact(first.len()).zip(out) {
            // SAFETY: NEON is part of the architecture; all three slices are at least `at + LANES` bytes long.
            let sum = unsafe {
                let mut sum = vdupq_n_s32(0);
                for at in (0..whole).step_by(LANES) {
                    let bytes = vld1q_u8(row.as_ptr().add(at));
                    let lower = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(0x0f)));
                    let upper = vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes));
                    for (values, query) in [(lower, first), (upper, second)] {
                        let query = vld1q_s8(query.as_ptr().add(at));
                        sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(values), vget_low_s8(query)));
                        sum = vpadalq_s16(sum, vmull_high_s8(values, query));
                    }
                }
                vaddvq_s32(sum)
            };
            *out = sum + dot(query, row, whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// One more than a kernel takes at once, and some more.
    const ROWS: usize = 7;

    proptest! {
        #[test]
        fn every_kernel_gives_the_numbers_of_the_scalar_one(
            (first, second, rows) in (1_usize..400).prop_flat_map(|width| {
                let query = || vec(-i8::MAX..=i8::MAX, width);
                (query(), query(), vec(any::<u8>(), width * ROWS))
            }),
        ) {
            let mut expected = [1; ROWS];
            scalar([&first, &second], &rows, &mut expected);
            for (name, kernel) in kernels() {
                let mut found = [2; ROWS];
                kernel([&first, &second], &rows, &mut found);
                prop_assert_eq!(found, expected, "{}", name);
            }
        }
    }

    #[test]
    fn the_greatest_values_do_not_overflow() {
        for (name, kernel) in kernels() {
            for value in [-i8::MAX, i8::MAX] {
                let (query, mut out) = (vec![value; MAX_WIDTH], [0]);
                kernel([&query, &query], &vec![0xff; MAX_WIDTH], &mut out);
                let expected = i32::from(value) * 15 * 2 * MAX_WIDTH as i32;
                assert_eq!(out[0], expected, "{name}");
                // As the halves of a byte are put together.
                assert!(expected.checked_mul(16).and_then(|upper| upper.checked_add(expected)).is_some());
            }
        }
    }
}
