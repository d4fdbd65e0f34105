//! Sets of prediction ids that are small enough to keep for every window: which windows *may* know an id.
//!
//! A false positive costs a useless look, never a wrong number: the join itself is exact.
use xorf::{BinaryFuse16, Descriptor, Filter};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Up to so many ids are kept exactly: a fuse filter of a few keys is larger than the keys.
const EXACT_IDS_MAX: usize = 64;
const EXACT: u8 = 0;
const FUSE: u8 = 1;

/// The hash that ids are known by in filters.
pub fn id_hash(id: &str) -> u64 {
    xxh3_64(id.as_bytes())
}

/// Which part of a window an id belongs to.
pub fn part_of(model: &str, id: &str, parts: u32) -> u32 {
    if parts <= 1 {
        return 0;
    }
    (xxh3_64_with_seed(id.as_bytes(), xxh3_64(model.as_bytes())) % u64::from(parts)) as u32
}

/// An immutable set of id hashes: exact while small, else a binary fuse filter of 16 bits.
///
/// # Source
/// Graf & Lemire, *Binary Fuse Filters: Fast and Smaller Than Xor Filters* (2022). About 18 bits an id; a false
/// positive in 65,536 probes.
#[derive(Debug, Clone)]
pub enum IdFilter {
    /// Sorted hashes.
    Exact(Box<[u64]>),
    /// The filter.
    Fuse(Box<BinaryFuse16>),
}

impl IdFilter {
    /// Builds the set; the order and repetitions of `hashes` do not matter.
    pub fn new(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        if hashes.len() <= EXACT_IDS_MAX {
            return Self::Exact(hashes.into());
        }
        match BinaryFuse16::try_from(&hashes) {
            Ok(filter) => Self::Fuse(Box::new(filter)),
            // Construction tries many seeds; should all fail, the exact set is still right.
            Err(_) => Self::Exact(hashes.into()),
        }
    }

    /// Whether the set may hold the id: never `false` for one that it holds.
    pub fn may_contain(&self, hash: u64) -> bool {
        match self {
            Self::Exact(hashes) => hashes.binary_search(&hash).is_ok(),
            Self::Fuse(filter) => filter.contains(&hash),
        }
    }

    /// Bytes that the set occupies.
    pub fn size(&self) -> usize {
        match self {
            Self::Exact(hashes) => hashes.len() * 8,
            Self::Fuse(filter) => filter.fingerprints.len() * 2 + 20,
        }
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size() + 1);
        match self {
            Self::Exact(hashes) => {
                bytes.push(EXACT);
                hashes.iter().for_each(|hash| bytes.extend(hash.to_le_bytes()));
            }
            Self::Fuse(filter) => {
                let d = &filter.descriptor;
                bytes.push(FUSE);
                bytes.extend(d.seed.to_le_bytes());
                for field in [d.segment_length, d.segment_length_mask, d.segment_count_length] {
                    bytes.extend(field.to_le_bytes());
                }
                filter.fingerprints.iter().for_each(|fingerprint| bytes.extend(fingerprint.to_le_bytes()));
            }
        }
        bytes
    }

    /// Reads the stored form; `None` if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            EXACT => {
                let (hashes, rest) = rest.as_chunks::<8>();
                rest.is_empty().then(|| Self::Exact(hashes.iter().map(|hash| u64::from_le_bytes(*hash)).collect()))
            }
            FUSE => {
                let (seed, rest) = rest.split_first_chunk::<8>()?;
                let (fields, rest) = rest.split_at_checked(12)?;
                let (fields, _) = fields.as_chunks::<4>();
                let (fingerprints, rest) = rest.as_chunks::<2>();
                let descriptor = Descriptor {
                    seed: u64::from_le_bytes(*seed),
                    segment_length: u32::from_le_bytes(fields[0]),
                    segment_length_mask: u32::from_le_bytes(fields[1]),
                    segment_count_length: u32::from_le_bytes(fields[2]),
                };
                // A probe reaches up to three segments into the fingerprints: a cut-off object must not be probed.
                let reach = descriptor.segment_count_length as usize + 2 * descriptor.segment_length as usize;
                let fingerprints: Box<[u16]> = fingerprints.iter().map(|f| u16::from_le_bytes(*f)).collect();
                (rest.is_empty() && fingerprints.len() >= reach)
                    .then(|| Self::Fuse(Box::new(BinaryFuse16 { descriptor, fingerprints })))
            }
            _ => None,
        }
    }
}

