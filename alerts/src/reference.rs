//! What rules that are relative to a reference file are held against: the metrics of the reference's own labelled rows, as it was
//! frozen. Without them a rule cannot judge, and says why.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use driftline_ledger::LedgerState;
use driftline_schemas::config::{AlertsConfig, Level, ModelSettings, ReferenceSpec, Subject};
use driftline_schemas::reference::ReferenceMetrics;
use driftline_schemas::tables::MetricRow;
use driftline_store::{Store, paths};
use serde::Deserialize;

use crate::judge::{self, Published};
use crate::{Error, read};

/// Versions that are remembered; a reference of past windows has one for each window.
const VERSIONS_MAX: usize = 64;

/// What has been said is remembered up to so many rules and reasons; then it is said again.
const SAID_MAX: usize = 1_000;

/// What a window is held against, or why there is nothing.
pub type Known = Result<Arc<ReferenceMetrics>, String>;

/// The part of a reference's document that matters here.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    metrics: Option<ReferenceMetrics>,
}

/// References of one model that have been read, by version. All of it can be lost.
#[derive(Debug, Default)]
pub struct References {
    known: HashMap<String, Known>,
    /// Rules that could not judge, and why: said once.
    said: BTreeSet<(String, String)>,
}

impl References {
    /// What a window's rows are held against, by the version that they were judged with; `None` if no rule of the model asks for
    /// it, or there are no rows.
    pub async fn of(
        &mut self,
        store: &Store,
        model: &str,
        rows: &[MetricRow],
        settings: &ModelSettings,
    ) -> Result<Option<Known>, Error> {
        let lacks = |why: &str| Ok((!rows.is_empty()).then(|| Err(why.to_owned())));
        match settings.reference {
            None => return lacks("its model has no `reference`"),
            Some(ReferenceSpec::Past { .. }) => {
                return lacks("its model's reference is of past windows, which keeps no metrics: set `from` and `to`");
            }
            Some(ReferenceSpec::File(_)) => {}
        }
        // Rows of serving, estimates and labels' delays, which stand beside those of metrics, have none.
        let Some(version) = rows.iter().find_map(|row| row.reference_version.as_ref()) else {
            return lacks("its windows were judged without a reference: the file was set later, or could not be read");
        };
        if !self.known.contains_key(version) {
            let read = read(store, model, version).await?;
            if self.known.len() >= VERSIONS_MAX {
                self.known.clear();
            }
            self.known.insert(version.clone(), read);
        }
        let known = self.known.get(version).cloned();
        Ok(known.map(|known| {
            let known = known?;
            match known.misfit(settings) {
                Some(why) => Err(format!("reference {version} does not fit: {why}; freeze it again")),
                None => Ok(known),
            }
        }))
    }

    /// Which of the rules that could not judge have not been told of before.
    pub fn news(&mut self, unjudged: BTreeMap<String, String>) -> Vec<(String, String)> {
        if self.said.len() > SAID_MAX {
            self.said.clear();
        }
        unjudged.into_iter().filter(|said| self.said.insert(said.clone())).collect()
    }
}

async fn read(store: &Store, model: &str, version: &str) -> Result<Known, Error> {
    let path = paths::reference(model, version);
    let Some(object) = store.get(&path).await? else {
        return Ok(Err(format!("reference {version} lies no more in the store")));
    };
    let document: Document =
        serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path.clone(), source })?;
    Ok(document.metrics.map(Arc::new).ok_or_else(|| {
        format!(
            "reference {version} keeps no metrics of its own: it has no labelled rows, or was frozen before they were kept \
             (`driftline reference fit` freezes it again)"
        )
    }))
}

/// Whether any rule is relative to what a model's reference keeps of metrics.
pub fn is_wanted(config: &AlertsConfig, model: &str) -> bool {
    let mut rules = config.rules.iter().filter(|rule| rule.is_for(model));
    rules.any(|rule| matches!((&rule.subject, &rule.level), (Subject::Metric { .. }, Level::Reference { .. })))
}

