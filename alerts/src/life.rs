//! The life of an alert: pending, firing, resolved; and when late truth revises a window, revised or withdrawn.
//!
//! ```text
//!             k of m bad                    no longer k of m
//!  pending ──────────────► firing ────────────────────────────► resolved
//!                            │  ▲ revised: the same windows on other figures      │
//!                            └────────────► withdrawn ◄──────────────────────────┘
//!                              a revision takes the bad windows away
//! ```
//! What a silence keeps from people is told when it has ended, if it is still so: an alert that still fires, or the end of one that
//! they know of. Of one that came and went meanwhile they hear nothing.
//!
//! Pure: what is kept, and what windows say now, give what is kept then, and what has happened.
use std::collections::{BTreeMap, BTreeSet};

use driftline_schemas::clock::Micros;
use driftline_schemas::config::{Severity, Sink};
use serde::{Deserialize, Serialize};

use crate::judge::Finding;
use crate::route;
use crate::series::{Evidence, Series};

/// Series that are kept for a model at most. What is beyond is not followed until others are over.
pub const SERIES_MAX: usize = 5_000;
/// Windows that are remembered of a series besides those of its alerts.
const WINDOWS_KEPT: usize = 200;
/// Alerts of a series that are remembered, besides one that is firing.
const EPISODES_KEPT: usize = 20;

/// What is known of a model's alerts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Series with a bad window, by fingerprint.
    pub series: BTreeMap<String, Tracked>,
}

/// A series with a bad window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tracked {
    /// What it is.
    pub series: Series,
    /// Severity, as of its last finding.
    pub severity: Severity,
    /// So many …
    pub hits: u32,
    /// … of so many windows.
    pub of: u32,
    /// Who is told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<String>,
    /// What windows say, by start.
    pub windows: BTreeMap<Micros, Seen>,
    /// Its alerts, the oldest first.
    pub episodes: Vec<Episode>,
}

/// What a window says at its latest revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Whether it is bad.
    pub is_bad: bool,
    /// On what it rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Whether it is final.
    pub is_final: bool,
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    /// Names it for ever.
    pub id: String,
    /// Where it stands.
    pub status: Status,
    /// When it was raised.
    pub opened_at: Micros,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Micros>,
    /// The bad windows that it rests on, by start.
    pub windows: BTreeSet<Micros>,
    /// What people were told last.
    pub told: Evidence,
    /// When they were told last that it fires, or is over.
    pub told_at: Micros,
    /// When they were told last that it rests on other figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revised_at: Option<Micros>,
    /// When a sink was told again, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub repeated: BTreeMap<String, Micros>,
    /// What people believe.
    #[serde(default)]
    pub belief: Belief,
    /// The worst severity that it was told with: those who take no less have to be told that it is over, whatever its rule says by
    /// then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst: Option<Severity>,
    /// The sinks that it was told to, of those that its rule named by then: these too have to be told that it is over. One that is
    /// empty: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_to: Option<BTreeSet<String>>,
    /// What a silence keeps from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_back: Option<KeptBack>,
}

/// What people believe of an alert, by what they were told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Belief {
    /// Nothing: they were not told of it.
    Nothing,
    /// That it fires. So it was, whatever the alert, before there were beliefs: what was over is put right by [`State::settle`].
    #[default]
    Fires,
    /// That it is over.
    Over,
}

/// What happened last to an alert while it was silenced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptBack {
    /// The silence.
    pub by: String,
    /// What happened.
    pub kind: Kind,
    /// On what it rests.
    pub evidence: Evidence,
    /// What was told before, where that is another matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Evidence>,
    /// Why it is over, if not because a window is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It holds.
    Firing,
    /// It held, and what followed is good.
    Resolved,
    /// Late truth has taken it back.
    Withdrawn,
    /// Late truth found it in a window that was final: nobody was woken.
    Missed,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A bad window, and not enough of them yet.
    Pending,
    /// An alert is raised.
    Firing,
    /// A firing alert rests on other figures now.
    Revised,
    /// A firing alert is told again.
    Repeated,
    /// It is over.
    Resolved,
    /// It was never right.
    Withdrawn,
    /// A final window turned out bad; nobody is woken.
    Missed,
}

impl Kind {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Revised => "revised",
            Self::Repeated => "repeated",
            Self::Resolved => "resolved",
            Self::Withdrawn => "withdrawn",
            Self::Missed => "missed",
        }
    }

    /// Whether people are told.
    pub fn is_told(self) -> bool {
        !matches!(self, Self::Pending | Self::Missed)
    }

    /// Whether the alert is over with it.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Resolved | Self::Withdrawn)
    }
}

/// One thing that happened to an alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// The alert; of a pending one that of the series.
    pub id: String,
    /// What happened.
    pub kind: Kind,
    /// To what.
    pub series: Series,
    /// How bad it is.
    pub severity: Severity,
    /// When, microseconds.
    pub at: Micros,
    /// When the alert was raised.
    pub opened_at: Micros,
    /// On what it rests.
    pub evidence: Evidence,
    /// What was told before, where that is another matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Evidence>,
    /// Who is told; empty: all sinks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<String>,
    /// The silence that keeps it from being told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silenced: Option<String>,
    /// The silence that had kept it from being told until now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_silence: Option<String>,
    /// Why it is over, if not because a window is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// What ends an alert, though no window is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Its rule is in the configuration no more.
    RuleGone,
    /// No window has said anything of it for a long time.
    Unheard,
}

impl Transition {
    /// One sentence for people.
    pub fn show(&self) -> String {
        let what = self.series.show();
        let window = driftline_schemas::clock::show(self.evidence.window_start);
        let metric = &self.series.metric;
        let now = self.evidence.show(metric);
        let since = driftline_schemas::clock::show(self.opened_at);
        let last = format!("it fired last in the window of {window}: {now}");
        let said = match (self.kind, &self.before) {
            (Kind::Withdrawn, Some(before)) => {
                let rest = if self.is_still_beyond(before) { "; that is too little evidence for an alert" } else { "" };
                format!("withdrawn, {}{rest}", self.changed(before))
            }
            (Kind::Revised, Some(before)) => format!("still firing, {}", self.changed(before)),
            (Kind::Repeated, _) => format!("still firing, since {since}, and in the window of {window}: {now}"),
            (kind, _) => match self.ended {
                None => format!("{} in the window of {window}: {now}", kind.as_str()),
                Some(Ended::RuleGone) => format!("over, for its rule is gone; {last}"),
                Some(Ended::Unheard) => format!("over, for no window has said anything of it since; {last}"),
            },
        };
        match (&self.after_silence, self.kind.is_end()) {
            (None, _) => format!("{what}: {said}"),
            (Some(_), true) => format!("{what}: {said}; it was over while it was silenced"),
            (Some(_), false) => format!("{what}: {said}; it has fired since {since}, and was silenced until now"),
        }
    }

    /// Whether the whole interval lies on the side of the level on which it was told to lie.
    fn is_still_beyond(&self, before: &Evidence) -> bool {
        let now = &self.evidence;
        let (low, high) = (now.ci_low.unwrap_or(now.value), now.ci_high.unwrap_or(now.value));
        now != before && if before.value < before.level { high < now.level } else { low > now.level }
    }

    /// What is another matter than was told: the figures, the level, or that there are any.
    fn changed(&self, before: &Evidence) -> String {
        let (metric, now) = (&self.series.metric, &self.evidence);
        let window = driftline_schemas::clock::show(now.window_start);
        if now == before {
            return format!("the window of {window} says nothing of it any more; it said {}", before.show(metric));
        }
        let is_level = now.value.to_bits() == before.value.to_bits() && now.n_labelled == before.n_labelled;
        let what = if is_level { "another level" } else { "late truth" };
        format!("{what} has changed the window of {window} from {} to {}", before.show(metric), now.show(metric))
    }
}

/// What one window says at a revision.
#[derive(Debug, Clone)]
pub struct Verdicts {
    /// The window's start.
    pub start: Micros,
    /// Whether it is final now.
    pub is_final: bool,
    /// Whether it was final already when it was judged before.
    pub was_final: bool,
    /// One finding for each series that has enough rows.
    pub findings: Vec<Finding>,
}

impl State {
    /// Takes in what windows say now. `order`: the starts of all windows of the model, ascending.
    ///
    /// Doing it again with the same verdicts changes nothing.
    pub fn take(&mut self, order: &[Micros], verdicts: &[Verdicts], now: Micros) -> Vec<Transition> {
        let mut transitions = Vec::new();
        // First of all: what is older than all that is compared lies nowhere, and would count as the neighbour of anything.
        self.series.retain(|_, tracked| {
            transitions.extend(tracked.end_if_silent(order, now));
            tracked.prune(order);
            !tracked.is_over()
        });
        let mut touched: BTreeMap<String, Vec<News<'_>>> = BTreeMap::new();
        for window in verdicts {
            let mut named: BTreeSet<String> = BTreeSet::new();
            for finding in &window.findings {
                // Most are good, of models with nothing amiss.
                if !finding.is_bad && self.series.is_empty() {
                    continue;
                }
                let fingerprint = finding.series.fingerprint();
                if let Some(turned_bad) = self.note(&fingerprint, finding, window) {
                    touched.entry(fingerprint.clone()).or_default().push(News { window, turned_bad });
                }
                named.insert(fingerprint);
            }
            // A window that has lost its rows says nothing any more.
            for (fingerprint, tracked) in &mut self.series {
                if !named.contains(fingerprint) && tracked.windows.remove(&window.start).is_some() {
                    touched.entry(fingerprint.clone()).or_default().push(News { window, turned_bad: false });
                }
            }
        }
        for (fingerprint, windows) in touched {
            let Some(tracked) = self.series.get_mut(&fingerprint) else { continue };
            transitions.extend(tracked.advance(&fingerprint, order, &windows, now));
            tracked.prune(order);
            if tracked.is_over() {
                self.series.remove(&fingerprint);
            }
        }
        transitions
    }

