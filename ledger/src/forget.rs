//! What forgotten ids are known by: a keyed hash, so that the ledger can tell an id without holding it.
//!
//! The key lies in the store (`ctl/forget.json`). So a hash is worth nothing outside, and whoever has the store and guesses an
//! id can check the guess; but nothing in the store gives the id back.
use std::collections::BTreeMap;
use std::hash::Hasher;

use driftline_store::{Created, Store, paths};
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::error::Error;
use crate::shared::Shared;
use crate::state::{ForgottenIds, LedgerState};

/// The key of the hashes of one store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetKey {
    /// 1.
    format: u32,
    /// Sixteen random bytes.
    key: [u8; 16],
}

impl ForgetKey {
    /// A key of these bytes, which should be random.
    pub fn new(key: [u8; 16]) -> Self {
        Self { format: 1, key }
    }

    /// The store's key; it gets the one that is offered if it has none. Of several that offer one, one wins.
    pub async fn load_or_create(store: &Store, offered: Self) -> Result<Self, Error> {
        let path = || paths::FORGET_KEY.to_owned();
        if let Some(object) = store.get(paths::FORGET_KEY).await? {
            return serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path(), source });
        }
        let bytes = serde_json::to_vec(&offered).map_err(|source| Error::Json { path: path(), source })?;
        match store.create(paths::FORGET_KEY, bytes.into()).await? {
            Created::New(_) => Ok(offered),
            Created::Exists(object) => {
                serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path(), source })
            }
        }
    }

    /// The store's key, of a store in which something was forgotten.
    ///
    /// # Errors
    /// [`Error::Gone`] if there is none: without it nobody can tell what is to be left out.
    pub async fn load(store: &Store) -> Result<Self, Error> {
        let path = || paths::FORGET_KEY.to_owned();
        let Some(object) = store.get(paths::FORGET_KEY).await? else { return Err(Error::Gone { path: path() }) };
        serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path(), source })
    }

    /// The hash of a model's id, in 32 hexadecimal digits.
    ///
    /// # Source
    /// `SipHash`-2-4 with 128 bits of output (Aumasson & Bernstein, 2012), a keyed pseudorandom function.
    pub fn hash(&self, model: &str, id: &str) -> String {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        // The length parts the two names: no other pair gives the same bytes.
        hasher.write(&(model.len() as u64).to_le_bytes());
        hasher.write(model.as_bytes());
        hasher.write(id.as_bytes());
        format!("{:032x}", hasher.finish128().as_u128())
    }
}

/// What is left out of everything that is made. It shares the ids with the state that it was made of.
#[derive(Debug, Clone)]
pub struct Omissions {
    key: ForgetKey,
    models: BTreeMap<String, Shared<ForgottenIds>>,
    /// What later records asked for is not left out.
    upto: u64,
}

impl Omissions {
    /// All that the ledger says.
    pub fn of(state: &LedgerState, key: ForgetKey) -> Self {
        Self { key, models: state.forgotten.clone(), upto: u64::MAX }
    }

    /// What one model was asked to forget by a record, or an earlier one.
    pub fn upto(state: &LedgerState, key: ForgetKey, model: &str, record: u64) -> Self {
        let ids = state.forgotten.get(model).map(|ids| (model.to_owned(), ids.clone()));
        Self { key, models: ids.into_iter().collect(), upto: record }
    }

    /// Whether this id of a model is left out.
    pub fn has(&self, model: &str, id: &str) -> bool {
        let Some(forgotten) = self.models.get(model).filter(|forgotten| !forgotten.ids.is_empty()) else {
            return false;
        };
        forgotten.ids.get(&self.key.hash(model, id)).is_some_and(|asked| *asked <= self.upto)
    }

    /// Whether anything of this model is left out.
    pub fn concern(&self, model: &str) -> bool {
        self.models.get(model).is_some_and(|forgotten| !forgotten.ids.is_empty())
    }

    /// Whether a payload that could not be read holds one of the ids: as a text in quotes, with its escapes or without, or as
    /// a word.
    pub fn occur_in(&self, payload: &[u8]) -> bool {
        let text = String::from_utf8_lossy(payload);
        let mut words = words(&text);
        words.any(|word| self.models.keys().any(|model| self.has(model, &word)))
    }
}

