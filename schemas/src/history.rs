//! Names of the columns of `history/`, and where its objects lie.
use crate::window::Window;

/// Columns that every history object has, in order; features, tags and `features_json` follow.
pub const FIXED_COLUMNS: &[&str] = &[
    "model_version",
    "prediction_id",
    "event_time",
    "window_start",
    "window_end",
    "prediction",
    "prediction_value",
    "score",
    "probabilities",
    "label",
    "label_value",
    "label_time",
    "latency_ms",
    "error",
    "sampling_rate",
    "environment",
    "invalid_reason",
    "after_final",
    "topic",
    "partition",
    "offset",
    "index",
    "label_topic",
    "label_partition",
    "label_offset",
    "label_index",
    "other_labels",
    "attributions",
    "revision",
];

/// Prefix of a feature's numeric column.
pub const FEATURE_PREFIX: &str = "feature_";
/// Suffix of a feature's text column.
pub const TEXT_SUFFIX: &str = "_text";
/// Prefix of a tag's column.
pub const TAG_PREFIX: &str = "tag_";
/// Features beyond the cap, as JSON.
pub const FEATURES_JSON: &str = "features_json";
/// Key of the footer's JSON in a history object.
pub const FOOTER_KEY: &str = "driftline";

/// The columns that a segment's name stands for: of a tag (`region`, or `tags.region`) one, of a feature (`features.country`) its
/// numbers and its texts.
pub fn segment_columns(name: &str) -> Vec<String> {
    match name.strip_prefix("features.") {
        Some(feature) => {
            let number = format!("{FEATURE_PREFIX}{feature}");
            vec![format!("{number}{TEXT_SUFFIX}"), number]
        }
        None => vec![format!("{TAG_PREFIX}{}", name.strip_prefix("tags.").unwrap_or(name))],
    }
}

/// `<start>_<end>_p<part>`, times as `20260103T000000Z`: the name of a window's part in every folder.
pub fn part_name(window: Window, part: u32) -> String {
    format!("{}_p{part}", window_name(window))
}

/// `<start>_<end>`, times as `20260103T000000Z`.
pub fn window_name(window: Window) -> String {
    let short = |micros| {
        let time = crate::clock::time_of(micros);
        time.format("%Y%m%dT%H%M%SZ").to_string()
    };
    format!("{}_{}", short(window.start), short(window.end))
}