    /// Ends the alerts of rules that there are no more.
    pub fn drop_rules(&mut self, kept: &BTreeSet<&str>, now: Micros) -> Vec<Transition> {
        let mut transitions = Vec::new();
        self.series.retain(|_, tracked| {
            if kept.contains(tracked.series.rule.as_str()) {
                return true;
            }
            let mut episodes = std::mem::take(&mut tracked.episodes);
            for episode in episodes.iter_mut().filter(|episode| episode.status == Status::Firing) {
                (episode.status, episode.closed_at, episode.told_at) = (Status::Resolved, Some(now), now);
                let over = tracked.transition(Kind::Resolved, episode, None, now);
                transitions.push(Transition { ended: Some(Ended::RuleGone), ..over });
            }
            // Nothing takes it up again. What people have to be told of its end, if it is silenced, is all that stays.
            episodes.iter_mut().for_each(|episode| episode.windows.clear());
            episodes.retain(Episode::is_unsettled);
            (tracked.windows, tracked.episodes) = (BTreeMap::new(), episodes);
            !tracked.is_over()
        });
        transitions
    }

    /// Puts right what records of before there were beliefs say of alerts that were over: that they fire.
    pub fn settle(&mut self) {
        let episodes = self.series.values_mut().flat_map(|tracked| &mut tracked.episodes);
        for episode in episodes.filter(|episode| episode.status != Status::Firing && episode.kept_back.is_none()) {
            if episode.belief == Belief::Fires {
                episode.belief = Belief::Over;
            }
        }
    }

    /// Decides of each transition that has just happened whether people are told, once and before it is recorded. `over`: what
    /// keeps one from being told, if anything does.
    pub fn hush(&mut self, transitions: &mut [Transition], over: impl Fn(&Transition) -> Option<String>) {
        for transition in transitions.iter_mut().filter(|transition| transition.kind.is_told()) {
            transition.silenced = over(transition);
            let tracked = self.series.get_mut(&transition.series.fingerprint());
            let episode = tracked.and_then(|tracked| tracked.episodes.iter_mut().find(|e| e.id == transition.id));
            if let Some(episode) = episode {
                episode.note_telling(transition);
            }
        }
        self.series.retain(|_, tracked| {
            // Of a rule that is gone.
            tracked.episodes.retain(|episode| !episode.windows.is_empty() || episode.is_unsettled());
            !tracked.is_over()
        });
    }

    /// Whether a silence keeps anything from people that they are to be told when it has ended.
    pub fn keeps_back(&self) -> bool {
        self.series.values().flat_map(|tracked| &tracked.episodes).any(|episode| episode.owed().is_some())
    }

    /// What people are told because a silence has ended: as things are now. `over`: what still keeps one from being told.
    pub fn end_silences(&mut self, now: Micros, over: impl Fn(&Transition) -> Option<String>) -> Vec<Transition> {
        let mut transitions = Vec::new();
        for tracked in self.series.values_mut() {
            let mut episodes = std::mem::take(&mut tracked.episodes);
            for episode in &mut episodes {
                let Some((kind, kept)) = episode.owed() else { continue };
                let newest = episode.windows.last().and_then(|newest| tracked.evidence(*newest));
                let evidence = match kind {
                    Kind::Firing | Kind::Repeated => newest.unwrap_or_else(|| episode.told.clone()),
                    _ => kept.evidence.clone(),
                };
                let before = kept.before.clone().filter(|_| matches!(kind, Kind::Revised | Kind::Withdrawn));
                let transition = Transition {
                    evidence: evidence.clone(),
                    after_silence: Some(kept.by.clone()),
                    ended: kept.ended.filter(|_| kind == Kind::Resolved),
                    ..tracked.transition(kind, episode, before, now)
                };
                if over(&transition).is_some() {
                    continue;
                }
                if !kind.is_end() {
                    (episode.told, episode.told_at) = (evidence, now);
                }
                transitions.push(transition);
            }
            tracked.episodes = episodes;
        }
        transitions
    }

    /// Whether a sink is due to be told again that an alert fires.
    pub fn repeats(&self, sinks: &[Sink], now: Micros) -> bool {
        let repeating: Vec<&Sink> = sinks.iter().filter(|sink| sink.repeat.is_some()).collect();
        let is_due = |tracked: &Tracked| {
            let mut episodes = tracked.episodes.iter();
            episodes.any(|episode| repeating.iter().any(|sink| tracked.is_due(sink, episode, now)))
        };
        !repeating.is_empty() && self.series.values().any(is_due)
    }

    /// Alerts that fire, and that sinks were told of so long ago that these are told again.
    pub fn repeat(&mut self, sinks: &[Sink], now: Micros) -> Vec<Transition> {
        let mut transitions = Vec::new();
        for tracked in self.series.values_mut() {
            let mut episodes = std::mem::take(&mut tracked.episodes);
            for episode in &mut episodes {
                let due = sinks.iter().filter(|sink| tracked.is_due(sink, episode, now));
                let due: Vec<String> = due.map(|sink| sink.name.clone()).collect();
                if due.is_empty() {
                    continue;
                }
                episode.repeated.extend(due.iter().map(|sink| (sink.clone(), now)));
                // What still fires is told as it is now, not as it began.
                let newest = episode.windows.last().and_then(|newest| tracked.evidence(*newest));
                let repeated = tracked.transition(Kind::Repeated, episode, None, now);
                let evidence = newest.unwrap_or_else(|| repeated.evidence.clone());
                transitions.push(Transition { evidence, sinks: due, ..repeated });
            }
            tracked.episodes = episodes;
        }
        transitions
    }

    /// Notes what a window says. `None` if that is no news, or the series is not followed; else whether it has turned bad.
    fn note(&mut self, fingerprint: &str, finding: &Finding, window: &Verdicts) -> Option<bool> {
        if !self.series.contains_key(fingerprint) {
            // What has never been bad is not followed.
            if !finding.is_bad || self.series.len() >= SERIES_MAX {
                return None;
            }
            let tracked = Tracked {
                series: finding.series.clone(),
                severity: finding.severity,
                hits: finding.hits,
                of: finding.of,
                sinks: finding.sinks.clone(),
                windows: BTreeMap::new(),
                episodes: Vec::new(),
            };
            self.series.insert(fingerprint.to_owned(), tracked);
        }
        let tracked = self.series.get_mut(fingerprint)?;
        tracked.severity = finding.severity;
        (tracked.hits, tracked.of) = (finding.hits, finding.of);
        tracked.sinks.clone_from(&finding.sinks);
        let seen = Seen { is_bad: finding.is_bad, evidence: Some(finding.evidence.clone()), is_final: window.is_final };
        let is_bad = seen.is_bad;
        let before = tracked.windows.insert(window.start, seen);
        let was_bad = before.as_ref().is_some_and(|before| before.is_bad);
        (before.as_ref() != tracked.windows.get(&window.start)).then_some(is_bad && !was_bad)
    }
}

/// What is new of a series.
#[derive(Clone, Copy)]
struct News<'a> {
    window: &'a Verdicts,
    /// It was not bad before.
    turned_bad: bool,
}

impl Episode {
    /// Takes in that something has happened to it, and what of that people are told.
    fn note_telling(&mut self, transition: &mut Transition) {
        let is_end = transition.kind.is_end();
        match (transition.silenced.clone(), self.belief) {
            // Nobody knows of it, so nobody is told that it is over: not now either, though its silence has ended.
            (silenced, Belief::Nothing) if is_end && (silenced.is_some() || self.kept_back.is_some()) => {
                if let Some(kept) = &mut self.kept_back {
                    kept.kind = transition.kind;
                    transition.silenced = silenced.or_else(|| Some(kept.by.clone()));
                }
            }
            (None, _) if is_end => (self.belief, self.kept_back) = (Belief::Over, None),
            (None, belief) => {
                if belief != Belief::Fires {
                    // What is told of it for the first time is that it fires, whatever else has happened.
                    (transition.kind, transition.before) = (Kind::Firing, None);
                }
                (self.belief, self.kept_back) = (Belief::Fires, None);
                self.worst = self.worst.max(Some(transition.severity));
                self.told_to = Some(self.concerned(&transition.sinks).into_iter().collect());
            }
            (Some(by), _) => {
                let before = self.kept_back.take().and_then(|kept| kept.before).or(transition.before.clone());
                let (kind, evidence) = (transition.kind, transition.evidence.clone());
                self.kept_back = Some(KeptBack { by, kind, evidence, before, ended: transition.ended });
            }
        }
    }

