//! One message on its way: over HTTP without redirects, or into a program.
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use driftline_schemas::clock;
use driftline_schemas::config::{Sink, SinkKind};
use tokio::io::AsyncWriteExt;

use crate::email;
use crate::message::{self, Message};

/// A receiver that takes longer has not answered.
const TIMEOUT: Duration = Duration::from_secs(15);
/// A program that takes longer is ended.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// Of an answer that refuses, so much goes into the log.
const ANSWER_MAX: usize = 300;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Done,
    /// It is to be tried again, not before so long if the receiver says so.
    Again {
        /// Why.
        why: String,
        /// The receiver's `Retry-After`.
        after: Option<Duration>,
    },
    /// The receiver refuses the message as it is (400, 413, 422): what is asked again is refused again, and what comes after it must
    /// not wait for a day.
    Refused {
        /// Why.
        why: String,
    },
    /// The receiver is gone (410): it is not to be told any more.
    Gone,
}

pub(crate) fn again(why: impl Into<String>) -> Outcome {
    Outcome::Again { why: why.into(), after: None }
}

/// Sends one message. What it says of failures never holds the URL, which may be a secret.
pub async fn send(sink: &Sink, message: &Message, allow_local: bool) -> Outcome {
    match sink.kind {
        SinkKind::Command => run(sink, message).await,
        SinkKind::Email => email::send(sink, message, allow_local).await,
        _ => post(sink, message, allow_local).await,
    }
}

async fn post(sink: &Sink, message: &Message, allow_local: bool) -> Outcome {
    // Whoever has installed a provider already has the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (host, addresses) = match resolve(&message.url, allow_local).await {
        Ok(resolved) => resolved,
        Err(why) => return again(why),
    };
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("driftline/", env!("CARGO_PKG_VERSION")))
        // The very addresses that were looked at: a name that changes in between leads nowhere else.
        .resolve_to_addrs(&host, &addresses)
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => return again(shown(error)),
    };
    let mut request = client
        .post(&message.url)
        .header("content-type", message.content_type)
        .header("idempotency-key", &message.id)
        .header("webhook-id", &message.id);
    for (name, value) in &sink.headers {
        request = request.header(name, value);
    }
    if message.is_signed {
        let keys = match message::signing_keys(sink.secret.as_deref().unwrap_or_default()) {
            Ok(keys) => keys,
            Err(why) => return again(why),
        };
        let timestamp = clock::now().timestamp();
        request = request
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", message::signature(&keys, &message.id, timestamp, &message.body));
    }
    match request.body(message.body.clone()).send().await {
        Ok(answer) => judge(answer).await,
        Err(error) => again(shown(error)),
    }
}

/// A failure of the client, without the address.
fn shown(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

async fn judge(mut answer: reqwest::Response) -> Outcome {
    let status = answer.status();
    if status.is_success() {
        return Outcome::Done;
    }
    if status == reqwest::StatusCode::GONE {
        return Outcome::Gone;
    }
    let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()).and_then(retry_after);
    // No more of it than is shown: whoever refuses may say anything.
    let mut said = Vec::new();
    while said.len() < 4 * ANSWER_MAX
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        said.extend_from_slice(&chunk);
    }
    let body: String = String::from_utf8_lossy(&said).chars().take(ANSWER_MAX).collect();
    let why = format!("answered {status}: {body}");
    match status.as_u16() {
        400 | 413 | 422 => Outcome::Refused { why },
        _ => Outcome::Again { why, after },
    }
}

/// Seconds, or a date of HTTP; an hour at most.
fn retry_after(value: &str) -> Option<Duration> {
    let seconds = value.trim().parse::<i64>().ok().or_else(|| {
        let date = chrono::DateTime::parse_from_rfc2822(value.trim()).ok()?;
        Some((date.with_timezone(&chrono::Utc) - clock::now()).num_seconds())
    })?;
    Some(Duration::from_secs(seconds.clamp(0, 3_600) as u64))
}

/// The addresses of a URL's host, if they may be sent to.
pub(crate) async fn resolve(url: &str, allow_local: bool) -> Result<(String, Vec<SocketAddr>), String> {
    let url = url::Url::parse(url).map_err(|error| format!("no URL: {error}"))?;
    let host = url.host_str().ok_or("a URL without a host")?.to_owned();
    let port = match url.scheme() {
        "smtps" => url.port().or(Some(465)),
        "smtp" => url.port().or(Some(587)),
        _ => url.port_or_known_default(),
    };
    let port = port.ok_or("a URL without a port")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((bare, port)).await.map_err(|error| format!("{host} is not found: {error}"))?;
    let addresses: Vec<SocketAddr> = found.collect();
    let forbidden = addresses.iter().find(|address| is_local(address.ip()));
    match forbidden {
        Some(address) if !allow_local => Err(format!(
            "{host} is at {}, of this machine or its link: set alerts.allow_local to allow it",
            address.ip()
        )),
        _ if addresses.is_empty() => Err(format!("{host} has no address")),
        _ => Ok((host, addresses)),
    }
}