/// Everything in a text that may be an id: what stands between two quotes, and what stands between two characters that seldom
/// belong to one.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let quoted = text.split('"').map(str::to_owned);
    let unescaped = text.match_indices('"').filter_map(|(at, _)| {
        let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter::<String>();
        stream.next()?.ok().filter(|word| !word.is_empty())
    });
    let is_apart = |c: char| c.is_whitespace() || "\"'`,;{}[]()<>=\u{fffd}".contains(c);
    let bare = text.split(is_apart).flat_map(|word| {
        // `id:abc` and `id/abc` are words as a whole, and in their parts.
        let parts = word.split([':', '/']).map(str::to_owned);
        std::iter::once(word.to_owned()).chain(parts)
    });
    quoted.chain(unescaped).chain(bare).filter(|word| (1..=128).contains(&word.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftline_schemas::ledger::Entry;

    fn omissions(ids: &[&str]) -> Omissions {
        let key = ForgetKey::new([7; 16]);
        let mut state = LedgerState { next_seq: 4, ..LedgerState::default() };
        let hashes = ids.iter().map(|id| key.hash("m", id)).collect();
        state.apply_entry(&Entry::Forget { model: "m".into(), ids: hashes }, 0, None);
        Omissions::of(&state, key)
    }

    #[test]
    fn the_hash_is_that_of_siphash() {
        // printf '\x01\0\0\0\0\0\0\0ma' | openssl mac -macopt hexkey:000102030405060708090a0b0c0d0e0f -macopt size:16 -in - SIPHASH
        // (OpenSSL 3.0.19); the bytes of the number, the smallest first.
        const OPENSSL: &str = "701c500731fcb328ff1d47bf647c757a";
        let key = ForgetKey::new(std::array::from_fn(|at| at as u8));
        let bytes = (0..32).step_by(2).map(|at| &OPENSSL[at..at + 2]);
        assert_eq!(key.hash("m", "a"), bytes.rev().collect::<String>());
        assert_ne!(key.hash("m", "a"), ForgetKey::new([0; 16]).hash("m", "a"));
        assert_ne!(key.hash("m", "ab"), key.hash("ma", "b"));
        assert_eq!(key.hash("m", "a").len(), 32);
    }

    #[test]
    fn an_id_is_found_wherever_a_broken_payload_holds_it() {
        let omissions = omissions(&["user-17", "a b", "x\"y", "né"]);
        for payload in [
            r#"{"prediction_id":"user-17""#,
            r#"{"prediction_id": 'user-17'}"#,
            "user-17",
            "id=user-17;",
            "id:user-17",
            r#"{"prediction_id":"a b","x":}"#,
            r#"{"prediction_id":"x\"y","x":}"#,
            r#"{"prediction_id":"n\u00e9","x":}"#,
            r#"{"prediction_id":"né","x":}"#,
            r#"[{"prediction_id":"other"},{"prediction_id":"user-17"}]"#,
        ] {
            assert!(omissions.occur_in(payload.as_bytes()), "{payload}");
        }
        for payload in [r#"{"prediction_id":"user-171""#, "", "\u{0}", r#"{"prediction_id":"user-1"}"#] {
            assert!(!omissions.occur_in(payload.as_bytes()), "{payload}");
        }
        assert!(omissions.occur_in(b"\xff\xfe\"user-17\"\xff"));
    }

    #[test]
    fn a_job_leaves_out_what_was_asked_before_it() {
        let key = ForgetKey::new([1; 16]);
        let mut state = LedgerState { next_seq: 4, ..LedgerState::default() };
        for (seq, id) in [(4, "a"), (9, "b")] {
            state.next_seq = seq;
            state.apply_entry(&Entry::Forget { model: "m".into(), ids: vec![key.hash("m", id)] }, 0, None);
        }
        let upto = |record| {
            let omissions = Omissions::upto(&state, key.clone(), "m", record);
            (omissions.has("m", "a"), omissions.has("m", "b"), omissions.has("n", "a"))
        };
        assert_eq!(
            (upto(3), upto(4), upto(8), upto(9)),
            ((false, false, false), (true, false, false), (true, false, false), (true, true, false))
        );
    }
}