    /// Whom its end concerns: those that it was told to, and those that its rule names now. Empty: all.
    fn concerned(&self, named: &[String]) -> Vec<String> {
        match &self.told_to {
            Some(told) if told.is_empty() || named.is_empty() => Vec::new(),
            Some(told) => told.iter().chain(named).cloned().collect::<BTreeSet<_>>().into_iter().collect(),
            None => named.to_vec(),
        }
    }

    /// What people have to be told when the silence has ended.
    fn owed(&self) -> Option<(Kind, &KeptBack)> {
        let kept = self.kept_back.as_ref()?;
        let kind = match (self.status, self.belief) {
            (Status::Firing, Belief::Fires) if !kept.kind.is_end() => kept.kind,
            (Status::Firing, _) => Kind::Firing,
            (Status::Resolved, Belief::Fires) => Kind::Resolved,
            (Status::Withdrawn, Belief::Fires | Belief::Over) => Kind::Withdrawn,
            (Status::Resolved | Status::Withdrawn | Status::Missed, _) => return None,
        };
        Some((kind, kept))
    }

    /// Whether it holds, or people do not know yet that it holds no more: whichever it is has still to be decided, or told.
    fn is_unsettled(&self) -> bool {
        match self.status {
            Status::Firing => true,
            Status::Missed => false,
            Status::Resolved | Status::Withdrawn => match self.belief {
                Belief::Fires => true,
                Belief::Nothing => self.kept_back.as_ref().is_some_and(|kept| !kept.kind.is_end()),
                Belief::Over => self.kept_back.is_some(),
            },
        }
    }
}

impl Tracked {
    /// Whether a sink is to be told again of an alert. What a silence keeps back is told when that has ended.
    fn is_due(&self, sink: &Sink, episode: &Episode, now: Micros) -> bool {
        episode.status == Status::Firing
            && episode.kept_back.is_none()
            && route::takes(sink, &self.series, self.severity, &self.sinks)
            && route::is_due(sink, episode, now)
    }

    /// Bad windows that make an alert: each group is `hits` or more among `of` successive ones, and what touches it.
    fn groups(&self, order: &[Micros]) -> Vec<BTreeSet<Micros>> {
        let bad: Vec<Micros> = self.windows.iter().filter(|(_, seen)| seen.is_bad).map(|(start, _)| *start).collect();
        let place = |start: Micros| order.partition_point(|other| *other < start);
        let of = self.of as usize;
        let mut members: BTreeSet<Micros> = BTreeSet::new();
        for (last, start) in bad.iter().enumerate() {
            let first = (place(*start) + 1).saturating_sub(of);
            let inside: Vec<Micros> = bad[..=last].iter().copied().filter(|other| place(*other) >= first).collect();
            if inside.len() >= self.hits as usize {
                members.extend(inside);
            }
        }
        let mut groups: Vec<BTreeSet<Micros>> = Vec::new();
        for member in members {
            match groups.last_mut() {
                Some(group) if group.last().is_some_and(|last| place(member) - place(*last) <= of) => {
                    group.insert(member);
                }
                _ => groups.push(BTreeSet::from([member])),
            }
        }
        groups
    }

