//! Dot products of one vector of bytes with many: the loop that a search spends its time in.
//!
//! The fastest kernel that the processor has is chosen once, at run time. Each gives the very numbers of the scalar one. Bytes
//! are from -127 to 127, as [`quantize`] makes them.
#![allow(unsafe_code, reason = "SIMD intrinsics; each kernel is tested against the scalar one")]

use std::sync::OnceLock;

/// Writes the dot product of `query` with each row: `rows` holds `out.len()` rows of `query.len()` bytes.
type Kernel = fn(query: &[i8], rows: &[i8], out: &mut [i32]);

/// Longest vector whose dot product cannot overflow 32 bits, in any order of adding.
pub(crate) const MAX_DIMENSIONS: usize = i32::MAX as usize / (128 * 255);

/// Writes the dot product of `query` with each row of `rows`, one after the other, into `out`.
pub(crate) fn dots(query: &[i8], rows: &[i8], out: &mut [i32]) {
    assert!(query.len() <= MAX_DIMENSIONS && rows.len() == query.len() * out.len());
    static BEST: OnceLock<Kernel> = OnceLock::new();
    BEST.get_or_init(|| kernels().pop().map_or(scalar as Kernel, |(_, kernel)| kernel))(query, rows, out);
}

/// Counts the bits in which `query` differs from each row of `rows`, one after the other, into `out`.
pub(crate) fn distances(query: &[u64], rows: &[u64], out: &mut [u32]) {
    assert!(rows.len() == query.len() * out.len());
    type Distances = fn(&[u64], &[u64], &mut [u32]);
    static BEST: OnceLock<Distances> = OnceLock::new();
    BEST.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vpopcntdq") {
            return x86::distances_vpopcntdq;
        } else if is_x86_feature_detected!("popcnt") {
            return x86::distances_popcnt;
        }
        scalar_distances
    })(query, rows, out);
}

/// Scales a vector to bytes; its values are the bytes times the scale, which is 0 for the vector of zeros.
pub(crate) fn quantize(vector: &[f32]) -> (Vec<i8>, f32) {
    let greatest = vector.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    if greatest == 0.0 {
        return (vec![0; vector.len()], 0.0);
    }
    let scale = greatest / f32::from(i8::MAX);
    (vector.iter().map(|value| (value / scale).round() as i8).collect(), scale)
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

fn scalar(query: &[i8], rows: &[i8], out: &mut [i32]) {
    if query.is_empty() {
        out.fill(0);
        return;
    }
    for (row, out) in rows.chunks_exact(query.len()).zip(out) {
        *out = dot(query, row);
    }
}

fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}

