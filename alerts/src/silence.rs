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
        // A delay of a model's watermark is no model's alert, and still the model's.
        let of_pipeline = series.model == paths::NO_MODEL && self.model.is_some() && self.model == series.column;
        (self.from..self.until).contains(&transition.at)
            && (is(&self.model, Some(&series.model)) || of_pipeline)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::Kind;
    use crate::message::example;

    fn silence() -> Silence {
        Silence {
            id: "s".into(),
            model: None,
            rule: None,
            segment: None,
            segment_value: None,
            from: 100,
            until: 200,
            comment: String::new(),
        }
    }

    #[test]
    fn a_silence_holds_what_it_names_and_only_in_its_time() {
        let mut transition = example(Kind::Firing);
        transition.at = 100;
        let series = transition.series.clone();
        assert!(silence().holds(&transition), "it names nothing: everything");
        let named = Silence {
            model: Some(series.model.clone()),
            rule: Some(series.rule.clone()),
            segment: series.segment.clone(),
            segment_value: series.segment_value.clone(),
            ..silence()
        };
        assert!(named.holds(&transition));
        let other = || Some("other".to_owned());
        for other in [
            Silence { model: other(), ..named.clone() },
            Silence { rule: other(), ..named.clone() },
            Silence { segment: other(), ..named.clone() },
            Silence { segment_value: other(), ..named.clone() },
        ] {
            assert!(!other.holds(&transition), "{other:?}");
        }
        let mut whole = transition.clone();
        (whole.series.segment, whole.series.segment_value) = (None, None);
        assert!(!named.holds(&whole), "all rows are no segment");
        for (at, holds) in [(99, false), (100, true), (199, true), (200, false)] {
            transition.at = at;
            assert_eq!(named.holds(&transition), holds, "{at}");
        }
        // A model's watermark is the model's.
        let mut delay = transition.clone();
        (delay.at, delay.series.model, delay.series.column) = (150, paths::NO_MODEL.into(), Some("m".into()));
        assert!(Silence { model: Some("m".into()), ..silence() }.holds(&delay));
        assert!(!Silence { model: Some("other".into()), ..silence() }.holds(&delay));
    }

    #[tokio::test]
    async fn silences_that_have_ended_are_not_read_and_files_of_others_harm_nobody() {
        let store = Store::in_memory();
        silence().write(&store).await.expect("written");
        store.put(&format!("{}/x.json", paths::SILENCES), Bytes::from_static(b"not ours")).await.expect("written");
        assert_eq!(Silence::read_all(&store, 0).await.expect("read"), [silence()], "also in advance");
        assert_eq!(Silence::read_all(&store, 199).await.expect("read"), [silence()]);
        assert_eq!(Silence::read_all(&store, 200).await.expect("read"), []);
    }
}
