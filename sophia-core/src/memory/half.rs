//! Values of a vector in half precision: IEEE 754 binary16, little endian.

/// Writes values in half precision.
pub(crate) fn encode(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| to_half(*value).to_le_bytes()).collect()
}

/// Reads values that [`encode`] wrote.
pub(crate) fn decode(bytes: &[u8]) -> Vec<f32> {
    values(bytes).collect()
}

/// Reads the values one by one.
pub(crate) fn values(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(2).map(|half| from_half(u16::from_le_bytes([half[0], half[1]])))
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
    if half & 0x8000 == 0 { magnitude } else { -magnitude }
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
}
