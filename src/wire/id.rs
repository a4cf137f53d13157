//! The ids of events: the same news has the same id, whoever tells it and however often.

use uuid::Uuid;

/// keycard's namespace of version 5 UUIDs.
const NAMESPACE: Uuid = Uuid::from_u128(0xe7d9_4091_beff_416b_ad95_f373_ddea_5540);

/// The id of the news that these parts name.
pub(super) fn event_id(parts: &[&str]) -> String {
    Uuid::new_v5(&NAMESPACE, &joined(parts)).to_string()
}

/// The parts, each behind its length, so that no two lists of parts read the same.
pub(super) fn joined(parts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_change_between_versions() {
        assert_eq!(
            event_id(&["a", "b"]),
            "b1d722a4-8ce6-5a1a-95b7-012262ab7218"
        );
    }

    #[test]
    fn parts_are_not_confused() {
        let lists: [&[&str]; 6] = [
            &["ab", "c"],
            &["a", "bc"],
            &["abc"],
            &["ab", "c", ""],
            &["", "ab", "c"],
            &["a", "b", "c"],
        ];
        for (i, one) in lists.iter().enumerate() {
            for other in &lists[..i] {
                assert_ne!(event_id(one), event_id(other));
            }
        }
    }
}
