//! A set of places, a bit each: what a scan asks of thousands of rows without a way to memory for each.

#[derive(Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

const WORD: usize = u64::BITS as usize;

impl Bits {
    pub fn has(&self, place: usize) -> bool {
        self.0.get(place / WORD).is_some_and(|word| word >> (place % WORD) & 1 == 1)
    }

    pub fn set(&mut self, place: usize, is_in: bool) {
        if self.0.len() <= place / WORD {
            self.0.resize(place / WORD + 1, 0);
        }
        let (word, bit) = (&mut self.0[place / WORD], 1 << (place % WORD));
        if is_in { *word |= bit } else { *word &= !bit }
    }

    /// Makes room at a place, where all from there on move up by one.
    pub fn insert(&mut self, place: usize, is_in: bool) {
        let (word, below) = (place / WORD, (1_u64 << (place % WORD)) - 1);
        if word < self.0.len() {
            if self.0.last().is_some_and(|last| last >> (WORD - 1) == 1) {
                self.0.push(0);
            }
            for at in (word + 1..self.0.len()).rev() {
                self.0[at] = self.0[at] << 1 | self.0[at - 1] >> (WORD - 1);
            }
            self.0[word] = self.0[word] & below | (self.0[word] & !below) << 1;
        }
        self.set(place, is_in);
    }

    /// Leaves the places below `count`.
    pub fn truncate(&mut self, count: usize) {
        self.0.truncate(count.div_ceil(WORD));
        if let Some(last) = self.0.get_mut(count / WORD) {
            *last &= (1 << (count % WORD)) - 1;
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Goes through the places in ascending order.
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let of_word = |(number, word): (usize, &u64)| {
            let next = |left: &u64| Some(left & (left - 1)).filter(|left| *left != 0);
            let bits = std::iter::successors(Some(*word).filter(|word| *word != 0), next);
            bits.map(move |left| number * WORD + left.trailing_zeros() as usize)
        };
        self.0.iter().enumerate().flat_map(of_word)
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_list_of_truths(steps in proptest::collection::vec((0_usize..300, any::<bool>(), 0_u8..8), 0..400)) {
            let (mut bits, mut list) = (Bits::default(), Vec::<bool>::new());
            for (place, is_in, step) in steps {
                let place = place.min(list.len());
                match step {
                    0 if place < list.len() => {
                        bits.set(place, is_in);
                        list[place] = is_in;
                    }
                    1 => {
                        bits.truncate(place);
                        list.truncate(place);
                    }
                    _ => {
                        bits.insert(place, is_in);
                        list.insert(place, is_in);
                    }
                }
            }
            let places: Vec<usize> = (0..list.len()).filter(|place| list[*place]).collect();
            prop_assert_eq!(bits.places().collect::<Vec<_>>(), &places[..]);
            prop_assert_eq!(bits.count(), places.len());
            prop_assert!((0..400).all(|place| bits.has(place) == list.get(place).copied().unwrap_or(false)));
        }
    }
}