/// Rules that cannot judge a model's newest window, though that has what they look at, and why.
pub async fn unjudged(
    store: &Store,
    ledger: &LedgerState,
    config: &AlertsConfig,
    name: &str,
) -> Result<BTreeMap<String, String>, Error> {
    let published = ledger.models.get(name).filter(|_| is_wanted(config, name));
    let mut windows = published.into_iter().flat_map(|model| model.windows.values().rev());
    let Some(newest) = windows.find(|record| record.completed > 0) else { return Ok(BTreeMap::new()) };
    let start = newest.window.start;
    let wanted = read::Wanted::of(config, name);
    let metrics = read::metrics(store, name, &read::dates([start]), &wanted).await?.remove(&start).unwrap_or_default();
    let settings = ledger.era_settings(name, start);
    let reference = References::default().of(store, name, &metrics, settings).await?;
    Ok(judge::unjudged(config, name, &Published { metrics, reference, ..Published::default() }))
}

#[cfg(test)]
mod tests {
    use driftline_schemas::clock::time_of;

    use super::*;

    fn row(version: Option<&str>) -> MetricRow {
        MetricRow {
            model: "m".into(),
            window_start: time_of(0),
            window_end: time_of(1),
            metric: "f1".into(),
            value: Some(0.8),
            ci_low: Some(0.7),
            ci_high: Some(0.9),
            ci_level: Some(0.95),
            n: 10,
            n_labelled: 10,
            state: "sealed".into(),
            revision: 1,
            decided_at: time_of(2),
            reference_version: version.map(str::to_owned),
            ..MetricRow::default()
        }
    }

    async fn put(store: &Store, version: &str, document: &str) {
        store.put(&paths::reference("m", version), document.to_owned().into()).await.expect("written");
    }

    #[tokio::test]
    async fn what_a_reference_keeps_is_read_by_its_version_and_what_it_lacks_is_said() {
        let store = Store::in_memory();
        let value = r#"{"metric":"f1","value":0.9,"n_labelled":50}"#;
        put(&store, "new", &format!(r#"{{"version":"new","columns":[],"metrics":{{"threshold":0.5,"score_kind":"probability","values":[{value}]}}}}"#)).await;
        put(&store, "old", r#"{"version":"old","columns":[]}"#).await;
        let mut references = References::default();
        let with = |reference| ModelSettings { reference, ..ModelSettings::default() };
        let settings = with(Some(ReferenceSpec::File("r.jsonl".into())));
        let mut of = async |rows: &[MetricRow], settings: &ModelSettings| {
            references.of(&store, "m", rows, settings).await.expect("the store answers")
        };
        let known = of(&[row(None), row(Some("new"))], &settings).await.expect("asked").expect("kept");
        assert_eq!(known.of(&row(None)).map(|own| (own.value, own.n_labelled)), Some((0.9, 50)));
        assert_eq!(of(&[], &settings).await, None, "there is nothing to judge");
        let why = async |rows: &[MetricRow], settings: &ModelSettings| {
            References::default()
                .of(&store, "m", rows, settings)
                .await
                .expect("read")
                .expect("asked")
                .expect_err("lacks")
        };
        for (version, wanted) in [
            (None, "its windows were judged without a reference"),
            (Some("old"), "reference old keeps no metrics of its own"),
            (Some("gone"), "reference gone lies no more in the store"),
        ] {
            let said = why(&[row(version)], &settings).await;
            assert!(said.starts_with(wanted), "{said}");
        }
        let past = with(Some(ReferenceSpec::Past { last: 2, offset: 1, same_hour_of_week: false }));
        assert!(why(&[row(Some("new"))], &past).await.contains("is of past windows"));
        assert_eq!(why(&[row(Some("new"))], &with(None)).await, "its model has no `reference`");
        let other = ModelSettings { threshold: 0.3, ..settings.clone() };
        let said = why(&[row(Some("new"))], &other).await;
        assert!(said.contains("under the threshold 0.5, and that is 0.3 now"), "{said}");
    }

    #[test]
    fn a_rule_that_cannot_judge_is_told_of_once() {
        let mut references = References::default();
        let why = |why: &str| BTreeMap::from([("r".to_owned(), why.to_owned())]);
        assert_eq!(references.news(why("a")).len(), 1);
        assert_eq!(references.news(why("a")).len(), 0);
        assert_eq!(references.news(why("b")).len(), 1, "another reason is news");
    }
}
