//! What shares of GPUs, and the gaps that they leave, are worth.

use super::machine::WHOLE;

/// Sizes that are priced; rarer ones are worth what fits into them.
const MAX_SIZES: usize = 32;
/// Bound on the exchanges of patterns. A few dozen are usual.
const MAX_ROUNDS: usize = 300;
const SLOTS: usize = WHOLE as usize + 1;

/// Prices of shares by size, and values of gaps, in thousandths of a GPU.
///
/// Packing shares into the fewest GPUs is bin packing. Its linear relaxation has a variable for each way of filling a
/// GPU (a pattern) and a row for each size; the dual prices of the rows say what part of a GPU one more share of the size
/// really uses. A size that only ever fills gaps that are there anyhow is worth nothing, one that leaves a gap nobody
/// fills is worth a whole GPU. A gap is worth the dearest set of shares that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharePrices {
    /// By size: what a gap of that size is worth.
    value: Vec<u16>,
    /// Priced sizes, ascending, and their prices.
    prices: Vec<(u16, u16)>,
}

impl Default for SharePrices {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl SharePrices {
    /// Prices for shares that come in these sizes (below [`WHOLE`], each once) this often.
    #[must_use]
    pub fn new(demand: &[(u16, u64)]) -> Self {
        let mut demand: Vec<(u16, u64)> =
            demand.iter().copied().filter(|(size, weight)| (1..WHOLE).contains(size) && *weight > 0).collect();
        // The most used sizes by mass, then by size.
        demand.sort_unstable_by_key(|(size, weight)| (std::cmp::Reverse(u64::from(*size) * weight), *size));
        demand.truncate(MAX_SIZES);
        demand.sort_unstable();
        let prices: Vec<(u16, u16)> = demand.iter().map(|(size, _)| *size).zip(shadow_prices(&demand)).collect();
        let mut value = vec![0_u16; SLOTS];
        for gap in 1..SLOTS {
            let fill = prices.iter().filter_map(|(size, price)| {
                let rest = gap.checked_sub(usize::from(*size))?;
                Some(value.get(rest)?.saturating_add(*price))
            });
            let best = fill.max().unwrap_or(0).max(value.get(gap - 1).copied().unwrap_or(0));
            if let Some(value) = value.get_mut(gap) {
                *value = best.min(WHOLE);
            }
        }
        // A whole GPU is a whole GPU, even where shares would not fill it.
        if let Some(value) = value.last_mut() {
            *value = WHOLE;
        }
        Self { value, prices }
    }

    /// What one share of this size is worth.
    #[must_use]
    pub fn price(&self, size: u16) -> u16 {
        match self.prices.binary_search_by_key(&size, |(size, _)| *size) {
            Ok(at) => self.prices.get(at).map_or(0, |(_, price)| *price),
            Err(_) => self.value(size),
        }
    }

    /// What a gap of this size is worth.
    #[must_use]
    pub fn value(&self, gap: u16) -> u16 {
        self.value.get(usize::from(gap)).copied().unwrap_or(WHOLE)
    }

    /// What is lost when a share goes into a gap that it fits in: 0 where there is no better use for the gap.
    #[must_use]
    pub fn spoils(&self, gap: u16, size: u16) -> u16 {
        self.value(gap).saturating_sub(self.value(gap.saturating_sub(size))).saturating_sub(self.price(size))
    }
}

/// The dual prices of the packing, by column generation with a dense inverse of the basis.
fn shadow_prices(demand: &[(u16, u64)]) -> Vec<u16> {
    let rows = demand.len();
    // The first basis: of each size as many as go into a GPU, and nothing else.
    let mut inverse: Vec<Vec<f64>> = demand
        .iter()
        .enumerate()
        .map(|(row, (size, _))| {
            (0..rows).map(|at| if at == row { 1.0 / f64::from(WHOLE / size) } else { 0.0 }).collect()
        })
        .collect();
    let mut amounts: Vec<f64> = inverse.iter().map(|row| times_demand(row, demand)).collect();
    for _ in 0..MAX_ROUNDS {
        let prices = column_sums(&inverse, rows);
        let Some(pattern) = better_pattern(demand, &prices) else { break };
        let column: Vec<f64> = inverse.iter().map(|row| row.iter().zip(&pattern).map(|(a, b)| a * b).sum()).collect();
        // The pattern that is used up first leaves; of equal ones the first.
        let mut leaving: Option<(usize, f64)> = None;
        for (at, (amount, use_of)) in amounts.iter().zip(&column).enumerate() {
            if *use_of > 1e-9 && leaving.is_none_or(|(_, least)| amount / use_of < least - 1e-12) {
                leaving = Some((at, amount / use_of));
            }
        }
        let Some((leaving, _)) = leaving else { break };
        exchange(&mut inverse, &column, leaving);
        amounts = inverse.iter().map(|row| times_demand(row, demand).max(0.0)).collect();
    }
    column_sums(&inverse, rows)
        .into_iter()
        .map(|price| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
            let milli = (price.clamp(0.0, 1.0) * f64::from(WHOLE)).round() as u16;
            milli
        })
        .collect()
}

fn times_demand(row: &[f64], demand: &[(u16, u64)]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "weights are far below 2^52")]
    row.iter().zip(demand).map(|(a, (_, weight))| a * *weight as f64).sum()
}

fn column_sums(inverse: &[Vec<f64>], rows: usize) -> Vec<f64> {
    let mut sums = vec![0.0; rows];
    for row in inverse {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
    sums
}

/// A way of filling a GPU that is worth more than a GPU at these prices: how many of each size.
fn better_pattern(demand: &[(u16, u64)], prices: &[f64]) -> Option<Vec<f64>> {
    let mut best = vec![0.0_f64; SLOTS];
    let mut last: Vec<Option<usize>> = vec![None; SLOTS];
    for gap in 1..SLOTS {
        let (mut value, mut chosen) = (best.get(gap - 1).copied().unwrap_or(0.0), None);
        for (at, ((size, _), price)) in demand.iter().zip(prices).enumerate() {
            if let Some(rest) = gap.checked_sub(usize::from(*size))
                && let Some(filled) = best.get(rest)
                && filled + price > value + 1e-12
            {
                (value, chosen) = (filled + price, Some(at));
            }
        }
        if let (Some(best), Some(last)) = (best.get_mut(gap), last.get_mut(gap)) {
            (*best, *last) = (value, chosen);
        }
    }
    if best.last().is_none_or(|value| *value <= 1.0 + 1e-7) {
        return None;
    }
    let mut pattern = vec![0.0; demand.len()];
    let mut gap = SLOTS - 1;
    while gap > 0 {
        match last.get(gap).copied().flatten() {
            None => gap -= 1,
            Some(at) => {
                if let (Some(count), Some((size, _))) = (pattern.get_mut(at), demand.get(at)) {
                    *count += 1.0;
                    gap -= usize::from(*size);
                }
            }
        }
    }
    Some(pattern)
}

/// Replaces one column of the basis: the usual elimination on its inverse.
fn exchange(inverse: &mut [Vec<f64>], column: &[f64], leaving: usize) {
    let (Some(pivot), Some(mut row)) = (column.get(leaving).copied(), inverse.get(leaving).cloned()) else { return };
    for value in &mut row {
        *value /= pivot;
    }
    for (at, (other, factor)) in inverse.iter_mut().zip(column).enumerate() {
        if at == leaving {
            other.clone_from(&row);
        } else if factor.abs() > 0.0 {
            for (value, pivot_value) in other.iter_mut().zip(&row) {
                *value -= factor * pivot_value;
            }
        }
    }
}
