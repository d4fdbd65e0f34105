//! Silences: who is not to be told of what, and how long. One may begin later, and maintenance by schedule comes again.
use bytes::Bytes;
use driftline_schemas::clock::Micros;
use driftline_schemas::config::Maintenance;
use driftline_store::{Created, Store, paths};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::life::Transition;
use crate::series::Series;

/// All that keeps people from being told.
#[derive(Debug, Default)]
pub struct Quiet<'c> {
    /// Those that somebody has asked for.
    pub silences: Vec<Silence>,
    /// Those of the configuration.
    pub maintenance: &'c [Maintenance],
}

impl<'c> Quiet<'c> {
    /// What holds at a time, and later.
    pub async fn read(store: &Store, maintenance: &'c [Maintenance], now: Micros) -> Result<Self, Error> {
        Ok(Self { silences: Silence::read_all(store, now).await?, maintenance })
    }

    /// What keeps a transition from being told: a silence's id, or `maintenance:` and a name.
    pub fn over(&self, transition: &Transition) -> Option<String> {
        let silence = self.silences.iter().find(|silence| silence.holds(transition));
        silence.map(|silence| silence.id.clone()).or_else(|| {
            let lasts = |one: &&Maintenance| is_under(one, &transition.series) && one.holds(transition.at);
            self.maintenance.iter().find(lasts).map(|one| format!("maintenance:{}", one.name))
        })
    }
}

/// Whether maintenance is for a series' rule and model.
fn is_under(maintenance: &Maintenance, series: &Series) -> bool {
    let of_rule = maintenance.rules.is_empty() || maintenance.rules.contains(&series.rule);
    let of_model = maintenance.models.is_empty() || maintenance.models.iter().any(|model| series.is_of(model));
    of_rule && of_model
}

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
            && self.model.as_ref().is_none_or(|model| series.is_of(model))
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

    #[test]
    fn maintenance_keeps_quiet_what_it_is_for_and_only_while_it_lasts() {
        let read = |lines: &str| {
            let rules = "[[alerts.rules]]\nname = \"f1 is low\"\nmetric = \"f1\"\nbelow = 0.8\n\
                         [[alerts.rules]]\nname = \"other\"\nmetric = \"f1\"\nbelow = 0.8\n";
            let text = format!(
                "{rules}[[alerts.maintenance]]\nname = \"nightly\"\ncron = \"0 2 * * *\"\nfor = \"1h\"\n{lines}"
            );
            let config = driftline_schemas::config::Config::from_table(text.parse().expect("TOML"));
            config.expect("a good configuration").alerts.maintenance
        };
        let at = |hour: i64| Transition { at: 3_600_000_000 * hour, ..example(Kind::Firing) };
        let over = |lines: &str, transition: &Transition| {
            Quiet { silences: vec![], maintenance: &read(lines) }.over(transition)
        };
        let named = Some("maintenance:nightly".to_owned());
        assert_eq!(
            (over("", &at(2)), over("", &at(1)), over("", &at(3)), over("", &at(26))),
            (named.clone(), None, None, named.clone())
        );
        assert_eq!(over("models = [\"a\", \"fraud <eu>\"]\nrules = [\"f1 is low\"]", &at(2)), named);
        assert_eq!(over("models = [\"a\"]", &at(2)), None, "another model");
        assert_eq!(over("rules = [\"other\"]", &at(2)), None, "another rule");
        // Of both, the silence is named: it is somebody's, who can be asked.
        let both =
            Quiet { silences: vec![Silence { from: 0, until: Micros::MAX, ..silence() }], maintenance: &read("") };
        assert_eq!(both.over(&at(2)).as_deref(), Some("s"));
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
