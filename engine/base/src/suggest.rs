//! "Did you mean": the nearest of the known names.

/// The candidate nearest to `wrong`, if one is near enough to be a likely slip.
///
/// Case-insensitive equality wins; otherwise Damerau–Levenshtein distance of at most a third of the length (at least one),
/// and less than the length of the longer one: a word of which nothing is left is no slip. Of equally near ones, that with
/// the same letters in another order is likelier: `int46` is `int64`.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wrong.to_lowercase();
    let length = wrong.chars().count();
    let allowed = (length / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != wrong)
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < length.max(candidate.chars().count()))
        .min_by_key(|(distance, candidate)| (*distance, letters(candidate) != letters(wrong), *candidate))
        .map(|(_, candidate)| candidate)
}

/// The letters of a word in order.
fn letters(word: &str) -> Vec<char> {
    let mut letters: Vec<char> = word.to_lowercase().chars().collect();
    letters.sort_unstable();
    letters
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
        assert_eq!(nearest("int46", ["int16", "int32", "int64", "int8"]), Some("int64"));
        assert_eq!(nearest("z", ["l", "id"]), None);
        assert_eq!(nearest("", ["b", "id"]), None);
        assert_eq!(nearest("a.i", ["b", "id"]), None);
    }
}
