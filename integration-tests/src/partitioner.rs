//! The two ways in which producers turn a key into a partition, written anew here so that tests know where a record goes.
//!
//! The two events of one prediction may come from producers of different languages, and so lie in partitions with different
//! numbers: nothing downstream may assume otherwise.

/// How a producer chooses the partition of a record that has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioner {
    /// librdkafka's default, `consistent_random`: CRC-32 of the key.
    Crc32,
    /// The Java client's default: murmur2 of the key with the sign bit cleared.
    Murmur2,
}

impl Partitioner {
    /// The partition of `key` among `partitions`, which is at least 1.
    pub fn partition(self, key: &[u8], partitions: i32) -> i32 {
        let hash = match self {
            Partitioner::Crc32 => crc32(key),
            Partitioner::Murmur2 => murmur2(key) & 0x7fff_ffff,
        };
        (hash % partitions as u32) as i32
    }
}

/// CRC-32 as in zlib and PNG: reflected, polynomial `0xEDB88320`.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc >>= 1;
            if low == 1 {
                crc ^= 0xEDB8_8320;
            }
        }
    }
    !crc
}

/// `MurmurHash2` with Kafka's seed (Austin Appleby, 2008).
pub fn murmur2(bytes: &[u8]) -> u32 {
    const MIX: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        let mut word = u32::from_le_bytes(chunk.try_into().expect("chunks of four"));
        word = word.wrapping_mul(MIX);
        word ^= word >> 24;
        hash = hash.wrapping_mul(MIX) ^ word.wrapping_mul(MIX);
    }
    let tail = chunks.remainder();
    for (place, &byte) in tail.iter().enumerate() {
        hash ^= u32::from(byte) << (8 * place);
    }
    if !tail.is_empty() {
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_the_java_clients_values() {
        // From librdkafka's own test, which took them from the Java client.
        let cases: [(&str, u32); 7] = [
            ("kafka", 0xd067cf64),
            ("giberish123456789", 0x8f552b0c),
            ("1234", 0x9fc97b14),
            ("234", 0xe7c009ca),
            ("34", 0x873930da),
            ("4", 0x5a4b5ca1),
            ("", 0x106e08d9),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key:?}");
        }
    }

    #[test]
    fn crc32_gives_the_standards_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn a_partition_is_always_in_range() {
        for n in 1..20 {
            for key in 0..200 {
                for partitioner in [Partitioner::Crc32, Partitioner::Murmur2] {
                    let partition = partitioner.partition(format!("id-{key}").as_bytes(), n);
                    assert!((0..n).contains(&partition));
                }
            }
        }
    }
}
