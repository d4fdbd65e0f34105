//! What the store gives back: objects, and the versions that pin them.
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::{ObjectMeta, UpdateVersion};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Which state of an object was read: its ETag, and where the store replaces by generation instead (GCS), that too.
///
/// Two versions are equal if their ETags are: a listing knows the ETag alone, and not every store quotes it everywhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(String);

/// Parts an ETag from a generation. A `#` may occur inside the quotes of an ETag, never right after the closing one.
const GENERATION: &str = "\"#";

impl Version {
    /// The version with this ETag, as a store or [`Self::as_str`] gave it.
    pub fn new(etag: impl Into<String>) -> Self {
        Self(etag.into())
    }

    /// Can be stored and given to [`Self::new`] again.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn of(path: &str, etag: Option<String>, generation: Option<String>) -> Result<Self, Error> {
        let etag = etag.ok_or_else(|| Error::Unsupported {
            what: "versions (ETags)".into(),
            advice: format!("it gave none for {path}; use a store that sends an ETag with every object"),
        })?;
        Ok(Self(match generation {
            Some(generation) if etag.ends_with('"') => format!("{etag}#{generation}"),
            _ => etag,
        }))
    }

    pub(crate) fn etag(&self) -> &str {
        self.split().0
    }

    pub(crate) fn to_update(&self) -> UpdateVersion {
        let (etag, generation) = self.split();
        UpdateVersion { e_tag: Some(etag.to_owned()), version: generation.map(str::to_owned) }
    }

    fn split(&self) -> (&str, Option<&str>) {
        match self.0.rfind(GENERATION) {
            Some(at) => (&self.0[..=at], Some(&self.0[at + GENERATION.len()..])),
            None => (&self.0, None),
        }
    }

    fn bare(&self) -> &str {
        self.etag().trim_matches('"')
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.bare() == other.bare()
    }
}

impl Eq for Version {}

impl Hash for Version {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bare().hash(state);
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole object in one of its states.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its content.
    pub bytes: Bytes,
    /// Which state this is.
    pub version: Version,
    /// When the store says it was written.
    pub last_modified: DateTime<Utc>,
}

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Bytes.
    pub size: u64,
    /// Which state this is.
    pub version: Version,
    /// When the store says it was written.
    pub last_modified: DateTime<Utc>,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, from the store's root.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Which state this is, if the listing tells.
    pub version: Option<Version>,
    /// When the store says it was written.
    pub last_modified: DateTime<Utc>,
}

impl Meta {
    pub(crate) fn of(meta: ObjectMeta) -> Result<Self, Error> {
        let version = Version::of(meta.location.as_ref(), meta.e_tag, meta.version)?;
        Ok(Self { size: meta.size, version, last_modified: meta.last_modified })
    }
}

impl From<ObjectMeta> for Listed {
    fn from(meta: ObjectMeta) -> Self {
        Self {
            version: meta.e_tag.map(Version),
            path: meta.location.into(),
            size: meta.size,
            last_modified: meta.last_modified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_keeps_what_its_store_replaces_by() {
        for (etag, generation) in
            [("\"abc\"", None), ("\"a#b\"", Some("1700")), ("12-34-56", None), ("\"0x8D\"", Some("v2"))]
        {
            let version = Version::of("x", Some(etag.into()), generation.map(str::to_owned)).unwrap();
            let again: Version = serde_json::from_str(&serde_json::to_string(&version).unwrap()).unwrap();
            assert_eq!(again.etag(), etag);
            let update = again.to_update();
            assert_eq!((update.e_tag.as_deref(), update.version.as_deref()), (Some(etag), generation));
        }
    }

    #[test]
    fn a_listing_without_generation_or_quotes_shows_the_same_version() {
        let read = Version::of("x", Some("\"abc\"".into()), Some("7".into())).unwrap();
        assert_eq!(read, Version::new("\"abc\""));
        assert_eq!(read, Version::new("abc"));
        assert_ne!(read, Version::new("abd"));
    }
}
