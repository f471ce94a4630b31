//! Weights of clusters and of their endpoints, as one weight for each endpoint. Pure arithmetic.

use crate::source::limits::MAX_WEIGHT;

/// For each cluster its share and its endpoints' weights: the weights of all endpoints in a row, of at most [`MAX_WEIGHT`], in
/// proportion to share × weight ÷ sum of the cluster's weights. Exact where that can be said in numbers that small. A weight above zero
/// stays above zero.
pub(super) fn weights(clusters: &[(u32, Vec<u32>)]) -> Vec<u16> {
    let sum = |weights: &[u32]| weights.iter().map(|weight| u128::from(*weight)).sum::<u128>();
    let sums: Vec<u128> = clusters.iter().map(|(_, weights)| sum(weights)).collect();
    // A common multiple of all sums makes every quotient whole; when it grows too large, a rounded one will do.
    let common = match clusters {
        [_one] => None,
        _ => Some(common_multiple(&sums)),
    };
    let wanted: Vec<u128> = clusters
        .iter()
        .zip(&sums)
        .flat_map(|((share, weights), sum)| {
            weights.iter().map(move |weight| {
                let weight = u128::from(*weight);
                match common {
                    None => weight,
                    Some(common) => u128::from(*share) * weight * (common / (*sum).max(1)),
                }
            })
        })
        .collect();
    scale(&wanted)
}

/// Shares and weights are below 2^32 each: with this bound no product overflows.
const LARGEST_MULTIPLE: u128 = 1 << 60;

fn common_multiple(numbers: &[u128]) -> u128 {
    let mut multiple: u128 = 1;
    for number in numbers.iter().filter(|number| **number > 0) {
        let next = multiple / greatest_common_divisor(multiple, *number) * number;
        if next > LARGEST_MULTIPLE {
            return LARGEST_MULTIPLE;
        }
        multiple = next;
    }
    multiple
}

fn greatest_common_divisor(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn scale(wanted: &[u128]) -> Vec<u16> {
    let largest = wanted.iter().copied().max().unwrap_or(0);
    let limit = u128::from(MAX_WEIGHT);
    if largest <= limit {
        return wanted.iter().map(|weight| small(*weight)).collect();
    }
    let divisor = wanted.iter().copied().fold(0, greatest_common_divisor).max(1);
    let largest = largest / divisor;
    let one = |weight: u128| {
        let weight = weight / divisor;
        if weight == 0 || largest <= limit {
            weight
        } else {
            (weight / (largest / limit + 1)).max(1)
        }
    };
    wanted.iter().map(|weight| small(one(*weight))).collect()
}

fn small(weight: u128) -> u16 {
    u16::try_from(weight).unwrap_or(MAX_WEIGHT).min(MAX_WEIGHT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_cluster_keeps_its_weights() {
        assert_eq!(weights(&[(7, vec![1, 3, 0, 256])]), [1, 3, 0, 256]);
        assert_eq!(weights(&[(7, vec![1_000, 500, 0])]), [2, 1, 0]);
        assert!(weights(&[(1, Vec::new())]).is_empty());
    }

    #[test]
    fn shares_are_of_clusters_however_many_endpoints_they_have() {
        // 90 % to one endpoint, 10 % to three.
        assert_eq!(weights(&[(90, vec![1]), (10, vec![1, 1, 1])]), [27, 1, 1, 1]);
        assert_eq!(weights(&[(1, vec![1, 1]), (1, Vec::new())]), [1, 1]);
        assert_eq!(weights(&[(1, vec![0]), (1, vec![5])]), [0, 5]);
    }

    proptest! {
        #[test]
        fn weights_are_in_proportion(
            clusters in prop::collection::vec((1_u32..100, prop::collection::vec(0_u32..20, 1..5)), 2..4),
        ) {
            let result = weights(&clusters);
            let mut wanted = Vec::new();
            for (share, weights) in &clusters {
                let sum: u32 = weights.iter().sum();
                wanted.extend(weights.iter().map(|w| f64::from(*share) * f64::from(*w) / f64::from(sum.max(1))));
            }
            prop_assert_eq!(result.len(), wanted.len());
            for (a, wa) in result.iter().zip(&wanted) {
                prop_assert_eq!(*a == 0, *wa == 0.0);
            }
            let (total, all) = (result.iter().map(|w| f64::from(*w)).sum::<f64>(), wanted.iter().sum::<f64>());
            if all > 0.0 {
                for (got, want) in result.iter().zip(&wanted) {
                    prop_assert!((f64::from(*got) / total - want / all).abs() < 0.05, "{result:?} {wanted:?}");
                }
            }
        }

        #[test]
        fn nothing_overflows(clusters in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u32>(), 0..5)), 0..5)) {
            let total: usize = clusters.iter().map(|(_, weights)| weights.len()).sum();
            prop_assert_eq!(weights(&clusters).len(), total);
        }
    }
}