/// The time that an id itself tells, in microseconds: of a UUID of version 7, or of a ULID.
///
/// # Source
/// RFC 9562 §5.7; the ULID specification (Crockford's base 32, the first 48 bits are milliseconds).
pub fn time_in_id(id: &str) -> Option<i64> {
    let millis = uuid_v7_millis(id).or_else(|| ulid_millis(id))?;
    // Ids of other kinds may look alike: a time outside 2000–2100 is none.
    (946_684_800_000..4_102_444_800_000).contains(&millis).then_some(millis * 1000)
}

fn uuid_v7_millis(id: &str) -> Option<i64> {
    let uuid = uuid::Uuid::try_parse(id).ok()?;
    (uuid.get_version_num() == 7).then(|| (uuid.as_u128() >> 80) as i64)
}

fn ulid_millis(id: &str) -> Option<i64> {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    if id.len() != 26 {
        return None;
    }
    let digit = |c: u8| ALPHABET.iter().position(|a| *a == c.to_ascii_uppercase()).map(|at| at as i64);
    let digits: Option<Vec<i64>> = id.bytes().map(digit).collect();
    Some(digits?[..10].iter().fold(0, |millis, digit| millis * 32 + digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_filter_has_every_id_few_others_and_little_weight() {
        let ids: Vec<u64> = (0..100_000).map(|n| id_hash(&format!("id-{n}"))).collect();
        let filter = IdFilter::new(ids.clone());
        assert!(ids.iter().all(|hash| filter.may_contain(*hash)));
        let false_positives = (0..100_000).filter(|n| filter.may_contain(id_hash(&format!("other-{n}")))).count();
        assert!(false_positives < 12, "{false_positives}");
        // 2.4 bytes an id at this size; 2.26 for a million.
        assert!(filter.size() < 240_000, "{}", filter.size());
    }

    #[test]
    fn the_time_is_read_from_uuid_v7_and_ulid_only() {
        // RFC 9562 A.6: 2022-02-22T19:22:22.000Z.
        assert_eq!(time_in_id("017F22E2-79B0-7CC3-98C4-DC0C0C07398F"), Some(1_645_557_742_000_000));
        // The ULID specification's example.
        assert_eq!(time_in_id("01ARZ3NDEKTSV4RRFFQ69G5FAV"), Some(1_469_922_850_259_000));
        assert_eq!(time_in_id("919108f7-52d1-4320-9bac-f847db4148a8"), None);
        assert_eq!(time_in_id("order-12"), None);
    }

    proptest! {
        #[test]
        fn a_stored_filter_is_the_same_filter(ids in proptest::collection::vec(any::<u64>(), 0..300), other in any::<u64>()) {
            let filter = IdFilter::new(ids.clone());
            let bytes = filter.to_bytes();
            let back = IdFilter::from_bytes(&bytes).unwrap();
            prop_assert!(ids.iter().all(|hash| back.may_contain(*hash)));
            prop_assert_eq!(filter.may_contain(other), back.may_contain(other));
            for cut in 1..bytes.len().min(20) {
                if let Some(short) = IdFilter::from_bytes(&bytes[..bytes.len() - cut]) {
                    short.may_contain(other); // never panics
                }
            }
        }

        #[test]
        fn every_id_has_one_part(id in ".{1,40}", parts in 1u32..50) {
            prop_assert!(part_of("m", &id, parts) < parts);
        }
    }
}
