//! The fields that an event of each kind has.
use driftline_schemas::event::EventKind;

/// The known fields, scalars first, in the order in which they are judged.
#[derive(Clone, Copy)]
pub(super) enum Known {
    PredictionId,
    ModelName,
    Timestamp,
    ModelVersion,
    Prediction,
    Score,
    LatencyMs,
    SamplingRate,
    Environment,
    Error,
    Label,
    PredictionTimestamp,
    Probabilities,
    Features,
    Tags,
    Attributions,
}

/// How many of them are scalars.
pub(super) const SCALARS: usize = Known::Probabilities as usize;

impl Known {
    /// The field of that name, if events of that kind have it. Called for every field of every event: names are told
    /// apart by their length first.
    #[inline]
    pub(super) fn of(kind: EventKind, name: &str) -> Option<Self> {
        let known = match name.len() {
            4 if name == "tags" => Self::Tags,
            5 => match name {
                "score" => Self::Score,
                "error" => Self::Error,
                "label" => Self::Label,
                _ => return None,
            },
            8 if name == "features" => Self::Features,
            9 if name == "timestamp" => Self::Timestamp,
            10 => match name {
                "model_name" => Self::ModelName,
                "prediction" => Self::Prediction,
                "latency_ms" => Self::LatencyMs,
                _ => return None,
            },
            11 if name == "environment" => Self::Environment,
            12 if name == "attributions" => Self::Attributions,
            13 => match name {
                "prediction_id" => Self::PredictionId,
                "model_version" => Self::ModelVersion,
                "sampling_rate" => Self::SamplingRate,
                "probabilities" => Self::Probabilities,
                _ => return None,
            },
            20 if name == "prediction_timestamp" => Self::PredictionTimestamp,
            _ => return None,
        };
        known.belongs_to(kind).then_some(known)
    }

    #[inline]
    fn belongs_to(self, kind: EventKind) -> bool {
        match self {
            Self::PredictionId | Self::ModelName | Self::Timestamp => true,
            Self::Label | Self::PredictionTimestamp => kind != EventKind::Predictions,
            _ => kind != EventKind::Labels,
        }
    }
}
