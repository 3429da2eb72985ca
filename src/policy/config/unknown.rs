//! Fields that no policy has: which one was meant.

use super::{PolicyError, PolicyName, PolicyOverrides};

/// Words that are further from what was written are not what was meant.
const MAX_DISTANCE: usize = 3;

/// The error for a field that no policy has.
pub(super) fn field(written: &str) -> PolicyError {
    PolicyError::UnknownField {
        field: written.to_owned(),
        hint: match nearest(written) {
            Some("policy") => String::from("perhaps policy is meant"),
            Some(field) => format!(
                "perhaps {field} is meant, of {}",
                PolicyName::listed(&owners(field))
            ),
            None => all(),
        },
    }
}

/// The policies that have a field.
pub(super) fn owners(field: &str) -> Vec<PolicyName> {
    let all = PolicyName::ALL.iter().copied();
    all.filter(|name| name.fields().contains(&field)).collect()
}

fn nearest(written: &str) -> Option<&'static str> {
    let known = std::iter::once("policy").chain(PolicyOverrides::FIELDS.iter().copied());
    let near = known.map(|field| (distance(written, field), field));
    // At least half of a short word must be right.
    let most = MAX_DISTANCE.min(written.chars().count() / 2);
    near.filter(|&(distance, _)| distance <= most)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, field)| field)
}

/// Every policy with its fields.
fn all() -> String {
    let policies = PolicyName::ALL.iter().filter(|name| !name.fields().is_empty());
    let each: Vec<String> = policies
        .map(|name| format!("{name} has {}", name.fields().join(", ")))
        .collect();
    format!("beside policy, {}", each.join("; "))
}

/// Letters to be put in, taken out or replaced (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, expected) in [
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("keep", "keep", 0),
            ("token_threshold", "tokens_threshold", 1),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn what_was_meant_is_told_with_the_policies_that_have_it() {
        assert_eq!(
            field("rank_layer").to_string(),
            "unknown field `rank_layer`: perhaps rank_layers is meant, of the policies fastv, pyramiddrop, sparsevlm"
        );
        assert_eq!(
            field("polcy").to_string(),
            "unknown field `polcy`: perhaps policy is meant"
        );
        let message = field("temperature").to_string();
        assert!(
            message.starts_with("unknown field `temperature`: beside policy, visipruner has stages, "),
            "{message}"
        );
        assert!(
            message.ends_with("; random has budget, policy_seed; uniform has budget"),
            "{message}"
        );
    }
}
