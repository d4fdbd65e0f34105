//! Silences: who is not to be told of what, and how long. Maintenance windows are silences that begin later.
use bytes::Bytes;
use driftline_schemas::clock::Micros;
use driftline_store::{Created, Store, paths};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::life::Transition;

/// One silence. What it does not name, it does not ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Names it.
    pub id: String,
    /// Only this model.
    pub model: Option<String>,
    /// Only this rule.
    pub rule: Option<String>,
    /// Only this segment.
    pub segment: Option<String>,
    /// Only this value of a segment.
    pub segment_value: Option<String>,
    /// From then on, microseconds.
    pub from: Micros,
    /// Until then.
    pub until: Micros,
    /// Why, for people.
    pub comment: String,
}

impl Silence {
    /// Whether it keeps a transition from being told.
    pub fn holds(&self, transition: &Transition) -> bool {
        let is = |wanted: &Option<String>, is: Option<&String>| wanted.is_none() || wanted.as_ref() == is;
        let series = &transition.series;
        (self.from..self.until).contains(&transition.at)
            && is(&self.model, Some(&series.model))
            && is(&self.rule, Some(&series.rule))
            && is(&self.segment, series.segment.as_ref())
            && is(&self.segment_value, series.segment_value.as_ref())
    }

    /// Keeps it.
    pub async fn write(&self, store: &Store) -> Result<(), Error> {
        let path = paths::silence(&self.id);
        let bytes = serde_json::to_vec(self).map_err(|source| Error::Json { path: path.clone(), source })?;
        let (Created::New(_) | Created::Exists(_)) = store.create(&path, Bytes::from(bytes)).await?;
        Ok(())
    }

    /// All that have not ended long ago.
    pub async fn read_all(store: &Store, now: Micros) -> Result<Vec<Self>, Error> {
        let mut silences = Vec::new();
        for listed in store.list(paths::SILENCES).await? {
            let Some(object) = store.get(&listed.path).await? else { continue };
            match serde_json::from_slice::<Self>(&object.bytes) {
                Ok(silence) if silence.until > now => silences.push(silence),
                Ok(_) => {}
                // A file of somebody else's must not keep people from being told.
                Err(error) => tracing::warn!(path = listed.path, %error, "no silence of ours; it silences nothing"),
            }
        }
        Ok(silences)
    }
}
