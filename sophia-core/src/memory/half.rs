//! Values of a vector in half precision: IEEE 754 binary16, little endian.

/// Writes values in half precision.
pub(crate) fn encode(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| to_half(*value).to_le_bytes()).collect()
}

/// Reads values that [`encode`] wrote.
pub(crate) fn decode(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|half| from_half(u16::from_le_bytes(*half))).collect()
}

/// Returns the dot product of values that [`encode`] wrote with others; what one of them has more is left out.
pub(crate) fn dot(bytes: &[u8], other: &[f32]) -> f32 {
    /// Sums side by side, so that the compiler adds several at once.
    const LANES: usize = 8;
    let (halves, _) = bytes.as_chunks::<2>();
    let count = halves.len().min(other.len());
    let (halves, other) = (&halves[..count], &other[..count]);
    let products = |halves: &[[u8; 2]], other: &[f32], sums: &mut [f32]| {
        for ((half, other), sum) in halves.iter().zip(other).zip(sums) {
            *sum += from_half(u16::from_le_bytes(*half)) * other;
        }
    };
    let mut sums = [0.0; LANES];
    let (wholes, rest) = halves.as_chunks::<LANES>();
    let (other_wholes, other_rest) = other.as_chunks::<LANES>();
    for (halves, other) in wholes.iter().zip(other_wholes) {
        products(halves, other, &mut sums);
    }
    products(rest, other_rest, &mut sums);
    sums.iter().sum()
}

/// Returns whether one of the values that [`encode`] wrote is not zero.
pub(crate) fn has_direction(bytes: &[u8]) -> bool {
    bytes.as_chunks().0.iter().any(|half| u16::from_le_bytes(*half) & 0x7fff != 0)
}

/// Rounds to the nearest; values of a vector of length one never overflow it.
pub(crate) fn to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    // Multiplying by 2^-112 puts the exponent where a half has it; subnormals come out by the way.
    let scaled = (magnitude * f32::from_bits(0x0780_0000)).to_bits();
    let rounded = scaled + 0x0fff + ((scaled >> 13) & 1);
    sign | (rounded >> 13).min(0x7c00) as u16
}

/// Returns what a number stands for; those of vectors are finite.
pub(crate) fn from_half(half: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    // No branch: signs come as they like.
    f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_keeps_three_digits() {
        for value in [0.0, 1.0, -1.0, 0.5, 0.333_333, -0.062_5, 0.001, 0.000_06, -0.000_000_06] {
            let back = from_half(to_half(value));
            assert!((back - value).abs() <= value.abs() * 0.000_5 + 0.000_000_06, "{value} became {back}");
        }
    }

    #[test]
    fn a_dot_product_is_of_all_values() {
        for count in [0_usize, 1, 7, 8, 9, 256] {
            let values: Vec<f32> = (0..count).map(|place| place as f32 - 3.0).collect();
            let other: Vec<f32> = (0..count).map(|place| (place % 5) as f32 - 2.0).collect();
            let expected: f32 = values.iter().zip(&other).map(|(a, b)| a * b).sum();
            assert_eq!(dot(&encode(&values), &other), expected, "{count}");
        }
        assert_eq!(dot(&encode(&[2.0; 9]), &[1.0; 17]), 18.0);
    }
}
