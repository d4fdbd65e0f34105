//! The names of things in the store. Every name is built here, so that the layout can be read on one page.
//!
//! ```text
//! driftline.json                               the manifest
//! raw/<chain>/genesis.json                     where a source partition's chain begins
//! raw/<chain>/<from>.parquet                   one flush; the next begins at its `to`
//! raw/<chain>/boundary.json                    what lies before it has been deleted, or will be (it only moves forward)
//! facts/<chain>.json                           how far the partition has been read (overwritable)
//! live/<instance>.json                         who is alive (overwritable)
//! ctl/<seq>.json                               the ledger; ctl/snapshots/<seq>.json and ctl/latest.json shorten start-up
//! ctl/boundary.json                            records before it have been deleted, or will be; it names the snapshot to begin with
//! ctl/forget.json                              the key of the hashes of forgotten ids
//! routed/<seq>-<nonce>.parquet                 the labels that a record of the ledger routed
//! filters/model_name=…/<window>_p<part>_r<revision>.fuse   which ids a part of a window knows
//! alerting/model_name=…/<seq>.json             what became of a model's alerts; cursor.json and sent/<sink>.json beside it
//! alerting/silences/<id>.json                  who is not to be told of what, and how long
//! reporting/<report>/<seq>.json                which occurrences of a report there have been; cursor.json and sent/<sink>.json beside it
//! reports/<report>/<occurrence>/<model>.<ext>  a report, for people; each is written once
//! references/model_name=…/<version>.json       what windows are measured against, frozen
//! <table>/model_name=…/date=…/<name>.parquet   history, metrics and the other tables
//! ```
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The manifest's name.
pub const MANIFEST: &str = "driftline.json";

/// The folder of the raw chains.
pub const RAW: &str = "raw";

/// The folder of the heartbeats.
pub const LIVE: &str = "live";

/// What stays as it is inside a segment: nothing that a shell, a URL, a glob or a Hive path gives a meaning.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// The segment of the empty name: Hive's own word for it. A name that is literally this word is encoded to something else.
const EMPTY: &str = "__HIVE_DEFAULT_PARTITION__";

/// A name as one segment of a path: everything but `A-Za-z0-9._-` is percent-encoded.
///
/// Safe for `../x`, `a/b`, `.`, `..` and the empty name; different names give different segments.
pub fn encode_segment(name: &str) -> String {
    match name {
        "" => EMPTY.into(),
        "." | ".." => name.replace('.', "%2E"),
        EMPTY => format!("%5F{}", &EMPTY[1..]),
        _ => utf8_percent_encode(name, SEGMENT).to_string(),
    }
}