    fn advance(&mut self, fingerprint: &str, order: &[Micros], news: &[News<'_>], now: Micros) -> Vec<Transition> {
        let mut transitions = Vec::new();
        let mut groups = self.groups(order);
        let mut episodes = std::mem::take(&mut self.episodes);
        for episode in &mut episodes {
            if episode.status == Status::Withdrawn {
                continue;
            }
            let of = self.of as usize;
            let place = |start: Micros| order.partition_point(|other| *other < start);
            let touches = |group: &BTreeSet<Micros>| {
                let near = |a: Option<&Micros>, b: Option<&Micros>| {
                    a.zip(b).is_some_and(|(a, b)| place(*b).saturating_sub(place(*a)) <= of && b >= a)
                };
                !group.is_disjoint(&episode.windows)
                    || near(episode.windows.last(), group.first())
                    || near(group.last(), episode.windows.first())
            };
            let Some(at) = groups.iter().position(touches) else {
                // Windows that are no longer remembered cannot take anything back.
                let is_revised =
                    episode.windows.iter().any(|start| news.iter().any(|news| news.window.start == *start));
                if is_revised && matches!(episode.status, Status::Firing | Status::Resolved) {
                    let before = episode.told.clone();
                    let start = before.window_start;
                    let now_says = self.windows.get(&start).and_then(|seen| seen.evidence.clone());
                    episode.told = now_says.unwrap_or_else(|| before.clone());
                    transitions.push(self.transition(Kind::Withdrawn, episode, Some(before), now));
                    (episode.status, episode.closed_at) = (Status::Withdrawn, Some(now));
                } else if is_revised {
                    (episode.status, episode.closed_at) = (Status::Withdrawn, Some(now));
                }
                continue;
            };
            let group = groups.remove(at);
            let extends = group.last() > episode.windows.last();
            episode.windows = group;
            match episode.status {
                Status::Resolved if extends => {
                    (episode.status, episode.closed_at) = (Status::Firing, None);
                    self.tell(episode, now);
                    transitions.push(self.transition(Kind::Firing, episode, None, now));
                }
                Status::Firing => {
                    if let Some(before) = self.news_of(episode) {
                        self.tell_window(episode, before.window_start);
                        episode.revised_at = Some(now);
                        transitions.push(self.transition(Kind::Revised, episode, Some(before), now));
                    }
                }
                // What is over and was right stays over: a receiver would take a revision for an alert that holds.
                Status::Resolved | Status::Missed | Status::Withdrawn => {}
            }
        }
        for windows in groups {
            let newest = windows.last().copied().unwrap_or_default();
            // A window that was final may not wake anybody, whatever else is new.
            let was_final =
                |start: &Micros| news.iter().any(|news| news.window.start == *start && news.window.was_final);
            let pages = self.pages_revisions(news) || !windows.iter().any(was_final);
            let status = if pages { Status::Firing } else { Status::Missed };
            let Some(told) = self.evidence(newest) else { continue };
            let id = format!("{fingerprint}-{}", driftline_schemas::clock::time_of(newest).format("%Y%m%dT%H%M%SZ"));
            let mut episode = Episode {
                id,
                status,
                opened_at: now,
                closed_at: None,
                windows,
                told,
                told_at: now,
                revised_at: None,
                repeated: BTreeMap::new(),
                belief: Belief::Nothing,
                worst: None,
                told_to: None,
                kept_back: None,
            };
            if episodes.iter().any(|other| other.id == episode.id) {
                episode.id.push_str(&format!("-{}", episodes.len()));
            }
            let kind = if pages { Kind::Firing } else { Kind::Missed };
            transitions.push(self.transition(kind, &episode, None, now));
            episodes.push(episode);
        }
        self.resolve(&mut episodes, order, now, &mut transitions);
        self.pending(fingerprint, &episodes, news, now, &mut transitions);
        self.episodes = episodes;
        transitions
    }

    /// Whether one of the findings at hand says that revisions of final windows may wake somebody.
    fn pages_revisions(&self, news: &[News<'_>]) -> bool {
        let mut findings = news.iter().flat_map(|news| &news.window.findings);
        findings.any(|finding| finding.series == self.series && finding.page_revisions)
    }

    /// A firing alert is over once the newest window that says anything is good, and its last `of` no longer hold `hits`.
    fn resolve(&self, episodes: &mut [Episode], order: &[Micros], now: Micros, transitions: &mut Vec<Transition>) {
        let Some((newest, seen)) = self.windows.iter().next_back() else { return };
        let place = |start: Micros| order.partition_point(|other| *other < start);
        let first = (place(*newest) + 1).saturating_sub(self.of as usize);
        let bad = self.windows.iter().filter(|(start, seen)| seen.is_bad && place(**start) >= first).count();
        if seen.is_bad || bad >= self.hits as usize {
            return;
        }
        for episode in episodes.iter_mut().filter(|episode| episode.status == Status::Firing) {
            if episode.windows.last().is_some_and(|last| last < newest) {
                (episode.status, episode.closed_at, episode.told_at) = (Status::Resolved, Some(now), now);
                // What is told now is the good window; what the alert rested on is kept, for late truth may take it back.
                let told = seen.evidence.clone().unwrap_or_else(|| episode.told.clone());
                let over = Episode { told, ..episode.clone() };
                transitions.push(self.transition(Kind::Resolved, &over, None, now));
            }
        }
    }

    /// Windows that have just turned bad and make no alert yet.
    fn pending(
        &self,
        fingerprint: &str,
        episodes: &[Episode],
        news: &[News<'_>],
        now: Micros,
        transitions: &mut Vec<Transition>,
    ) {
        for window in news.iter().filter(|news| news.turned_bad).map(|news| news.window) {
            let Some(evidence) = self.evidence(window.start) else { continue };
            if episodes.iter().any(|episode| episode.windows.contains(&window.start)) {
                continue;
            }
            transitions.push(Transition {
                id: fingerprint.to_owned(),
                kind: Kind::Pending,
                series: self.series.clone(),
                severity: self.severity,
                at: now,
                opened_at: now,
                evidence,
                before: None,
                sinks: self.sinks.clone(),
                silenced: None,
                after_silence: None,
                ended: None,
            });
        }
    }

    /// What a bad window says.
    fn evidence(&self, start: Micros) -> Option<Evidence> {
        self.windows.get(&start).filter(|seen| seen.is_bad).and_then(|seen| seen.evidence.clone())
    }

    /// What was told, if the window it was told of says something else by now: a value out of the interval that was told,
    /// or twice the truth.
    fn news_of(&self, episode: &Episode) -> Option<Evidence> {
        let told = &episode.told;
        let now = self.windows.get(&told.window_start)?.evidence.as_ref()?;
        let (low, high) = (told.ci_low.unwrap_or(told.value), told.ci_high.unwrap_or(told.value));
        let is_other = now.value < low || now.value > high || now.n_labelled >= 2 * told.n_labelled.max(1);
        (now.revision > told.revision && is_other).then(|| told.clone())
    }

    fn tell(&self, episode: &mut Episode, now: Micros) {
        if let Some(newest) = episode.windows.last().copied() {
            self.tell_window(episode, newest);
            episode.told_at = now;
        }
    }

    fn tell_window(&self, episode: &mut Episode, start: Micros) {
        if let Some(evidence) = self.windows.get(&start).and_then(|seen| seen.evidence.clone()) {
            episode.told = evidence;
        }
    }

    /// How loudly an alert's end is told, and to whom. No sinks: all.
    fn ends_with(&self, episode: &Episode) -> (Severity, Vec<String>) {
        (episode.worst.map_or(self.severity, |worst| worst.max(self.severity)), episode.concerned(&self.sinks))
    }

    /// Whether a sink knows, or is to know, that an alert of it fires.
    pub(crate) fn holds_for(&self, sink: &Sink) -> bool {
        self.episodes.iter().any(|episode| {
            let (severity, sinks) = self.ends_with(episode);
            // What is silenced holds nothing up: nobody knows of it.
            let fires = episode.status == Status::Firing && episode.belief == Belief::Fires;
            fires && route::takes(sink, &self.series, severity, &sinks)
        })
    }

    fn transition(&self, kind: Kind, episode: &Episode, before: Option<Evidence>, now: Micros) -> Transition {
        let (severity, sinks) =
            if kind.is_end() { self.ends_with(episode) } else { (self.severity, self.sinks.clone()) };
        Transition {
            id: episode.id.clone(),
            kind,
            series: self.series.clone(),
            severity,
            at: now,
            opened_at: episode.opened_at,
            evidence: episode.told.clone(),
            before,
            sinks,
            silenced: None,
            after_silence: None,
            ended: None,
        }
    }

    /// The oldest window that is remembered whatever becomes of it.
    fn oldest(&self, order: &[Micros]) -> Micros {
        let keep_from = order.len().saturating_sub(WINDOWS_KEPT.max(2 * self.of as usize));
        order.get(keep_from).copied().unwrap_or(Micros::MIN)
    }

    /// Ends what fires of a series that no window has said anything of for so long: its version or its partition is gone, or its rule
    /// looks elsewhere.
    fn end_if_silent(&mut self, order: &[Micros], now: Micros) -> Vec<Transition> {
        let oldest = self.oldest(order);
        if self.windows.keys().next_back().is_none_or(|newest| *newest >= oldest) {
            return Vec::new();
        }
        let mut episodes = std::mem::take(&mut self.episodes);
        let firing = episodes.iter_mut().filter(|episode| episode.status == Status::Firing);
        let ended = firing.map(|episode| {
            (episode.status, episode.closed_at, episode.told_at) = (Status::Resolved, Some(now), now);
            let over = self.transition(Kind::Resolved, episode, None, now);
            Transition { ended: Some(Ended::Unheard), ..over }
        });
        let ended = ended.collect();
        self.episodes = episodes;
        ended
    }

    /// Forgets what nothing can come of any more.
    fn prune(&mut self, order: &[Micros]) {
        let oldest = self.oldest(order);
        let final_only = |windows: &BTreeMap<Micros, Seen>, episode: &Episode| {
            episode.windows.iter().all(|start| windows.get(start).is_none_or(|seen| seen.is_final))
        };
        let windows = std::mem::take(&mut self.windows);
        // An alert may fire for ever. Its beginning goes, as far as nothing changes it any more; what is left stays one piece.
        for episode in self.episodes.iter_mut().filter(|episode| episode.status == Status::Firing) {
            let is_settled = |start: &Micros| windows.get(start).is_none_or(|seen| seen.is_final);
            while episode.windows.len() > 1
                && episode.windows.first().is_some_and(|first| *first < oldest && is_settled(first))
            {
                episode.windows.pop_first();
            }
        }
        self.episodes.retain(|episode| {
            let is_old = episode.windows.last().is_none_or(|last| *last < oldest);
            episode.is_unsettled() || !is_old || !final_only(&windows, episode)
        });
        let settled = self.episodes.iter().filter(|episode| !episode.is_unsettled()).count();
        let mut surplus = settled.saturating_sub(EPISODES_KEPT);
        self.episodes.retain(|episode| {
            let goes = surplus > 0 && !episode.is_unsettled();
            surplus -= usize::from(goes);
            !goes
        });
        let of_episodes: BTreeSet<Micros> = self.episodes.iter().flat_map(|e| e.windows.iter().copied()).collect();
        self.windows = windows;
        self.windows.retain(|start, _| *start >= oldest || of_episodes.contains(start));
    }

    fn is_over(&self) -> bool {
        self.episodes.is_empty() && !self.windows.values().any(|seen| seen.is_bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Micros = 3_600_000_000;

    /// A window's verdict on one series: `value` against 0.8, bad if below.
    fn window(hour: i64, revision: u64, value: f64) -> Verdicts {
        let series = Series { rule: "r".into(), model: "m".into(), metric: "f1".into(), ..Series::default() };
        let evidence = Evidence {
            window_start: hour * HOUR,
            window_end: (hour + 1) * HOUR,
            revision,
            state: "sealed".into(),
            value,
            level: 0.8,
            ci_low: Some(value - 0.02),
            ci_high: Some(value + 0.02),
            p_value: None,
            n: 1000,
            n_labelled: 100,
            ln_e: Some(20.0),
        };
        let finding = Finding {
            series,
            evidence,
            is_bad: value < 0.8,
            severity: Severity::Warning,
            hits: 1,
            of: 1,
            page_revisions: false,
            sinks: vec![],
        };
        Verdicts { start: hour * HOUR, is_final: false, was_final: false, findings: vec![finding] }
    }

    fn with_for(mut verdicts: Verdicts, hits: u32, of: u32) -> Verdicts {
        for finding in &mut verdicts.findings {
            (finding.hits, finding.of) = (hits, of);
        }
        verdicts
    }

    fn hours() -> Vec<Micros> {
        (0..100).map(|hour| hour * HOUR).collect()
    }

    fn take(state: &mut State, verdicts: &[Verdicts]) -> Vec<Kind> {
        let order = hours();
        let before = state.clone();
        let transitions = state.take(&order, verdicts, 1_000 * HOUR);
        // Telling the same again changes nothing and wakes nobody: a worker that died is repeated by another.
        let mut again = state.clone();
        assert_eq!(again.take(&order, verdicts, 1_001 * HOUR), []);
        assert_eq!(again, *state, "from {before:?}");
        transitions.iter().map(|transition| transition.kind).collect()
    }

    #[test]
    fn a_bad_window_fires_and_a_good_one_resolves() {
        let mut state = State::default();
        assert_eq!(take(&mut state, &[window(0, 1, 0.9)]), []);
        assert!(state.series.is_empty(), "what was never bad is not followed");
        assert_eq!(take(&mut state, &[window(1, 1, 0.7)]), [Kind::Firing]);
        assert_eq!(take(&mut state, &[window(2, 1, 0.7)]), [], "the same alert goes on");
        assert_eq!(take(&mut state, &[window(3, 1, 0.9)]), [Kind::Resolved]);
        assert_eq!(take(&mut state, &[window(4, 1, 0.9)]), []);
        assert_eq!(take(&mut state, &[window(9, 1, 0.7)]), [Kind::Firing]);
        let episodes = &state.series.values().next().expect("followed").episodes;
        assert_eq!(episodes.len(), 2);
        assert_ne!(episodes[0].id, episodes[1].id);
    }

    #[test]
    fn so_many_of_so_many_windows_have_to_be_bad() {
        let mut state = State::default();
        assert_eq!(take(&mut state, &[with_for(window(0, 1, 0.7), 2, 3)]), [Kind::Pending]);
        assert_eq!(take(&mut state, &[with_for(window(1, 1, 0.9), 2, 3)]), []);
        assert_eq!(take(&mut state, &[with_for(window(2, 1, 0.7), 2, 3)]), [Kind::Firing]);
        assert_eq!(take(&mut state, &[with_for(window(3, 1, 0.7), 2, 3)]), []);
        assert_eq!(take(&mut state, &[with_for(window(4, 1, 0.9), 2, 3)]), [], "still two of three");
        assert_eq!(take(&mut state, &[with_for(window(5, 1, 0.9), 2, 3)]), [Kind::Resolved]);
        // Too far apart.
        let mut state = State::default();
        assert_eq!(take(&mut state, &[with_for(window(10, 1, 0.7), 2, 3)]), [Kind::Pending]);
        assert_eq!(take(&mut state, &[with_for(window(13, 1, 0.7), 2, 3)]), [Kind::Pending]);
    }

    #[test]
    fn late_truth_withdraws_a_firing_alert_and_one_that_is_over() {
        let mut state = State::default();
        assert_eq!(take(&mut state, &[window(1, 1, 0.7)]), [Kind::Firing]);
        let transitions = state.take(&hours(), &[window(1, 2, 0.85)], 0);
        assert_eq!(transitions.len(), 1);
        assert_eq!(transitions[0].kind, Kind::Withdrawn);
        assert_eq!(transitions[0].before.as_ref().map(|before| before.value), Some(0.7));
        assert_eq!(transitions[0].evidence.value, 0.85);
        assert!(transitions[0].show().contains("withdrawn"), "{}", transitions[0].show());
        let mut state = State::default();
        take(&mut state, &[window(1, 1, 0.7)]);
        assert_eq!(take(&mut state, &[window(2, 1, 0.9)]), [Kind::Resolved]);
        let over = state.clone().take(&hours(), &[window(1, 2, 0.85)], 0).remove(0);
        let before = over.before.as_ref().map(|before| (before.window_start, before.value));
        assert_eq!(
            (over.evidence.window_start, over.evidence.value, before),
            (HOUR, 0.85, Some((HOUR, 0.7))),
            "its own window"
        );
        assert_eq!(take(&mut state, &[window(1, 2, 0.85)]), [Kind::Withdrawn]);
        // It turns bad once more: an alert of its own.
        assert_eq!(take(&mut state, &[window(1, 3, 0.7)]), [Kind::Firing, Kind::Resolved]);
    }

    #[test]
    fn late_truth_that_says_the_same_is_no_news_and_one_that_differs_is() {
        let mut state = State::default();
        take(&mut state, &[window(1, 1, 0.7)]);
        assert_eq!(take(&mut state, &[window(1, 2, 0.71)]), [], "inside the interval that was told");
        assert_eq!(take(&mut state, &[window(1, 3, 0.75)]), [Kind::Revised]);
        let mut doubled = window(1, 4, 0.75);
        doubled.findings[0].evidence.n_labelled = 200;
        assert_eq!(take(&mut state, &[doubled]), [Kind::Revised]);
    }

    #[test]
    fn a_window_that_was_final_wakes_nobody_unless_the_rule_asks_for_it() {
        let mut of_final = window(1, 5, 0.7);
        (of_final.is_final, of_final.was_final) = (true, true);
        let mut state = State::default();
        assert_eq!(take(&mut state, &[of_final.clone()]), [Kind::Missed]);
        let mut state = State::default();
        of_final.findings[0].page_revisions = true;
        assert_eq!(take(&mut state, &[of_final]), [Kind::Firing]);
    }

    #[test]
    fn a_firing_alert_is_told_again_after_a_while() {
        let mut state = State::default();
        state.take(&hours(), &[window(1, 1, 0.7)], 10 * HOUR);
        let all = [sink("s", "repeat = \"4h\"")];
        assert_eq!(state.repeat(&all, 13 * HOUR), []);
        state.take(&hours(), &[window(2, 1, 0.6)], 13 * HOUR);
        let again = state.repeat(&all, 14 * HOUR);
        assert_eq!(
            again.iter().map(|t| (t.kind, t.evidence.value)).collect::<Vec<_>>(),
            [(Kind::Repeated, 0.6)],
            "now"
        );
        assert_eq!(state.repeat(&all, 15 * HOUR), []);
        state.take(&hours(), &[window(3, 1, 0.9)], 16 * HOUR);
        assert!(!state.repeats(&all, 100 * HOUR) && state.repeat(&all, 100 * HOUR).is_empty());
    }

    /// A sink of the configuration.
    fn sink(name: &str, lines: &str) -> Sink {
        let text = format!("[[alerts.sinks]]\nname = \"{name}\"\ntype = \"slack\"\nurl = \"https://x\"\n{lines}");
        let config = driftline_schemas::config::Config::from_table(text.parse().expect("TOML"));
        config.expect("a good configuration").alerts.sinks.remove(0)
    }

    #[test]
    fn each_sink_is_told_again_after_its_own_while() {
        let mut state = State::default();
        state.take(&hours(), &[window(1, 1, 0.7)], 0);
        let sinks = [
            sink("often", "repeat = \"1h\""),
            sink("seldom", "repeat = \"3h\""),
            sink("once", ""),
            sink("others", "repeat = \"1h\"\nmatch = { model = \"n\" }"),
            sink("worse", "repeat = \"1h\"\nmin_severity = \"error\""),
            sink("unrevised", "repeat = \"3h\"\nrevisions = false"),
        ];
        let told = |state: &mut State, hour: i64| -> Vec<String> {
            assert_eq!(state.repeats(&sinks, hour * HOUR), !state.clone().repeat(&sinks, hour * HOUR).is_empty());
            state.repeat(&sinks, hour * HOUR).into_iter().flat_map(|transition| transition.sinks).collect()
        };
        assert_eq!(told(&mut state, 1), ["often"]);
        assert_eq!(told(&mut state, 1), [] as [&str; 0]);
        // Late truth is told at hour 2: who was told of it need not be told again so soon.
        assert_eq!(state.take(&hours(), &[window(1, 2, 0.75)], 2 * HOUR)[0].kind, Kind::Revised);
        assert_eq!(told(&mut state, 3), ["often", "unrevised"]);
        assert_eq!(told(&mut state, 5), ["often", "seldom"]);
        assert_eq!(told(&mut state, 6), ["often", "unrevised"]);
    }

    /// Takes a window in while a silence holds, or does not: what happened, and whether people are told.
    fn lived(state: &mut State, verdicts: Verdicts, now: Micros, silence: Option<&str>) -> Vec<(Kind, bool)> {
        let mut transitions = state.take(&hours(), &[verdicts], now);
        state.hush(&mut transitions, |_| silence.map(str::to_owned));
        transitions.iter().map(|transition| (transition.kind, transition.silenced.is_none())).collect()
    }

    /// What is told because a silence has ended, if none holds now.
    fn ended(state: &mut State, now: Micros) -> Vec<Transition> {
        assert!(state.end_silences(now, |_| Some("still".into())).is_empty(), "not before");
        let is_owed = state.keeps_back();
        let mut transitions = state.end_silences(now, |_| None);
        assert_eq!(is_owed, !transitions.is_empty());
        state.hush(&mut transitions, |_| None);
        assert!(!state.keeps_back() && state.clone().end_silences(now, |_| None).is_empty(), "once");
        transitions
    }

    #[test]
    fn what_still_fires_when_its_silence_ends_is_told_then_as_it_is_then() {
        let mut state = State::default();
        assert_eq!(lived(&mut state, window(1, 1, 0.7), 10, Some("s")), [(Kind::Firing, false)]);
        lived(&mut state, window(2, 1, 0.6), 20, Some("s"));
        assert_eq!(state.repeat(&[sink("s", "repeat = \"1h\"")], 90 * HOUR), [], "nobody is reminded of it meanwhile");
        let told = ended(&mut state, 30);
        let [told] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((told.kind, told.at, told.opened_at, told.evidence.value), (Kind::Firing, 30, 10, 0.6));
        assert_eq!((told.after_silence.as_deref(), told.silenced.as_deref()), (Some("s"), None));
        assert!(told.show().ends_with("it has fired since 1970-01-01T00:00:00.000010Z, and was silenced until now"));
        // From then on it is an alert like any other.
        assert_eq!(lived(&mut state, window(3, 1, 0.9), 40, None), [(Kind::Resolved, true)]);
        assert_eq!(ended(&mut state, 50), []);
    }

    #[test]
    fn of_what_came_and_went_in_a_silence_nobody_hears() {
        // Over within the silence, and over when it had ended and before anybody was told.
        for over_in_silence in [true, false] {
            let mut state = State::default();
            lived(&mut state, window(1, 1, 0.7), 10, Some("s"));
            let silence = over_in_silence.then_some("s");
            let mut transitions = state.take(&hours(), &[window(2, 1, 0.9)], 20);
            state.hush(&mut transitions, |_| silence.map(str::to_owned));
            assert_eq!((transitions[0].kind, transitions[0].silenced.as_deref()), (Kind::Resolved, Some("s")));
            assert_eq!(ended(&mut state, 30), []);
            // Late truth takes it back: that is nobody's news either.
            assert_eq!(lived(&mut state, window(1, 2, 0.85), 40, None), [(Kind::Withdrawn, false)]);
            assert_eq!(ended(&mut state, 50), []);
        }
        // One that is withdrawn at once, likewise.
        let mut state = State::default();
        lived(&mut state, window(1, 1, 0.7), 10, Some("s"));
        assert_eq!(lived(&mut state, window(1, 2, 0.85), 20, None), [(Kind::Withdrawn, false)]);
        assert_eq!(ended(&mut state, 30), []);
    }

    #[test]
    fn the_end_of_what_people_know_of_is_told_when_the_silence_ends() {
        let mut state = State::default();
        assert_eq!(lived(&mut state, window(1, 1, 0.7), 10, None), [(Kind::Firing, true)]);
        assert_eq!(lived(&mut state, window(2, 1, 0.9), 20, Some("s")), [(Kind::Resolved, false)]);
        let mut again = state.clone();
        let told = ended(&mut state, 30);
        assert_eq!(told.iter().map(|t| (t.kind, t.evidence.value)).collect::<Vec<_>>(), [(Kind::Resolved, 0.9)]);
        assert!(told[0].show().ends_with("it was over while it was silenced"), "{}", told[0].show());
        // Taken back while it was silenced: they are told that.
        assert_eq!(lived(&mut again, window(1, 2, 0.85), 25, Some("s")), [(Kind::Withdrawn, false)]);
        let told = ended(&mut again, 30);
        assert_eq!(told.iter().map(|t| t.kind).collect::<Vec<_>>(), [Kind::Withdrawn]);
        assert!(told[0].show().contains("from 0.7"), "{}", told[0].show());
        // Taken back when the end had been told.
        assert_eq!(lived(&mut state, window(1, 2, 0.85), 40, Some("s")), [(Kind::Withdrawn, false)]);
        assert_eq!(ended(&mut state, 50).iter().map(|t| t.kind).collect::<Vec<_>>(), [Kind::Withdrawn]);
    }

    #[test]
    fn figures_that_changed_in_a_silence_are_told_when_it_ends() {
        let mut state = State::default();
        lived(&mut state, window(1, 1, 0.7), 10, None);
        assert_eq!(lived(&mut state, window(1, 2, 0.75), 20, Some("s")), [(Kind::Revised, false)]);
        assert_eq!(lived(&mut state, window(1, 3, 0.79), 25, Some("s")), [(Kind::Revised, false)]);
        let told = ended(&mut state, 30);
        let before = told[0].before.as_ref().map(|before| before.value);
        assert_eq!(
            (told[0].kind, told[0].evidence.value, before),
            (Kind::Revised, 0.79, Some(0.7)),
            "from what was told"
        );
        // Of an alert that nobody knows of the first word is that it fires, whatever has changed.
        let mut state = State::default();
        lived(&mut state, window(1, 1, 0.7), 10, Some("s"));
        assert_eq!(lived(&mut state, window(1, 2, 0.75), 20, None), [(Kind::Firing, true)]);
        assert_eq!(ended(&mut state, 30), []);
    }

    #[test]
    fn the_end_of_a_rule_that_is_gone_is_told_when_the_silence_ends_and_then_it_is_forgotten() {
        let mut state = State::default();
        lived(&mut state, window(1, 1, 0.7), 10, None);
        let mut gone = state.drop_rules(&BTreeSet::new(), 20);
        state.hush(&mut gone, |_| Some("s".into()));
        assert_eq!((gone[0].kind, gone[0].silenced.as_deref(), state.series.len()), (Kind::Resolved, Some("s"), 1));
        assert_eq!(state.drop_rules(&BTreeSet::new(), 25), [], "once");
        assert_eq!(ended(&mut state, 30).iter().map(|t| t.kind).collect::<Vec<_>>(), [Kind::Resolved]);
        assert!(state.series.is_empty());
        // If nobody knows of it, there is nothing to be told.
        lived(&mut state, window(1, 1, 0.7), 40, Some("s"));
        let mut gone = state.drop_rules(&BTreeSet::new(), 50);
        state.hush(&mut gone, |_| None);
        assert_eq!((gone[0].silenced.as_deref(), state.series.len()), (Some("s"), 0));
    }

    #[test]
    fn whoever_was_told_that_it_fires_is_told_that_it_is_over_whatever_its_rule_says_by_then() {
        let of = |hour: i64, value: f64, severity: Severity| {
            let mut verdicts = window(hour, 1, value);
            verdicts.findings[0].severity = severity;
            verdicts
        };
        let mut state = State::default();
        lived(&mut state, of(1, 0.7, Severity::Critical), 10, None);
        lived(&mut state, of(2, 0.7, Severity::Info), 20, None);
        let over = state.clone().take(&hours(), &[of(3, 0.9, Severity::Info)], 30);
        assert_eq!((over[0].kind, over[0].severity), (Kind::Resolved, Severity::Critical));
        // The next one is as bad as its rule says.
        lived(&mut state, of(3, 0.9, Severity::Info), 30, None);
        let next = state.take(&hours(), &[of(9, 0.7, Severity::Info)], 40);
        assert_eq!((next[0].kind, next[0].severity), (Kind::Firing, Severity::Info));
    }

    #[test]
    fn b1_what_silences_keep_back_is_bounded_too() {
        let order: Vec<Micros> = (0..3_000).map(|hour| hour * HOUR).collect();
        let mut state = State::default();
        for hour in 0..3_000 {
            let mut verdicts = window(hour, 1, if hour % 3 == 0 { 0.7 } else { 0.9 });
            verdicts.is_final = true;
            let mut transitions = state.take(&order, &[verdicts], hour * HOUR);
            // Every other week is silent.
            state.hush(&mut transitions, |_| (hour / 168 % 2 == 1).then(|| "s".into()));
        }
        let episodes = &state.series.values().next().expect("followed").episodes;
        assert!(episodes.len() <= EPISODES_KEPT + 1 + 3_000 / 336 + 1, "{}", episodes.len());
        let told = ended(&mut state, 3_000 * HOUR);
        assert!(told.iter().all(|transition| transition.kind != Kind::Firing), "none fires: {told:?}");
    }

    #[test]
    fn records_of_before_there_were_beliefs_are_read() {
        let mut state = State::default();
        lived(&mut state, window(1, 1, 0.7), 10, None);
        lived(&mut state, window(2, 1, 0.9), 20, None);
        lived(&mut state, window(4, 1, 0.7), 30, None);
        let mut old = serde_json::to_value(&state).expect("JSON");
        let series = old["series"].as_object_mut().expect("series").values_mut().next().expect("one");
        for episode in series["episodes"].as_array_mut().expect("episodes") {
            episode.as_object_mut().expect("an object").remove("belief").expect("it is written");
        }
        let mut read: State = serde_json::from_value(old).expect("as it was");
        read.settle();
        assert_eq!(read, state);
    }

    #[test]
    fn a_rule_that_is_gone_ends_its_alerts() {
        let mut state = State::default();
        take(&mut state, &[window(1, 1, 0.7)]);
        assert_eq!(state.drop_rules(&BTreeSet::from(["r"]), 0), []);
        assert_eq!(state.drop_rules(&BTreeSet::from(["other"]), 0)[0].kind, Kind::Resolved);
        assert!(state.series.is_empty());
    }

    #[test]
    fn b1_what_is_kept_of_a_series_is_bounded() {
        let order: Vec<Micros> = (0..5_000).map(|hour| hour * HOUR).collect();
        let mut state = State::default();
        for hour in 0..5_000 {
            let mut verdicts = window(hour, 1, if hour % 3 == 0 { 0.7 } else { 0.9 });
            verdicts.is_final = true;
            state.take(&order, &[verdicts], hour * HOUR);
        }
        let tracked = state.series.values().next().expect("followed");
        assert!(tracked.windows.len() <= WINDOWS_KEPT + EPISODES_KEPT + 1, "{}", tracked.windows.len());
        assert!(tracked.episodes.len() <= EPISODES_KEPT + 1, "{}", tracked.episodes.len());
    }

    #[test]
    fn b1_an_alert_that_fires_for_ever_is_bounded_too_and_stays_one() {
        let order = |until: i64| -> Vec<Micros> { (0..=until).map(|hour| hour * HOUR).collect() };
        let mut state = State::default();
        let mut kinds = Vec::new();
        for hour in 0..2_000 {
            let mut verdicts = window(hour, 1, 0.7);
            verdicts.is_final = true;
            kinds.extend(state.take(&order(hour), &[verdicts], hour * HOUR).iter().map(|transition| transition.kind));
        }
        let tracked = state.series.values().next().expect("followed");
        assert_eq!((kinds.as_slice(), tracked.episodes.len()), ([Kind::Firing].as_slice(), 1));
        assert!(tracked.windows.len() <= WINDOWS_KEPT + 1, "{}", tracked.windows.len());
        assert!(tracked.episodes[0].windows.len() <= WINDOWS_KEPT + 1, "{}", tracked.episodes[0].windows.len());
        assert_eq!(state.take(&order(2_000), &[window(2_000, 1, 0.9)], 0)[0].kind, Kind::Resolved);
    }

    #[test]
    fn a_series_that_nothing_is_heard_of_any_more_is_over() {
        let mut state = State::default();
        let order: Vec<Micros> = (0..1_000).map(|hour| hour * HOUR).collect();
        assert_eq!(state.take(&order[..10], &[window(1, 1, 0.7)], 0)[0].kind, Kind::Firing);
        let of_another = |hour: i64| {
            let mut verdicts = window(hour, 1, 0.9);
            verdicts.findings[0].series.segment_value = Some("eu".into());
            verdicts
        };
        assert_eq!(state.take(&order[..150], &[of_another(149)], 0), [], "it may come again");
        let over = state.take(&order[..300], &[of_another(299)], 7);
        assert_eq!(
            over.iter().map(|transition| (transition.kind, transition.at)).collect::<Vec<_>>(),
            [(Kind::Resolved, 7)]
        );
        assert_eq!(state.take(&order[..300], &[of_another(299)], 8), []);
    }

    #[test]
    fn what_lies_before_all_that_is_compared_is_nobodys_neighbour() {
        // One bad minute, and another one half an hour later: no two of three.
        let minutes = |until: i64| -> Vec<Micros> { (until - 239..=until).map(|minute| minute * HOUR).collect() };
        let bad = |minute: i64| {
            let mut verdicts = with_for(window(minute, 1, 0.7), 2, 3);
            verdicts.is_final = true;
            verdicts
        };
        let mut state = State::default();
        for minute in [1_000, 1_030] {
            let kinds: Vec<Kind> = state.take(&minutes(minute), &[bad(minute)], 0).iter().map(|t| t.kind).collect();
            assert_eq!(kinds, [Kind::Pending], "{minute}");
        }
        // Nobody looked for five hours.
        let kinds: Vec<Kind> = state.take(&minutes(1_330), &[bad(1_330)], 0).iter().map(|t| t.kind).collect();
        assert_eq!(kinds, [Kind::Pending]);
    }

    #[test]
    fn t4_the_end_does_not_depend_on_the_order_in_which_windows_are_told() {
        use proptest::prelude::*;
        let values = prop::collection::vec(prop::bool::ANY, 12);
        let order = Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle();
        proptest!(|((values, order) in (values, order))| {
            let verdicts = |hour: usize| with_for(window(hour as i64, 1, if values[hour] { 0.7 } else { 0.9 }), 2, 3);
            let alerts = |order: &[usize]| {
                let mut state = State::default();
                for hour in order {
                    state.take(&hours(), &[verdicts(*hour)], 0);
                }
                // Good windows before the first bad one are not followed, so only what fires is compared.
                let fires = |tracked: &Tracked| tracked.groups(&hours());
                state.series.values().flat_map(fires).collect::<Vec<_>>()
            };
            let sorted: Vec<usize> = (0..12).collect();
            prop_assert_eq!(alerts(&order), alerts(&sorted));
        });
    }

    #[test]
    fn an_alert_that_is_raised_again_in_its_window_has_an_id_of_its_own_and_its_end_tells_the_good_window() {
        let mut state = State::default();
        let ids = |transitions: &[Transition]| transitions.iter().map(|t| (t.kind, t.id.clone())).collect::<Vec<_>>();
        let first = ids(&state.take(&hours(), &[window(1, 1, 0.7)], 0));
        let withdrawn = ids(&state.take(&hours(), &[window(1, 2, 0.9)], 1));
        let again = ids(&state.take(&hours(), &[window(1, 3, 0.6)], 2));
        assert_eq!(withdrawn, [(Kind::Withdrawn, first[0].1.clone())]);
        assert!(again[0].0 == Kind::Firing && again[0].1 != first[0].1, "{again:?}");
        let over = state.take(&hours(), &[window(2, 1, 0.95)], 3);
        assert_eq!((over[0].kind, &over[0].id), (Kind::Resolved, &again[0].1));
        assert_eq!((over[0].evidence.window_start, over[0].evidence.value), (2 * HOUR, 0.95));
    }

    #[test]
    fn a_rule_that_pages_revisions_does_so_for_its_own_series_alone() {
        let mut verdicts = window(1, 5, 0.7);
        (verdicts.is_final, verdicts.was_final) = (true, true);
        let mut other = verdicts.findings[0].clone();
        (other.series.rule, other.page_revisions) = ("pages".into(), true);
        verdicts.findings.push(other);
        let mut state = State::default();
        let transitions = state.take(&hours(), &[verdicts], 0);
        let mut kinds: Vec<(&str, Kind)> = transitions.iter().map(|t| (t.series.rule.as_str(), t.kind)).collect();
        kinds.sort();
        assert_eq!(kinds, [("pages", Kind::Firing), ("r", Kind::Missed)]);
    }

    #[test]
    fn an_end_is_as_loud_as_it_ever_was_and_told_to_all_who_were_told_or_are_to_be() {
        let end = |before: &[&str], after: &[&str]| {
            let named = |sinks: &[&str]| sinks.iter().map(|sink| (*sink).to_owned()).collect::<Vec<_>>();
            let (mut bad, mut good) = (window(1, 1, 0.7), window(2, 1, 0.9));
            bad.findings[0].sinks = named(before);
            (good.findings[0].severity, good.findings[0].sinks) = (Severity::Critical, named(after));
            let mut state = State::default();
            let mut told = state.take(&hours(), &[bad], 0);
            state.hush(&mut told, |_| None);
            let over = state.take(&hours(), &[good], 1).remove(0);
            assert_eq!((over.kind, over.severity), (Kind::Resolved, Severity::Critical));
            over.sinks
        };
        assert_eq!(end(&["old"], &["old"]), ["old"]);
        assert_eq!(end(&["old"], &["new"]), ["new", "old"], "who was told that it fires is told that it is over");
        assert_eq!(end(&["old"], &[]), [""; 0], "all of them");
        assert_eq!(end(&[], &["new"]), [""; 0], "all were told");
    }

    #[test]
    fn what_is_withdrawn_though_it_still_lies_beyond_its_level_says_why() {
        let said = |high: f64| {
            let evidence = |value: f64, ci_high: f64| Evidence {
                value,
                level: 0.8,
                ci_low: Some(value - 0.03),
                ci_high: Some(ci_high),
                ..Evidence::default()
            };
            let withdrawn = crate::message::example(Kind::Withdrawn);
            Transition { evidence: evidence(0.753, high), before: Some(evidence(0.5, 0.53)), ..withdrawn }.show()
        };
        assert!(said(0.779).ends_with("; that is too little evidence for an alert"), "{}", said(0.779));
        assert!(!said(0.801).contains("too little evidence"), "{}", said(0.801));
    }

    #[test]
    fn an_alert_holds_for_a_sink_that_was_told_of_it_whatever_its_rule_says_by_now() {
        let (mut bad, mut worse) = (window(1, 1, 0.7), window(2, 1, 0.7));
        (bad.findings[0].sinks, bad.findings[0].severity) = (vec!["old".into()], Severity::Critical);
        (worse.findings[0].sinks, worse.findings[0].severity) = (vec!["new".into()], Severity::Warning);
        let mut state = State::default();
        for verdicts in [bad, worse] {
            let mut told = state.take(&hours(), &[verdicts], 0);
            state.hush(&mut told, |_| None);
        }
        let tracked = state.series.values().next().expect("one series");
        assert!(tracked.holds_for(&sink("old", "min_severity = \"critical\"")) && tracked.holds_for(&sink("new", "")));
        assert!(!tracked.holds_for(&sink("third", "")));
    }

    #[test]
    fn a_window_is_pending_once_and_one_bad_window_ends_no_alert() {
        let two_of_three = |hour, revision, value| with_for(window(hour, revision, value), 2, 3);
        let mut state = State::default();
        assert_eq!(take(&mut state, &[two_of_three(0, 1, 0.7)]), [Kind::Pending]);
        assert_eq!(take(&mut state, &[two_of_three(0, 2, 0.6)]), [], "it was bad already");
        assert_eq!(take(&mut state, &[two_of_three(1, 1, 0.7)]), [Kind::Firing]);
        // Two windows say nothing. One of the last three is bad, and it is the newest.
        assert_eq!(take(&mut state, &[two_of_three(4, 1, 0.7)]), [Kind::Pending]);
        assert_eq!(state.series.values().next().expect("followed").episodes[0].status, Status::Firing);
        assert_eq!(take(&mut state, &[two_of_three(5, 1, 0.9)]), [Kind::Resolved]);
    }

    #[test]
    fn a_bad_window_of_long_ago_is_an_alert_of_its_own_and_a_stricter_rule_takes_nothing_back() {
        let mut state = State::default();
        assert_eq!(take(&mut state, &[window(50, 1, 0.7)]), [Kind::Firing]);
        assert_eq!(take(&mut state, &[window(5, 1, 0.7)]), [Kind::Firing]);
        let episodes = &state.series.values().next().expect("followed").episodes;
        let windows: Vec<Vec<Micros>> =
            episodes.iter().map(|episode| episode.windows.iter().map(|start| start / HOUR).collect()).collect();
        assert_eq!(windows, [[50], [5]]);
        // One of one was enough; two of three are asked for now. No truth has come: it was right, and is over.
        let mut state = State::default();
        assert_eq!(take(&mut state, &[window(1, 1, 0.7)]), [Kind::Firing]);
        assert_eq!(take(&mut state, &[with_for(window(2, 1, 0.9), 2, 3)]), [Kind::Resolved]);
    }

    #[test]
    fn what_is_over_is_not_over_again_when_nothing_is_heard_of_it() {
        let mut state = State::default();
        let order: Vec<Micros> = (0..1_000).map(|hour| hour * HOUR).collect();
        state.take(&order[..10], &[window(1, 1, 0.7)], 0);
        assert_eq!(state.take(&order[..10], &[window(2, 1, 0.9)], 1)[0].kind, Kind::Resolved);
        let mut of_another = window(299, 1, 0.9);
        of_another.findings[0].series.segment_value = Some("eu".into());
        assert_eq!(state.take(&order[..300], &[of_another], 2), []);
    }

    #[test]
    fn late_truth_takes_an_old_alert_back_as_long_as_its_windows_are_not_final() {
        let order: Vec<Micros> = (0..1_000).map(|hour| hour * HOUR).collect();
        let raised = |is_final: bool| {
            let mut state = State::default();
            let mut bad = window(1, 1, 0.7);
            bad.is_final = is_final;
            assert_eq!(state.take(&order[..10], &[bad], 0)[0].kind, Kind::Firing);
            // It is over, and hundreds of windows follow.
            for hour in 2..300 {
                state.take(&order[..=hour as usize], &[window(hour, 1, 0.9)], 0);
            }
            state
        };
        let mut state = raised(false);
        let back = state.take(&order[..300], &[window(1, 2, 0.9)], 0);
        assert_eq!(back.iter().map(|transition| transition.kind).collect::<Vec<_>>(), [Kind::Withdrawn]);
        assert_eq!(back[0].before.as_ref().map(|before| before.value), Some(0.7));
        assert!(raised(true).series.is_empty(), "what is final is forgotten");
        // An alert that fires for ever keeps the beginning that truth may still change.
        let mut state = State::default();
        for hour in 0..500 {
            let mut bad = window(hour, 1, 0.7);
            bad.is_final = hour > 0;
            state.take(&order[..=hour as usize], &[bad], 0);
        }
        let episode = &state.series.values().next().expect("followed").episodes[0];
        assert!(episode.windows.contains(&0) && episode.windows.len() > WINDOWS_KEPT, "{}", episode.windows.len());
    }

    #[test]
    fn an_alert_that_is_over_stays_over_when_late_truth_confirms_it() {
        let mut state = State::default();
        take(&mut state, &[window(1, 1, 0.7)]);
        assert_eq!(take(&mut state, &[window(2, 1, 0.9)]), [Kind::Resolved]);
        // Worse than was thought, and past: a receiver would take a revision for an alert that holds.
        assert_eq!(take(&mut state, &[window(1, 2, 0.5)]), []);
        assert_eq!(state.series.values().next().expect("followed").episodes[0].status, Status::Resolved);
    }

    #[test]
    fn a_window_that_loses_its_rows_takes_its_alert_back() {
        let mut state = State::default();
        take(&mut state, &[window(1, 1, 0.7)]);
        let mut empty = window(1, 2, 0.7);
        empty.findings.clear();
        assert_eq!(take(&mut state, &[empty]), [Kind::Withdrawn]);
        // One that says nothing of the series is no good window: the alert holds.
        let mut state = State::default();
        take(&mut state, &[window(1, 1, 0.7)]);
        let mut empty = window(2, 1, 0.7);
        empty.findings.clear();
        assert_eq!(take(&mut state, &[empty]), []);
    }

    #[test]
    fn late_truth_takes_only_as_much_back_as_it_contradicts() {
        // Two of three: three bad windows, one of which turns out good. Two are left.
        let mut state = State::default();
        for hour in 0..3 {
            take(&mut state, &[with_for(window(hour, 1, 0.7), 2, 3)]);
        }
        assert_eq!(take(&mut state, &[with_for(window(1, 2, 0.9), 2, 3)]), [Kind::Revised], "two are left");
        assert_eq!(take(&mut state, &[with_for(window(2, 2, 0.9), 2, 3)]), [Kind::Withdrawn]);
        // A window before, found bad late, joins the alert that there is: nobody is woken again.
        let mut state = State::default();
        assert_eq!(take(&mut state, &[window(5, 1, 0.7)]), [Kind::Firing]);
        assert_eq!(take(&mut state, &[window(4, 1, 0.7)]), []);
        assert_eq!(state.series.values().next().expect("followed").episodes.len(), 1);
    }

    #[test]
    fn an_alert_has_one_id_from_its_beginning_to_its_end() {
        let mut state = State::default();
        let mut ids = BTreeSet::new();
        let mut kinds = Vec::new();
        for verdicts in [window(1, 1, 0.7), window(1, 2, 0.75), window(2, 1, 0.9), window(3, 1, 0.7)] {
            for transition in state.take(&hours(), &[verdicts], 7) {
                ids.insert(transition.id.clone());
                kinds.push(transition.kind);
            }
        }
        // The last one stands alone: another alert.
        assert_eq!(kinds, [Kind::Firing, Kind::Revised, Kind::Resolved, Kind::Firing]);
        assert_eq!(ids.len(), 2, "{ids:?}");
        let repeated = state.repeat(&[sink("s", "repeat = \"1h\"")], 7 + HOUR);
        assert!(repeated.iter().all(|transition| ids.contains(&transition.id)) && repeated.len() == 1);
        // One that is over goes on when the window right after it turns out bad.
        let mut state = State::default();
        let first = state.take(&hours(), &[window(1, 1, 0.7)], 7)[0].id.clone();
        assert_eq!(take(&mut state, &[window(3, 1, 0.9)]), [Kind::Resolved]);
        let again = state.take(&hours(), &[window(2, 1, 0.7)], 8);
        assert_eq!(
            again.iter().map(|t| (t.kind, &t.id)).collect::<Vec<_>>(),
            [(Kind::Firing, &first), (Kind::Resolved, &first)]
        );
    }

    #[test]
    fn who_is_told_and_how_loudly_is_the_rules_to_say() {
        let mut loud = window(1, 1, 0.7);
        loud.findings[0].sinks = vec!["ops".into()];
        loud.findings[0].severity = Severity::Critical;
        let mut state = State::default();
        let transitions = state.take(&hours(), &[loud], 9);
        assert_eq!(
            (transitions[0].sinks.as_slice(), transitions[0].severity),
            (&["ops".to_owned()][..], Severity::Critical)
        );
        assert_eq!((transitions[0].at, transitions[0].opened_at), (9, 9));
        let over = state.take(&hours(), &[window(2, 1, 0.9)], 11);
        assert_eq!((over[0].kind, over[0].at, over[0].opened_at), (Kind::Resolved, 11, 9));
        for (kind, is_told) in [
            (Kind::Pending, false),
            (Kind::Firing, true),
            (Kind::Revised, true),
            (Kind::Repeated, true),
            (Kind::Resolved, true),
            (Kind::Withdrawn, true),
            (Kind::Missed, false),
        ] {
            assert_eq!(kind.is_told(), is_told, "{kind:?}");
        }
    }

    #[test]
    fn what_was_missed_never_fires_and_is_taken_back_in_silence() {
        let mut of_final = window(1, 5, 0.7);
        (of_final.is_final, of_final.was_final) = (true, true);
        let mut state = State::default();
        assert_eq!(take(&mut state, &[of_final.clone()]), [Kind::Missed]);
        assert_eq!(state.repeat(&[sink("s", "repeat = \"1m\"")], 10_000 * HOUR), [], "nobody was told");
        of_final.findings[0].evidence.revision = 6;
        of_final.findings[0].evidence.value = 0.1;
        assert_eq!(take(&mut state, &[of_final.clone()]), []);
        of_final.findings[0].is_bad = false;
        assert_eq!(take(&mut state, &[of_final]), []);
        // A window that only becomes final with this revision is news like any other.
        let mut becomes = window(2, 1, 0.7);
        becomes.is_final = true;
        assert_eq!(take(&mut state, &[becomes]), [Kind::Firing]);
    }

    #[test]
    fn b1_series_are_bounded_and_those_that_are_over_make_room() {
        let mut state = State::default();
        let all = |hour: i64, value: f64, count: usize| {
            let mut verdicts = window(hour, 1, value);
            let one = verdicts.findings.remove(0);
            verdicts.is_final = true;
            verdicts.findings = (0..count)
                .map(|at| Finding {
                    series: Series { segment_value: Some(at.to_string()), ..one.series.clone() },
                    ..one.clone()
                })
                .collect();
            verdicts
        };
        let fired = state.take(&hours(), &[all(1, 0.7, SERIES_MAX + 10)], 0);
        assert_eq!((state.series.len(), fired.len()), (SERIES_MAX, SERIES_MAX));
        let full = state.take(&hours(), &[window(2, 1, 0.7)], 0);
        assert_eq!(full, [], "there is no room for one more");
        // They recover, and are old in the end.
        let order: Vec<Micros> = (0..1_000).map(|hour| hour * HOUR).collect();
        assert_eq!(state.take(&order[..100], &[all(3, 0.9, SERIES_MAX + 10)], 0).len(), SERIES_MAX);
        let fired = state.take(&order, &[window(999, 1, 0.7)], 0);
        assert_eq!((state.series.len(), fired.len(), fired[0].kind), (1, 1, Kind::Firing));
    }
}