#[inline(always)]
fn scalar_distances(query: &[u64], rows: &[u64], out: &mut [u32]) {
    if query.is_empty() {
        out.fill(0);
        return;
    }
    for (row, out) in rows.chunks_exact(query.len()).zip(out) {
        *out = query.iter().zip(row).map(|(a, b)| (a ^ b).count_ones()).sum();
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{dot, scalar_distances};

    /// Needs AVX2; only [`super::kernels`] hands it out.
    pub(super) fn avx2(query: &[i8], rows: &[i8], out: &mut [i32]) {
        // SAFETY: handed out after AVX2 was found on this processor.
        unsafe { avx2_rows(query, rows, out) }
    }

    /// Needs AVX-512 BW and VNNI; only [`super::kernels`] hands it out.
    pub(super) fn avx512_vnni(query: &[i8], rows: &[i8], out: &mut [i32]) {
        // SAFETY: handed out after AVX-512 BW and VNNI, and with them F, were found on this processor.
        unsafe { avx512_vnni_rows(query, rows, out) }
    }

    /// Needs POPCNT; only [`super::distances`] hands it out.
    pub(super) fn distances_popcnt(query: &[u64], rows: &[u64], out: &mut [u32]) {
        #[target_feature(enable = "popcnt")]
        fn counted(query: &[u64], rows: &[u64], out: &mut [u32]) {
            scalar_distances(query, rows, out);
        }
        // SAFETY: handed out after POPCNT was found on this processor.
        unsafe { counted(query, rows, out) }
    }

    /// Needs AVX-512 VL and VPOPCNTDQ; only [`super::distances`] hands it out.
    pub(super) fn distances_vpopcntdq(query: &[u64], rows: &[u64], out: &mut [u32]) {
        #[target_feature(enable = "avx512f,avx512vl,avx512vpopcntdq,popcnt")]
        fn counted(query: &[u64], rows: &[u64], out: &mut [u32]) {
            scalar_distances(query, rows, out);
        }
        // SAFETY: handed out after AVX-512 VL, and with it F, and VPOPCNTDQ were found; all these processors have POPCNT.
        unsafe { counted(query, rows, out) }
    }

    #[target_feature(enable = "avx2")]
    fn avx2_rows(query: &[i8], rows: &[i8], out: &mut [i32]) {
        const LANES: usize = 32;
        if query.is_empty() {
            out.fill(0);
            return;
        }
        let whole = query.len() / LANES * LANES;
        let ones = _mm256_set1_epi16(1);
        for (row, out) in rows.chunks_exact(query.len()).zip(out) {
            let mut sum = _mm256_setzero_si256();
            for at in (0..whole).step_by(LANES) {
                // SAFETY: both slices are at least `at + LANES` bytes long, and loads may be unaligned.
                let (a, b) = unsafe {
                    (_mm256_loadu_si256(query.as_ptr().add(at).cast()), _mm256_loadu_si256(row.as_ptr().add(at).cast()))
                };
                // The instruction multiplies unsigned with signed bytes: the sign of the one goes to the other. Two products
                // of at most 127² fit 16 bits; then they are added in pairs to 32.
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
            }
            let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
            let one = _mm_add_epi32(pair, _mm_shuffle_epi32::<0b00_00_00_01>(pair));
            *out = _mm_cvtsi128_si32(one) + dot(&query[whole..], &row[whole..]);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn avx512_vnni_rows(query: &[i8], rows: &[i8], out: &mut [i32]) {
        const LANES: usize = 64;
        if query.is_empty() {
            out.fill(0);
            return;
        }
        let whole = query.len() / LANES * LANES;
        // The instruction multiplies unsigned with signed bytes: the query is raised by 128, and 128 times the sum of the
        // row taken off again.
        let raise = _mm512_set1_epi8(i8::MIN);
        for (row, out) in rows.chunks_exact(query.len()).zip(out) {
            let (mut products, mut raised) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            for at in (0..whole).step_by(LANES) {
                // SAFETY: both slices are at least `at + LANES` bytes long, and loads may be unaligned.
                let (a, b) = unsafe {
                    (_mm512_loadu_si512(query.as_ptr().add(at).cast()), _mm512_loadu_si512(row.as_ptr().add(at).cast()))
                };
                products = _mm512_dpbusd_epi32(products, _mm512_xor_si512(a, raise), b);
                raised = _mm512_dpbusd_epi32(raised, raise, b);
            }
            *out = _mm512_reduce_add_epi32(_mm512_sub_epi32(products, raised)) + dot(&query[whole..], &row[whole..]);
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::dot;

    /// Every processor of this architecture has NEON.
    pub(super) fn neon(query: &[i8], rows: &[i8], out: &mut [i32]) {
        const LANES: usize = 16;
        if query.is_empty() {
            out.fill(0);
            return;
        }
        let whole = query.len() / LANES * LANES;
        for (row, out) in rows.chunks_exact(query.len()).zip(out) {
            // SAFETY: NEON is part of the architecture; both slices are at least `at + LANES` bytes long.
            let sum = unsafe {
                let mut sum = vdupq_n_s32(0);
                for at in (0..whole).step_by(LANES) {
                    let (a, b) = (vld1q_s8(query.as_ptr().add(at)), vld1q_s8(row.as_ptr().add(at)));
                    sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
                    sum = vpadalq_s16(sum, vmull_high_s8(a, b));
                }
                vaddvq_s32(sum)
            };
            *out = sum + dot(&query[whole..], &row[whole..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_kernel_gives_the_numbers_of_the_scalar_one(
            (dimensions, bytes) in (0_usize..400).prop_flat_map(|dimensions| {
                (Just(dimensions), proptest::collection::vec(-i8::MAX..=i8::MAX, dimensions * 4..=dimensions * 4))
            }),
        ) {
            let (query, rows) = bytes.split_at(dimensions);
            let mut expected = [1; 3];
            scalar(query, rows, &mut expected);
            for (name, kernel) in kernels() {
                let mut found = [2; 3];
                kernel(query, rows, &mut found);
                prop_assert_eq!(found, expected, "{}", name);
            }
        }

        #[test]
        fn differing_bits_are_counted(words in proptest::collection::vec(any::<u64>(), 20..=20)) {
            let (query, rows) = words.split_at(4);
            let (mut expected, mut found) = ([1; 4], [2; 4]);
            scalar_distances(query, rows, &mut expected);
            distances(query, rows, &mut found);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_greatest_values_do_not_overflow() {
        for (name, kernel) in kernels() {
            for (a, b) in [(-i8::MAX, -i8::MAX), (i8::MAX, -i8::MAX), (i8::MAX, i8::MAX)] {
                let mut out = [0];
                kernel(&vec![a; MAX_DIMENSIONS], &vec![b; MAX_DIMENSIONS], &mut out);
                assert_eq!(out[0], i32::from(a) * i32::from(b) * MAX_DIMENSIONS as i32, "{name}");
            }
        }
    }
}
