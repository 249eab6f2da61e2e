//! "Did you mean": the nearest of the known names.

/// The candidate nearest to `wrong`, if one is near enough to be a likely slip.
///
/// Case-insensitive equality wins; otherwise Damerau–Levenshtein distance of at most a third of the length (at least one),
/// and less than the length of the longer one: a word of which nothing is left is no slip.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wrong.to_lowercase();
    let length = wrong.chars().count();
    let allowed = (length / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != wrong)
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < length.max(candidate.chars().count()))
        .min_by(|a, b| a.0.cmp(&b.0).then(a.1.cmp(b.1)))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_slips_and_leaves_strangers() {
        assert_eq!(nearest("amout", ["amount", "card"]), Some("amount"));
        assert_eq!(nearest("Amount", ["amount", "card"]), Some("amount"));
        assert_eq!(nearest("zebra", ["amount", "card"]), None);
        assert_eq!(nearest("x", ["a", "b"]), None);
        assert_eq!(nearest("X", ["a", "x"]), Some("x"));
    }
}