/// The name that [`encode_segment`] made `segment` of. Bytes that are no UTF-8 (somebody else's file) become `�`.
pub fn decode_segment(segment: &str) -> String {
    if segment == EMPTY {
        return String::new();
    }
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// The name of a source partition's chain, of its topic's key in the manifest.
pub fn chain_name(key: &str, partition: u32) -> String {
    format!("{key}~{partition}")
}

/// The folder of a chain's raw objects.
pub fn raw_folder(chain: &str) -> String {
    format!("{RAW}/{chain}")
}

/// The raw object that begins at offset `from`.
pub fn raw_object(chain: &str, from: u64) -> String {
    format!("{RAW}/{chain}/{from:020}.parquet")
}

/// Where a chain begins.
pub fn genesis(chain: &str) -> String {
    format!("{RAW}/{chain}/genesis.json")
}

/// What lies before it in a raw chain has been deleted, or will be.
pub fn boundary(chain: &str) -> String {
    format!("{RAW}/{chain}/boundary.json")
}

/// How far a partition has been read when there is nothing to write.
pub fn facts(chain: &str) -> String {
    format!("facts/{chain}.json")
}

/// The heartbeat of a process.
pub fn heartbeat(instance: &str) -> String {
    format!("{LIVE}/{}.json", encode_segment(instance))
}

/// The folder of the ledger.
pub const LEDGER: &str = "ctl";

/// A recent snapshot of the ledger's state, as advice.
pub const LATEST: &str = "ctl/latest.json";

/// Records before it have been deleted, or will be.
pub const LEDGER_BOUNDARY: &str = "ctl/boundary.json";

/// The folder of the ledger's snapshots.
pub const SNAPSHOTS: &str = "ctl/snapshots";

/// The key of the hashes that forgotten ids are known by.
pub const FORGET_KEY: &str = "ctl/forget.json";

/// The folder of routed labels.
pub const ROUTED: &str = "routed";

/// The folder of the filters.
pub const FILTERS: &str = "filters";

/// The folder of silences.
pub const SILENCES: &str = "alerting/silences";

/// The folder of the reports that were made by themselves.
pub const REPORTS: &str = "reports";
/// Stands where a model's name would, for what is no model's: accounts of partitions, alerts of the pipeline.
pub const NO_MODEL: &str = "__none__";

/// Where a model's reference of a version lies.
pub fn reference(model: &str, version: &str) -> String {
    format!("references/model_name={}/{version}.json", encode_segment(model))
}

/// The folder of a model's chain of alerts.
pub fn alerting(model: &str) -> String {
    format!("alerting/model_name={}", encode_segment(model))
}

/// Which revisions of a model's windows the rules have seen.
pub fn alerting_cursor(model: &str) -> String {
    format!("{}/cursor.json", alerting(model))
}

/// How far a sink has been told of a model's alerts.
pub fn alerting_sent(model: &str, sink: &str) -> String {
    format!("{}/sent/{}.json", alerting(model), encode_segment(sink))
}

/// One silence.
pub fn silence(id: &str) -> String {
    format!("{SILENCES}/{}.json", encode_segment(id))
}

/// The folder of the chain of a report's occurrences.
pub fn reporting(report: &str) -> String {
    format!("reporting/{}", encode_segment(report))
}

/// How many records the chain of a report has had, as advice.
pub fn reporting_cursor(report: &str) -> String {
    format!("{}/cursor.json", reporting(report))
}

/// How far a sink has been told of a report's occurrences.
pub fn reporting_sent(report: &str, sink: &str) -> String {
    format!("{}/sent/{}.json", reporting(report), encode_segment(sink))
}

/// What one model's report of an occurrence says, until the occurrence is recorded.
pub fn reporting_draft(report: &str, occurrence: &str, model: &str) -> String {
    format!("{}/drafts/{occurrence}/{}.json", reporting(report), encode_segment(model))
}

/// A report of one model: its file below [`REPORTS`].
pub fn report(report: &str, occurrence: &str, model: &str, extension: &str) -> String {
    format!("{REPORTS}/{}/{occurrence}/{}.{extension}", encode_segment(report), encode_segment(model))
}

/// A snapshot of the ledger's state after `seq` records.
pub fn snapshot(seq: u64) -> String {
    format!("{SNAPSHOTS}/{seq:020}.json")
}

/// The labels that a record of the ledger routed; `nonce` keeps two writers of one slot apart.
pub fn routed(seq: u64, nonce: &str) -> String {
    format!("{ROUTED}/{seq:020}-{nonce}.parquet")
}

/// The ids that a part of a window knows. `part` is the part's name.
pub fn filter(model: &str, part: &str, revision: u64) -> String {
    format!("{FILTERS}/model_name={}/{part}_r{revision}.fuse", encode_segment(model))
}

/// The folder of a table's objects of one model and date (`YYYY-MM-DD`).
pub fn table_folder(table: &str, model: &str, date: impl std::fmt::Display) -> String {
    format!("{table}/model_name={}/date={date}", encode_segment(model))
}

/// An object of a table.
pub fn table(table: &str, model: &str, date: impl std::fmt::Display, name: &str) -> String {
    format!("{}/{name}.parquet", table_folder(table, model, date))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hand_worked_segments() {
        for (name, segment) in [
            ("card-fraud", "card-fraud"),
            ("a/b", "a%2Fb"),
            ("../x", "..%2Fx"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("...", "..."),
            ("", "__HIVE_DEFAULT_PARTITION__"),
            ("__HIVE_DEFAULT_PARTITION__", "%5F_HIVE_DEFAULT_PARTITION__"),
            ("ü", "%C3%BC"),
            (" ", "%20"),
            ("a%2Fb", "a%252Fb"),
            ("x=1~2", "x%3D1%7E2"),
            ("\0\n\\*?#\"", "%00%0A%5C%2A%3F%23%22"),
        ] {
            assert_eq!(encode_segment(name), segment);
            assert_eq!(decode_segment(segment), name);
        }
    }

    #[test]
    fn chains_of_different_topics_never_share_a_name() {
        // Partition 2 of `a`, and partition 0 of the second `a` and of a topic called `a~2`.
        let names = [chain_name("a", 2), chain_name("a~2", 0), chain_name(&encode_segment("a~2"), 0)];
        assert_eq!(names, ["a~2", "a~2~0", "a%7E2~0"]);
    }

    #[test]
    fn names_sort_by_offset() {
        assert_eq!(raw_object("t~0", 7), "raw/t~0/00000000000000000007.parquet");
        assert!(raw_object("t~0", 9) < raw_object("t~0", 10));
        assert!(raw_object("t~0", u64::MAX).ends_with("/18446744073709551615.parquet"));
    }

    proptest! {
        #[test]
        fn segments_are_safe_and_go_back(name in any::<String>()) {
            let segment = encode_segment(&name);
            prop_assert_eq!(decode_segment(&segment), name);
            let path = object_store::path::Path::parse(format!("raw/{segment}/x")).unwrap();
            prop_assert_eq!(path.as_ref(), format!("raw/{segment}/x"));
            prop_assert_eq!(path.parts().count(), 3);
        }
    }
}