/// Addresses that never leave this machine.
pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Addresses that lead to this machine, or to whatever answers on its link (the clouds' metadata services do).
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast(),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(mapped) => is_local(IpAddr::V4(mapped)),
            None => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
        },
    }
}

async fn run(sink: &Sink, message: &Message) -> Outcome {
    let Some((program, arguments)) = sink.command.split_first() else { return again("no command") };
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .env("DRIFTLINE_MESSAGE_ID", &message.id)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return again(format!("{program} does not start: {error}")),
    };
    let body = message.body.clone();
    if let Some(mut stdin) = child.stdin.take() {
        tokio::spawn(async move {
            // A program that does not read its input is no failure.
            let _ = stdin.write_all(body.as_bytes()).await;
        });
    }
    match tokio::time::timeout(COMMAND_MAX, child.wait_with_output()).await {
        Ok(Ok(output)) if output.status.success() => Outcome::Done,
        Ok(Ok(output)) => {
            let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(ANSWER_MAX).collect();
            again(format!("{program} ended with {}: {said}", output.status))
        }
        Ok(Err(error)) => again(format!("{program}: {error}")),
        Err(_) => again(format!("{program} took more than {} s", COMMAND_MAX.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::Receiver;

    #[test]
    fn addresses_of_this_machine_and_its_link_are_known() {
        for local in
            ["127.0.0.1", "127.9.9.9", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "::ffff:127.0.0.1", "::"]
        {
            assert!(is_local(local.parse().expect(local)), "{local}");
        }
        for other in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            assert!(!is_local(other.parse().expect(other)), "{other}");
        }
    }

    #[tokio::test]
    async fn a_url_without_a_port_means_that_of_its_scheme() {
        for (url, port) in [
            ("smtps://127.0.0.1", 465),
            ("smtp://127.0.0.1", 587),
            ("https://127.0.0.1/a", 443),
            ("http://127.0.0.1/a", 80),
            ("smtp://127.0.0.1:25", 25),
        ] {
            let (_, addresses) = resolve(url, true).await.expect("an address");
            assert_eq!(addresses.iter().map(SocketAddr::port).collect::<Vec<_>>(), [port], "{url}");
        }
    }

    #[test]
    fn receivers_may_say_when_to_come_again() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("999999"), Some(Duration::from_secs(3_600)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
    }

    fn sink(kind: SinkKind, url: &str) -> Sink {
        Sink {
            name: "ops".into(),
            kind,
            url: url.into(),
            secret: Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()),
            headers: [("x-team".to_owned(), "risk".to_owned())].into(),
            command: vec![],
            text: None,
            revisions: true,
            repeat: None,
            min_severity: driftline_schemas::config::Severity::Info,
            matches: [].into(),
            alerts: true,
            email: None,
            group_by: vec![],
        }
    }

    fn message(url: &str, is_signed: bool) -> Message {
        Message {
            url: url.into(),
            id: "msg_1".into(),
            content_type: "application/json",
            body: "{\"a\":1}".into(),
            is_signed,
        }
    }

    async fn answered(status: u16, header: Option<(&'static str, String)>) -> Outcome {
        let receiver = Receiver::default();
        let url = receiver.start().await;
        receiver.will_answer("/hook", &[(status, header)]);
        let url = format!("{url}/hook");
        send(&sink(SinkKind::Webhook, &url), &message(&url, true), true).await
    }

    #[tokio::test]
    async fn a_message_carries_its_id_its_headers_and_a_signature_of_just_this_body() {
        let receiver = Receiver::default();
        let url = format!("{}/hook", receiver.start().await);
        let sink = sink(SinkKind::Webhook, &url);
        assert_eq!(send(&sink, &message(&url, true), true).await, Outcome::Done);
        let received = receiver.at("/hook");
        let header = |name: &str| received[0].headers.get(name).map_or("", String::as_str);
        assert_eq!((header("webhook-id"), header("idempotency-key"), header("x-team")), ("msg_1", "msg_1", "risk"));
        assert_eq!((header("content-type"), received[0].body.as_str()), ("application/json", "{\"a\":1}"));
        let timestamp: i64 = header("webhook-timestamp").parse().expect("seconds");
        assert!((clock::now().timestamp() - timestamp).abs() < 60, "a receiver refuses old ones");
        let keys = message::signing_keys(sink.secret.as_deref().expect("set")).expect("a key");
        assert_eq!(header("webhook-signature"), message::signature(&keys, "msg_1", timestamp, &received[0].body));
        send(&sink, &message(&url, false), true).await;
        assert!(!receiver.at("/hook")[1].headers.contains_key("webhook-signature"));
    }

    #[tokio::test]
    async fn what_a_receiver_answers_says_what_becomes_of_a_message() {
        assert_eq!(answered(204, None).await, Outcome::Done);
        assert_eq!(answered(410, None).await, Outcome::Gone);
        for status in [401, 404, 408, 409, 500, 503] {
            assert!(matches!(answered(status, None).await, Outcome::Again { after: None, .. }), "{status}");
        }
        for status in [400, 413, 422] {
            assert!(matches!(answered(status, None).await, Outcome::Refused { .. }), "{status}");
        }
        let after = |outcome| match outcome {
            Outcome::Again { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(answered(429, Some(("retry-after", "17".into()))).await), Some(Duration::from_secs(17)));
        assert_eq!(after(answered(503, Some(("retry-after", "7".into()))).await), Some(Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let receiver = Receiver::default();
        let url = receiver.start().await;
        for status in [301, 302, 303, 307, 308] {
            receiver.will_answer("/hook", &[(status, Some(("location", format!("{url}/elsewhere"))))]);
            let url = format!("{url}/hook");
            let outcome = send(&sink(SinkKind::Webhook, &url), &message(&url, true), true).await;
            assert!(matches!(outcome, Outcome::Again { .. }), "{status}: {outcome:?}");
        }
        assert_eq!((receiver.at("/hook").len(), receiver.at("/elsewhere").len()), (5, 0));
    }

    #[tokio::test]
    async fn this_machine_is_refused_unless_it_is_allowed() {
        let receiver = Receiver::default();
        let url = receiver.start().await;
        let port = url.rsplit(':').next().expect("a port").to_owned();
        for host in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "[::ffff:127.0.0.1]"] {
            let url = format!("http://{host}:{port}/hook");
            let outcome = send(&sink(SinkKind::Webhook, &url), &message(&url, true), false).await;
            let Outcome::Again { why, .. } = outcome else { panic!("{host}: {outcome:?}") };
            assert!(why.contains("allow_local") || why.contains("not found"), "{host}: {why}");
        }
        assert_eq!(receiver.at("/hook").len(), 0);
    }

    /// Slack's and Teams' URLs are secrets: no failure says them.
    #[tokio::test]
    async fn no_failure_names_the_address_or_a_key() {
        let receiver = Receiver::default();
        let base = receiver.start().await;
        receiver.will_answer("/T0K3N", &[(500, None), (302, Some(("location", "http://x/T0K3N".into())))]);
        let nobody = "http://127.0.0.1:9/T0K3N".to_owned();
        let urls = [format!("{base}/T0K3N"), format!("{base}/T0K3N"), nobody, "http://no.such.invalid/T0K3N".into()];
        for url in urls.into_iter().chain(["T0K3N://".to_owned()]) {
            let outcome = send(&sink(SinkKind::Webhook, &url), &message(&url, true), true).await;
            let Outcome::Again { why, .. } = outcome else { panic!("{url}: {outcome:?}") };
            assert!(!why.contains("T0K3N") && !why.contains("whsec"), "{why}");
        }
        let mut sink = sink(SinkKind::Webhook, &base);
        sink.secret = Some("hunter2".into());
        let Outcome::Again { why, .. } = send(&sink, &message(&base, true), true).await else { panic!("it is no key") };
        assert!(!why.contains("hunter2"), "{why}");
        assert!(!format!("{sink:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn a_program_gets_the_body_and_the_id_and_says_whether_it_took_them() {
        let command = |script: &str| Sink {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            ..sink(SinkKind::Command, "")
        };
        let check = "test \"$DRIFTLINE_MESSAGE_ID\" = msg_1 && test \"$(cat)\" = '{\"a\":1}'";
        assert_eq!(send(&command(check), &message("", false), false).await, Outcome::Done);
        let outcome = send(&command("echo not now >&2; exit 3"), &message("", false), false).await;
        assert!(matches!(&outcome, Outcome::Again { why, .. } if why.contains("not now")), "{outcome:?}");
        let outcome = send(&command("exit 0"), &message("", false), false).await;
        assert_eq!(outcome, Outcome::Done, "it need not read its input");
        let missing = Sink { command: vec!["/no/such/program".into()], ..command("") };
        assert!(matches!(send(&missing, &message("", false), false).await, Outcome::Again { .. }));
    }
}
